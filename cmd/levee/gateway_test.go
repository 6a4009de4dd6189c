package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
	"levee/routes/routestest"
)

// gateway is a lab's gateway with a configuration for it.
type gateway struct {
	t      *testing.T
	lab    *lab.Lab
	dir    string // holds everything of the daemon
	config string
}

// services is what every gateway protects unless a test says otherwise. A small table keeps starts quick.
const services = `
flows: {capacity: 1000}
services:
  - {name: web, prefixes: [192.0.2.0/24, "2001:db8:1::/64"], ports: [80, 443], mode: always}
  - {name: ssh, prefixes: [192.0.2.0/25, "2001:db8:1:0:8000::/65"], ports: [22], mode: off}
`

func newGateway(t *testing.T, yaml string) *gateway {
	l := labtest.New(t, lab.Config{})
	t.Setenv(asLevee, "1")
	t.Setenv("GORACE", "atexit_sleep_ms=0") // the race detector's runtime would have every verb end a second later
	g := &gateway{t: t, lab: l, dir: t.TempDir()}
	g.config = g.write("levee.yaml", g.dir+"/state", yaml)
	labtest.Settle(t, l.Gateway)
	return g
}

// write makes a configuration with a state_dir of its own.
func (g *gateway) write(name, stateDir, yaml string) string {
	g.t.Helper()
	path := filepath.Join(g.dir, name)
	text := fmt.Sprintf("state_dir: %q\nsecret_file: %q\n%s", stateDir, g.dir+"/cookie.key", yaml)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		g.t.Fatal(err)
	}
	return path
}

// thisProgram is the path of the binary under test, which is levee too (TestMain).
func thisProgram(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return self
}

// command prepares this binary as levee in the gateway's namespace.
func (g *gateway) command(args ...string) *lab.Command {
	self := thisProgram(g.t)
	return g.lab.Gateway.Command(context.Background(), self, args...)
}

// levee runs a verb to its end.
func (g *gateway) levee(verb string, args ...string) (code int, stdout, stderr string) {
	g.t.Helper()
	return g.run(g.command(append([]string{verb, "-c", g.config}, args...)...))
}

func (g *gateway) run(c *lab.Command) (code int, stdout, stderr string) {
	g.t.Helper()
	var out bytes.Buffer
	c.Stdout = &out
	if err := c.Start(); err != nil {
		g.t.Fatal(err)
	}
	select {
	case <-c.Done():
	case <-time.After(30 * time.Second):
		_ = c.Kill()
		g.t.Fatalf("levee doesn't end; stderr:\n%s", c.Output())
	}
	return exitCode(g.t, c.Wait()), out.String(), c.Output()
}

func exitCode(t *testing.T, err error) int {
	t.Helper()
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		return ended.ExitCode()
	}
	if err != nil {
		t.Fatalf("levee: %v", err)
	}
	return 0
}

// start starts the daemon and waits until it is ready.
func (g *gateway) start() *lab.Command {
	g.t.Helper()
	c := g.command("run", "-c", g.config)
	if err := c.Start(); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() {
		if g.t.Failed() {
			g.t.Logf("log of levee:\n%s", c.Output())
		}
	})
	g.until("levee is ready", func() bool {
		select {
		case <-c.Done():
			g.t.Fatalf("levee ended: %v\n%s", c.Wait(), c.Output())
		default:
		}
		_, stdout, _ := g.levee("status", "-o", "json")
		return strings.Contains(stdout, `"ready": true`)
	})
	return c
}

func (g *gateway) until(what string, done func() bool) {
	g.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			g.t.Fatalf("not in 20 s: %s", what)
		}
	}
}

// end waits for a daemon that has been told, and returns its exit code.
func (g *gateway) end(c *lab.Command) int {
	g.t.Helper()
	select {
	case <-c.Done():
	case <-time.After(20 * time.Second):
		_ = c.Kill()
		g.t.Fatalf("levee doesn't end; its log:\n%s", c.Output())
	}
	return exitCode(g.t, c.Wait())
}

func (g *gateway) snapshot() routestest.Snapshot {
	g.t.Helper()
	var s routestest.Snapshot
	err := g.lab.Gateway.Do(func() (err error) {
		s, err = routestest.Take()
		return err
	})
	if err != nil {
		g.t.Fatal(err)
	}
	return s
}

// same fails the test unless the namespace is as it was before.
func (g *gateway) same(before routestest.Snapshot, what string) {
	g.t.Helper()
	if diff := before.Diff(g.snapshot()); diff != "" {
		g.t.Errorf("%s: the system is not as before:\n%s", what, diff)
	}
}
