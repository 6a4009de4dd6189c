package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"levee/cmd/levee/control"
	"levee/routes/routestest"
)

// mendTime bounds how long anything that was taken away stays away.
const mendTime = 2 * time.Second

// within waits for something to be so, at most mendTime from now. How long it takes to ask doesn't count: with the race detector that may be a second.
func (g *gateway) within(what string, done func() bool) {
	g.t.Helper()
	begin := time.Now()
	var asked time.Time
	g.until(what, func() bool { asked = time.Now(); return done() })
	if took := asked.Sub(begin); took > mendTime {
		g.t.Errorf("%s after %v, want %v at most", what, took, mendTime)
	}
}

func (g *gateway) ip(args string) {
	g.t.Helper()
	words := strings.Fields(args)
	if code, _, stderr := g.run(g.lab.Gateway.Command(g.t.Context(), words[0], words[1:]...)); code != 0 {
		g.t.Fatalf("%s: %s", args, stderr)
	}
}

// kernel is what status says about what others have done.
func (g *gateway) kernel() control.Kernel {
	g.t.Helper()
	var s control.Status
	_, stdout, stderr := g.levee("status", "-o", "json")
	if err := json.Unmarshal([]byte(stdout), &s); err != nil {
		g.t.Fatalf("status: %v: %s%s", err, stdout, stderr)
	}
	return s.Kernel
}

// lines are those of a log that are at least warnings, or tell of changed interfaces, after it was ready.
func lines(log string) (out []string) {
	for line := range strings.Lines(log) {
		if strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") || strings.Contains(line, "interfaces have changed") {
			out = append(out, line)
		}
	}
	return out
}

// withoutIndex is a snapshot in which a new interface of the old name is no difference.
func withoutIndex(s routestest.Snapshot) string {
	return regexp.MustCompile(`index \d+ kind (tun|tuntap) `).ReplaceAllString(s.String(), "")
}

// TestMend: what somebody else takes away or changes comes back within two seconds, the log has one line about it, and the counter of it
// is 1.
func TestMend(t *testing.T) {
	yaml := "routing: {notrack: on}\n" + services
	g := newGateway(t, yaml)
	g.onTmpfs(yaml)
	c := g.start()
	before := withoutIndex(g.snapshot())
	for _, tt := range []struct {
		name, kind, says string
		commands         []string
	}{
		{"rules flushed", "routing", "were gone: repaired", []string{"ip rule flush protocol 108"}},
		{"a rule deleted", "routing", "were gone: repaired", []string{"ip -6 rule del iif tun0"}},
		{"the table flushed", "routing", "were gone: repaired", []string{"ip route flush table 7332"}},
		{"the TUN set down", "routing", "were gone: repaired", []string{"ip link set tun0 down"}},
		{"the TUN set down and up", "routing", "were gone: repaired", []string{"ip link set tun0 down", "ip link set tun0 up"}},
		{"the table of nftables deleted", "notrack", "was not exempt from connection tracking: repaired", []string{"nft delete table inet levee"}},
		{"nftables flushed", "notrack", "was not exempt from connection tracking: repaired", []string{"nft flush ruleset"}},
		{"an element deleted from nftables", "notrack", "was not exempt from connection tracking: repaired", []string{"nft delete element inet levee interfaces { tun0 }"}},
		{"the TUN deleted", "tun", "it was deleted", []string{"ip link del tun0"}},
		{"the TUN deleted, and rules flushed", "tun", "it was deleted", []string{"ip rule flush protocol 108", "ip link del tun0"}},
		{"the TUN renamed", "tun", "it was renamed to other0", []string{"ip link set tun0 down", "ip link set tun0 name other0", "ip link set other0 up"}},
		{"the TUN's MTU", "tun", "its MTU was 1400", []string{"ip link set tun0 mtu 1400"}},
		{"the TUN's discipline", "tun", "its queueing discipline was pfifo", []string{"tc qdisc replace dev tun0 root pfifo"}},
		{"forwarding off", "sysctls", "net/ipv4/ip_forward=0", []string{"sysctl -q -w net.ipv4.ip_forward=0"}},
		{"a sysctl of the TUN", "sysctls", "net/ipv4/conf/tun0/accept_local=0", []string{"sysctl -q -w net.ipv4.conf.tun0.accept_local=0"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			log, counted := len(c.Output()), g.kernel().Repairs
			for _, command := range tt.commands {
				g.ip(command)
			}
			g.within("it is repaired", func() bool {
				return strings.Contains(c.Output()[log:], tt.says) && before == withoutIndex(g.snapshot())
			})
			time.Sleep(mendTime / 2) // nothing more happens
			said := lines(c.Output()[log:])
			if len(said) != 1 || !strings.Contains(said[0], tt.says) {
				t.Errorf("the log says %q, want one line with %q", said, tt.says)
			}
			for kind, n := range g.kernel().Repairs {
				want := uint64(0)
				if kind == tt.kind {
					want = 1
				}
				if n -= counted[kind]; n != want {
					t.Errorf("%d repairs of %s", n, kind)
				}
			}
			if now := withoutIndex(g.snapshot()); now != before {
				t.Errorf("not as before:\n%s\nbefore:\n%s", now, before)
			}
		})
	}
}

