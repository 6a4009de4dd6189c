package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
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

	g.write("levee.yaml", dir, "tun: {name: tun7}\n"+services)
	upgrade()
	const refused = "tun.name is tun7 now, and was tun0: it can't change in an upgrade"
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

// program makes a file that root may execute.
func program(t *testing.T, path string, content []byte) string {
	t.Helper()
	if err := os.WriteFile(path, content, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestUpgradeVerb: levee upgrade waits for the next program, wherever that is, and tells what came of it.
func TestUpgradeVerb(t *testing.T) {
	g := newGateway(t, services)
	dir := g.onTmpfs(services)
	c := g.start()
	running := g.snapshot()
	self := thisProgram(t)
	content, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	next := program(t, filepath.Join(g.dir, "next levee"), content)

	code, stdout, stderr := g.levee("upgrade", next)
	if code != 0 || stderr != "" || !strings.HasPrefix(stdout, "upgraded from "+versionNow().Version+" to "+versionNow().Version+" in ") {
		t.Errorf("%d %q %q", code, stdout, stderr)
	}
	if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", c.Pid())); err != nil || exe != next {
		t.Errorf("the process is %s (%v), not %s", exe, err, next)
	}
	// A table of another size is no obstacle: the flow file is converted.
	g.write("levee.yaml", dir, strings.Replace(services, "capacity: 1000", "capacity: 3000", 1))
	code, stdout, stderr = g.levee("upgrade", "-o", "json")
	var u upgraded
	if err := json.Unmarshal([]byte(stdout), &u); err != nil || code != 0 || stderr != "" || u.Program != next || !u.Converted || u.Seconds <= 0 {
		t.Errorf("%d %s %s, %v", code, stdout, stderr, err)
	}
	if _, stdout, _ = g.levee("status", "-o", "json"); !strings.Contains(stdout, `"capacity": 3000`) {
		t.Errorf("status: %s", stdout)
	}
	if want := "different: it is for 1000 flows, not for 3000"; !strings.Contains(c.Output(), want) {
		t.Errorf("the log doesn't say %q:\n%s", want, c.Output())
	}
	// Nor is the daemon's own port, at all addresses instead of one and back.
	for _, listen := range []string{"0.0.0.0:9742", "127.0.0.1:9742"} {
		g.write("levee.yaml", dir, "metrics: {listen: "+listen+"}\n"+strings.Replace(services, "capacity: 1000", "capacity: 3000", 1))
		if code, _, stderr = g.levee("upgrade"); code != 0 {
			t.Errorf("an upgrade to metrics at %s: %d %s", listen, code, stderr)
		}
	}
	if diff := running.Diff(g.snapshot()); diff != "" {
		t.Errorf("after the upgrades:\n%s", diff)
	}
}

// TestUpgradeRefused: what can't go on is refused with the reason, and the daemon runs on as it was.
func TestUpgradeRefused(t *testing.T) {
	g := newGateway(t, services)
	dir := g.onTmpfs(services)
	mount(t, dir, "tmpfs", "size=8m,mode=0700")
	c := g.start()
	running := g.snapshot()
	_, status, _ := g.levee("status", "-o", "json")
	path := func(name string) string { return filepath.Join(g.dir, name) }
	program(t, path("silent"), []byte("#!/bin/sh\nexit 0\n"))
	program(t, path("failing"), []byte("#!/bin/sh\necho first >&2\necho 'levee: no way' >&2\nexit 1\n"))
	program(t, path("other"), []byte("#!/bin/sh\necho '{\"answer\": 42}'\n"))
	program(t, path("open"), []byte("#!/bin/sh\n"))
	if err := os.Chmod(path("open"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(program(t, path("foreign"), nil), 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path("text"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	program(t, path("endless"), []byte("#!/bin/sh\nexec yes '{}'\n"))
	taken, err := g.lab.Gateway.Listen(netip.MustParseAddrPort("127.0.0.1:9777"), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	if err := os.WriteFile(path("bad.key"), []byte("none\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, program, yaml, want string }{
		{"something that doesn't end", path("endless"), services, path("endless") + " has not answered --check-upgrade in 8s: is it levee?"},
		{"a port that is taken", "", "metrics: {listen: 127.0.0.1:9777}\n" + services, "metrics.listen 127.0.0.1:9777 is in use: stop what listens there or choose another port"},
		{"a secret that is none", "", "# bad.key\n" + services, "secret file " + path("bad.key")},
		{"no such file", path("missing"), services, path("missing") + ": no such file"},
		{"not executable", path("text"), services, path("text") + " is not an executable file"},
		{"a folder", g.dir, services, g.dir + " is not an executable file"},
		{"anybody's", path("open"), services, path("open") + " can be written to by others"},
		{"somebody's", path("foreign"), services, path("foreign") + " belongs to another user (uid 65534)"},
		{"something that says nothing", path("silent"), services, path("silent") + " doesn't answer --check-upgrade: it is no levee, or one that is too old"},
		{"something that says something else", path("other"), services, path("other") + " doesn't answer --check-upgrade"},
		{"something that fails", path("failing"), services, path("failing") + " says: no way (exit status 1)"},
		{"broken configuration", "", "services: 7\n", "levee.yaml: services"},
		{"another TUN", "", "tun: {name: tun7}\n" + services, "tun.name is tun7 now, and was tun0"},
		{"another table", "", "routing: {table: 7777}\n" + services, "routing.table is 7777 now, and was 7332"},
		{"no routing", "", "routing: {manage: false}\n" + services, "routing.manage is false now, and was true"},
		{"a flow file without room", "", strings.Replace(services, "capacity: 1000", "capacity: 100000", 1), "has to be converted: it needs 12 MB"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g.write("levee.yaml", dir, tt.yaml)
			if strings.Contains(tt.yaml, "bad.key") {
				text := fmt.Sprintf("state_dir: %q\nsecret_file: %q\n%s", dir, path("bad.key"), services)
				if err := os.WriteFile(g.config, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			args := []string{}
			if tt.program != "" {
				args = append(args, tt.program)
			}
			code, stdout, stderr := g.levee("upgrade", args...)
			if code != 1 || stdout != "" || strings.Count(stderr, "\n") != 1 ||
				!strings.HasPrefix(stderr, "levee: not upgraded, the daemon runs on: ") || !strings.Contains(stderr, tt.want) {
				t.Errorf("%d %q %q, want %q", code, stdout, stderr, tt.want)
			}
			if !strings.Contains(c.Output(), tt.want) {
				t.Errorf("the log doesn't say %q", tt.want)
			}
		})
	}
	started := func(status string) string {
		_, rest, _ := strings.Cut(status, `"started": `)
		line, _, _ := strings.Cut(rest, "\n")
		return line
	}
	g.write("levee.yaml", dir, services)
	if _, now, _ := g.levee("status", "-o", "json"); started(now) == "" || started(now) != started(status) || !strings.Contains(now, `"ready": true`) {
		t.Errorf("another daemon runs, or none: %s", now)
	}
	if diff := running.Diff(g.snapshot()); diff != "" {
		t.Errorf("after refused upgrades:\n%s", diff)
	}
}

// TestUpgradeStateRefused: what the start of the next program would refuse in state_dir is refused before.
func TestUpgradeStateRefused(t *testing.T) {
	g := newGateway(t, services)
	dir := g.onTmpfs(services)
	c := g.start()
	sysctls, lock := dir+"/sysctls.json", dir+"/lock"
	for _, tt := range []struct{ name, spoil, mend, want string }{
		{"a folder that others can write to", "chmod 777 DIR", "chmod 700 DIR", "state_dir " + dir + " can be written to by others"},
		{"somebody's folder", "chown 65534 DIR", "chown 0 DIR", "state_dir " + dir + " belongs to another user"},
		{"values of sysctls that can't be read", "mv DIR/sysctls.json DIR/s; echo { >DIR/sysctls.json", "mv -f DIR/s DIR/sysctls.json", "saved sysctls in " + sysctls + " can't be read"},
		{"a FIFO for them", "mv DIR/sysctls.json DIR/s; mkfifo DIR/sysctls.json", "mv -f DIR/s DIR/sysctls.json", "saved sysctls: " + sysctls + " is not a file"},
		{"a folder for the lock", "mv DIR/lock DIR/l; mkdir DIR/lock", "rmdir DIR/lock; mv DIR/l DIR/lock", "lock state_dir: " + lock + ": is a directory"},
		{"a folder for the new flow file", "mkdir -p DIR/flows.new/x; sed -i 's/capacity: 1000/capacity: 2000/' " + g.config, "rm -r DIR/flows.new", dir + "/flows.new is a folder, and not empty: remove it"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g.sh(strings.ReplaceAll(tt.spoil, "DIR", dir))
			defer g.sh(strings.ReplaceAll(tt.mend, "DIR", dir))
			code, stdout, stderr := g.levee("upgrade")
			if code != 1 || stdout != "" || !strings.Contains(stderr, tt.want) {
				t.Errorf("%d %q %q, want %q", code, stdout, stderr, tt.want)
			}
		})
	}
	if code, _, stderr := g.levee("upgrade"); code != 0 {
		t.Errorf("when all is mended: %d %s", code, stderr)
	}
	if n := strings.Count(c.Output(), "msg=upgrading"); n != 1 {
		t.Errorf("%d upgrades", n)
	}
}

// TestUpgradeUnkept: where flows don't outlive the process there is no upgrade.
func TestUpgradeUnkept(t *testing.T) {
	g := newGateway(t, services)
	dir := g.onTmpfs(services)
	mount(t, dir, "ramfs", "")
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c := g.start()
	if code, _, stderr := g.levee("upgrade"); code != 1 || !strings.Contains(stderr, "connections would be lost: state_dir "+dir+" is not on a tmpfs") {
		t.Errorf("%d %q", code, stderr)
	}
	if err := c.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	g.end(c)
}

// TestUpgradeGone: if the next program can't be executed after it has agreed, the old one begins anew and goes on, and says so, whatever their versions are.
func TestUpgradeGone(t *testing.T) {
	g := newGateway(t, services)
	g.onTmpfs(services)
	c := g.start()
	self := thisProgram(t)
	gone := program(t, filepath.Join(g.dir, "gone"), []byte("#!/bin/sh\nrm \"$0\"\nexec "+self+" \"$@\"\n"))
	want := gone + " could not be executed: no such file or directory"
	code, stdout, stderr := g.levee("upgrade", gone)
	if code != 1 || stdout != "" || !strings.HasPrefix(stderr, "levee: not upgraded, "+versionNow().Version+" goes on with the connections: ") || !strings.Contains(stderr, want) {
		t.Errorf("%d %q %q", code, stdout, stderr)
	}
	if _, stdout, _ := g.levee("status", "-o", "json"); !strings.Contains(stdout, want) || !strings.Contains(stdout, `"ready": true`) {
		t.Errorf("status: %s", stdout)
	}
	if _, stdout, _ := g.levee("status"); !strings.Contains(stdout, "PROBLEM    not upgraded: ") {
		t.Errorf("status: %s", stdout)
	}
	// The next one that can is none of that.
	if code, _, stderr := g.levee("upgrade"); code != 0 || stderr != "" {
		t.Errorf("%d %q", code, stderr)
	}
	if _, stdout, _ := g.levee("status", "-o", "json"); strings.Contains(stdout, "not_upgraded") {
		t.Errorf("status: %s", stdout)
	}
	if err := c.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	g.end(c)
}

// TestUpgradeDies: if the next program fails after it has agreed, the verb says so, and the one after that goes on with what is left.
func TestUpgradeDies(t *testing.T) {
	g := newGateway(t, services)
	g.onTmpfs(services)
	c := g.start()
	self := thisProgram(t)
	liar := program(t, filepath.Join(g.dir, "liar"), []byte("#!/bin/sh\nfor last; do :; done\n"+
		"[ \"$last\" = --check-upgrade ] && exec "+self+" \"$@\"\nexit 3\n"))
	if code, _, stderr := g.levee("upgrade", liar); code != 1 || !strings.Contains(stderr, "the daemon ended in its upgrade") {
		t.Errorf("%d %q", code, stderr)
	}
	if code := g.end(c); code != 3 {
		t.Errorf("exit code %d", code)
	}
	if _, err := g.lab.Gateway.Netlink().LinkByName("tun0"); err != nil {
		t.Errorf("the TUN: %v", err)
	}
	if c = g.start(); !strings.Contains(c.Output(), "msg=ready") {
		t.Errorf("the next one's log:\n%s", c.Output())
	}
}

// TestDrainIdle: with no connection open a drain ends by itself, and everything is taken back as by SIGTERM.
func TestDrainIdle(t *testing.T) {
	g := newGateway(t, services)
	g.onTmpfs(services)
	if code, _, stderr := g.levee("drain"); code != 1 || !strings.Contains(stderr, "no daemon on ") {
		t.Errorf("without a daemon: %d %q", code, stderr)
	}
	before := g.snapshot()
	c := g.start()
	if code, _, stderr := g.levee("drain", "--cancel"); code != 1 || stderr != "levee: levee isn't draining\n" {
		t.Errorf("cancel without a drain: %d %q", code, stderr)
	}
	code, stdout, stderr := g.levee("drain", "-o", "json")
	if code != 0 || stderr != "" {
		t.Errorf("%d %q %q", code, stdout, stderr)
	}
	var states []string
	for dec := json.NewDecoder(strings.NewReader(stdout)); ; {
		var line struct {
			State string `json:"state"`
		}
		err := dec.Decode(&line)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		states = append(states, line.State)
	}
	if n := len(states); n < 3 || states[0] != "draining" || states[n-1] != "drained" {
		t.Errorf("states %v", states)
	}
	// The verb has waited.
	select {
	case <-c.Done():
	default:
		t.Error("the daemon runs on")
	}
	if code := g.end(c); code != 0 {
		t.Errorf("exit code %d", code)
	}
	g.same(before, "after the drain")
}
