package main

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"levee/routes"
)

// apply runs it, which must go well, and returns what it has put right.
func (g *gateway) apply(flags ...string) []routes.Step {
	g.t.Helper()
	code, stdout, stderr := g.levee("apply", append(flags, "-o", "json")...)
	var answer applied
	if err := json.Unmarshal([]byte(stdout), &answer); err != nil || code != 0 || stderr != "" || answer.File != g.config {
		g.t.Fatalf("apply: %d %v %s\n%s", code, err, stderr, stdout)
	}
	return answer.Steps
}

// refuses wants apply to fail with an error that begins so, and to change nothing.
func (g *gateway) refuses(what, begin string, flags ...string) {
	g.t.Helper()
	before := g.snapshot()
	code, stdout, stderr := g.levee("apply", flags...)
	if code != 1 || stdout != "" || !strings.HasPrefix(stderr, "levee: "+begin) || strings.Count(stderr, "\n") != 1 {
		g.t.Errorf("%s: %d %q %q, want %q", what, code, stdout, stderr, begin)
	}
	g.same(before, what)
}

// connects says whether a client gets a connection to the server.
func (g *gateway) connects(within time.Duration) bool {
	g.t.Helper()
	server := g.lab.Servers[0].AddrPort(false, 80)
	l, err := g.lab.Servers[0].Listen(server, 8)
	if err != nil {
		g.t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(g.t.Context(), within)
	defer cancel()
	conn, err := g.lab.Clients[0].DialContext(ctx, "tcp", server.String())
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

const bypassed = "routing: {notrack: on, on_failure: bypass}\n" + services

// TestApply: everything at first, nothing again, what somebody has changed after that, and cleanup takes it all away.
func TestApply(t *testing.T) {
	g := newGateway(t, bypassed)
	before := g.snapshot()
	_, d, _ := g.differences()
	if diff := cmp.Diff(d.Steps, g.apply()); diff != "" {
		t.Errorf("not what plan --diff has announced (-announced +done):\n%s", diff)
	}
	g.wantSame("applied", false)
	there := g.snapshot()
	if !g.connects(10 * time.Second) {
		t.Error("bypass: no connection while nobody reads from the TUN")
	}
	if code, stdout, stderr := g.levee("apply"); code != 0 || stdout != "# "+g.config+": nothing differs from the plan.\n" || stderr != "" {
		t.Errorf("again: %d %q %q", code, stdout, stderr)
	}
	g.same(there, "again")

	const rule = "rule del priority 7301 iif client0 to 192.0.2.0/24 ipproto tcp lookup 7332 protocol 108"
	g.sh("ip " + rule + "; ip rule add priority 7309 to 198.51.100.0/24 lookup 7332 protocol 108")
	want := "# " + g.config + `: done; behind a # is how it was.
- ip -4 rule del priority 7309 to 198.51.100.0/24 lookup 7332 protocol 108
+ ip -4 rule add priority 7301 iif client0 to 192.0.2.0/24 ipproto tcp lookup \
    7332 protocol 108
`
	if code, stdout, stderr := g.levee("apply"); code != 0 || stdout != want || stderr != "" {
		t.Errorf("after a change: %d %s\n%s\nwant\n%s", code, stderr, stdout, want)
	}
	g.same(there, "after a change")
	g.sh("tc qdisc replace dev tun0 root pfifo; sysctl -qw net.ipv4.conf.tun0.accept_local=0; nft delete table inet levee")
	_, d, _ = g.differences()
	if diff := cmp.Diff(d.Steps, g.apply()); diff != "" {
		t.Errorf("not what plan --diff has announced (-announced +done):\n%s", diff)
	}
	g.wantSame("after other changes", false)
	g.config = g.write("levee.yaml", g.dir+"/state", tracked)
	g.refuses("from bypass to block", "nothing reads from tun0: ")
	if !g.connects(10 * time.Second) {
		t.Error("from bypass to block: no connection any longer")
	}
	if code, _, stderr := g.levee("cleanup"); code != 0 {
		t.Errorf("cleanup: %d %s", code, stderr)
	}
	g.same(before, "cleanup")
}

// TestApplyBlock: what drops traffic has to be asked for, and lasts until a daemon runs, which then undoes it all.
func TestApplyBlock(t *testing.T) {
	g := newGateway(t, services)
	before := g.snapshot()
	g.refuses("unasked", "nothing reads from tun0: until levee run, all TCP and ICMP of the protected prefixes, whatever the port, would be dropped (routing.on_failure: block): ")
	g.apply("--block")
	g.wantSame("applied", false)
	if g.connects(time.Second) {
		t.Error("a connection while traffic is blocked")
	}
	g.sh("ip rule del priority 7301 iif client0 to 192.0.2.0/24 ipproto tcp lookup 7332 protocol 108")
	if steps := g.apply(); len(steps) != 1 { // it is blocked already: no need to ask again
		t.Errorf("after a change: %v", steps)
	}
	g.sh("ip link del tun0")
	if g.connects(time.Second) {
		t.Error("a connection while there is no TUN")
	}
	g.apply()
	g.wantSame("after the TUN was deleted", false)
	c := g.start()
	if !g.connects(10 * time.Second) {
		t.Error("no connection through the daemon")
	}
	if err := c.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := g.end(c); code != 0 {
		t.Errorf("exit code %d", code)
	}
	g.same(before, "after the daemon")
}

// TestApplyUnderDaemon: the machine is the daemon's.
func TestApplyUnderDaemon(t *testing.T) {
	g := newGateway(t, services)
	c := g.start()
	running := g.snapshot()
	if steps := g.apply(); len(steps) != 0 {
		t.Errorf("as planned already: %v", steps)
	}
	g.same(running, "apply")
	g.config = g.write("levee.yaml", g.dir+"/state", "routing: {priority: 7200}\n"+services)
	g.refuses("another plan", "another levee (pid ")
	g.config = g.write("other.yaml", g.dir+"/other", "routing: {priority: 7200}\n"+services)
	g.refuses("another state_dir", "another levee (pid ")
	if err := c.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	g.end(c)
}

// TestApplyRefused: nothing is half-applied.
func TestApplyRefused(t *testing.T) {
	g := newGateway(t, bypassed)
	garble := func() {
		t.Helper()
		if err := os.MkdirAll(g.dir+"/state", 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(g.dir+"/state/sysctls.json", []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	garble()
	g.refuses("the TUN was made already", "saved sysctls in ")
	if err := os.Remove(g.dir + "/state/sysctls.json"); err != nil {
		t.Fatal(err)
	}
	g.apply()
	g.sh("ip rule del priority 7301 iif client0 to 192.0.2.0/24 ipproto tcp lookup 7332 protocol 108; ip rule add priority 7309 to 198.51.100.0/24 lookup 7332 protocol 108")
	garble()
	g.refuses("something is there already", "saved sysctls in ")
	g.sh("ip rule add priority 7305 lookup 99")
	g.refuses("somebody else's rule", "rule priorities 7300-7309 are taken: ")
	g.sh("ip rule del priority 7305; ip link del tun0; ip tuntap add dev tun0 mode tun")
	g.refuses("somebody else's TUN", "interface tun0 exists and is not levee's: ")
	g.sh("ip link del tun0")
	t.Setenv(withoutAdmin, "1")
	g.refuses("no privilege", "this needs CAP_NET_ADMIN")
}

// TestApplyUnmanaged: the TUN alone, for routes of the operator's.
func TestApplyUnmanaged(t *testing.T) {
	g := newGateway(t, "tun: {name: levee0}\nrouting: {manage: false}\n"+services)
	before := g.snapshot()
	if steps := g.apply(); len(steps) != 4 {
		t.Errorf("at first: %v", steps)
	}
	g.wantSame("applied", false)
	g.sh("ip route add default dev levee0 table 99; ip link set levee0 down; ip link set levee0 mtu 1400")
	if steps := g.apply(); len(steps) != 2 {
		t.Errorf("after a change: %v", steps)
	}
	g.wantSame("applied again", false)
	c := g.start()
	g.wantSame("running", true)
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	g.end(c)
	if code, _, stderr := g.levee("cleanup"); code != 0 {
		t.Errorf("cleanup: %d %s", code, stderr)
	}
	g.same(before, "cleanup")
}
