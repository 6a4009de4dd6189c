package main

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"levee/routes"
)

// narrow fails the test where a line that could be broken is wider than a screen.
func narrow(t *testing.T, text string) {
	t.Helper()
	for _, line := range strings.Split(text, "\n") {
		if len(line) > columns && !strings.HasPrefix(line, "# /") { // a path can't be broken
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
}

// differences asks in both formats, and wants them to say the same.
func (g *gateway) differences() (code int, d difference, text string) {
	g.t.Helper()
	var answer planned
	code, stdout, stderr := g.levee("plan", "--diff", "-o", "json")
	if err := json.Unmarshal([]byte(stdout), &answer); err != nil || stderr != "" || !strings.HasPrefix(stdout, "{\n  \"schema\": 1,\n") {
		g.t.Fatalf("plan --diff: %d %v\n%s%s", code, err, stdout, stderr)
	}
	textCode, text, stderr := g.levee("plan", "--diff")
	if answer.Difference == nil {
		g.t.Fatalf("no difference, same or not: %s", stdout)
	}
	d = *answer.Difference
	if textCode != code || stderr != "" || answer.File != g.config || len(answer.Steps) < 4 || d.Same != (code == 0) || d.Same != (len(d.Steps) == 0) {
		g.t.Errorf("as text %d %q, as json %d %+v", textCode, stderr, code, answer)
	}
	narrow(g.t, text)
	marks := map[string]int{}
	for _, s := range d.Steps {
		marks[s.Mark()]++
	}
	for _, line := range strings.Split(text, "\n") {
		if mark, _, _ := strings.Cut(line, " "); len(mark) == 1 && mark != "#" {
			marks[mark]--
		}
	}
	for mark, n := range marks {
		if n != 0 {
			g.t.Errorf("%s: %d more in json than in\n%s", mark, n, text)
		}
	}
	return code, d, text
}

// wantSame wants the machine to be as planned.
func (g *gateway) wantSame(what string, daemon bool) {
	g.t.Helper()
	code, answer, text := g.differences()
	if code != 0 || answer.Daemon != daemon || !strings.HasPrefix(text, "# "+g.config+": nothing differs from the plan.\n") {
		g.t.Errorf("%s: %d, daemon %t\n%s", what, code, answer.Daemon, text)
	}
}

// tracked has every part of a plan in it.
const tracked = "routing: {notrack: on}\n" + services

// TestPlanByHand: the plan is a script that makes the machine as planned, and run goes on with what it has made.
func TestPlanByHand(t *testing.T) {
	g := newGateway(t, tracked)
	code, plan, stderr := g.levee("plan")
	if code != 0 || stderr != "" || !strings.Contains(plan, "nft ") {
		t.Fatalf("plan: %d %s\n%s", code, stderr, plan)
	}
	narrow(t, plan)
	var answer planned
	code, stdout, stderr := g.levee("plan", "-o", "json")
	if err := json.Unmarshal([]byte(stdout), &answer); code != 0 || stderr != "" || err != nil {
		t.Fatalf("as json: %d %s %v\n%s", code, stderr, err, stdout)
	}
	if answer.File != g.config || !answer.Managed || answer.TUN.Name != "tun0" || answer.TUN.MTU != 1500 || answer.TUN.TxQueueLen != 4096 ||
		!slices.Equal(answer.ClientInterfaces, []string{"client0", "server0"}) || !slices.Equal(answer.ServerInterfaces, []string{"server0"}) || len(answer.Notes) == 0 || answer.Difference != nil {
		t.Errorf("as json: %+v", answer)
	}
	var script strings.Builder
	for _, s := range answer.Steps {
		script.WriteString(s.Command + "\n")
	}
	if code, answer, _ := g.differences(); code != 1 || answer.Daemon || len(answer.Steps) < 40 {
		t.Errorf("before: %d %+v", code, answer)
	}
	for name, text := range map[string]string{"text": plan, "json": script.String()} {
		g.sh(text)
		g.wantSame(name+" by hand", false)
		if code, _, stderr := g.levee("cleanup"); code != 0 {
			t.Fatalf("cleanup: %d %s", code, stderr)
		}
	}
	g.sh(plan)
	g.start()
	g.wantSame("run", true)
}

// TestPlanDiff: what others have changed while no daemon runs, each with the command that puts it back.
func TestPlanDiff(t *testing.T) {
	g := newGateway(t, tracked)
	c := g.start()
	running := g.snapshot()
	g.wantSame("running", true)
	g.same(running, "plan --diff")
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	g.end(c)
	g.wantSame("killed", false)
	const rule = "priority 7301 iif client0 to 192.0.2.0/24 ipproto tcp lookup 7332 protocol 108"
	g.sh(`
		ip -4 rule del ` + rule + `
		ip -4 rule add priority 7309 to 198.51.100.0/24 lookup 7332 protocol 108
		ip -6 route del default dev tun0 table 7332
		sysctl -qw net.ipv4.conf.tun0.accept_local=0
		ip link set dev tun0 mtu 1400
		tc qdisc replace dev tun0 root pfifo
		nft delete table inet levee`)
	changed := g.snapshot()
	_, answer, text := g.differences()
	exempt := slices.DeleteFunc(slices.Clone(answer.Steps), func(s routes.Step) bool { return s.About != routes.AboutNotrack })
	rest := slices.DeleteFunc(slices.Clone(answer.Steps), func(s routes.Step) bool { return s.About == routes.AboutNotrack })
	want := []routes.Step{
		{About: "tun", Change: "set", Command: "ip link set dev tun0 mtu 1500 txqueuelen 4096 alias levee", Text: "is mtu 1400 txqueuelen 4096"},
		{About: "tun", Change: "set", Command: "tc qdisc replace dev tun0 root noqueue", Text: "is pfifo"},
		{About: "rule", Change: "delete", Command: "ip -4 rule del priority 7309 to 198.51.100.0/24 lookup 7332 protocol 108"},
		{About: "sysctl", Change: "set", Command: "sysctl -w net.ipv4.conf.tun0.accept_local=1", Text: "is 0"},
		{About: "route", Change: "add", Command: "ip -6 route add default dev tun0 table 7332 proto 108 metric 1024"},
		{About: "rule", Change: "add", Command: "ip -4 rule add " + rule},
	}
	if diff := cmp.Diff(want, rest); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, s := range exempt {
		if s.Change != routes.ChangeAdd || !strings.HasPrefix(s.Command, "nft ") {
			t.Errorf("of the exemption: %+v", s)
		}
	}
	for _, want := range []string{
		"# No levee answers here.\n",
		"\n~ ip link set dev tun0 mtu 1500 txqueuelen 4096 alias levee\n    # is mtu 1400 txqueuelen 4096\n",
		"\n~ tc qdisc replace dev tun0 root noqueue # is pfifo\n",
		"\n+ ip -4 rule add priority 7301 iif client0 to 192.0.2.0/24 ipproto tcp lookup \\\n    7332 protocol 108\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the text lacks %q:\n%s", want, text)
		}
	}
	g.same(changed, "plan --diff")

	g.sh("ip link del tun0; ip tuntap add dev tun0 mode tun")
	if _, answer, _ := g.differences(); answer.Steps[0].Change != routes.ChangeConflict || !strings.Contains(answer.Steps[0].Text, "interface tun0 exists and is not levee's") {
		t.Errorf("somebody else's TUN: %+v", answer.Steps[0])
	}
	g.sh("ip rule add priority 7305 lookup 99")
	// It is told along with the rest, where nothing can be planned for it.
	if code, answer, text := g.differences(); code != 1 || len(answer.Steps) < 3 || !strings.Contains(text, "\n! rule priorities 7300-7309 are taken: ") {
		t.Errorf("somebody else's rule: %d\n%s", code, text)
	}
	code, stdout, stderr := g.levee("plan")
	if want := "levee: rule priorities 7300-7309 are taken: "; code != 1 || stdout != "" || !strings.HasPrefix(stderr, want) {
		t.Errorf("somebody else's rule: %d %q %q", code, stdout, stderr)
	}
}

