package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"levee/integration/lab"
)

// descriptors counts what a daemon has open.
func descriptors(t *testing.T, c *lab.Command) int {
	t.Helper()
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// TestUpgrade: SIGUSR2 executes the program again, in the same process and with the same TUN, which never loses its carrier; what can't go on is
// refused.
func TestUpgrade(t *testing.T) {
	g := newGateway(t, services)
	dir := g.onTmpfs(services)
	before := g.snapshot()
	c := g.start()
	running, open := g.snapshot(), descriptors(t, c)
	upgrade := func() {
		t.Helper()
		if err := c.Signal(syscall.SIGUSR2); err != nil {
			t.Fatal(err)
		}
	}
	for n := 2; n <= 4; n++ {
		upgrade()
		g.until("the next program is ready", func() bool { return strings.Count(c.Output(), "msg=ready") == n })
	}
	if diff := running.Diff(g.snapshot()); diff != "" {
		t.Errorf("after the upgrades:\n%s", diff)
	}
	if got := descriptors(t, c); got > open {
		t.Errorf("%d descriptors are open, %d at first", got, open)
	}

	g.write("levee.yaml", dir, strings.Replace(services, "capacity: 1000", "capacity: 2000", 1))
	upgrade()
	const refused = "flows is foreign: it is for 1000 flows, not for 2000"
	g.until("an upgrade is refused", func() bool {
		return strings.Contains(c.Output(), "upgrade refused") && strings.Contains(c.Output(), refused)
	})
	g.write("levee.yaml", dir, "services: 7\n")
	upgrade()
	g.until("another is refused", func() bool { return strings.Count(c.Output(), "upgrade refused") == 2 })
	if diff := running.Diff(g.snapshot()); diff != "" {
		t.Errorf("after refused upgrades:\n%s", diff)
	}
	if _, stdout, _ := g.levee("status", "-o", "json"); !strings.Contains(stdout, `"ready": true`) {
		t.Errorf("it doesn't run on: %s", stdout)
	}
	if err := c.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := g.end(c); code != 0 {
		t.Errorf("exit code %d", code)
	}
	g.same(before, "after upgrades and SIGTERM")
}
