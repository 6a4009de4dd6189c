package main

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"levee/integration/lab/labtest"
)

// This program is levee-lab when a test calls it as that.
func TestMain(m *testing.M) {
	if os.Getenv("PLAY_LEVEE_LAB") == "1" {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestMisuse(t *testing.T) {
	for _, tc := range []struct {
		args string
		code int
		want string
	}{
		{"", exitMisused, "use demo, up, bench, churn, floods, engage or night-call"},
		{"dance", exitMisused, "dance"},
		{"demo now", exitMisused, "now"},
		{"demo --fast", exitMisused, "--fast"},
		{"demo --duration 1h", exitMisused, "--duration"},
		{"demo --levee /nonexistent/levee", exitFailed, "make build"},
		{"bench now", exitMisused, "now"},
		{"bench --repeat 0", exitMisused, "--repeat"},
		{"bench --repeat 51", exitMisused, "--repeat"},
		{"bench --only (", exitMisused, "--only"},
		{"bench --only bulk/synproxies", exitMisused, "matches nothing"},
		{"bench --only download/synproxy-nots", exitMisused, "matches nothing"},
		{"bench --levee /nonexistent/levee", exitFailed, "make build"},
		{"churn now", exitMisused, "now"},
		{"churn --flows 0", exitMisused, "--flows"},
		{"churn --flows 9999999", exitMisused, "--flows"},
		{"churn --duration 9s", exitMisused, "--duration"},
		{"churn --warm-up -1s", exitMisused, "--warm-up"},
		{"churn --capacity -1", exitMisused, "--capacity"},
		{"churn --levee /nonexistent/levee", exitFailed, "make build"},
		{"engage now", exitMisused, "now"},
		{"engage --rate 10", exitMisused, "--rate"},
		{"engage --duration 2m", exitMisused, "--duration"},
		{"engage --hold 1ms", exitMisused, "--hold"},
		{"engage --levee /nonexistent/levee", exitFailed, "make build"},
		{"up --clients 17", exitFailed, "at most 16"},
	} {
		var out, errs bytes.Buffer
		code := execute(t.Context(), strings.Fields(tc.args), &out, &errs)
		if code != tc.code || !strings.Contains(errs.String(), tc.want) || strings.Count(errs.String(), "\n") != 1 {
			t.Errorf("levee-lab %s: exit code %d and %q, want %d and one line with %q", tc.args, code, errs.String(), tc.code, tc.want)
		}
	}
}

// A signal takes the lab down, and the kernel does when there is no time for that.
func TestUpEndsWithASignal(t *testing.T) {
	labtest.RequireRoot(t)
	for _, tc := range []struct {
		signal syscall.Signal
		clean  bool
	}{{syscall.SIGINT, true}, {syscall.SIGTERM, true}, {syscall.SIGKILL, false}} {
		t.Run(tc.signal.String(), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			up := exec.CommandContext(ctx, self, "up", "--clients", "2")
			up.Env = append(os.Environ(), "PLAY_LEVEE_LAB=1")
			up.Stderr = os.Stderr
			out, err := up.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := up.Start(); err != nil {
				t.Fatal(err)
			}
			paths := namespacePaths(t, bufio.NewScanner(out))
			if want := 5; len(paths) != want {
				t.Errorf("it names %d namespaces, want %d", len(paths), want)
			}
			inside := map[string]uint64{}
			for _, p := range paths {
				target, err := os.Readlink(p)
				if err != nil {
					t.Fatal(err)
				}
				if inside[target], err = cookie(p); err != nil {
					t.Fatal(err)
				}
			}
			if held := holders(inside); len(held) == 0 {
				t.Fatal("nobody holds the namespaces: this test can't see them")
			}
			if err := up.Process.Signal(tc.signal); err != nil {
				t.Fatal(err)
			}
			if err := up.Wait(); (err == nil) != tc.clean {
				t.Errorf("it ended with %v", err)
			}
			if held := holders(inside); len(held) != 0 {
				t.Errorf("namespaces are still held by %v", held)
			}
		})
	}
}

// namespacePaths reads what up prints, to its end, and returns the namespaces in it.
func namespacePaths(t *testing.T, lines *bufio.Scanner) (paths []string) {
	t.Helper()
	path := regexp.MustCompile(`nsenter --net=(\S+)$`)
	for lines.Scan() {
		if m := path.FindStringSubmatch(lines.Text()); m != nil {
			paths = append(paths, m[1])
		}
		if strings.HasPrefix(lines.Text(), "Ctrl-C") {
			return paths
		}
	}
	t.Fatalf("up said no more after %q: %v", paths, lines.Err())
	return nil
}

// holders are the threads and descriptors of any process that keep one of the namespaces, which are
// given by their link's text and their cookie: the number in the text is soon used again.
func holders(namespaces map[string]uint64) (found []string) {
	for _, pattern := range []string{"/proc/[0-9]*/task/*/ns/net", "/proc/[0-9]*/fd/*"} {
		paths, _ := filepath.Glob(pattern) // the patterns are well-formed
		for _, p := range paths {
			target, err := os.Readlink(p)
			if err != nil || namespaces[target] == 0 {
				continue
			}
			// What can't be opened any more has gone.
			if c, err := cookie(p); err == nil && c == namespaces[target] {
				found = append(found, p)
			}
		}
	}
	return found
}

// cookie is a number that no other network namespace gets until the machine starts again.
func cookie(path string) (cookie uint64, err error) {
	there, err := netns.GetFromPath(path)
	if err != nil {
		return 0, err
	}
	defer there.Close()
	runtime.LockOSThread()
	here, err := netns.Get()
	if err != nil {
		return 0, err
	}
	defer here.Close()
	if err := netns.Set(there); err != nil {
		return 0, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if back := netns.Set(here); back != nil {
		return 0, back // the thread stays locked and is not used again
	}
	runtime.UnlockOSThread()
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
}

// The first two phases need no levee: the server holds alone and fails under the flood.
func TestPhasesWithoutLevee(t *testing.T) {
	labtest.RequireRoot(t)
	for _, p := range phases {
		if p.levee {
			continue
		}
		t.Run(p.Name, func(t *testing.T) {
			r, err := p.run(t.Context(), demoConfig{duration: time.Second})
			if err != nil {
				t.Fatal(err)
			}
			if r.Tried != loadRate || r.Received < r.Tried || r.Answered < r.Completed || (r.FloodSent > 0) != p.flood {
				t.Errorf("%+v", *r)
			}
			if err := judge([]result{*r}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestDemoIsInterrupted(t *testing.T) {
	labtest.RequireRoot(t)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	var out, errs bytes.Buffer
	begin := time.Now()
	code := execute(ctx, []string{"demo", "--levee", "/bin/true"}, &out, &errs)
	if code != exitFailed || !strings.Contains(errs.String(), "interrupted") || time.Since(begin) > 5*time.Second {
		t.Errorf("exit code %d after %v: %s", code, time.Since(begin), errs.String())
	}
}
