package tunnel

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Repair puts right what somebody else has done to the interface since Open, and says what that was, a phrase for each; none is the
// usual case. It makes an interface that was deleted, or moved to another network namespace, again, with the same Queues: Recv and Send, which return
// ErrGone meanwhile, then work again. The new interface is down, as Open leaves it. It must run in the network namespace that Open ran in.
//
// After an error what could not be repaired is as it was, and Repair may be called again. The error matches os.ErrClosed after Close.
func (d *Device) Repair() (done []string, err error) {
	d.life.Lock()
	defer d.life.Unlock()
	if d.over {
		return nil, fmt.Errorf("repair %s: %w", d.name, os.ErrClosed)
	}
	link, err := netlink.LinkByIndex(d.index)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		if err := d.reopen(); err != nil {
			return nil, err
		}
		return []string{"it was deleted"}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at interface %s: %w", d.name, err)
	}
	return d.mend(link)
}

// SetMTU changes the MTU of the interface, in bytes, MinMTU to MaxMTU. While the interface is gone it is noted for Repair.
func (d *Device) SetMTU(mtu int) error {
	d.life.Lock()
	defer d.life.Unlock()
	if d.over {
		return fmt.Errorf("set the MTU of %s: %w", d.name, os.ErrClosed)
	}
	if mtu == d.cfg.MTU {
		return nil
	}
	d.controlMu.Lock()
	defer d.controlMu.Unlock()
	was := d.cfg.MTU
	d.cfg.MTU = mtu
	if err := d.setLength(); err != nil && !errors.Is(err, unix.ENODEV) {
		d.cfg.MTU = was
		return err
	}
	return nil
}

// mend puts right the settings of an interface that is there.
func (d *Device) mend(link netlink.Link) (done []string, err error) {
	d.controlMu.Lock()
	defer d.controlMu.Unlock()
	a := link.Attrs()
	if a.Name != d.name {
		if err := rename(link, d.name); err != nil {
			return done, err
		}
		done = append(done, "it was renamed to "+a.Name)
	}
	if a.MTU != d.cfg.MTU || a.TxQLen != d.cfg.TxQueueLen {
		if err := d.setLength(); err != nil {
			return done, err
		}
		done = append(done, fmt.Sprintf("its MTU was %d and its queue length %d", a.MTU, a.TxQLen))
	}
	off, err := d.mendOffloads()
	if err != nil {
		return done, err
	}
	if len(off) > 0 {
		done = append(done, "its offloads "+strings.Join(off, ", ")+" were off")
	}
	disciplines, err := netlink.QdiscList(link)
	if err != nil {
		return done, fmt.Errorf("look at the queueing discipline of interface %s: %w", d.name, err)
	}
	for _, q := range disciplines {
		if q.Attrs().Parent != netlink.HANDLE_ROOT || q.Type() == discipline {
			continue
		}
		if err := d.withoutDiscipline(); err != nil {
			return done, err
		}
		done = append(done, "its queueing discipline was "+q.Type())
	}
	if tun, ok := link.(*netlink.Tuntap); ok && d.persistent && (tun.NonPersist || a.Alias != alias) {
		if err := d.persist(d.queues[0].fd); err != nil {
			return done, err
		}
		done = append(done, "it would not have outlived levee")
	}
	return done, nil
}

// rename gives an interface its name back. Kernels before 6.2 do that only while it is down.
func rename(link netlink.Link, name string) error {
	err := netlink.LinkSetName(link, name)
	if errors.Is(err, unix.EBUSY) {
		if err = netlink.LinkSetDown(link); err == nil {
			err = netlink.LinkSetName(link, name)
		}
	}
	if err != nil {
		return fmt.Errorf("rename interface %s back to %s: %w", link.Attrs().Name, name, err)
	}
	return nil
}

// reopen makes the interface again and gives its queues to those that there are.
func (d *Device) reopen() error {
	err := d.forget() // where it was moved to
	one := [8]byte{1}
	if _, e := unix.Write(d.wake, one[:]); e != nil {
		err = errors.Join(err, e)
	}
	for i := len(d.queues) - 1; i >= 0; i-- {
		err = errors.Join(err, d.queues[i].detach())
	}
	// They wait again from now on. Whoever called Wake meanwhile is heard a little later.
	if _, e := unix.Read(d.wake, one[:]); e != nil {
		err = errors.Join(err, e)
	}
	if err != nil {
		return fmt.Errorf("give up the queues of %s: %w", d.name, err)
	}
	fds, err := openQueues(d.name, d.cfg.Queues, false)
	if err != nil {
		return err
	}
	owned, err := handOver(d.name, fds)
	if err == nil {
		err = d.tune(owned[0].fd)
	}
	if err != nil {
		for _, h := range owned {
			_ = h.dev.Close()
		}
		return err
	}
	for i, h := range owned {
		d.queues[i].attach(h.fd, h.dev)
	}
	return nil
}
