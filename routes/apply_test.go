package routes

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestApplySteers(t *testing.T) {
	for _, test := range []struct{ name, rpFilter string }{
		{"no reverse path check", "0"}, {"strict reverse path check", "1"}, {"loose reverse path check", "2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			enterGateway(t)
			set(t, "net/ipv4/conf/all/rp_filter", test.rpFilter)
			before := take(t)
			cfg := config(t)
			closeTUN := openTUN(t, cfg.TUN, false)
			plan := newPlan(t, cfg)
			must(t, plan.Apply())
			wantNoDiff(t, plan)
			info, err := os.Stat(cfg.StateFile)
			must(t, err)
			if info.Mode() != 0o600 {
				t.Errorf("state file has mode %v, want 0600", info.Mode())
			}
			const tcp, udp = unix.IPPROTO_TCP, unix.IPPROTO_UDP
			for _, hop := range []struct {
				name, iif, from, to string
				proto               uint8
				want                string
			}{
				{"client to server", "cli0", "203.0.113.5", "192.0.2.80", tcp, "tun0"},
				{"levee to server", "tun0", "203.0.113.5", "192.0.2.80", tcp, "srv0"},
				{"server to client", "srv0", "192.0.2.80", "203.0.113.5", tcp, "tun0"},
				{"levee to client", "tun0", "192.0.2.80", "203.0.113.5", tcp, "cli0"},
				{"client to the second prefix", "cli0", "203.0.113.5", "198.51.100.7", tcp, "tun0"},
				{"levee to the second prefix", "tun0", "203.0.113.5", "198.51.100.7", tcp, "srv0"},
				{"not TCP", "cli0", "203.0.113.5", "192.0.2.80", udp, "srv0"},
				{"not TCP, back", "srv0", "192.0.2.80", "203.0.113.5", udp, "cli0"},
				{"not protected", "srv0", "192.0.2.80", "203.0.113.5", udp, "cli0"},
				{"client to server, IPv6", "cli0", "2001:db8:c::5", "2001:db8:1::80", tcp, "tun0"},
				{"levee to server, IPv6", "tun0", "2001:db8:c::5", "2001:db8:1::80", tcp, "srv0"},
				{"server to client, IPv6", "srv0", "2001:db8:1::80", "2001:db8:c::5", tcp, "tun0"},
				{"levee to client, IPv6", "tun0", "2001:db8:1::80", "2001:db8:c::5", tcp, "cli0"},
				{"not TCP, IPv6", "cli0", "2001:db8:c::5", "2001:db8:1::80", udp, "srv0"},
				{"server to the gateway itself", "srv0", "192.0.2.80", "192.0.2.1", tcp, "lo"},
			} {
				if got := lookup(t, hop.iif, hop.from, hop.to, hop.proto); got != hop.want {
					t.Errorf("%s: leaves by %s, want %s", hop.name, got, hop.want)
				}
			}
			// That strict mode is looked at at all: a server's address among the clients.
			got := lookup(t, "cli0", "192.0.2.66", "192.0.2.80", tcp)
			if refused := got == unix.EINVAL.Error() || got == unix.EXDEV.Error(); refused != (test.rpFilter == "1") {
				t.Errorf("spoofed source: %s", got)
			}

			must(t, plan.Remove())
			if report := plan.Report(); len(report) > 0 {
				t.Errorf("Remove left alone: %q", report)
			}
			wantNoFile(t, cfg.StateFile)
			must(t, plan.Remove())
			closeTUN()
			wantSame(t, before)
			must(t, plan.Remove())
			wantSame(t, before)
		})
	}
}

// TestApplyRestoresSideEffects: turning forwarding on and off rewrites settings of every interface.
func TestApplyRestoresSideEffects(t *testing.T) {
	enterGateway(t)
	set(t, "net/ipv4/conf/cli0/forwarding", "1")
	set(t, "net/ipv4/conf/all/accept_redirects", "0")
	set(t, "net/ipv4/conf/default/forwarding", "1")
	set(t, "net/ipv6/conf/srv0/forwarding", "1")
	set(t, "net/ipv6/conf/default/accept_ra", "0")
	before := take(t)
	cfg := config(t)
	closeTUN := openTUN(t, cfg.TUN, false)
	plan := newPlan(t, cfg)
	must(t, plan.Apply())
	for key, want := range map[string]string{
		"net/ipv4/conf/srv0/forwarding": "1", "net/ipv6/conf/cli0/forwarding": "1",
		// Router advertisements are still taken where they were, and only there.
		"net/ipv6/conf/cli0/accept_ra": "2", "net/ipv6/conf/srv0/accept_ra": "1", "net/ipv6/conf/default/accept_ra": "0",
	} {
		if got := get(t, key); got != want {
			t.Errorf("%s is %s, want %s", key, got, want)
		}
	}
	must(t, plan.Remove())
	closeTUN()
	wantSame(t, before)
}

