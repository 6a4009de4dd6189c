package main

import (
	"strings"
	"syscall"
	"testing"
)

// TestLeftByAnotherConfiguration: what a process that was killed has left, and the next one has no use for, is told.
func TestLeftByAnotherConfiguration(t *testing.T) {
	g := newGateway(t, services)
	dir := g.onTmpfs(services)
	before := g.snapshot()
	if err := g.start().Kill(); err != nil {
		t.Fatal(err)
	}
	g.write("levee.yaml", dir, "tun: {name: tun1}\nrouting: {manage: false}\n"+services)
	c := g.start()
	for _, want := range []string{
		`msg="an earlier levee has left an interface that nobody uses" interface=tun0 remedy="ip link del tun0"`,
		`msg="an earlier levee has left rules, which this one doesn't manage and won't take back" remedy="stop levee, and run levee cleanup"`,
	} {
		if !strings.Contains(c.Output(), want) {
			t.Errorf("the log doesn't say %s:\n%s", want, c.Output())
		}
	}
	if err := c.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := g.end(c); code != 0 {
		t.Errorf("it ends with %d", code)
	}
	if code, _, stderr := g.levee("cleanup"); code != 0 {
		t.Errorf("cleanup: %d %s", code, stderr)
	}
	g.sh("ip link del tun0")
	g.same(before, "after both remedies")
}