// TestMendEnds: after all of it an orderly stop leaves the system as it was before levee.
func TestMendEnds(t *testing.T) {
	g := newGateway(t, services)
	g.onTmpfs(services)
	before := g.snapshot()
	c := g.start()
	g.ip("ip link del tun0")
	g.within("the TUN is back", func() bool { return g.kernel().Repairs["tun"] == 1 })
	g.ip("sysctl -q -w net.ipv4.ip_forward=0")
	g.within("all is repaired", func() bool {
		return strings.Contains(c.Output(), "ip_forward=0")
	})
	if err := c.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := g.end(c); code != 0 {
		t.Errorf("exit code %d", code)
	}
	g.ip("sysctl -q -w net.ipv4.ip_forward=" + map[bool]string{true: "1", false: "0"}[strings.Contains(before.String(), "net/ipv4/ip_forward = 1")])
	g.same(before, "after SIGTERM")
}

// TestMendRefused: a TUN's name that somebody else takes, and a rule in the way, are problems until they are gone. What can be repaired
// meanwhile is.
func TestMendRefused(t *testing.T) {
	for _, tt := range []struct {
		name        string
		take        []string
		giveBack    string
		says        string
		unprotected bool
	}{
		{"the TUN's name is taken", []string{"ip link del tun0", "ip link add tun0 type veth peer name other0"}, "ip link del tun0", "the name is taken", true},
		{"a rule in the way", []string{"ip rule flush protocol 108", "ip rule add priority 7301 to 203.0.113.0/24 lookup main", "sysctl -qw net.ipv4.ip_forward=0"},
			"ip rule del priority 7301 protocol 0", "is not levee's", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGateway(t, services)
			g.onTmpfs(services)
			c := g.start()
			before := withoutIndex(g.snapshot())
			if err := c.Signal(syscall.SIGSTOP); err != nil { // or it is faster
				t.Fatal(err)
			}
			script := strings.Join(tt.take, " && ")
			if code, _, stderr := g.run(g.lab.Gateway.Command(t.Context(), "sh", "-c", script)); code != 0 {
				t.Fatalf("%s: %s", script, stderr)
			}
			if err := c.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			g.within("it is a problem", func() bool { return strings.Contains(c.Output(), tt.says) })
			if !tt.unprotected {
				g.within("the rest is repaired", func() bool { r := g.kernel().Repairs; return r["routing"] == 1 && r["sysctls"] == 1 })
			}
			if p := g.kernel().Problems; len(p) != 1 || !strings.Contains(p[0], tt.says) {
				t.Errorf("problems in status: %q", p)
			}
			if code, stdout, _ := g.levee("status"); code != 0 || !strings.Contains(stdout, "PROBLEM") || strings.Contains(stdout, "not ready") != tt.unprotected {
				t.Errorf("status:\n%s", stdout)
			}
			time.Sleep(2 * mendTime)
			if n := strings.Count(c.Output(), tt.says); n != 1 {
				t.Errorf("%d lines about it:\n%s", n, c.Output())
			}
			g.ip(tt.giveBack)
			g.within("it is over", func() bool {
				return strings.Contains(c.Output(), "a problem is over") && before == withoutIndex(g.snapshot())
			})
			if p := g.kernel().Problems; len(p) != 0 {
				t.Errorf("problems in status: %q", p)
			}
		})
	}
}