func TestApplyTwice(t *testing.T) {
	before := enterGateway(t)
	cfg := config(t)
	closeTUN := openTUN(t, cfg.TUN, false)
	plan := newPlan(t, cfg)
	must(t, plan.Apply())
	first := take(t)
	file, err := os.ReadFile(cfg.StateFile)
	must(t, err)
	must(t, plan.Apply())
	again := newPlan(t, cfg)
	must(t, again.Apply())
	wantSame(t, first)
	wantNoDiff(t, plan)
	wantNoDiff(t, again)
	if now, err := os.ReadFile(cfg.StateFile); err != nil || string(now) != string(file) {
		t.Errorf("the second Apply changed the state file (error %v):\n%s\nwas:\n%s", err, now, file)
	}
	must(t, again.Remove())
	closeTUN()
	wantSame(t, before)
}

// TestApplyDeletesLeftovers: another configuration's rules and routes, as a killed process leaves them.
func TestApplyDeletesLeftovers(t *testing.T) {
	before := enterGateway(t)
	cfg := config(t)
	old := cfg
	old.Table, old.Priority, old.Prefixes = 99, 500, prefixes("198.51.100.0/25", "2001:db8:1::80/128")
	closeTUN := openTUN(t, cfg.TUN, false)
	must(t, newPlan(t, old).Apply())
	plan := newPlan(t, cfg)
	live, err := Read(cfg)
	must(t, err)
	if diff := plan.Diff(live); len(diff.StaleRules) != 28 || len(diff.StaleRoutes) != 4 {
		t.Errorf("want 28 stale rules and 4 stale routes, got:\n%v", diff)
	}
	must(t, plan.Apply())
	wantNoDiff(t, plan)
	must(t, plan.Remove())
	closeTUN()
	wantSame(t, before)
}

// TestTUNGone: what becomes of traffic when the TUN is set down, or deleted, is what becomes of it when nobody reads from it.
func TestTUNGone(t *testing.T) {
	for _, test := range []struct {
		bypass bool
		want   string
	}{{false, unix.EINVAL.Error()}, {true, "srv0"}} {
		t.Run(fmt.Sprintf("bypass %v", test.bypass), func(t *testing.T) {
			before := enterGateway(t)
			cfg := config(t)
			cfg.Bypass = test.bypass
			closeTUN := openTUN(t, cfg.TUN, false)
			plan := newPlan(t, cfg)
			must(t, plan.Apply())
			check := func(when, want string) {
				t.Helper()
				for _, to := range []string{"192.0.2.80", "2001:db8:1::80"} {
					from := "203.0.113.5"
					if strings.Contains(to, ":") {
						from = "2001:db8:c::5"
					}
					if got := lookup(t, "cli0", from, to, unix.IPPROTO_TCP); got != want {
						t.Errorf("%s: to %s by %s, want %s", when, to, got, want)
					}
				}
			}
			check("at first", "tun0")
			tun, err := netlink.LinkByName("tun0")
			must(t, err)
			must(t, netlink.LinkSetDown(tun))
			check("set down", test.want)
			must(t, plan.Apply())
			check("mended", "tun0")
			wantNoDiff(t, plan)
			closeTUN()
			check("deleted", test.want)
			must(t, plan.Remove())
			wantSame(t, before)
		})
	}
}