// TestPlanDiffUnseen: without privilege what can't be seen is told, and not taken for a difference or for none.
func TestPlanDiffUnseen(t *testing.T) {
	g := newGateway(t, tracked)
	g.start()
	t.Setenv(withoutAdmin, "1")
	code, answer, _ := g.differences()
	want := []routes.Step{{About: "notrack", Change: "unknown", Text: "the exemption from connection tracking can't be seen without CAP_NET_ADMIN: run this as root"}}
	if diff := cmp.Diff(want, answer.Steps); code != 1 || diff != "" {
		t.Errorf("%d %s", code, diff)
	}
}

// TestPlanDiffForbidden: who may not ask a daemon isn't told that there is none.
func TestPlanDiffForbidden(t *testing.T) {
	g := newGateway(t, services)
	g.start()
	if err := os.Chown(g.dir+"/state", 65534, 65534); err != nil {
		t.Fatal(err)
	}
	// The owner of the program, but not of the state.
	code, stdout, stderr := g.run(g.lab.Gateway.Command(t.Context(), "setpriv", "--bounding-set=-dac_override,-dac_read_search,-net_admin",
		thisProgram(t), "plan", "--diff", "-c", g.config))
	if code != 1 || !strings.Contains(stdout, "\n# Whether levee runs can't be seen without root.\n") || strings.Contains(stdout, "No levee") {
		t.Errorf("%d\n%s%s", code, stdout, stderr)
	}
}

