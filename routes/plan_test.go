package routes

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func prefixes(s ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// testConfig protects two services, each in both families.
func testConfig() Config {
	return Config{
		TUN: "tun0", Table: 7332, Priority: 7300,
		Prefixes: prefixes("192.0.2.0/24", "2001:db8:1::/64", "198.51.100.0/25", "2001:db8:2::/64"),
	}
}

func testRoute(table int, dst, dev string) Route {
	p := netip.MustParsePrefix(dst)
	return Route{Family: familyOf(p), Table: table, Dst: p, Type: unix.RTN_UNICAST, Interfaces: []string{dev}, Protocol: unix.RTPROT_BOOT}
}

func localRoute(dst string) Route {
	r := testRoute(unix.RT_TABLE_LOCAL, dst, "lo")
	r.Type = unix.RTN_LOCAL
	return r
}

// testLive is a gateway that forwards nothing yet, with clients on eth0 and servers on eth1 and eth2.
func testLive() Live {
	live := Live{
		Links: []Link{
			{Name: "lo", Index: 1, Kind: "device", Up: true, Loopback: true},
			{Name: "eth0", Index: 2, Kind: "device", Up: true},
			{Name: "eth1", Index: 3, Kind: "device", Up: true},
			{Name: "eth2", Index: 4, Kind: "device", Up: true},
			{Name: "eth3", Index: 5, Kind: "device"},
		},
		Rules: []Rule{
			{Family: V4, Priority: 0, Table: unix.RT_TABLE_LOCAL, Protocol: unix.RTPROT_KERNEL},
			{Family: V4, Priority: 32766, Table: unix.RT_TABLE_MAIN, Protocol: unix.RTPROT_KERNEL},
			{Family: V4, Priority: 32767, Table: unix.RT_TABLE_DEFAULT, Protocol: unix.RTPROT_KERNEL},
			{Family: V6, Priority: 0, Table: unix.RT_TABLE_LOCAL, Protocol: unix.RTPROT_KERNEL},
			{Family: V6, Priority: 32766, Table: unix.RT_TABLE_MAIN, Protocol: unix.RTPROT_KERNEL},
		},
		Routes: []Route{
			testRoute(unix.RT_TABLE_MAIN, "0.0.0.0/0", "eth0"),
			testRoute(unix.RT_TABLE_MAIN, "192.0.2.0/24", "eth1"),
			testRoute(unix.RT_TABLE_MAIN, "198.51.100.0/24", "eth2"),
			testRoute(unix.RT_TABLE_MAIN, "::/0", "eth0"),
			testRoute(unix.RT_TABLE_MAIN, "2001:db8:1::/64", "eth1"),
			testRoute(unix.RT_TABLE_MAIN, "2001:db8:2::/48", "eth2"),
			localRoute("192.0.2.1/32"),
		},
		Sysctls: map[string]string{keyForward4: "0"},
	}
	for _, device := range []string{"all", "default", "lo", "eth0", "eth1", "eth2", "eth3"} {
		for f, names := range confNames {
			for _, name := range names {
				live.Sysctls[confKey(f, device+"/"+name)] = "0"
			}
		}
	}
	live.Sysctls[confKey(V6, "eth0/accept_ra")] = "1"
	live.Sysctls[confKey(V6, "lo/accept_ra")] = "1"
	return live
}

func oneArmed(live *Live) {
	live.Links = live.Links[:2]
	for i := range live.Routes {
		if live.Routes[i].Table == unix.RT_TABLE_MAIN {
			live.Routes[i].Interfaces = []string{"eth0"}
		}
	}
}

func TestPlanGolden(t *testing.T) {
	for _, test := range []struct {
		name string
		edit func(*Config, *Live)
	}{
		{"two-families", func(*Config, *Live) {}},
		{"one-armed-strict", func(c *Config, l *Live) {
			oneArmed(l)
			l.Sysctls[confKey(V4, "all/rp_filter")] = "1"
		}},
		{"named-ipv4-only", func(c *Config, l *Live) {
			c.Prefixes = prefixes("192.0.2.0/24")
			c.ClientInterfaces, c.ServerInterfaces = []string{"eth3", "eth0", "eth3"}, []string{"bond0.7"}
			l.Links = append(l.Links, Link{Name: "bond0.7", Index: 9, Kind: "vlan", Up: true})
			l.Sysctls[keyForward4] = "1"
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg, live := testConfig(), testLive()
			test.edit(&cfg, &live)
			plan, err := NewPlan(cfg, live)
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", test.name+".plan")
			if *update {
				if err := os.WriteFile(golden, []byte(plan.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), plan.String()); diff != "" {
				t.Errorf("plan differs from %s (-want +got), run with -update if it is meant to:\n%s", golden, diff)
			}
			// The order of what the kernel lists must not show.
			slices.Reverse(live.Links)
			slices.Reverse(live.Routes)
			slices.Reverse(live.Rules)
			again, err := NewPlan(cfg, live)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(plan.String(), again.String()); diff != "" {
				t.Errorf("plan depends on the order of the kernel's lists:\n%s", diff)
			}
		})
	}
}

func TestPlanRefuses(t *testing.T) {
	foreign := Rule{Family: V6, Priority: 500, Iif: "eth0", Table: 7332, Protocol: unix.RTPROT_STATIC}
	for _, test := range []struct {
		name string
		edit func(*Config, *Live)
		want []string // each of them in the error
	}{
		{"no TUN name", func(c *Config, _ *Live) { c.TUN = "" }, []string{"tun.name"}},
		{"TUN name too long", func(c *Config, _ *Live) { c.TUN = "sixteen-bytes-xx" }, []string{"tun.name", "15"}},
		{"TUN name with slash", func(c *Config, _ *Live) { c.TUN = "a/b" }, []string{"tun.name"}},
		{"TUN name is a template", func(c *Config, _ *Live) { c.TUN = "tun%d" }, []string{"tun.name"}},
		{"table main", func(c *Config, _ *Live) { c.Table = 254 }, []string{"routing.table 254"}},
		{"table zero", func(c *Config, _ *Live) { c.Table = 0 }, []string{"routing.table 0"}},
		{"table too large", func(c *Config, _ *Live) { c.Table = 1 << 32 }, []string{"routing.table"}},
		{"priority of the local table", func(c *Config, _ *Live) { c.Priority = 0 }, []string{"routing.priority 0"}},
		{"priorities reach the main table", func(c *Config, _ *Live) { c.Priority = 32757 }, []string{"routing.priority 32757", "32756"}},
		{"no prefix", func(c *Config, _ *Live) { c.Prefixes = nil }, []string{"services", "prefixes"}},
		{"zero prefix", func(c *Config, _ *Live) { c.Prefixes = []netip.Prefix{{}} }, []string{"not valid"}},
		{"mapped prefix", func(c *Config, _ *Live) { c.Prefixes = prefixes("::ffff:192.0.2.0/120") }, []string{"::ffff:192.0.2.0/120", "IPv4"}},
		{"no IPv6 in the kernel", func(_ *Config, l *Live) {
			for key := range l.Sysctls {
				if strings.HasPrefix(key, "net/ipv6/") {
					delete(l.Sysctls, key)
				}
			}
		}, []string{"2001:db8:1::/64", "IPv6", "remove the prefix"}},
		{"TUN is something else", func(_ *Config, l *Live) { l.Links = append(l.Links, Link{Name: "tun0", Index: 9, Kind: "dummy"}) },
			[]string{"tun0", "dummy", "tun.name"}},
		{"prefix is ours", func(c *Config, _ *Live) { c.Prefixes = prefixes("192.0.2.1/32") }, []string{"192.0.2.1/32", "local", "not supported"}},
		{"prefix within a local route", func(_ *Config, l *Live) { l.Routes = append(l.Routes, localRoute("2001:db8:2::/48")) },
			[]string{"2001:db8:2::/64", "not supported"}},
		{"prefix without a route", func(_ *Config, l *Live) {
			l.Routes = slices.DeleteFunc(l.Routes, func(r Route) bool { return r.Family == V6 })
		}, []string{"2001:db8:1::/64", "no route", "routing.server_interfaces"}},
		{"prefix without a route since its interface is down", func(_ *Config, l *Live) {
			l.Routes = slices.DeleteFunc(l.Routes, func(r Route) bool { return r.Family == V4 })
			l.Links[2].Up, l.Links[2].Networks = false, prefixes("192.0.2.0/24")
			l.Links[4].Networks = prefixes("203.0.113.0/24")
		}, []string{"prefix 192.0.2.0/24 has no route in the main table, and interface eth1 is down: ip link set dev eth1 up"}},
		{"prefix without a route since the interface that had it is down", func(c *Config, l *Live) {
			l.Routes = slices.DeleteFunc(l.Routes, func(r Route) bool { return r.Family == V6 })
			l.Links[2].Up, c.KeptServers = false, []string{"eth1"}
		}, []string{"prefix 2001:db8:1::/64 has no route in the main table, and interface eth1 is down: ip link set dev eth1 up"}},
		{"prefix without a route, maybe since an interface is down", func(_ *Config, l *Live) {
			l.Routes = slices.DeleteFunc(l.Routes, func(r Route) bool { return r.Family == V4 })
			l.Links[4].Networks = prefixes("203.0.113.0/24")
		}, []string{"192.0.2.0/24 has no route in the main table (down, with addresses: eth3): add one"}},
		{"only a narrower route", func(_ *Config, l *Live) {
			l.Routes = slices.DeleteFunc(l.Routes, func(r Route) bool { return r.Family == V4 })
			l.Routes = append(l.Routes, testRoute(7, "192.0.2.0/24", "eth1"))
		}, []string{"192.0.2.0/24", "no route"}},
		{"prefix into a blackhole", func(_ *Config, l *Live) { l.Routes[1].Type, l.Routes[1].Interfaces = unix.RTN_BLACKHOLE, nil },
			[]string{"192.0.2.0/24", "blackhole", "routing.server_interfaces"}},
		{"route without interface", func(_ *Config, l *Live) { l.Routes[1].Interfaces = nil }, []string{"192.0.2.0/24", "routing.server_interfaces"}},
		{"route into the TUN", func(_ *Config, l *Live) { l.Routes[1].Interfaces = []string{"tun0"} }, []string{"192.0.2.0/24", "tun0", "remove it"}},
		{"route to the loopback only", func(c *Config, l *Live) {
			c.Prefixes = prefixes("192.0.2.0/24")
			l.Routes[1].Interfaces = []string{"lo"}
		}, []string{"routing.server_interfaces"}},
		{"named interface missing", func(c *Config, _ *Live) { c.ClientInterfaces = []string{"eth9"} },
			[]string{"routing.client_interfaces", `"eth9"`, "auto"}},
		{"named server interface missing", func(c *Config, _ *Live) { c.ServerInterfaces = []string{"eth9"} }, []string{"routing.server_interfaces", `"eth9"`}},
		{"named interface is the TUN", func(c *Config, _ *Live) { c.ClientInterfaces = []string{"tun0"} }, []string{"routing.client_interfaces", "tun0"}},
		{"named interface is the loopback", func(c *Config, _ *Live) { c.ClientInterfaces = []string{"lo"} }, []string{"routing.client_interfaces", "loopback"}},
		{"named interface is a port", func(c *Config, l *Live) {
			c.ClientInterfaces = []string{"eth3"}
			l.Links = append(l.Links, Link{Name: "br0", Index: 9, Kind: "bridge", Up: true})
			l.Links[4].Master = 9
		}, []string{"eth3", "name br0"}},
		{"foreign rule to our table", func(_ *Config, l *Live) { l.Rules = append(l.Rules, foreign) },
			[]string{"7332", "priority 500 iif eth0", "routing.table"}},
		{"foreign rule at our first priority", func(c *Config, l *Live) { c.Table, c.Priority = 99, 500; l.Rules = append(l.Rules, foreign) },
			[]string{"500-509", "priority 500 iif eth0", "routing.priority"}},
		{"foreign rule at our last priority", func(c *Config, l *Live) { c.Table, c.Priority = 99, 491; l.Rules = append(l.Rules, foreign) },
			[]string{"491-500", "routing.priority"}},
		{"foreign route in our table", func(_ *Config, l *Live) { l.Routes = append(l.Routes, testRoute(7332, "203.0.113.0/24", "eth0")) },
			[]string{"7332", "203.0.113.0/24", "routing.table"}},
		{"too many rules", func(c *Config, l *Live) {
			for i := range 256 {
				l.Links = append(l.Links, Link{Name: "veth" + string(rune('A'+i/26)) + string(rune('a'+i%26)), Index: 100 + i, Kind: "veth", Up: true})
			}
		}, []string{"rules, more than 1024", "routing.client_interfaces"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg, live := testConfig(), testLive()
			test.edit(&cfg, &live)
			plan, err := NewPlan(cfg, live)
			if err == nil {
				t.Fatalf("accepted:\n%v", plan)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("error has more than one line: %q", err)
			}
		})
	}
}

func TestPlanAcceptsNeighbours(t *testing.T) {
	cfg, live := testConfig(), testLive()
	live.Rules = append(live.Rules,
		Rule{Family: V4, Priority: cfg.Priority - 1, Table: 99, Protocol: unix.RTPROT_STATIC},
		Rule{Family: V4, Priority: cfg.Priority + 10, Table: 99, Protocol: unix.RTPROT_STATIC},
		Rule{Family: V4, Priority: cfg.Priority, Iif: "gone", Table: cfg.Table, Protocol: Protocol})
	live.Routes = append(live.Routes, testRoute(99, "192.0.2.0/24", "eth0"))
	if _, err := NewPlan(cfg, live); err != nil {
		t.Error(err)
	}
}

func TestOutermost(t *testing.T) {
	for _, test := range []struct {
		name     string
		in, want []netip.Prefix
	}{
		{"sorted, IPv4 first", prefixes("2001:db8::/64", "198.51.100.0/24", "192.0.2.0/24"), prefixes("192.0.2.0/24", "198.51.100.0/24", "2001:db8::/64")},
		{"twice", prefixes("192.0.2.0/24", "192.0.2.0/24"), prefixes("192.0.2.0/24")},
		{"masked", prefixes("192.0.2.77/24"), prefixes("192.0.2.0/24")},
		{"within another", prefixes("192.0.2.128/25", "192.0.2.0/24", "192.0.2.255/32"), prefixes("192.0.2.0/24")},
		{"same address, narrower first", prefixes("192.0.2.0/32", "192.0.2.0/24"), prefixes("192.0.2.0/24")},
		{"side by side", prefixes("192.0.2.128/25", "192.0.2.0/25"), prefixes("192.0.2.0/25", "192.0.2.128/25")},
		{"everything of a family", prefixes("::/0", "192.0.2.0/24", "2001:db8::/32", "0.0.0.0/0"), prefixes("0.0.0.0/0", "::/0")},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := outermost(test.in); !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{
		"eth0.100": "eth0.100", "": "''", "a;b": "'a;b'", "it's": `'it'\''s'`, "$x": "'$x'", "br-lan@2": "br-lan@2",
	} {
		if got := quote(in); got != want {
			t.Errorf("quote(%q) = %s, want %s", in, got, want)
		}
	}
}