func TestPrefixOfEverything(t *testing.T) {
	before := enterGateway(t)
	cfg := config(t)
	cfg.Prefixes = prefixes("0.0.0.0/0", "::/0", "192.0.2.0/24")
	cfg.ServerInterfaces = []string{"srv0"}
	closeTUN := openTUN(t, cfg.TUN, false)
	plan := newPlan(t, cfg)
	must(t, plan.Apply())
	wantNoDiff(t, plan)
	if got := lookup(t, "cli0", "2001:db8:c::5", "2001:db8:1::80", unix.IPPROTO_TCP); got != "tun0" {
		t.Errorf("client to server leaves by %s", got)
	}
	must(t, plan.Remove())
	closeTUN()
	wantSame(t, before)
}

func TestForeignIsRefusedAndUntouched(t *testing.T) {
	rule := func(edit func(*netlink.Rule)) func(*testing.T) {
		return func(t *testing.T) {
			r := netlink.NewRule()
			r.Family, r.Table, r.Priority, r.Protocol = unix.AF_INET, 99, 100, unix.RTPROT_STATIC
			edit(r)
			must(t, netlink.RuleAdd(r))
		}
	}
	for _, test := range []struct {
		name   string
		occupy func(*testing.T)
		want   string
	}{
		{"rule to our table", rule(func(r *netlink.Rule) { r.Table = 7332 }), "routing.table"},
		{"IPv6 rule to our table", rule(func(r *netlink.Rule) { r.Family, r.Table = unix.AF_INET6, 7332 }), "routing.table"},
		{"rule at our priority", rule(func(r *netlink.Rule) { r.Priority, r.Mark = 7301, 7 }), "fwmark 0x7"},
		{"our own rule, but not tagged", rule(func(r *netlink.Rule) { r.Priority, r.IifName, r.Table = 7300, "tun0", 254 }), "routing.priority"},
		{"route in our table", func(t *testing.T) {
			srv0, err := netlink.LinkByName("srv0")
			must(t, err)
			must(t, netlink.RouteAdd(&netlink.Route{Table: 7332, Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0")), LinkIndex: srv0.Attrs().Index, Scope: netlink.SCOPE_LINK}))
		}, "route \"default dev srv0"},
		{"IPv6 blackhole in our table", func(t *testing.T) {
			must(t, netlink.RouteAdd(&netlink.Route{Table: 7332, Dst: ipNet(netip.MustParsePrefix("2001:db8:9::/48")), Type: unix.RTN_BLACKHOLE}))
		}, "blackhole 2001:db8:9::/48"},
	} {
		t.Run(test.name, func(t *testing.T) {
			enterGateway(t)
			cfg := config(t)
			openTUN(t, cfg.TUN, false)
			early := newPlan(t, cfg) // made when nothing was in the way yet
			test.occupy(t)
			before := take(t)
			live, err := Read(cfg)
			must(t, err)
			if _, err := NewPlan(cfg, live); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("NewPlan: error %v, want one that says %q", err, test.want)
			}
			if err := early.Apply(); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Apply: error %v, want one that says %q", err, test.want)
			}
			if diff := early.Diff(live); len(diff.Foreign) != 1 || !strings.HasPrefix(diff.String(), "! ") {
				t.Errorf("Diff does not show what is in the way:\n%v", diff)
			}
			must(t, early.Remove())
			wantNoFile(t, cfg.StateFile)
			wantSame(t, before)
		})
	}
}

// TestFailureIsUndone lets the kernel refuse one thing after the other.
func TestFailureIsUndone(t *testing.T) {
	badRule := Rule{Family: V4, Priority: 7305, Iif: strings.Repeat("x", 20), Table: 7332, Protocol: Protocol}
	badRoute := Route{Family: V4, Table: 7332, Dst: netip.MustParsePrefix("198.18.0.0/15"), Interfaces: []string{"gone"}, Protocol: Protocol}
	badSysctl := sysctl{key: "net/ipv4/conf/tun0/rp_filter", value: "nonsense", ofTUN: true}
	for _, test := range []struct {
		name     string
		sabotage func(*Plan)
	}{
		{"first sysctl", func(p *Plan) { p.sysctls = slices.Insert(p.sysctls, 0, badSysctl) }},
		{"last sysctl", func(p *Plan) { p.sysctls = append(p.sysctls, badSysctl) }},
		{"first route", func(p *Plan) { p.routes = slices.Insert(p.routes, 0, badRoute) }},
		{"last route", func(p *Plan) { p.routes = append(p.routes, badRoute) }},
		{"first rule", func(p *Plan) { p.rules = slices.Insert(p.rules, 0, badRule) }},
		{"a rule in the middle", func(p *Plan) { p.rules = slices.Insert(p.rules, 3, badRule) }},
		{"last rule", func(p *Plan) { p.rules = append(p.rules, badRule) }},
		{"no folder for the state file", func(p *Plan) { p.cfg.StateFile = "/nonexistent/levee/sysctls.json" }},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := enterGateway(t)
			cfg := config(t)
			closeTUN := openTUN(t, cfg.TUN, false)
			plan := newPlan(t, cfg)
			test.sabotage(plan)
			err := plan.Apply()
			if err == nil {
				t.Fatal("Apply succeeded")
			}
			t.Log(err)
			if tun, err := netlink.LinkByName(cfg.TUN); err != nil || tun.Attrs().Flags&net.FlagUp != 0 {
				t.Errorf("the TUN is gone or up: %v", err)
			}
			wantNoFile(t, cfg.StateFile)
			closeTUN()
			wantSame(t, before)
		})
	}
}

