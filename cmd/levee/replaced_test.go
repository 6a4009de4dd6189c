package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"levee/cmd/levee/control"
)

// TestStopWhileStarting: who is asked to stop before it is up takes back what an earlier process has left, and not a part of it.
func TestStopWhileStarting(t *testing.T) {
	for _, posture := range []string{"bypass", "block"} {
		t.Run(posture, func(t *testing.T) {
			yaml := "routing: {on_failure: " + posture + "}\n" + services
			g := newGateway(t, yaml)
			g.onTmpfs(yaml)
			before := g.snapshot()
			if err := g.start().Kill(); err != nil {
				t.Fatal(err)
			}
			t.Setenv("_LEVEE_STOP", "1")
			if code, _, stderr := g.levee("run"); code != 0 {
				t.Errorf("%d %s", code, stderr)
			}
			g.same(before, "after SIGKILL and a start that was asked to stop")
		})
	}
}

// TestStopWhileReading: neither the configuration's lists, which take a while to read, nor that it is the next program after an upgrade
// that reads them has the process end with the rules in place.
func TestStopWhileReading(t *testing.T) {
	g := newGateway(t, services)
	stateDir := g.onTmpfs(services)
	before := g.snapshot()
	c := g.start()
	list := filepath.Join(g.dir, "deny.list")
	var prefixes bytes.Buffer
	for i := range 1 << 18 {
		fmt.Fprintf(&prefixes, "198.%d.%d.%d\n", 16+i>>16, i>>8&255, i&255)
	}
	if err := os.WriteFile(list, prefixes.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	g.write("levee.yaml", stateDir, strings.Replace(services, "mode: always", "mode: always, deny: ['@"+list+"']", 1))
	upgrade := g.command("upgrade", "-c", g.config)
	if err := upgrade.Start(); err != nil {
		t.Fatal(err)
	}
	// Once by the program when it is asked whether it could go on, which the kernel adds to its parent's, and once when it does.
	g.until("the list is read", func() bool {
		io, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", c.Pid()))
		var read int
		if err == nil {
			_, err = fmt.Sscanf(string(io), "rchar: %d", &read)
		}
		return err == nil && strings.Contains(c.Output(), "msg=upgrading") && read >= 2*prefixes.Len()
	})
	if err := c.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = g.end(upgrade)
	if code := g.end(c); code != 0 {
		t.Errorf("it ends with %d: %s", code, c.Output())
	}
	g.same(before, "afterwards")
}

// TestUpgradeSignals: signals that come while one program makes room for the next don't end the process.
func TestUpgradeSignals(t *testing.T) {
	g := newGateway(t, services)
	g.onTmpfs(services)
	c := g.start()
	for deadline := time.Now().Add(60 * time.Second); strings.Count(c.Output(), "msg=upgrading") < 3; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("fewer than 3 upgrades in 60 s: this test can't fail")
		}
		for _, s := range []syscall.Signal{syscall.SIGUSR2, syscall.SIGHUP} {
			if err := c.Signal(s); err != nil {
				t.Fatal(err)
			}
		}
	}
	g.until("it is ready", func() bool {
		_, stdout, _ := g.levee("status", "-o", "json")
		return strings.Contains(stdout, `"ready": true`)
	})
}

// TestUpgradeNotExecuted: a program that agrees and then can't be executed is no loss: the one before goes on.
func TestUpgradeNotExecuted(t *testing.T) {
	self := thisProgram(t)
	for _, tt := range []struct{ name, then, want string }{
		{"removed", `rm "$0"`, "no such file or directory"},
		{"overwritten", `echo nothing > "$0"`, "exec format error"},
		{"no program any more", `chmod a-x "$0"`, "permission denied"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGateway(t, services)
			g.onTmpfs(services)
			c := g.start()
			running := g.snapshot()
			liar := program(t, filepath.Join(g.dir, "liar"), []byte("#!/bin/sh\n{ "+self+` "$@" | sed 's/"levee": "[^"]*"/"levee": "9.9"/'; `+tt.then+"; exit; }\n"))
			code, stdout, stderr := g.levee("upgrade", liar)
			if want := "levee: not upgraded, " + versionNow().Version + " goes on with the connections: " + liar + " could not be executed"; code != 1 || stdout != "" || !strings.HasPrefix(stderr, want) {
				t.Errorf("%d %q %q", code, stdout, stderr)
			}
			if !strings.Contains(c.Output(), tt.want) {
				t.Errorf("the log doesn't say %q:\n%s", tt.want, c.Output())
			}
			if diff := running.Diff(g.snapshot()); diff != "" {
				t.Errorf("afterwards:\n%s", diff)
			}
			// What it is upgraded to next is what is in its own file.
			if code, _, stderr := g.levee("upgrade"); code != 0 {
				t.Errorf("the next upgrade: %d %s", code, stderr)
			}
		})
	}
}

