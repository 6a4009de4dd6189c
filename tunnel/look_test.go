package tunnel

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
)

// TestLook: what is there of an interface, from before it is made to after it was left, and how that differs from what is wanted.
func TestLook(t *testing.T) {
	n := newNamespace(t)
	cfg := Config{Name: "tun0", MTU: 9000, Queues: 2, Persist: true}
	look := func(what string, want Live, differences ...Difference) {
		t.Helper()
		var live Live
		n.do(t, func() (err error) {
			live, err = Look("tun0")
			return err
		})
		if live != want {
			t.Errorf("%s: got %+v, want %+v", what, live, want)
		}
		if got := cfg.Diff(live); !slices.Equal(got, differences) {
			t.Errorf("%s: differs by %+v, want %+v", what, got, differences)
		}
	}
	made, sized, queued := "ip tuntap add dev tun0 mode tun multi_queue vnet_hdr", "ip link set dev tun0 mtu 9000 txqueuelen 4096 alias levee", "tc qdisc replace dev tun0 root noqueue"
	if diff := cmp.Diff([]string{made, sized, queued}, cfg.Commands()); diff != "" {
		t.Error(diff)
	}
	look("before", Live{}, Difference{made, "does not exist"}, Difference{sized, "does not exist"}, Difference{queued, "does not exist"})
	open := func() (d *Device) {
		n.do(t, func() (err error) {
			d, err = Open(cfg)
			return err
		})
		return d
	}
	d := open()
	good := Live{Exists: true, Ours: true, Read: true, MTU: 9000, TxQueueLen: DefaultTxQueueLen, Discipline: "noqueue"}
	look("open", good)
	n.up(t, "tun0")
	good.Up = true
	look("up", good)
	if err := d.Leave(); err != nil {
		t.Fatal(err)
	}
	good.Read = false
	look("left", good)

	link := n.find(t, "tun0")
	fifo := &netlink.GenericQdisc{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Parent: netlink.HANDLE_ROOT}, QdiscType: "pfifo"}
	for _, err := range []error{n.link.LinkSetMTU(link, 1400), n.link.LinkSetAlias(link, "vpn"), n.link.QdiscReplace(fifo)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	look("changed", Live{Exists: true, Up: true, MTU: 1400, TxQueueLen: DefaultTxQueueLen, Discipline: "pfifo"},
		Difference{sized, "is mtu 1400 txqueuelen 4096"}, Difference{queued, "is pfifo"})
	if err := n.link.LinkSetAlias(link, "levee"); err != nil {
		t.Fatal(err)
	}
	d = open()
	look("open again", Live{Exists: true, Ours: true, Read: true, Up: true, MTU: 9000, TxQueueLen: DefaultTxQueueLen, Discipline: "noqueue"})
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}
