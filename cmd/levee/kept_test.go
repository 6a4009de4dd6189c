package main

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

// onTmpfs gives the daemon of a gateway a state_dir on a tmpfs, in which its flow file is.
func (g *gateway) onTmpfs(yaml string) (dir string) {
	g.t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "levee-test-")
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	g.config = g.write("levee.yaml", dir, yaml)
	return dir
}

// mount mounts a new file system of that type until the test ends.
func mount(t *testing.T, dir, fstype, options string) {
	t.Helper()
	if err := syscall.Mount("levee-test", dir, fstype, 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// TestFlowFile: it is there from the start until an orderly stop or cleanup, whatever happens in between.
func TestFlowFile(t *testing.T) {
	g := newGateway(t, services)
	dir := g.onTmpfs(services)
	if err := g.start().Kill(); err != nil {
		t.Fatal(err)
	}
	if !exists(dir + "/flows") {
		t.Fatal("no flow file after SIGKILL")
	}
	if err := os.Chmod(dir+"/flows", 0o666); err != nil {
		t.Fatal(err)
	}
	c := g.start()
	if want := "flow file " + dir + "/flows is foreign: its mode 0666 lets others use it"; !strings.Contains(c.Output(), want) {
		t.Errorf("the log doesn't say %q:\n%s", want, c.Output())
	}
	if !exists(dir + "/flows.unusable") {
		t.Error("it was not set aside")
	}
	if _, stdout, _ := g.levee("status"); !strings.Contains(stdout, "kept in "+dir+"/flows; 0 went on from before, 0 lost\n") {
		t.Errorf("status:\n%s", stdout)
	}
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	if code, stdout, stderr := g.levee("cleanup"); code != 0 || !strings.Contains(stdout, "removed "+dir+"/flows\n") || exists(dir+"/flows") {
		t.Errorf("cleanup: %d %s %s", code, stdout, stderr)
	}
	c = g.start()
	if err := c.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := g.end(c); code != 0 || exists(dir+"/flows") {
		t.Errorf("after SIGTERM: exit code %d, flow file %t", code, exists(dir+"/flows"))
	}
}

// TestFlowFileNowhere: without a tmpfs levee works, and says what that costs.
func TestFlowFileNowhere(t *testing.T) {
	g := newGateway(t, services)
	dir := g.onTmpfs(services)
	mount(t, dir, "ramfs", "") // which is no tmpfs: it can't say how much room there is
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c := g.start()
	const want = "is not on a tmpfs: mount one there, or set another"
	g.until("the log says "+want, func() bool { return strings.Contains(c.Output(), want) })
	if _, stdout, _ := g.levee("status"); !strings.Contains(stdout, "       end with the daemon: state_dir ") {
		t.Errorf("status:\n%s", stdout)
	}
	if exists(dir + "/flows") {
		t.Error("there is a flow file all the same")
	}
	if err := c.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	g.end(c)
}

// TestFlowFileTooLarge: a tmpfs without room for the flows stops the start, and nothing is left.
func TestFlowFileTooLarge(t *testing.T) {
	g := newGateway(t, services)
	dir := g.onTmpfs(services)
	mount(t, dir, "tmpfs", "size=100k,mode=0700")
	before := g.snapshot()
	code, _, stderr := g.levee("run")
	if code != 1 || !strings.Contains(stderr, "lower flows.capacity") {
		t.Errorf("%d %s", code, stderr)
	}
	g.same(before, "after the refusal")
}

// TestKilledLeavesPath: after SIGKILL the TUN and the rules are as they were, and the next run takes them and adds nothing.
func TestKilledLeavesPath(t *testing.T) {
	g := newGateway(t, services)
	g.onTmpfs(services)
	before := g.snapshot()
	c := g.start()
	running := g.snapshot()
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(running.Diff(g.snapshot())) {
		if strings.Contains(line, "rule ") {
			t.Errorf("SIGKILL changes %s", line)
		}
	}
	if _, err := g.lab.Gateway.Netlink().LinkByName("tun0"); err != nil {
		t.Errorf("the TUN: %v", err)
	}
	// A rule that somebody has taken away meanwhile is put back.
	if code, stdout, stderr := g.run(g.lab.Gateway.Command(t.Context(), "ip", "rule", "del", "iif", "tun0")); code != 0 {
		t.Fatalf("ip rule del: %s %s", stdout, stderr)
	}
	c = g.start()
	if diff := running.Diff(g.snapshot()); diff != "" {
		t.Errorf("after the restart:\n%s", diff)
	}
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := g.levee("cleanup"); code != 0 {
		t.Errorf("cleanup: %d %s", code, stderr)
	}
	g.same(before, "after cleanup")
}

// TestFailedStartLeavesPath: a start that fails takes nothing from the connections that an earlier process has left.
func TestFailedStartLeavesPath(t *testing.T) {
	g := newGateway(t, services)
	dir := g.onTmpfs(services)
	if err := g.start().Kill(); err != nil {
		t.Fatal(err)
	}
	killed := g.snapshot()
	g.config = g.write("levee.yaml", dir, "metrics: {listen: 203.0.113.77:9742}\n"+services)
	code, _, stderr := g.levee("run")
	if code != 1 || !strings.Contains(stderr, "203.0.113.77:9742 is no address of this machine") {
		t.Errorf("%d %s", code, stderr)
	}
	g.same(killed, "after the failed start")
	if !exists(dir + "/flows") {
		t.Error("the flow file is gone")
	}
}

// TestCrashReport: what the Go runtime says at the end of a process is kept, and the next run tells where.
func TestCrashReport(t *testing.T) {
	g := newGateway(t, services)
	dir := g.onTmpfs(services)
	c := g.start()
	if err := c.Signal(syscall.SIGABRT); err != nil {
		t.Fatal(err)
	}
	if code := g.end(c); code == 0 {
		t.Error("exit code 0")
	}
	c = g.start()
	if want := "report=" + dir + "/crash.previous"; !strings.Contains(c.Output(), want) {
		t.Errorf("the log doesn't say %q:\n%s", want, c.Output())
	}
	report, err := os.ReadFile(dir + "/crash.previous")
	if err != nil || !strings.HasPrefix(string(report), "levee ") || !strings.Contains(string(report), "SIGABRT") || !strings.Contains(string(report), "goroutine ") {
		t.Errorf("%v\n%s", err, report)
	}
	if err := c.Kill(); err != nil { // which is no crash of levee's
		t.Fatal(err)
	}
	c = g.start()
	if strings.Contains(c.Output(), "crashed") {
		t.Errorf("SIGKILL counts as a crash:\n%s", c.Output())
	}
	if err := c.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := g.end(c); code != 0 || exists(dir+"/crash") {
		t.Errorf("after SIGTERM: exit code %d, crash file %t", code, exists(dir+"/crash"))
	}
}
