package routestest

import (
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestDiff(t *testing.T) {
	for _, test := range []struct {
		name          string
		before, after []string
		want          string
	}{
		{"equal", []string{"a", "b"}, []string{"a", "b"}, ""},
		{"both empty", nil, nil, ""},
		{"added at the end", []string{"a"}, []string{"a", "b"}, "+ b\n"},
		{"added to nothing", nil, []string{"a"}, "+ a\n"},
		{"removed from the front", []string{"a", "b"}, []string{"b"}, "- a\n"},
		{"changed", []string{"a", "k = 0", "z"}, []string{"a", "k = 1", "z"}, "- k = 0\n+ k = 1\n"},
		{"once instead of twice", []string{"a", "a"}, []string{"a"}, "- a\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := (Snapshot{test.before}).Diff(Snapshot{test.after}); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// TestTakeSees changes one thing at a time and wants to see it.
func TestTakeSees(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("LEVEE_REQUIRE_ROOT") == "1" {
			t.Fatal("needs root to make a network namespace, and LEVEE_REQUIRE_ROOT=1")
		}
		t.Skip("needs root to make a network namespace")
	}
	// The thread, and the namespace with it, ends with the test.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	take := func() Snapshot {
		t.Helper()
		s, err := Take()
		must(err)
		if !slices.IsSorted(s.lines) {
			t.Error("lines are not sorted")
		}
		return s
	}
	set := func(key, value string) error { return os.WriteFile("/proc/sys/"+key, []byte(value), 0) }
	_, dst4, err := net.ParseCIDR("198.18.0.0/15")
	must(err)
	_, dst6, err := net.ParseCIDR("2001:db8::/48")
	must(err)
	rule := netlink.NewRule()
	rule.Family, rule.Priority, rule.Table, rule.Dst, rule.IifName, rule.IPProto = unix.AF_INET6, 100, 7332, dst6, "dev0", unix.IPPROTO_TCP
	tagged := *rule
	tagged.Protocol = 108
	device := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "dev0"}}
	address, err := netlink.ParseAddr("203.0.113.1/24")
	must(err)
	first := take()
	if diff := first.Diff(take()); diff != "" {
		t.Errorf("two pictures of the same differ:\n%s", diff)
	}
	for _, step := range []struct {
		name     string
		do, undo func() error
		want     string
	}{
		{"link", func() error { return netlink.LinkAdd(device) }, nil, "+ link dev0 "},
		{"link flag", func() error { return netlink.LinkSetUp(device) }, func() error { return netlink.LinkSetDown(device) }, "flags up|"},
		{"link MTU", func() error { return netlink.LinkSetMTU(device, 1400) }, func() error { return netlink.LinkSetMTU(device, 1500) }, "mtu 1400"},
		{"address", func() error { return netlink.AddrAdd(device, address) }, func() error { return netlink.AddrDel(device, address) }, "+ address 203.0.113.1/24 dev dev0"},
		{"rule", func() error { return netlink.RuleAdd(rule) }, nil, "to 2001:db8::/48"},
		{"rule that differs by its tag", func() error { return netlink.RuleAdd(&tagged) }, func() error { return netlink.RuleDel(&tagged) }, "Protocol:108"},
		{"route in another table", func() error {
			return netlink.RouteAdd(&netlink.Route{Table: 7332, Type: unix.RTN_BLACKHOLE, Dst: dst4})
		}, func() error {
			return netlink.RouteDel(&netlink.Route{Table: 7332, Type: unix.RTN_BLACKHOLE, Dst: dst4})
		}, "+ route family 2 table 7332 type 6 to 198.18.0.0/15"},
		{"IPv4 sysctl", func() error { return set("net/ipv4/ip_forward", "1") }, func() error { return set("net/ipv4/ip_forward", "0") },
			"+ sysctl net/ipv4/ip_forward = 1"},
		{"IPv6 sysctl of a link", func() error { return set("net/ipv6/conf/dev0/accept_ra", "2") }, nil, "+ sysctl net/ipv6/conf/dev0/accept_ra = 2"},
	} {
		before := take()
		must(step.do())
		if diff := before.Diff(take()); !strings.Contains(diff, step.want) {
			t.Errorf("%s: no %q in the difference:\n%s", step.name, step.want, diff)
		}
		if step.undo != nil {
			must(step.undo())
			if diff := before.Diff(take()); diff != "" {
				t.Errorf("%s: undone, but the picture differs:\n%s", step.name, diff)
			}
		}
	}
	must(netlink.RuleDel(rule))
	must(netlink.LinkDel(device))
	if diff := first.Diff(take()); diff != "" {
		t.Errorf("all undone, but the picture differs:\n%s", diff)
	}
}
