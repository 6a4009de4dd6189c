package tunnel

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Wake makes every Recv that waits return, and each after it return at once, as if its wait were over: for workers that
// are to end.
func (d *Device) Wake() error {
	one := [8]byte{1} // eventfd(2) takes a uint64; only that it isn't 0 matters
	if _, err := unix.Write(d.wake, one[:]); err != nil {
		return fmt.Errorf("wake the readers of %s: %w", d.name, err)
	}
	return nil
}

// HandOver returns the descriptors of the queues, which stay open in the program that this process executes next: packets wait in them
// meanwhile. The Device must not be used any more. They go into Config.Descriptors there.
func (d *Device) HandOver() ([]int, error) {
	d.life.Lock()
	defer d.life.Unlock()
	var fds []int
	for _, q := range d.queues {
		if _, err := unix.FcntlInt(uintptr(q.fd), unix.F_SETFD, 0); err != nil {
			return nil, fmt.Errorf("%s: let it outlive the program: %w", q.name, err)
		}
		fds = append(fds, q.fd)
	}
	d.over = true
	return fds, nil
}

// inherit takes the descriptors that a program before this one has handed over, if they are queues of the device that cfg asks for; if not
// it closes them.
func inherit(cfg *Config) bool {
	ok := len(cfg.Descriptors) == cfg.Queues
	for _, fd := range cfg.Descriptors {
		unix.CloseOnExec(fd)
		ifr, err := unix.NewIfreq("")
		if err == nil {
			err = unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr)
		}
		ok = ok && err == nil && ifr.Name() == cfg.Name
	}
	if !ok {
		closeAll(cfg.Descriptors)
	}
	return ok
}
