package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"levee/cmd/levee/control"
)

// rewrite replaces the configuration that the daemon reads.
func (g *gateway) rewrite(yaml string) { g.write("levee.yaml", g.dir+"/state", yaml) }

func (g *gateway) status() (s control.Status) {
	g.t.Helper()
	s, err := control.NewClient(g.dir + "/state/control.sock").Status(g.t.Context())
	if err != nil {
		g.t.Fatal(err)
	}
	return s
}

// TestReload changes services and prefixes, and refuses every broken file with the reason, without a change to the rules.
func TestReload(t *testing.T) {
	g := newGateway(t, services)
	via := g.lab.Servers[0].AddrPort(false, 0).Addr().String()
	if err := g.lab.Gateway.Command(t.Context(), "ip", "route", "add", "198.18.1.0/24", "via", via).Run(); err != nil {
		t.Fatal(err)
	}
	before := g.snapshot()
	c := g.start()
	running := g.snapshot()
	if code, stdout, stderr := g.levee("reload"); code != 0 || stdout != "nothing has changed\n" {
		t.Errorf("the same file: %d %q %q", code, stdout, stderr)
	}
	for _, tt := range []struct{ name, yaml, want string }{
		{"capacity", strings.Replace(services, "1000", "2000", 1), "flows.capacity: it can't change while levee runs"},
		{"TUN", "tun: {name: tun7}\n" + services, "tun.name: it can't change while levee runs"},
		{"metrics", "metrics: {listen: none}\n" + services, "metrics.listen: it can't change while levee runs"},
		{"not YAML", "services: [\n", "levee.yaml"},
		{"unknown key", "colour: red\n" + services, "colour"},
		{"wrong value", services + "defaults: {mode: sometimes}\n", "sometimes"},
		{"no services", "flows: {capacity: 1000}\n", "services: there are none"},
		{"a prefix of the gateway itself", services + "  - {name: own, prefixes: [127.0.0.0/8]}\n", "127.0.0.0/8"},
	} {
		g.rewrite(tt.yaml)
		code, stdout, stderr := g.levee("reload")
		if code != 1 || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "nothing is changed: ") || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s: %d %q %q, want exit code 1 and one line with %q", tt.name, code, stdout, stderr, tt.want)
		}
		if _, stdout, stderr := g.levee("status"); !strings.Contains(stdout, "the latest reload failed:\n") {
			t.Errorf("%s: status doesn't say that the reload failed:\n%s%s", tt.name, stdout, stderr)
		}
		if s := g.status().Configuration; s.LastReloadSuccessful || !strings.Contains(s.LastError, tt.want) {
			t.Errorf("%s: status says %+v", tt.name, s)
		}
		g.same(running, tt.name)
	}
	if err := os.Remove(g.config); err != nil {
		t.Fatal(err)
	}
	if err := c.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	g.until("the missing file is in the log", func() bool {
		return strings.Contains(c.Output(), "no such file") || strings.Contains(c.Output(), "does not exist")
	})
	g.same(running, "no file")

	changed := strings.Replace(services, "ports: [22], mode: off", "ports: [22], mode: always", 1) +
		"  - {name: mail, prefixes: [192.0.2.0/24, 198.18.1.0/24], ports: [25], mode: always}\n"
	g.rewrite(changed)
	code, stdout, stderr := g.levee("reload")
	if want := "service ssh has mode always, had off\nservice mail is new, mode always\n"; code != 0 || stdout != want {
		t.Errorf("%d %q %q, want %q", code, stdout, stderr, want)
	}
	s := g.status()
	if len(s.Services) != 3 || s.Services[1].Mode != "always" || !s.Configuration.LastReloadSuccessful || s.Configuration.LastError != "" {
		t.Errorf("status after it: %+v", s)
	}
	if diff := running.Diff(g.snapshot()); !strings.Contains(diff, "198.18.1.0/24") || strings.Contains(diff, "\n- ") {
		t.Errorf("the new prefix has no rules, or others lost theirs:\n%s", diff)
	}
	// Its rules stay for connections that are open.
	g.rewrite(services)
	if code, stdout, _ := g.levee("reload", "-o", "json"); code != 0 || !strings.Contains(stdout, `"service mail is removed"`) {
		t.Errorf("%d %s", code, stdout)
	}
	if diff := running.Diff(g.snapshot()); !strings.Contains(diff, "198.18.1.0/24") {
		t.Error("the rules of a removed prefix went at once")
	}

	// Many at once come one after the other, and a stop in the midst of them is a stop like any other.
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			client := control.NewClient(g.dir + "/state/control.sock")
			for {
				if _, err := client.Reload(t.Context()); err != nil {
					return // the daemon ends
				}
			}
		})
	}
	if err := c.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := g.end(c); code != 0 {
		t.Errorf("exit code %d", code)
	}
	group.Wait()
	g.same(before, "after the end")
}

