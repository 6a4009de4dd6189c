package tunnel

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Live is the interface of a name as it is in the kernel.
type Live struct {
	// Exists: there is an interface of the name. The rest is only set if there is.
	Exists bool
	// Ours: it was made by Open, with Config.Persist.
	Ours bool
	// Read: a process has it open.
	Read bool
	Up   bool
	// MTU in bytes, TxQueueLen in packets.
	MTU, TxQueueLen int
	// Discipline is the root queueing discipline, as "noqueue"; empty if the kernel names none.
	Discipline string
}

// Look returns the interface of a name, in the calling thread's network namespace. It changes nothing, and needs no privilege.
func Look(name string) (Live, error) {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return Live{}, nil
	}
	if err != nil {
		return Live{}, fmt.Errorf("look for interface %s: %w", name, err)
	}
	disciplines, err := netlink.QdiscList(link)
	if err != nil {
		return Live{}, fmt.Errorf("look at the queueing discipline of interface %s: %w", name, err)
	}
	a := link.Attrs()
	live := Live{Exists: true, Up: a.RawFlags&unix.IFF_UP != 0, MTU: a.MTU, TxQueueLen: a.TxQLen}
	for _, q := range disciplines {
		if q.Attrs().Parent == netlink.HANDLE_ROOT {
			live.Discipline = q.Type()
		}
	}
	tun, ok := link.(*netlink.Tuntap)
	if !ok || tun.Mode != netlink.TUNTAP_MODE_TUN {
		return live, nil
	}
	live.Ours = a.Alias == alias && tun.Flags&leftFlags == leftFlags
	live.Read = tun.Queues+tun.DisabledQueues > 0
	return live, nil
}

// Commands make the interface by hand as Open does, one in a line, but for its queues: they are open files.
func (c Config) Commands() []string {
	return []string{
		fmt.Sprintf("ip tuntap add dev %s mode tun multi_queue vnet_hdr", c.Name),
		fmt.Sprintf("ip link set dev %s mtu %d txqueuelen %d alias %s", c.Name, c.MTU, c.queueLen(), alias),
		fmt.Sprintf("tc qdisc replace dev %s root %s", c.Name, discipline),
	}
}

// Difference is a command that makes the interface as Open would, and how it is now.
type Difference struct{ Command, Text string }

// Diff compares live with what Open would make of it, but for its queues.
func (c Config) Diff(live Live) (out []Difference) {
	commands := c.Commands()
	if !live.Exists {
		for _, command := range commands {
			out = append(out, Difference{command, "does not exist"})
		}
		return out
	}
	if live.MTU != c.MTU || live.TxQueueLen != c.queueLen() {
		out = append(out, Difference{commands[1], fmt.Sprintf("is mtu %d txqueuelen %d", live.MTU, live.TxQueueLen)})
	}
	if live.Discipline != discipline {
		out = append(out, Difference{commands[2], "is " + orNone(live.Discipline)})
	}
	return out
}

// queueLen is TxQueueLen, or what stands for 0.
func (c Config) queueLen() int {
	if c.TxQueueLen == 0 {
		return DefaultTxQueueLen
	}
	return c.TxQueueLen
}

func orNone(word string) string {
	if word == "" {
		return "none"
	}
	return word
}
