package tunnel

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// cloneDevice is opened once for each queue.
const cloneDevice = "/dev/net/tun"

// queueFlags must be the same for every queue of a device, or TUNSETIFF refuses it.
const queueFlags = unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE

// openQueues makes the interface with n queues, or attaches them to one that has none. Element i is the kernel's queue i.
func openQueues(name string, n int, attach bool) ([]int, error) {
	fds := make([]int, 0, n)
	for i := range n {
		extra := uint16(0)
		if i == 0 && !attach {
			extra = unix.IFF_TUN_EXCL // without it the kernel would join an interface of that name
		}
		fd, err := openQueue(name, extra)
		if err != nil {
			closeAll(fds)
			return nil, err
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

// CheckDevice says why no TUN can be opened on this machine. It makes none, and takes a missing right of the caller for no reason.
func CheckDevice() error {
	fd, err := unix.Open(cloneDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case err == nil:
		return unix.Close(fd)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return nil
	}
	return explainOpen(err)
}

// openQueue opens one descriptor and attaches it to the interface as its next queue.
func openQueue(name string, extra uint16) (int, error) {
	fd, err := unix.Open(cloneDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, explainOpen(err)
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(queueFlags | extra)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		unix.Close(fd)
		return -1, explainAttach(name, err)
	}
	return fd, nil
}

// handed is a queue's descriptor and the wireguard/tun device that owns it.
type handed struct {
	dev tun.Device
	fd  int
}

// handOver gives every descriptor to wireguard/tun, which owns and closes it from then on;
// its number may change on the way. On error it returns what has been handed over so far, and
// has closed the rest.
//
// wireguard/tun wraps a descriptor in an os.File, and that registers it with the Go
// runtime's epoll for good. Each packet would then wake a thread of the runtime besides the
// worker, for nothing: nobody waits there. (One run each on a 2-core VM, CPU per packet and
// involuntary context switches against a descriptor that isn't registered: a flood +8 %, 1.5
// times; a packet each 20 µs +16 %, 3.5 times; each 100 µs +12 %, 5.5 times.)
// epoll remembers open files, not numbers. So wireguard/tun gets a duplicate of one
// temporary queue, and then dup3 puts the real queue under the same number. When the
// last duplicate of the temporary queue is closed, the kernel forgets the registrations.
// The temporary queue is opened last, so that closing it moves no other queue's index.
func handOver(name string, fds []int) ([]handed, error) {
	temporary := -1
	if len(fds) < MaxQueues { // else there is no room for one more, and the wake-ups have to be borne
		var err error
		if temporary, err = openQueue(name, 0); err != nil {
			closeAll(fds)
			return nil, err
		}
		defer unix.Close(temporary)
	}
	queues := make([]handed, 0, len(fds))
	for i, fd := range fds {
		h, err := handOverOne(temporary, fd)
		if err != nil {
			closeAll(fds[i+1:])
			return queues, fmt.Errorf("interface %s: hand queue %d to wireguard/tun: %w", name, i, err)
		}
		queues = append(queues, h)
	}
	return queues, nil
}

// handOverOne owns fd: on error it is closed.
func handOverOne(temporary, fd int) (handed, error) {
	// When CreateUnmonitoredTUNFromFD fails, a finalizer of the os.File that it made closes the
	// descriptor: closing it here as well could hit whatever has the number by then.
	if temporary < 0 {
		dev, _, err := tun.CreateUnmonitoredTUNFromFD(fd)
		return handed{dev, fd}, err
	}
	defer unix.Close(fd) // dup3 has made a second descriptor, or failed
	number, err := unix.FcntlInt(uintptr(temporary), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return handed{}, err
	}
	dev, _, err := tun.CreateUnmonitoredTUNFromFD(number)
	if err != nil {
		return handed{}, err
	}
	if err := unix.Dup3(fd, number, unix.O_CLOEXEC); err != nil {
		dev.Close()
		return handed{}, err
	}
	return handed{dev, number}, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
