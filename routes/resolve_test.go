package routes

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAuto(t *testing.T) {
	type edit = func(*Config, *Live)
	metric := func(r Route, m int) Route { r.Metric = m; return r }
	for _, test := range []struct {
		name             string
		edit             edit
		clients, servers []string
	}{
		{"each side its own", func(*Config, *Live) {}, []string{"eth0", "eth1", "eth2"}, []string{"eth1", "eth2"}},
		{"the narrowest cover wins", func(c *Config, l *Live) {
			c.Prefixes = prefixes("192.0.2.0/25")
			l.Routes = append(l.Routes, testRoute(unix.RT_TABLE_MAIN, "192.0.2.0/25", "eth2"))
		}, []string{"eth0", "eth1", "eth2"}, []string{"eth2"}},
		{"routes inside the prefix count too", func(c *Config, l *Live) {
			c.Prefixes = prefixes("192.0.2.0/24")
			l.Routes = append(l.Routes, testRoute(unix.RT_TABLE_MAIN, "192.0.2.64/26", "eth2"))
		}, []string{"eth0", "eth1", "eth2"}, []string{"eth1", "eth2"}},
		{"a hole inside the prefix does not", func(c *Config, l *Live) {
			c.Prefixes = prefixes("192.0.2.0/24")
			hole := testRoute(unix.RT_TABLE_MAIN, "192.0.2.64/26", "lo")
			hole.Type = unix.RTN_UNREACHABLE
			l.Routes = append(l.Routes, hole)
		}, []string{"eth0", "eth1", "eth2"}, []string{"eth1"}},
		{"the best metric wins", func(c *Config, l *Live) {
			c.Prefixes = prefixes("192.0.2.0/24")
			l.Routes = append(l.Routes, metric(testRoute(unix.RT_TABLE_MAIN, "192.0.2.0/24", "eth2"), 50))
		}, []string{"eth0", "eth1", "eth2"}, []string{"eth1"}},
		{"routes of one metric all count", func(c *Config, l *Live) {
			c.Prefixes = prefixes("2001:db8:1::/64")
			l.Routes = append(l.Routes, testRoute(unix.RT_TABLE_MAIN, "2001:db8:1::/64", "eth2"))
		}, []string{"eth0", "eth1", "eth2"}, []string{"eth1", "eth2"}},
		{"multipath", func(c *Config, l *Live) {
			c.Prefixes = prefixes("192.0.2.0/24")
			l.Routes[1].Interfaces = []string{"eth2", "eth1"}
		}, []string{"eth0", "eth1", "eth2"}, []string{"eth1", "eth2"}},
		{"other tables do not count", func(c *Config, l *Live) {
			c.Prefixes = prefixes("192.0.2.0/24")
			l.Routes = append(l.Routes, testRoute(99, "192.0.2.0/25", "eth2"))
		}, []string{"eth0", "eth1", "eth2"}, []string{"eth1"}},
		{"the default route serves if nothing else does", func(c *Config, l *Live) {
			c.Prefixes = prefixes("203.0.113.0/24")
		}, []string{"eth0", "eth1", "eth2"}, []string{"eth0"}},
		{"one-armed", func(_ *Config, l *Live) { oneArmed(l) }, []string{"eth0"}, []string{"eth0"}},
		{"not the TUN, ports, VRFs or what is down", func(_ *Config, l *Live) {
			l.Links = append(l.Links,
				Link{Name: "tun0", Index: 20, Kind: "tun", Up: true},
				Link{Name: "br0", Index: 21, Kind: "bridge", Up: true},
				Link{Name: "port0", Index: 22, Kind: "device", Up: true, Master: 21},
				Link{Name: "blue", Index: 23, Kind: "vrf", Up: true},
				Link{Name: "blue0", Index: 24, Kind: "device", Up: true, Master: 23},
			)
		}, []string{"br0", "eth0", "eth1", "eth2"}, []string{"eth1", "eth2"}},
		{"clients named, servers auto", func(c *Config, _ *Live) { c.ClientInterfaces = []string{"eth3"} }, []string{"eth3"}, []string{"eth1", "eth2"}},
		{"servers named, clients auto, no route needed", func(c *Config, l *Live) {
			c.ServerInterfaces = []string{"eth2"}
			l.Routes = nil
		}, []string{"eth0", "eth1", "eth2"}, []string{"eth2"}},
		{"a port of a VRF may be named", func(c *Config, l *Live) {
			c.ClientInterfaces = []string{"blue0"}
			l.Links = append(l.Links, Link{Name: "blue", Index: 23, Kind: "vrf", Up: true}, Link{Name: "blue0", Index: 24, Kind: "device", Master: 23})
		}, []string{"blue0"}, []string{"eth1", "eth2"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg, live := testConfig(), testLive()
			test.edit(&cfg, &live)
			plan, err := NewPlan(cfg, live)
			if err != nil {
				t.Fatal(err)
			}
			if got := plan.ClientInterfaces(); !slices.Equal(got, test.clients) {
				t.Errorf("client interfaces %v, want %v", got, test.clients)
			}
			if got := plan.ServerInterfaces(); !slices.Equal(got, test.servers) {
				t.Errorf("server interfaces %v, want %v", got, test.servers)
			}
		})
	}
}

// TestSpares: what is wrong with an interface that auto has only found is no reason not to start, as long as there is another for clients.
func TestSpares(t *testing.T) {
	clients := func(names ...string) func(*Config, *Live) {
		return func(c *Config, _ *Live) { c.ClientInterfaces = names }
	}
	none := func(*Config, *Live) {}
	noDefault := func(_ *Config, l *Live) {
		l.Routes = slices.DeleteFunc(l.Routes, func(r Route) bool { return r.Dst.Bits() == 0 })
	}
	for _, test := range []struct {
		name   string
		edit   func(*Config, *Live)
		broken []string // of which the first is asked for
		want   bool
	}{
		{"an interface of no use", none, []string{"wg0"}, true},
		{"two of them", none, []string{"wg0", "wg1"}, true},
		{"of one that is needed", none, []string{"eth0", "wg0"}, false},
		{"while one is needed", none, []string{"wg0", "eth0"}, true},
		{"servers are behind it", none, []string{"eth1"}, false},
		{"it is named", clients("eth0", "wg0"), []string{"wg0"}, false},
		{"not among the named", clients("eth0"), []string{"wg0"}, false},
		{"no default route, one of several", noDefault, []string{"eth0"}, true},
		{"no default route, all of them", noDefault, []string{"eth0", "wg0", "wg1"}, false},
		{"one-armed", func(_ *Config, l *Live) {
			wg := l.Links[len(l.Links)-2:]
			oneArmed(l)
			l.Links = append(l.Links, wg...)
		}, []string{"wg0", "wg1"}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg, live := testConfig(), testLive()
			live.Links = append(live.Links, Link{Name: "wg0", Index: 20, Kind: "wireguard", Up: true}, Link{Name: "wg1", Index: 21, Kind: "wireguard", Up: true})
			test.edit(&cfg, &live)
			plan, err := NewPlan(cfg, live)
			must(t, err)
			if got := plan.Spares(test.broken[0], test.broken); got != test.want {
				t.Errorf("spared is %t, want %t", got, test.want)
			}
		})
	}
}
