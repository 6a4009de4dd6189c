package main

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"levee/integration/lab"
)

// With the operator's own routing, two live side by side.
func TestUnmanagedRouting(t *testing.T) {
	g := newGateway(t, "routing: {manage: false}\nmetrics: {listen: none}\n"+services)
	before := g.snapshot()
	c := g.start()
	diff := before.Diff(g.snapshot())
	for line := range strings.Lines(diff) {
		if !strings.Contains(line, "tun0") {
			t.Errorf("changed, though routing.manage is false: %s", line)
		}
	}
	if !strings.Contains(diff, "+ link tun0") || !strings.Contains(diff, "flags up") {
		t.Errorf("the TUN is not up:\n%s", diff)
	}
	if err := c.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := g.end(c); code != 0 {
		t.Errorf("exit code %d", code)
	}
	g.same(before, "after SIGTERM")
}

func TestTermination(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(signal.String(), func(t *testing.T) {
			g := newGateway(t, "routing: {notrack: on}\n"+services)
			forwardingOff(t, g)
			before := g.snapshot()
			c := g.start()
			if before.Diff(g.snapshot()) == "" {
				t.Fatal("running changes nothing: this test can't fail")
			}
			if err := c.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			g.until("reloaded", func() bool { return strings.Contains(c.Output(), "msg=reloaded changes=[]") })
			if err := c.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if code := g.end(c); code != 0 {
				t.Errorf("exit code %d, want 0", code)
			}
			g.same(before, "after "+signal.String())
			if _, err := os.Lstat(g.dir + "/state/control.sock"); !os.IsNotExist(err) {
				t.Errorf("the control socket is still there: %v", err)
			}
			if code, stdout, stderr := g.levee("cleanup"); code != 0 || stdout != "nothing to clean up\n" {
				t.Errorf("cleanup after it: %d %q %q", code, stdout, stderr)
			}
		})
	}
}

// forwardingOff makes the gateway a host, so that levee has a sysctl to change and to restore.
func forwardingOff(t *testing.T, g *gateway) {
	t.Helper()
	for _, s := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		if err := g.lab.Gateway.SetSysctl(s, "0"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestKillAndCleanup(t *testing.T) {
	g := newGateway(t, "routing: {notrack: on}\n"+services)
	forwardingOff(t, g)
	before := g.snapshot()
	kill := func(c *lab.Command) {
		t.Helper()
		if err := c.Kill(); err != nil {
			t.Fatal(err)
		}
		if before.Diff(g.snapshot()) == "" {
			t.Fatal("SIGKILL leaves nothing: this test can't fail")
		}
	}
	kill(g.start())
	code, stdout, stderr := g.levee("cleanup")
	if code != 0 || stderr != "" {
		t.Fatalf("cleanup: %d %s %s", code, stdout, stderr)
	}
	for _, want := range []string{"ip -4 rule del ", "ip -6 rule del ", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0", "nft 'delete table inet levee'"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("cleanup doesn't say %q:\n%s", want, stdout)
		}
	}
	g.same(before, "after SIGKILL and cleanup")
	if code, stdout, _ := g.levee("cleanup"); code != 0 || stdout != "nothing to clean up\n" {
		t.Errorf("cleanup again: %d %q", code, stdout)
	}

	// A file that broke since, and one that is gone with the state, must not stand in its way.
	kill(g.start())
	if err := os.WriteFile(g.config, []byte("state_dir: "+g.dir+"/state\nservices: 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, stderr = g.levee("cleanup")
	if code != 0 || !strings.Contains(stderr, "; cleaning up tun0 and "+g.dir+"/state all the same\n") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("cleanup with a broken file: %d %s", code, stderr)
	}
	g.same(before, "after cleanup with a broken file")
}

// Killed and started again, without cleanup: the socket is stale and the rules are still there.
func TestKillAndRestart(t *testing.T) {
	g := newGateway(t, services)
	forwardingOff(t, g)
	before := g.snapshot()
	if err := g.start().Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(g.dir + "/state/control.sock"); err != nil {
		t.Fatalf("no stale socket: this test can't fail: %v", err)
	}
	c := g.start()
	if err := c.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := g.end(c); code != 0 {
		t.Errorf("exit code %d", code)
	}
	g.same(before, "after SIGKILL, a restart and SIGTERM")
}

// TestCleanupUnlessFailed: what systemd runs after the end of levee, by what it says of that. After a failure the next start goes on with what is there.
func TestCleanupUnlessFailed(t *testing.T) {
	g := newGateway(t, services)
	g.onTmpfs(services)
	before := g.snapshot()
	if err := g.start().Kill(); err != nil {
		t.Fatal(err)
	}
	left := g.snapshot()
	for _, result := range []string{"signal", "exit-code", "core-dump", "watchdog", "protocol", "resources", "oom-kill"} {
		t.Setenv("SERVICE_RESULT", result)
		if code, stdout, stderr := g.levee("cleanup", "--unless-failed"); code != 0 || stdout != "levee has failed: what it has left is for the next levee run to go on with\n" || stderr != "" {
			t.Errorf("after %s: %d %q %q", result, code, stdout, stderr)
		}
		g.same(left, "after "+result)
	}
	for _, result := range []string{"success", "timeout", ""} {
		t.Setenv("SERVICE_RESULT", result)
		if code, stdout, stderr := g.levee("cleanup", "--unless-failed"); code != 0 || stderr != "" || !strings.Contains(stdout, "ip link del dev tun0\n") {
			t.Errorf("after %q: %d %q %q", result, code, stdout, stderr)
		}
		g.same(before, "after "+result)
		if err := g.start().Kill(); err != nil {
			t.Fatal(err)
		}
	}
}