func TestApplyWithoutTUN(t *testing.T) {
	before := enterGateway(t)
	cfg := config(t)
	plan := newPlan(t, cfg) // `levee plan` works before there is one
	for name, do := range map[string]func() error{"Apply": plan.Apply, "Update": plan.Update} {
		if err := do(); err == nil || !strings.Contains(err.Error(), "tun0 does not exist") {
			t.Errorf("%s: error %v", name, err)
		}
	}
	live, err := Read(cfg)
	must(t, err)
	if diff := plan.Diff(live); !diff.TUNMissing || !strings.Contains(diff.String(), "# does not exist") {
		t.Errorf("Diff does not show that the TUN is missing:\n%v", diff)
	}
	wantSame(t, before)
}

func TestSmallMTU(t *testing.T) {
	for _, test := range []struct {
		name     string
		prefixes []netip.Prefix
		want     string
	}{
		{"IPv4 alone works", prefixes("192.0.2.0/24"), ""},
		{"IPv6 does not", prefixes("2001:db8:1::/64"), "tun.mtu"},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := enterGateway(t)
			cfg := config(t)
			cfg.Prefixes = test.prefixes
			closeTUN := openTUN(t, cfg.TUN, false)
			tun, err := netlink.LinkByName(cfg.TUN)
			must(t, err)
			must(t, netlink.LinkSetMTU(tun, 1200))
			plan := newPlan(t, cfg)
			switch err := plan.Apply(); {
			case test.want == "":
				must(t, err)
				wantNoDiff(t, plan)
			case err == nil || !strings.Contains(err.Error(), test.want):
				t.Errorf("error %v, want one that says %q", err, test.want)
			}
			must(t, plan.Remove())
			closeTUN()
			wantSame(t, before)
		})
	}
}

func TestOneArmedSendsNoRedirects(t *testing.T) {
	enterGateway(t)
	srv0, err := netlink.LinkByName("srv0")
	must(t, err)
	must(t, netlink.LinkSetDown(srv0))
	cli0, err := netlink.LinkByName("cli0")
	must(t, err)
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: cli0.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("192.0.2.0/24")), Scope: netlink.SCOPE_LINK}))
	set(t, "net/ipv4/conf/all/rp_filter", "1")
	before := take(t)
	cfg := config(t)
	cfg.Prefixes = prefixes("192.0.2.0/24")
	closeTUN := openTUN(t, cfg.TUN, false)
	plan := newPlan(t, cfg)
	must(t, plan.Apply())
	wantNoDiff(t, plan)
	for _, key := range []string{"net/ipv4/conf/all/send_redirects", "net/ipv4/conf/cli0/send_redirects"} {
		if got := get(t, key); got != "0" {
			t.Errorf("%s is %s, want 0", key, got)
		}
	}
	for _, hop := range [][4]string{
		{"cli0", "203.0.113.5", "192.0.2.80", "tun0"}, {"tun0", "203.0.113.5", "192.0.2.80", "cli0"},
		{"cli0", "192.0.2.80", "203.0.113.5", "tun0"}, {"tun0", "192.0.2.80", "203.0.113.5", "cli0"},
	} {
		if got := lookup(t, hop[0], hop[1], hop[2], unix.IPPROTO_TCP); got != hop[3] {
			t.Errorf("%s to %s by %s leaves by %s, want %s", hop[1], hop[2], hop[0], got, hop[3])
		}
	}
	must(t, plan.Remove())
	closeTUN()
	wantSame(t, before)
}