// TestSmallTunnel: an interface that has nothing to do with the services and is too small for levee keeps it neither from reloading nor from starting,
// and status says how to leave it out.
func TestSmallTunnel(t *testing.T) {
	g := newGateway(t, services)
	c := g.start()
	g.sh("ip link add tunnel9 type bridge; ip link set tunnel9 mtu 1000 up")
	const want = "interface tunnel9 has an MTU of 1000, and levee reckons with 1280 or more: clients behind it depend on path MTU discovery: " +
		"set routing.client_interfaces to [client0, server0]"
	told := func() bool {
		problems := g.status().Kernel.Problems
		return len(problems) == 1 && problems[0] == want
	}
	for _, what := range []string{"it has come up", "levee has been killed"} {
		g.until("status tells, when "+what, told)
		g.rewrite(strings.Replace(services, "mode: off", "mode: always", 1))
		if code, stdout, stderr := g.levee("reload"); code != 0 {
			t.Errorf("reload, when %s: %d %q %q", what, code, stdout, stderr)
		}
		if code, stdout, stderr := g.levee("plan", "--diff"); code != 0 {
			t.Errorf("plan --diff, when %s: %d %q %q", what, code, stdout, stderr)
		}
		if code, stdout, stderr := g.levee("check"); code != 0 || !strings.Contains(stdout, "warning: mtu: interface tunnel9") {
			t.Errorf("check, when %s: %d %q %q", what, code, stdout, stderr)
		}
		if what == "it has come up" {
			if err := c.Kill(); err != nil {
				t.Fatal(err)
			}
			c = g.start()
		}
	}
	if err := c.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	g.end(c)
	g.rewrite("routing: {client_interfaces: [client0, server0]}\n" + services)
	g.start()
	if problems := g.status().Kernel.Problems; len(problems) != 0 {
		t.Errorf("it is left out, and status says %q", problems)
	}
	// Named, it is an error.
	g.rewrite("routing: {client_interfaces: [client0, tunnel9]}\n" + services)
	if code, _, stderr := g.levee("plan"); code != 1 || !strings.Contains(stderr, "interface tunnel9 has an MTU of 1000: levee needs 1280 or more") {
		t.Errorf("named: %d %q", code, stderr)
	}
}

// TestStateDirChanged: verbs say that it is this key that keeps them from a daemon that runs.
func TestStateDirChanged(t *testing.T) {
	g := newGateway(t, services)
	c := g.start()
	g.config = g.write("levee.yaml", g.dir+"/other", services)
	want := fmt.Sprintf("no daemon on %s/other/control.sock: levee (pid %d) runs with another state_dir, which can't change meanwhile: write what it was, or restart levee\n", g.dir, c.Pid())
	for _, verb := range []string{"reload", "status"} {
		if code, _, stderr := g.levee(verb); code != 1 || !strings.HasSuffix(stderr, want) {
			t.Errorf("%s: %d %s", verb, code, stderr)
		}
	}
	g.config = g.write("levee.yaml", g.dir+"/state", services)
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := g.levee("status"); code != 1 || stderr != "levee: no daemon on "+g.dir+"/state/control.sock: is levee running?\n" {
		t.Errorf("none runs: %d %s", code, stderr)
	}
}
