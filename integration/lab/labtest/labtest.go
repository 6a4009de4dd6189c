package labtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"levee/integration/lab"
)

// RequireRoot skips the test without root, or fails it if LEVEE_REQUIRE_ROOT=1.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	const why = "network namespaces need root: run it as root or with sudo"
	if os.Getenv("LEVEE_REQUIRE_ROOT") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// New makes a lab that closes with the test.
func New(t testing.TB, cfg lab.Config) *lab.Lab {
	t.Helper()
	RequireRoot(t)
	l, err := lab.New(cfg)
	if err != nil {
		t.Fatalf("make lab: %v", err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close lab: %v", err)
		}
	})
	return l
}

// StartLevee starts the daemon and shows the end of its log if the test fails.
func StartLevee(t testing.TB, l *lab.Lab, binary, yaml string) *lab.Levee {
	t.Helper()
	lv, err := l.StartLevee(t.Context(), binary, yaml)
	if err != nil {
		t.Fatalf("start levee: %v", err)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		status, err := lv.Status(context.Background())
		if err == nil {
			t.Logf("levee status: %+v", *status)
		}
		t.Logf("log of levee:\n%s", lv.Log())
	})
	return lv
}

// Capture captures an interface until the test ends, and keeps the file if it failed: in the folder
// LEVEE_ARTIFACTS, or a new temporary one. The test's log says where.
func Capture(t testing.TB, n *lab.Namespace, ifname string) *lab.Capture {
	t.Helper()
	c, err := n.StartCapture(ifname, filepath.Join(t.TempDir(), n.Name+"-"+ifname+".pcap"))
	if err != nil {
		t.Fatal(err)
	}
	KeepOnFailure(t, c.File)
	// Runs before the file is kept.
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Errorf("capture %s in %s: %v", ifname, n.Name, err)
		}
		if c.Lost() > 0 {
			t.Logf("%d packets are missing from the capture of %s in %s", c.Lost(), ifname, n.Name)
		}
	})
	return c
}

// KeepOnFailure saves a file from the test's temporary folder if the test fails, to the folder
// LEVEE_ARTIFACTS, or a new temporary one. The test's log says where.
func KeepOnFailure(t testing.TB, file string) {
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		kept, err := keep(file)
		if err != nil {
			t.Logf("keep %s: %v", filepath.Base(file), err)
			return
		}
		t.Logf("kept %s", kept)
	})
}

// temporaryFolder is one for all failures of this process.
var temporaryFolder = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "levee-failed-") })

func keep(file string) (kept string, err error) {
	dir := os.Getenv("LEVEE_ARTIFACTS")
	if dir == "" {
		dir, err = temporaryFolder()
	} else {
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		return "", fmt.Errorf("make folder: %w", err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	kept = filepath.Join(dir, filepath.Base(file))
	return kept, os.WriteFile(kept, data, 0o644)
}
