package tunnel

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"levee/stack"
)

// ethtoolOff is the damage that `ethtool -K levee0 feature off` does.
func ethtoolOff(feature string) func(*testing.T, *namespace, *namespace, netlink.Link) {
	return func(t *testing.T, n, _ *namespace, _ netlink.Link) {
		n.do(t, func() error {
			out, err := exec.Command("ethtool", "-K", "levee0", feature, "off").CombinedOutput()
			if err != nil {
				return fmt.Errorf("ethtool: %w: %s", err, out)
			}
			return nil
		})
	}
}

// TestRepair: whatever somebody else does to the interface, Repair says it once and puts it right, and packets pass both ways.
func TestRepair(t *testing.T) {
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name   string
		damage func(t *testing.T, n, other *namespace, l netlink.Link)
		// gone: the interface is another afterwards.
		gone bool
		want string
	}{
		{"nothing", func(*testing.T, *namespace, *namespace, netlink.Link) {}, false, ""},
		{"deleted", func(t *testing.T, n, _ *namespace, l netlink.Link) { must(t, n.link.LinkDel(l)) }, true, "deleted"},
		{"moved to another network namespace", func(t *testing.T, n, other *namespace, l netlink.Link) {
			must(t, n.link.LinkSetNsFd(l, int(other.NsHandle)))
		}, true, "deleted"},
		{"renamed", func(t *testing.T, n, _ *namespace, l netlink.Link) {
			must(t, n.link.LinkSetDown(l))
			must(t, n.link.LinkSetName(l, "other0"))
			must(t, n.link.LinkSetUp(l))
		}, false, "renamed to other0"},
		{"MTU", func(t *testing.T, n, _ *namespace, l netlink.Link) { must(t, n.link.LinkSetMTU(l, 1400)) }, false, "MTU was 1400"},
		{"queue length", func(t *testing.T, n, _ *namespace, l netlink.Link) { must(t, n.link.LinkSetTxQLen(l, 7)) }, false, "queue length 7"},
		{"queueing discipline", func(t *testing.T, n, _ *namespace, l netlink.Link) {
			must(t, n.link.QdiscReplace(&netlink.GenericQdisc{
				QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_ROOT}, QdiscType: "pfifo",
			}))
		}, false, "discipline was pfifo"},
		{"segmentation offload", ethtoolOff("tso"), false, "offloads tso were off"},
		{"checksum offload", ethtoolOff("tx"), false, "offloads tx were off"},
		{"scatter and gather", ethtoolOff("sg"), false, "offloads sg"},
		{"alias", func(t *testing.T, n, _ *namespace, l netlink.Link) { must(t, n.link.LinkSetAlias(l, "somebody's")) }, false, "outlived"},
		{"no longer persistent", func(t *testing.T, n, _ *namespace, l netlink.Link) { // as `ip tuntap del` does it
			n.do(t, func() error {
				fd, err := openQueue("levee0", 0)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				return unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 0)
			})
		}, false, "outlived"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n, other := newNamespace(t), newNamespace(t)
			d := n.open(t, Config{Name: "levee0", MTU: 1500, Queues: 3, Steering: true, Persist: true})
			n.quiet(t, "levee0")
			n.up(t, "levee0", "192.0.2.1/24")
			before := n.find(t, "levee0")
			held := descriptors(t)
			tt.damage(t, n, other, before)
			for _, want := range []string{tt.want, ""} {
				n.do(t, func() error {
					done, err := d.Repair()
					if said := strings.Join(done, "; "); err != nil || (want == "") != (said == "") || !strings.Contains(said, want) {
						t.Errorf("repaired %q, want %q; error %v", said, want, err)
					}
					return nil
				})
			}
			after := n.find(t, "levee0")
			if (after.Attrs().Index != before.Attrs().Index) != tt.gone {
				t.Errorf("index %d, was %d", after.Attrs().Index, before.Attrs().Index)
			}
			a, b, tun := after.Attrs(), before.Attrs(), after.(*netlink.Tuntap)
			if a.MTU != b.MTU || a.TxQLen != b.TxQLen || a.Alias != alias || tun.NonPersist || tun.Queues != 3 {
				t.Errorf("it is %+v, was %+v", after, before)
			}
			if now := descriptors(t); now != held {
				t.Errorf("%d descriptors, were %d", now, held)
			}
			if err := d.Steering(); err != nil {
				t.Errorf("steering: %v", err)
			}
			if _, err := other.link.LinkByName("levee0"); err == nil {
				t.Error("the old one is still in the other namespace")
			}
			if tt.gone {
				n.quiet(t, "levee0")
				n.up(t, "levee0", "192.0.2.1/24")
			}
			passes(t, n, d)
			waits(t, d)
		})
	}
}