// TestPlanDiffUnmanaged: only the TUN is compared.
func TestPlanDiffUnmanaged(t *testing.T) {
	g := newGateway(t, "tun: {name: levee0}\nrouting: {manage: false}\n"+services)
	code, answer, text := g.differences()
	if code != 1 || len(answer.Steps) != 4 || answer.Steps[3].Command != "ip link set dev levee0 up" || !strings.Contains(text, "sysctls are not compared.\n") {
		t.Errorf("before: %d %+v\n%s", code, answer, text)
	}
	c := g.start()
	g.wantSame("running", true)
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	g.end(c)
	g.sh("ip link set levee0 down")
	want := []routes.Step{{About: "tun", Change: "add", Command: "ip link set dev levee0 up", Text: "is down"}}
	if _, answer, _ := g.differences(); !slices.Equal(answer.Steps, want) {
		t.Errorf("down: %+v", answer.Steps)
	}
}

// TestPlanDiffInterfaceDown: that an interface is down is told, and is no difference.
func TestPlanDiffInterfaceDown(t *testing.T) {
	g := newGateway(t, "routing: {client_interfaces: [client0, client9]}\n"+services)
	g.sh("ip link add client9 type veth peer far9")
	g.start()
	code, answer, text := g.differences()
	if code != 0 || !slices.Equal(answer.Down, []string{"client9"}) || !strings.Contains(text, "# Interface client9 is down or missing: nothing comes in there.\n") {
		t.Errorf("%d %+v\n%s", code, answer, text)
	}
}

func TestWriteCommand(t *testing.T) {
	for _, tt := range []struct{ mark, command, want string }{
		{"", "ip link set dev tun0 up", "ip link set dev tun0 up\n"},
		{"+ ", strings.Repeat("a", 78), "+ " + strings.Repeat("a", 78) + "\n"},
		{"+ ", strings.Repeat("a", 79), "+ " + strings.Repeat("a", 79) + "\n"},
		{"- ", strings.Repeat("a", 70) + " " + strings.Repeat("b", 20), "- " + strings.Repeat("a", 70) + " \\\n    " + strings.Repeat("b", 20) + "\n"},
		{"", `nft 'add ` + strings.Repeat("a", 60) + ` comment "levee: from servers"'`,
			"nft 'add " + strings.Repeat("a", 60) + " comment \\\n    \"levee: from servers\"'\n"},
	} {
		var b bytes.Buffer
		if writeCommand(&b, tt.mark, tt.command); b.String() != tt.want {
			t.Errorf("%s%s:\n%s\nwant\n%s", tt.mark, tt.command, b.String(), tt.want)
		}
	}
}
