package tunnel

import (
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// TestPersist: the interface stays when its process leaves it, with what others have set up on it, and goes when it is closed.
func TestPersist(t *testing.T) {
	n := newNamespace(t)
	cfg := Config{Name: "tun0", MTU: 1500, Queues: 2, Persist: true}
	open := func() (d *Device) {
		t.Helper()
		n.do(t, func() (err error) {
			d, err = Open(cfg)
			return err
		})
		return d
	}
	d := open()
	if d.Attached() {
		t.Error("attached to an interface that wasn't there")
	}
	n.up(t, "tun0", "192.0.2.1/32")
	index := n.find(t, "tun0").Attrs().Index
	n.do(t, func() error {
		if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), "the name is taken") {
			t.Errorf("a second opener: %v", err)
		}
		return nil
	})
	if err := d.Leave(); err != nil {
		t.Fatal(err)
	}
	cfg.Queues, cfg.MTU = 3, 9000
	d = open()
	link := n.find(t, "tun0")
	if a := link.Attrs(); !d.Attached() || a.Index != index || a.MTU != 9000 || len(d.Queues()) != 3 {
		t.Errorf("attached %t, index %d (was %d), MTU %d, %d queues", d.Attached(), a.Index, index, a.MTU, len(d.Queues()))
	}
	if addrs, err := n.link.AddrList(link, netlink.FAMILY_V4); err != nil || len(addrs) != 1 {
		t.Errorf("addresses %v, %v", addrs, err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := n.link.LinkByName("tun0"); err == nil {
		t.Error("still there after Close")
	}
}

// TestPersistDeleted: closing after somebody has deleted the interface is no error.
func TestPersistDeleted(t *testing.T) {
	n := newNamespace(t)
	var d *Device
	n.do(t, func() (err error) {
		d, err = Open(Config{Name: "tun0", MTU: 1500, Queues: 2, Persist: true})
		return err
	})
	if err := n.link.LinkDel(n.find(t, "tun0")); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// TestForeignInterface: what levee has not left is not taken.
func TestForeignInterface(t *testing.T) {
	tun := func(flags netlink.TuntapFlag, mode netlink.TuntapMode, alias string) netlink.Link {
		return &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tun0", Alias: alias}, Mode: mode, Flags: flags, Queues: 0}
	}
	const ours = netlink.TUNTAP_NO_PI | netlink.TUNTAP_VNET_HDR | netlink.TUNTAP_MULTI_QUEUE
	for _, tt := range []struct {
		name, alias string
		link        netlink.Link
		want        string
	}{
		{"a veth", "levee", &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "tun0"}, PeerName: "peer0"}, "the name is taken"},
		{"a TAP", "levee", tun(ours, netlink.TUNTAP_MODE_TAP, ""), "the name is taken"},
		{"somebody else's TUN", "vpn", tun(ours, netlink.TUNTAP_MODE_TUN, ""), "the name is taken"},
		{"other flags", "levee", tun(netlink.TUNTAP_NO_PI|netlink.TUNTAP_MULTI_QUEUE, netlink.TUNTAP_MODE_TUN, ""), "left by another version of levee"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNamespace(t)
			n.do(t, func() error {
				if err := netlink.LinkAdd(tt.link); err != nil {
					return err
				}
				if t, ok := tt.link.(*netlink.Tuntap); ok {
					for _, f := range t.Fds {
						_ = f.Close()
					}
				}
				return netlink.LinkSetAlias(tt.link, tt.alias)
			})
			n.do(t, func() error {
				if d, err := Open(Config{Name: "tun0", MTU: 1500, Queues: 2, Persist: true}); err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, want %q", err, tt.want)
					if err == nil {
						_ = d.Close()
					}
				}
				return nil
			})
			n.find(t, "tun0")
		})
	}
}