// passes checks that packets come out of the device's queues, and go in.
func passes(t *testing.T, n *namespace, d *Device) {
	t.Helper()
	n.do(t, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, []byte("a datagram"), 0, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{192, 0, 2, 2}})
	})
	frames := newFrames(8)
	found := false
	for _, q := range d.Queues() {
		k, err := q.Recv(frames, 0)
		if err != nil {
			t.Error(err)
		}
		for _, f := range frames[:k] {
			found = found || bytes.HasSuffix(f, []byte("a datagram")) && len(f) > stack.VirtioLen
		}
	}
	if !found {
		t.Error("no packet comes out")
	}
	before, err := d.Stats()
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range d.Queues() {
		if err := q.Send([][]byte{ipv4UDP()}); err != nil {
			t.Error(err)
		}
	}
	if after, err := d.Stats(); err != nil || after.RxPackets != before.RxPackets+uint64(len(d.Queues())) {
		t.Errorf("%d packets went in, %v", after.RxPackets-before.RxPackets, err)
	}
}

// TestRepairRefused: while the name is taken the device stays as good as deleted, and comes back when the name is free. Workers that go on asking meanwhile are
// told, and read again after it.
func TestRepairRefused(t *testing.T) {
	n := newNamespace(t)
	d := n.open(t, Config{Name: "levee0", MTU: 1500, Queues: 2, Persist: true})
	n.quiet(t, "levee0")
	n.up(t, "levee0", "192.0.2.1/24")
	if err := n.link.LinkDel(n.find(t, "levee0")); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var workers sync.WaitGroup
	for _, q := range d.Queues() {
		workers.Go(func() {
			frames := newFrames(1)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := q.Recv(frames, 10*time.Millisecond); err != nil && !errors.Is(err, ErrGone) {
					t.Error(err)
					return
				}
			}
		})
	}
	foreign := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "levee0"}, PeerName: "other0"}
	if err := n.link.LinkAdd(foreign); err != nil {
		t.Fatal(err)
	}
	held := -1
	for range 3 {
		n.do(t, func() error {
			_, err := d.Repair()
			wantOneLine(t, err, "levee0", "the name is taken")
			return nil
		})
		if now := descriptors(t); held >= 0 && now != held {
			t.Errorf("%d descriptors, were %d", now, held)
		}
		held = descriptors(t)
		if err := d.Queues()[1].Send([][]byte{ipv4UDP()}); !errors.Is(err, ErrGone) {
			t.Errorf("Send: %v, want ErrGone", err)
		}
	}
	if err := n.link.LinkDel(foreign); err != nil {
		t.Fatal(err)
	}
	n.do(t, func() error {
		_, err := d.Repair()
		return err
	})
	close(stop)
	workers.Wait()
	n.quiet(t, "levee0")
	n.up(t, "levee0", "192.0.2.1/24")
	passes(t, n, d)
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	n.do(t, func() error {
		if _, err := d.Repair(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Repair after Close: %v", err)
		}
		return nil
	})
}

// waits checks that Recv waits for packets: workers that have been woken for a repair must not be for good.
func waits(t *testing.T, d *Device) {
	t.Helper()
	const wait = 30 * time.Millisecond
	frames := newFrames(8)
	for i, q := range d.Queues() {
		for {
			begin := time.Now()
			n, err := q.Recv(frames, wait)
			if took := time.Since(begin); err != nil || n == 0 && took < wait {
				t.Errorf("queue %d: Recv has waited %v, error %v", i, took, err)
			}
			if n == 0 {
				break
			}
		}
	}
}

// TestRepairTransient: a device that is not to outlive its process is not made to.
func TestRepairTransient(t *testing.T) {
	n := newNamespace(t)
	d := n.open(t, Config{Name: "levee0", MTU: 1500, Queues: 1})
	n.do(t, func() error {
		if done, err := d.Repair(); err != nil || len(done) > 0 {
			t.Errorf("repaired %q; error %v", done, err)
		}
		return nil
	})
	if !n.find(t, "levee0").(*netlink.Tuntap).NonPersist {
		t.Error("it is persistent")
	}
}

// TestRepairMTU: an MTU that is set while there is no interface is that of the next.
func TestRepairMTU(t *testing.T) {
	n := newNamespace(t)
	d := n.open(t, Config{Name: "levee0", MTU: 1500, Queues: 1, Persist: true})
	if err := n.link.LinkDel(n.find(t, "levee0")); err != nil {
		t.Fatal(err)
	}
	n.do(t, func() error {
		if err := d.SetMTU(1400); err != nil {
			t.Errorf("set the MTU of an interface that is gone: %v", err)
		}
		_, err := d.Repair()
		return err
	})
	if mtu := n.find(t, "levee0").Attrs().MTU; mtu != 1400 {
		t.Errorf("its MTU is %d", mtu)
	}
}