// TestInterfaces: rules follow the interfaces that come, go and change.
func TestInterfaces(t *testing.T) {
	g := newGateway(t, services)
	g.onTmpfs(services)
	c := g.start()
	rules := func() string {
		_, stdout, _ := g.run(g.lab.Gateway.Command(t.Context(), "sh", "-c", "ip rule; ip -6 rule"))
		return strings.ReplaceAll(stdout, " [detached]", "") // its interface is gone
	}
	covered := func(name string) func() bool {
		return func() bool {
			return strings.Count(rules(), "to 192.0.2.0/24 iif "+name+" ") == 2 && strings.Contains(rules(), "to 2001:db8:1::/64 iif "+name+" ")
		}
	}
	problem := func(text string) func() bool {
		return func() bool { return strings.HasSuffix(strings.TrimSpace(c.Output()), `problem="`+text+`"`) }
	}
	none := func() bool {
		return strings.Count(c.Output(), "a problem is over") == strings.Count(c.Output(), "a problem that")
	}
	client, server := g.lab.Clients[0].Link, g.lab.Servers[0].Link
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	before := rules()
	unchanged := func(when string) {
		t.Helper()
		if now := rules(); now != before {
			t.Errorf("%s the rules are:\n%s\nbefore:\n%s", when, now, before)
		}
	}

	g.ip("ip link add new0 type veth peer name new1")
	g.ip("ip link set new0 up")
	g.within("a new interface is covered", covered("new0"))
	g.ip("ip link del new0")
	g.within("it is missed", problem("interface new0 does not exist any more"))
	g.ip("ip link add new0 type veth peer name new1")
	g.ip("ip link set new0 up")
	g.within("and back", none)
	if !covered("new0")() {
		t.Errorf("the rules of an interface that came back:\n%s", rules())
	}
	before = rules()

	for _, l := range []struct{ down, up func() error }{
		{func() error { return client.Down(&client.Gateway) }, func() error { return client.Up(&client.Gateway) }},
		{func() error { return client.Remove() }, func() error { return client.Remake() }},
		{func() error { return client.Down(&client.Host) }, func() error { return client.Up(&client.Host) }},
	} {
		must(l.down())
		time.Sleep(mendTime / 2)
		unchanged("while the client's link is away")
		must(l.up())
		g.within("no problem is left", none)
		unchanged("afterwards")
	}
	must(server.Down(&server.Gateway))
	g.within("without the servers' interface there is a problem", func() bool {
		return strings.Contains(c.Output(), "192.0.2.0/24 has no route in the main table")
	})
	unchanged("without the servers' interface")
	must(server.Up(&server.Gateway))
	g.within("no problem is left", none)
	unchanged("with the servers' interface")
	must(server.Rename("renamed0"))
	g.within("rules for the servers' interface follow", func() bool {
		return strings.Contains(rules(), "from 192.0.2.0/24 iif renamed0 ") && covered("renamed0")()
	})
	if p := g.kernel().Problems; !slices.Equal(p, []string{"interface server0 does not exist any more"}) {
		t.Errorf("problems in status: %q", p)
	}
}

// TestRoutedNeighbours: what a route without a gateway leads to are the gateway's neighbours from the moment that there is the route, whatever its addresses.
func TestRoutedNeighbours(t *testing.T) {
	g := newGateway(t, services)
	g.onTmpfs(services)
	g.start()
	for _, tt := range []struct{ route, client, server string }{
		{"2001:db8:e::/64 dev client0", "2001:db8:e::9", "[2001:db8:1::a]:80"},
		{"198.18.4.0/23 dev client0", "198.18.5.9", "192.0.2.10:80"},
	} {
		near := func() bool {
			_, stdout, _ := g.levee("explain", "tcp", tt.client, tt.server)
			return strings.Contains(stdout, "to new neighbours")
		}
		if near() {
			t.Errorf("%s is a neighbour without a route", tt.client)
		}
		g.ip("ip route add " + tt.route)
		g.within("a neighbour with the route "+tt.route, near)
		g.ip("ip route del " + tt.route)
		g.within("none without", func() bool { return !near() })
	}
}

// TestMendRetried: what keeps levee from a repair may end without a word from the kernel.
func TestMendRetried(t *testing.T) {
	g := newGateway(t, services)
	state := g.onTmpfs(services)
	c := g.start()
	before := withoutIndex(g.snapshot())
	path := filepath.Join(state, "sysctls.json")
	if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	g.ip("ip rule flush protocol 108")
	g.within("it is a problem", func() bool { return strings.Contains(c.Output(), "then delete the file") })
	if p := g.kernel().Problems; len(p) != 1 || !strings.Contains(p[0], path) {
		t.Errorf("problems in status: %q", p)
	}
	if _, stdout, _ := g.levee("status"); !strings.Contains(stdout, "not ready") {
		t.Errorf("status:\n%s", stdout)
	}
	time.Sleep(mendTime) // until the last of the messages about the rules has been heeded
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	g.within("it is over", func() bool {
		return strings.Contains(c.Output(), "a problem is over") && before == withoutIndex(g.snapshot())
	})
}

