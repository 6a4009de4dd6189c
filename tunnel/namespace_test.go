package tunnel

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// needRoot skips the test without root, and fails it where the tests were told to have it.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	const reason = "needs root to make network namespaces and TUN devices"
	if os.Getenv("LEVEE_REQUIRE_ROOT") == "1" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// namespace is a network namespace without a name: the kernel removes it, and all in it,
// when the test or its whole process ends.
type namespace struct {
	netns.NsHandle
	link *netlink.Handle
}

func newNamespace(t testing.TB) *namespace {
	t.Helper()
	needRoot(t)
	n := &namespace{}
	runIn(t, func() (err error) {
		if n.NsHandle, err = netns.New(); err != nil {
			return err
		}
		n.link, err = netlink.NewHandleAt(n.NsHandle, unix.NETLINK_ROUTE)
		return err
	})
	t.Cleanup(func() {
		n.link.Close()
		n.NsHandle.Close()
	})
	return n
}

// do runs f on a thread that is in the namespace; what it opens stays there.
func (n *namespace) do(t testing.TB, f func() error) {
	t.Helper()
	runIn(t, func() error {
		if err := netns.Set(n.NsHandle); err != nil {
			return err
		}
		return f()
	})
}

// runIn runs f on a thread of its own that may change its namespace.
func runIn(t testing.TB, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err == nil {
			err = f()
			if netns.Set(home) == nil {
				runtime.UnlockOSThread() // else the thread ends with the goroutine
			}
			home.Close()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// open opens a device in the namespace that is closed when the test ends.
func (n *namespace) open(t testing.TB, cfg Config) *Device {
	t.Helper()
	var d *Device
	n.do(t, func() (err error) {
		d, err = Open(cfg)
		return err
	})
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return d
}

// up sets an interface up with an address in CIDR form, "" for none.
func (n *namespace) up(t testing.TB, name string, addresses ...string) {
	t.Helper()
	l := n.find(t, name)
	for _, s := range addresses {
		a, err := netlink.ParseAddr(s)
		if err != nil {
			t.Fatal(err)
		}
		a.Flags = unix.IFA_F_NODAD
		if err := n.link.AddrAdd(l, a); err != nil {
			t.Fatalf("add %s to %s: %v", s, name, err)
		}
	}
	if err := n.link.LinkSetUp(l); err != nil {
		t.Fatal(err)
	}
}

func (n *namespace) find(t testing.TB, name string) netlink.Link {
	t.Helper()
	l, err := n.link.LinkByName(name)
	if err != nil {
		t.Fatalf("find %s: %v", name, err)
	}
	return l
}

// route routes a prefix to an interface, or through a gateway, in a table (0 is main).
func (n *namespace) route(t testing.TB, prefix, name, gateway string, table int) {
	t.Helper()
	dst, err := netlink.ParseIPNet(prefix)
	if err != nil {
		t.Fatal(err)
	}
	r := &netlink.Route{Dst: dst, LinkIndex: n.find(t, name).Attrs().Index, Table: table}
	if gateway != "" {
		r.Gw = netip.MustParseAddr(gateway).AsSlice()
	}
	if err := n.link.RouteAdd(r); err != nil {
		t.Fatalf("route %s: %v", prefix, err)
	}
}

// sysctl writes one setting below /proc/sys/net.
func (n *namespace) sysctl(t testing.TB, key, value string) {
	t.Helper()
	n.do(t, func() error { return os.WriteFile("/proc/sys/net/"+key, []byte(value), 0) })
}

// quiet keeps the kernel's own IPv6 packets (router solicitations and the like) off an interface.
func (n *namespace) quiet(t testing.TB, name string) {
	n.sysctl(t, "ipv6/conf/"+name+"/disable_ipv6", "1")
}

// names lists the interfaces of the namespace.
func (n *namespace) names(t testing.TB) string {
	t.Helper()
	links, err := n.link.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return fmt.Sprint(names)
}

// descriptors counts the open file descriptors of the process.
func descriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func newFrames(n int) [][]byte {
	frames := make([][]byte, n)
	for i := range frames {
		frames[i] = make([]byte, FrameSize)
	}
	return frames
}
