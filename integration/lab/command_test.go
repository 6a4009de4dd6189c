package lab_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
)

// exists says whether there is a process of that number, dead but not waited for ones included.
func exists(pid int) bool { return syscall.Kill(pid, 0) == nil }

func TestCommandRunsInside(t *testing.T) {
	l := labtest.New(t, lab.Config{})
	var out bytes.Buffer
	c := l.Gateway.Command(t.Context(), "cat", "/proc/self/net/dev")
	c.Stdout = &out
	if err := c.Run(); err != nil {
		t.Fatal(err)
	}
	for _, ifname := range []string{"client0", "server0"} {
		if !strings.Contains(out.String(), ifname) {
			t.Errorf("the gateway's interfaces lack %s:\n%s", ifname, out.String())
		}
	}
	if s := c.Output(); s != "" {
		t.Errorf("standard output went to Output too: %q", s)
	}
	if exists(c.Pid()) {
		t.Error("the process was not waited for")
	}
}

func TestCommandFails(t *testing.T) {
	l := labtest.New(t, lab.Config{})
	err := l.Gateway.Command(t.Context(), "sh", "-c", "echo out; echo err >&2; exit 3").Run()
	for _, want := range []string{"exit status 3", "out\n", "err\n", l.Gateway.Name} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %q doesn't say %q", err, want)
		}
	}
	if err := l.Gateway.Command(t.Context(), "no-such-program").Start(); err == nil {
		t.Error("a program that isn't there was started")
	}
}

// startParent starts a shell with a child, and returns both numbers once the child runs.
func startParent(t *testing.T, ctx context.Context, l *lab.Lab) (c *lab.Command, child int) {
	t.Helper()
	c = l.Gateway.Command(ctx, "sh", "-c", "sleep 1000 & echo $!; wait")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the shell tells its child's number", func() bool {
		var err error
		child, err = strconv.Atoi(strings.TrimSpace(c.Output()))
		return err == nil
	})
	if !exists(c.Pid()) || !exists(child) {
		t.Fatalf("processes %d and %d don't run", c.Pid(), child)
	}
	return c, child
}

func TestCommandEnds(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(c *lab.Command, l *lab.Lab, cancel func()) error
	}{
		{"Stop", func(c *lab.Command, _ *lab.Lab, _ func()) error { return c.Stop() }},
		{"Stop again", func(c *lab.Command, _ *lab.Lab, _ func()) error { c.Stop(); return c.Stop() }},
		{"Kill", func(c *lab.Command, _ *lab.Lab, _ func()) error { return c.Kill() }},
		{"Close of the lab", func(_ *lab.Command, l *lab.Lab, _ func()) error { return l.Close() }},
		{"context", func(c *lab.Command, _ *lab.Lab, cancel func()) error { cancel(); <-c.Done(); return nil }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := labtest.New(t, lab.Config{})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			c, child := startParent(t, ctx, l)
			if err := tc.end(c, l, cancel); err != nil {
				t.Error(err)
			}
			if exists(c.Pid()) {
				t.Error("the process is still there, or was not waited for")
			}
			// Its new parent, not us, waits for the child.
			eventually(t, "the child has ended", func() bool {
				stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
				return err != nil || bytes.Contains(stat, []byte(") Z "))
			})
		})
	}
}

// A process that Close can't know of is named.
func TestCloseNamesWhoStays(t *testing.T) {
	labtest.RequireRoot(t)
	l, err := lab.New(lab.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// The shell ends once its child has left its session, and with that its process group.
	c := l.Gateway.Command(t.Context(), "sh", "-c", `setsid sleep 1000 >/dev/null 2>&1 & child=$!
		until [ "$(cut -d' ' -f6 /proc/$child/stat)" = $child ]; do :; done
		echo $child`)
	if err := c.Run(); err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(c.Output()))
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(pid, syscall.SIGKILL)
	if err := l.Close(); err == nil || !strings.Contains(err.Error(), strconv.Itoa(pid)) {
		t.Errorf("Close says %v, and nothing of process %d", err, pid)
	}
}
