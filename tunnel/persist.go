package tunnel

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// alias marks an interface that outlives its process as one that Open made, for Open and for whoever reads `ip link`.
const alias = "levee"

// leftFlags are those of an interface that Open makes.
const leftFlags = netlink.TUNTAP_NO_PI | netlink.TUNTAP_VNET_HDR | netlink.TUNTAP_MULTI_QUEUE

// leftOver says whether there is an interface of that name to attach to: one that an earlier Open with Config.Persist has made and that
// nobody has open. Any other of the name is an error.
func leftOver(name string) (bool, error) {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for interface %s: %w", name, err)
	}
	tun, ok := abandoned(link)
	switch {
	case !ok:
		return false, explainAttach(name, unix.EBUSY)
	case tun.Flags&leftFlags != leftFlags:
		return false, fmt.Errorf("interface %s was left by another version of levee: run levee cleanup", name)
	}
	return true, nil
}

// abandoned says whether a link is a TUN that an earlier Open with Config.Persist has made, of whatever version of levee, and that nobody has open.
func abandoned(link netlink.Link) (tun *netlink.Tuntap, ok bool) {
	tun, ok = link.(*netlink.Tuntap)
	return tun, ok && tun.Mode == netlink.TUNTAP_MODE_TUN && tun.Queues+tun.DisabledQueues == 0 && tun.Alias == alias
}

// CheckName says why Open with Config.Persist would refuse the name: somebody else has it.
func CheckName(name string) error {
	_, err := leftOver(name)
	return err
}

// Abandoned returns the interfaces that earlier processes have made, and that nobody has open, by name, but for the one that is called own.
func Abandoned(own string) (names []string, err error) {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	for _, link := range links {
		if tun, ok := abandoned(link); ok && tun.Name != own {
			names = append(names, tun.Name)
		}
	}
	return names, nil
}

// persist makes the interface of a queue's descriptor outlive its queues.
func (d *Device) persist(fd int) error {
	if err := netlink.LinkSetAlias(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: d.index}}, alias); err != nil {
		return fmt.Errorf("interface %s: set its alias: %w", d.name, err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
		return fmt.Errorf("interface %s: make it persistent: %w", d.name, err)
	}
	d.persistent = true
	return nil
}

// Attached says whether Open found the interface of an earlier process, with what that one had set up around it.
func (d *Device) Attached() bool { return d.attached }

// Leave closes the device but leaves the interface, if it was opened with Config.Persist, for the next process.
func (d *Device) Leave() error {
	d.life.Lock()
	defer d.life.Unlock()
	if !d.over {
		d.over = true
		d.closeErr = d.close()
	}
	return d.closeErr
}
