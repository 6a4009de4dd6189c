package routes

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"levee/routes/routestest"
)

// enterNamespace moves the test, for good, into a network namespace of its own: its goroutine never unlocks the
// thread, so both end together, and the namespace, which has no name, with them.
func enterNamespace(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("LEVEE_REQUIRE_ROOT") == "1" {
			t.Fatal("needs root to make a network namespace, and LEVEE_REQUIRE_ROOT=1")
		}
		t.Skip("needs root to make a network namespace")
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// enterGateway makes the calling test's namespace a gateway that doesn't forward yet:
//
//	clients ── cli0 203.0.113.1/24, 2001:db8:c::1/64
//	servers ── srv0 192.0.2.1/24, 2001:db8:1::1/64; 198.51.100.0/24 via 192.0.2.2
//
// The far ends of the veth pairs, cli1 and srv1, are ports of a bridge without addresses that is down, so
// that nobody takes them for client interfaces. It returns the picture from before any TUN.
func enterGateway(t *testing.T) routestest.Snapshot {
	t.Helper()
	enterNamespace(t)
	// No link-local addresses: they come at a time of their own.
	set(t, "net/ipv6/conf/default/addr_gen_mode", "1")
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
	must(t, netlink.LinkAdd(bridge))
	for side, addresses := range map[string][]string{
		"cli": {"203.0.113.1/24", "2001:db8:c::1/64"},
		"srv": {"192.0.2.1/24", "2001:db8:1::1/64"},
	} {
		must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: side + "0"}, PeerName: side + "1"}))
		near, err := netlink.LinkByName(side + "0")
		must(t, err)
		far, err := netlink.LinkByName(side + "1")
		must(t, err)
		must(t, netlink.LinkSetMaster(far, bridge))
		must(t, netlink.LinkSetUp(near))
		must(t, netlink.LinkSetUp(far))
		for _, a := range addresses {
			addr, err := netlink.ParseAddr(a)
			must(t, err)
			addr.Flags = unix.IFA_F_NODAD
			must(t, netlink.AddrAdd(near, addr))
		}
	}
	srv0, err := netlink.LinkByName("srv0")
	must(t, err)
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: srv0.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("198.51.100.0/24")), Gw: net.ParseIP("192.0.2.2")}))
	waitForLocalRoutes(t)
	return take(t)
}

// waitForLocalRoutes waits for what the kernel adds a moment after an interface is up: a local route for each of
// the three IPv6 addresses and a multicast one for each of the four interfaces.
func waitForLocalRoutes(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		list, err := netlink.RouteListFiltered(unix.AF_INET6, &netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
		must(t, err)
		local, multicast := 0, 0
		for _, r := range list {
			switch r.Type {
			case unix.RTN_LOCAL:
				local++
			case unix.RTN_MULTICAST:
				multicast++
			}
		}
		if local == 3 && multicast == 4 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the kernel has not added its own IPv6 routes: %v", list)
		}
	}
}

// config is for the gateway of enterGateway, with a state file of the test's own.
func config(t *testing.T) Config {
	return Config{
		TUN: "tun0", Table: 7332, Priority: 7300, Prefixes: prefixes("192.0.2.0/24", "198.51.100.0/24", "2001:db8:1::/64"),
		StateFile: filepath.Join(t.TempDir(), "sysctls.json"),
	}
}

// openTUN makes the TUN as levee does, with two queues, and returns what closes it.
func openTUN(t *testing.T, name string, persistent bool) (closeTUN func()) {
	t.Helper()
	tun := &netlink.Tuntap{
		LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TUN, Queues: 2, NonPersist: !persistent,
		Flags: netlink.TUNTAP_MULTI_QUEUE_DEFAULTS | netlink.TUNTAP_VNET_HDR,
	}
	must(t, netlink.LinkAdd(tun))
	closeTUN = func() {
		for _, fd := range tun.Fds {
			fd.Close()
		}
		tun.Fds = nil
	}
	t.Cleanup(closeTUN)
	return closeTUN
}

func newPlan(t *testing.T, cfg Config) *Plan {
	t.Helper()
	live, err := Read(cfg)
	must(t, err)
	plan, err := NewPlan(cfg, live)
	must(t, err)
	return plan
}

func take(t *testing.T) routestest.Snapshot {
	t.Helper()
	s, err := routestest.Take()
	must(t, err)
	return s
}

func wantSame(t *testing.T, before routestest.Snapshot) {
	t.Helper()
	if diff := before.Diff(take(t)); diff != "" {
		t.Errorf("the namespace is not as before:\n%s", diff)
	}
}

func wantNoDiff(t *testing.T, plan *Plan) {
	t.Helper()
	live, err := Read(plan.cfg)
	must(t, err)
	if diff := plan.Diff(live); !diff.Empty() || diff.String() != "" {
		t.Errorf("the kernel is not as planned:\n%v", diff)
	}
}

func wantNoFile(t *testing.T, path string) {
	t.Helper()
	left, err := os.ReadDir(filepath.Dir(path))
	must(t, err)
	for _, e := range left {
		t.Errorf("%s is left in the state folder", e.Name())
	}
}

func set(t *testing.T, key, value string) {
	t.Helper()
	must(t, writeSysctl(key, value))
}

func get(t *testing.T, key string) string {
	t.Helper()
	v, ok, err := readSysctl(key)
	must(t, err)
	if !ok {
		t.Fatalf("no sysctl %s", key)
	}
	return v
}

// lookup asks the kernel which interface a packet that comes in by iif would leave by. The answer for IPv4
// includes the reverse path check. An error is returned as its text.
func lookup(t *testing.T, iif, from, to string, proto uint8) string {
	t.Helper()
	in, err := netlink.LinkByName(iif)
	must(t, err)
	src, dst := netip.MustParseAddr(from), netip.MustParseAddr(to)
	req := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_REQUEST)
	msg := &nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(familyOf(netip.PrefixFrom(dst, 0)).af()), Src_len: uint8(src.BitLen()), Dst_len: uint8(dst.BitLen())}}
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.RTA_SRC, src.AsSlice()))
	req.AddData(nl.NewRtAttr(unix.RTA_DST, dst.AsSlice()))
	req.AddData(nl.NewRtAttr(unix.RTA_IIF, nl.Uint32Attr(uint32(in.Attrs().Index))))
	req.AddData(nl.NewRtAttr(unix.RTA_IP_PROTO, []byte{proto}))
	answers, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE)
	if err != nil {
		return err.Error()
	}
	for _, a := range answers {
		attrs, err := nl.ParseRouteAttr(a[unix.SizeofRtMsg:])
		must(t, err)
		for _, attr := range attrs {
			if attr.Attr.Type == unix.RTA_OIF {
				out, err := netlink.LinkByIndex(int(nl.NativeEndian().Uint32(attr.Value)))
				must(t, err)
				return out.Attrs().Name
			}
		}
	}
	t.Fatalf("no interface in the answer to %s from %s iif %s", to, from, iif)
	return ""
}

func lines(s string) []string { return strings.Split(strings.TrimSuffix(s, "\n"), "\n") }