// TestDrainWhileAsked: a drain that begins while the next program is asked whether it can go on is not forgotten by an upgrade.
func TestDrainWhileAsked(t *testing.T) {
	g := newGateway(t, services)
	g.onTmpfs(services)
	c := g.start()
	self := thisProgram(t)
	asked := filepath.Join(g.dir, "asked")
	slow := program(t, filepath.Join(g.dir, "slow"), []byte("#!/bin/sh\n"+self+` "$@" && touch `+asked+" && sleep 1\n"))
	upgrade := g.command("upgrade", "-c", g.config, slow)
	if err := upgrade.Start(); err != nil {
		t.Fatal(err)
	}
	g.until("it is asked", func() bool { return exists(asked) })
	if code, _, stderr := g.levee("drain"); code != 0 {
		t.Errorf("drain: %d %s", code, stderr)
	}
	if code := g.end(upgrade); code != 1 || !strings.Contains(upgrade.Output(), "levee has begun to drain or to stop meanwhile") {
		t.Errorf("upgrade: %d %s", code, upgrade.Output())
	}
	if code := g.end(c); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestUpgradeByLink: the program is what the name leads to that levee was started by, and not what it led to then.
func TestUpgradeByLink(t *testing.T) {
	g := newGateway(t, services)
	g.onTmpfs(services)
	content, err := os.ReadFile(thisProgram(t))
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(g.dir, "levee")
	to := func(name string) (path string) {
		path = program(t, filepath.Join(g.dir, name), content)
		_ = os.Remove(link)
		if err := os.Symlink(path, link); err != nil {
			t.Fatal(err)
		}
		return path
	}
	to("1")
	c := g.lab.Gateway.Command(t.Context(), link, "run", "-c", g.config)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	g.until("it is ready", func() bool {
		_, stdout, _ := g.levee("status", "-o", "json")
		return strings.Contains(stdout, `"ready": true`)
	})
	for _, name := range []string{"2", "3"} {
		want := to(name)
		if code, _, stderr := g.levee("upgrade"); code != 0 {
			t.Errorf("%d %s", code, stderr)
		}
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", c.Pid())); err != nil || exe != want {
			t.Errorf("the process is %s (%v), not %s", exe, err, want)
		}
	}
}

// TestUpgradeWithoutFlowFile: the next program would not find the connections if the file that they are in has not its name any more.
func TestUpgradeWithoutFlowFile(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage func(t *testing.T, flows string) error
	}{
		{"removed", func(_ *testing.T, flows string) error { return os.Remove(flows) }},
		{"replaced by a copy", func(t *testing.T, flows string) error {
			content, err := os.ReadFile(flows)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(flows+".copy", content, 0o600); err != nil {
				t.Fatal(err)
			}
			return os.Rename(flows+".copy", flows)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGateway(t, services)
			dir := g.onTmpfs(services)
			c := g.start()
			if err := tt.damage(t, dir+"/flows"); err != nil {
				t.Fatal(err)
			}
			want := "connections would be lost: somebody has removed or replaced flow file " + dir + "/flows"
			g.until("status tells", func() bool {
				_, stdout, _ := g.levee("status", "-o", "json")
				return strings.Contains(stdout, want)
			})
			if !strings.Contains(c.Output(), want) {
				t.Errorf("the log doesn't tell:\n%s", c.Output())
			}
			if code, _, stderr := g.levee("upgrade"); code != 1 || !strings.Contains(stderr, want) {
				t.Errorf("%d %s", code, stderr)
			}
		})
	}
}

// TestCrashReportForeign: whatever has the name of the crash report, a start neither waits for it nor reads all of it.
func TestCrashReportForeign(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		make       func(path string) error
	}{
		{"a FIFO", `a crash would leave no report`, func(path string) error { return syscall.Mkfifo(path, 0o600) }},
		{"a folder", `a crash would leave no report`, func(path string) error { return os.Mkdir(path, 0o700) }},
		{"64 GiB", "crash.previous", func(path string) error {
			if err := os.WriteFile(path, []byte("levee\n"), 0o600); err != nil {
				return err
			}
			return os.Truncate(path, 64<<30)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGateway(t, services)
			dir := g.onTmpfs(services)
			if err := tt.make(dir + "/crash"); err != nil {
				t.Fatal(err)
			}
			t.Setenv("_LEVEE_STOP", "1") // when it has started
			if _, _, stderr := g.levee("run"); !strings.Contains(stderr, tt.want) || strings.Contains(stderr, "fatal error") {
				t.Errorf("%s", stderr)
			}
		})
	}
}

// TestRestartWithoutSpace: a state_dir that is full is no reason to give up the connections in it.
func TestRestartWithoutSpace(t *testing.T) {
	for _, crash := range []string{"", "levee\npanic: an earlier one\n"} {
		g := newGateway(t, services)
		dir := filepath.Join(g.dir, "tmpfs")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		mount(t, dir, "tmpfs", "size=32m,mode=0700")
		g.config = g.write("levee.yaml", dir, services)
		if err := g.start().Kill(); err != nil {
			t.Fatal(err)
		}
		if crash != "" {
			if err := os.WriteFile(filepath.Join(dir, "crash"), []byte(crash), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "others"), make([]byte, 32<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("it is not full: %v", err)
		}
		c := g.start()
		if told := strings.Contains(c.Output(), "a crash would leave no report"); told != (crash != "") {
			t.Errorf("said so: %t:\n%s", told, c.Output())
		}
		s, err := control.NewClient(filepath.Join(dir, "control.sock")).Status(t.Context())
		if err != nil || !s.Ready {
			t.Errorf("not ready: %+v, %v", s, err)
		}
		if code, _, stderr := g.levee("reload"); code != 0 {
			t.Errorf("reload: %s", stderr)
		}
	}
}