// TestAround: a rule or a route of somebody else's that takes packets around levee is a problem until it is gone, wherever one looks, and levee isn't ready if there is a
// prefix of which it takes everything.
func TestAround(t *testing.T) {
	g := newGateway(t, services)
	g.onTmpfs(services)
	c := g.start()
	explain := func(port string) string {
		_, stdout, _ := g.levee("explain", "tcp", g.lab.Clients[0].AddrPort(false, 1).Addr().String(), g.lab.Servers[0].AddrPort(false, 1).Addr().String()+":"+port)
		return strings.Join(strings.Fields(stdout), " ")
	}
	const goesOn = "A SYN now passes unchanged: no service protects either end."
	for _, tt := range []struct {
		name, thing string
		problem     string // empty: it is none
		ready       bool
		explain     string // of a SYN
		other       string // of one to a port of no service
	}{
		{"all to the servers", "rule priority 100 to 192.0.2.0/24 lookup main",
			`the IPv4 rule "priority 100 to 192.0.2.0/24 lookup main protocol 0" is ahead of levee's and takes packets to 192.0.2.0/24 that come in by client0 around levee, to server0: set routing.priority to 90, or give it a priority above 7309`,
			false, `around levee, by the rule "priority 100 to 192.0.2.0/24 lookup main protocol 0", which is ahead of levee's: set routing.priority to 90`, goesOn},
		{"one server", "rule priority 100 to 192.0.2.77 lookup main", `takes packets to 192.0.2.0/24 that come in by`, true, "is answered with a cookie", goesOn},
		{"what levee sends", "rule priority 7000 iif tun0 blackhole",
			`the IPv4 rule "priority 7000 iif tun0 blackhole protocol 0" is ahead of levee's and drops packets to 192.0.2.0/24 that come in by tun0`,
			false, `are dropped by the rule "priority 7000 iif tun0 blackhole protocol 0", which is ahead of levee's`,
			`are dropped by the rule "priority 7000 iif tun0 blackhole protocol 0", which is ahead of levee's: set routing.priority to 6990, or give it a priority above 7309 ` + goesOn + " But see the problem above."},
		{"among levee's", "rule priority 7305 from 198.51.100.10 to 192.0.2.10 lookup main", `rule priorities 7300-7309 are taken`, true, "is answered with a cookie", goesOn},
		{"a route to one server", "route 192.0.2.77/32 dev server0 table 7332", `routing table 7332 is taken: the IPv4 route "192.0.2.77/32 dev server0`, true, "is answered with a cookie", goesOn},
		{"a route to all servers", "route 192.0.2.0/24 dev server0 table 7332", `routing table 7332 is taken: the IPv4 route "192.0.2.0/24 dev server0`, false,
			`around levee, by the route "192.0.2.0/24 dev server0 table 7332 proto 3 metric 0", which is not levee's: delete it`, goesOn},
		{"a route to clients", "route 198.18.0.0/15 dev client0 table 7332", `routing table 7332 is taken: the IPv4 route "198.18.0.0/15 dev client0`, true, "is answered with a cookie", goesOn},
		{"a mark", "rule priority 100 fwmark 0x1 lookup main", "", true, "is answered with a cookie", goesOn},
	} {
		t.Run(tt.name, func(t *testing.T) {
			log := len(c.Output())
			object, what, _ := strings.Cut(tt.thing, " ")
			g.ip("ip " + object + " add " + what)
			if tt.problem == "" {
				time.Sleep(mendTime)
			} else {
				g.within("it is a problem", func() bool { return len(g.kernel().Problems) > 0 })
			}
			problems := strings.Join(g.kernel().Problems, "\n")
			if !strings.Contains(problems, tt.problem) || (tt.problem == "") != (problems == "") || strings.Contains(problems, "\n") {
				t.Errorf("problems in status: %s", problems)
			}
			if _, stdout, _ := g.levee("status"); strings.Contains(stdout, "not ready") == tt.ready {
				t.Errorf("status:\n%s", stdout)
			}
			if code, stdout, _ := g.levee("plan", "--diff"); code != map[bool]int{true: 1}[tt.problem != ""] || !strings.Contains(strings.Join(strings.Fields(stdout), " "), problems) {
				t.Errorf("plan --diff: %d\n%s", code, stdout)
			}
			if _, stdout, stderr := g.levee("check"); !strings.Contains(stdout+stderr, firstOf(problems)) {
				t.Errorf("check:\n%s%s", stdout, stderr)
			}
			if says := explain("80"); !strings.Contains(says, tt.explain) {
				t.Errorf("explain: %s", says)
			}
			if says := explain("9999"); !strings.HasSuffix(says, tt.other) || strings.Count(says, "answer in") != map[bool]int{true: 1}[!strings.Contains(says, "tun0: no way") && strings.Contains(says, "to tun0")] {
				t.Errorf("explain of another port: %s", says)
			}
			time.Sleep(mendTime / 2)
			g.ip("ip " + object + " del " + what)
			g.within("it is over", func() bool { return len(g.kernel().Problems) == 0 })
			if _, stdout, _ := g.levee("status"); strings.Contains(stdout, "not ready") {
				t.Errorf("status afterwards:\n%s", stdout)
			}
			if said := lines(c.Output()[log:]); len(said) != map[bool]int{true: 1}[tt.problem != ""] {
				t.Errorf("the log says %q", said)
			}
		})
	}
}

// firstOf is a problem without the remedy.
func firstOf(problem string) string {
	return problem[:max(strings.LastIndex(problem, ": "), 0)]
}
