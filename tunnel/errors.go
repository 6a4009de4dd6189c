package tunnel

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrGone says that the interface was deleted under us (ip link delete, or its network
// namespace went away). The Device can only be closed.
var ErrGone = errors.New("the interface was deleted")

// remedied is a system error with a line for the operator that says what to do about it.
type remedied struct {
	what   string // names the thing
	err    error
	remedy string
}

func (r *remedied) Error() string { return fmt.Sprintf("%s: %v: %s", r.what, r.err, r.remedy) }
func (r *remedied) Unwrap() error { return r.err }

// explainOpen turns an error of opening cloneDevice into one line with a remedy.
func explainOpen(err error) error {
	r := &remedied{what: "open " + cloneDevice, err: err}
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		r.remedy = "load the tun module (modprobe tun), or give the container the device (--device " + cloneDevice + ")"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		r.remedy = "run as root, or give the container the device (--device " + cloneDevice + ")"
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		r.remedy = "raise the limit of open files (ulimit -n), or use fewer queues"
	default:
		return fmt.Errorf("%s: %w", r.what, err)
	}
	return r
}

// explainBPF turns an error of the bpf system call into one line, short enough for a table. That of a missing right gets
// its remedy in place of the library's, which is about kernels of before 2020.
func explainBPF(what string, err error) error {
	if errors.Is(err, unix.EPERM) {
		return &remedied{what: "BPF", err: unix.EPERM, remedy: "run as root or with CAP_BPF"}
	}
	return fmt.Errorf("%s: %w", what, err)
}

// explainAttach turns an error of TUNSETIFF into one line with a remedy.
func explainAttach(name string, err error) error {
	r := &remedied{what: "make interface " + name, err: err}
	switch {
	case errors.Is(err, unix.EBUSY):
		r.what = "make interface " + name + ": the name is taken"
		r.remedy = "choose another name, or delete that interface if nothing uses it (ip link delete " + name + ")"
	case errors.Is(err, unix.EPERM):
		r.remedy = "run as root or with CAP_NET_ADMIN"
	case errors.Is(err, unix.E2BIG):
		r.remedy = "use fewer queues"
	case errors.Is(err, unix.EINVAL):
		r.remedy = "the kernel must offer multi-queue TUN devices with virtio headers (Linux 3.8 or later)"
	default:
		return fmt.Errorf("%s: %w", r.what, err)
	}
	return r
}