// TestPrintedPlanDoesTheSame runs the text of a plan in a shell.
func TestPrintedPlanDoesTheSame(t *testing.T) {
	for _, tool := range []string{"ip", "sysctl"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("LEVEE_REQUIRE_ROOT") == "1" {
				t.Fatalf("needs %s (Debian: iproute2, procps): %v", tool, err)
			}
			t.Skipf("needs %s (Debian: iproute2, procps): %v", tool, err)
		}
	}
	enterGateway(t)
	// A name with a dot, which sysctl writes in its own way, and with what a shell would take for its own.
	odd, err := netlink.LinkByName("cli0")
	must(t, err)
	must(t, netlink.LinkSetDown(odd))
	must(t, netlink.LinkSetName(odd, "c;$li.7"))
	must(t, netlink.LinkSetUp(odd))
	cfg := config(t)
	openTUN(t, cfg.TUN, false)
	plan := newPlan(t, cfg)
	if !strings.Contains(plan.String(), `'net.ipv6.conf.c;$li/7.accept_ra=2'`) {
		t.Errorf("the plan does not set accept_ra of the odd name:\n%v", plan)
	}
	live, err := Read(cfg)
	must(t, err)
	diff := plan.Diff(live)
	var script strings.Builder
	for _, line := range lines(diff.String()) {
		// The commands of a diff without its marks bring the kernel to the plan just as well.
		script.WriteString(strings.TrimLeft(line, "+~ ") + "\n")
	}
	for name, text := range map[string]string{"plan": plan.String(), "diff": script.String()} {
		if out, err := exec.Command("sh", "-ec", text).CombinedOutput(); err != nil {
			t.Fatalf("%s as a script: %v: %s\n%s", name, err, out, text)
		}
		wantNoDiff(t, plan)
		must(t, plan.Remove())
	}
}

func TestApplyNeedsStateFile(t *testing.T) {
	plan := &Plan{}
	if err := plan.Apply(); err == nil {
		t.Error("Apply without a state file succeeded")
	}
	if err := plan.Remove(); err == nil {
		t.Error("Remove without a state file succeeded")
	}
}

func TestReadPicksRoutes(t *testing.T) {
	enterGateway(t)
	srv0, err := netlink.LinkByName("srv0")
	must(t, err)
	add := func(r netlink.Route, dst string) {
		t.Helper()
		r.Dst, r.LinkIndex, r.Scope = ipNet(netip.MustParsePrefix(dst)), srv0.Attrs().Index, netlink.SCOPE_LINK
		must(t, netlink.RouteAdd(&r))
	}
	add(netlink.Route{}, "198.18.0.0/15")                          // main, elsewhere
	add(netlink.Route{Table: 99}, "192.0.2.0/25")                  // another table
	add(netlink.Route{Table: 99, Protocol: Protocol}, "0.0.0.0/0") // ours, anywhere
	add(netlink.Route{Table: 7332}, "198.18.0.0/15")               // in our table
	add(netlink.Route{}, "192.0.2.128/25")                         // main, inside
	cfg := config(t)
	live, err := Read(cfg)
	must(t, err)
	var got []string
	for _, r := range live.Routes {
		if r.Family == V4 {
			got = append(got, r.String())
		}
	}
	slices.Sort(got)
	want := []string{
		"192.0.2.0/24 dev srv0 table main proto 2 metric 0",
		"192.0.2.128/25 dev srv0 table main proto 3 metric 0",
		"198.18.0.0/15 dev srv0 table 7332 proto 3 metric 0",
		"198.51.100.0/24 via 192.0.2.2 dev srv0 table main proto 3 metric 0",
		"default dev srv0 table 99 proto 108 metric 0",
		"local 192.0.2.1/32 dev lo table local proto 2 metric 0",
	}
	for i := range got {
		// The kernel says which device a local address is on, or the loopback; either will do.
		got[i] = strings.Replace(got[i], "local 192.0.2.1/32 dev srv0", "local 192.0.2.1/32 dev lo", 1)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if _, err := os.Stat(cfg.StateFile); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Read made a state file: %v", err)
	}
}
