package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"levee/integration/lab/labtest"
)

// daemonBinary is the levee to test: what LEVEE_BINARY names, or one built for this run.
var daemonBinary = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("LEVEE_BINARY"); path != "" {
		return path, nil
	}
	dir, err := os.MkdirTemp("", "levee-bench-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "levee")
	if out, err := exec.Command("go", "build", "-o", path, "levee/cmd/levee").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build levee: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	built := false
	build := daemonBinary
	daemonBinary = func() (string, error) { built = true; return build() }
	code := m.Run()
	if path, err := build(); built && err == nil && os.Getenv("LEVEE_BINARY") == "" {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// newBench is a bench with a lab and all contenders, that measures next to nothing.
func newBench(t *testing.T) *bench {
	t.Helper()
	labtest.RequireRoot(t)
	binary, err := daemonBinary()
	if err != nil {
		t.Fatal(err)
	}
	b, err := start(Config{Repeat: 1, Quick: true, Levee: binary, Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.close(); err != nil {
			t.Errorf("close lab: %v", err)
		}
	})
	b.length = windows{
		settle: 50 * time.Millisecond,
		flood:  200 * time.Millisecond, bulk: 200 * time.Millisecond, rate: 200 * time.Millisecond, latency: 200 * time.Millisecond,
		packets: 200 * time.Millisecond, probe: 100 * time.Millisecond,
		trips: 10, flows: []int{100, 2000}, crowdRate: 20_000, packetRate: 10_000,
	}
	return b
}

// find returns a contender.
func (b *bench) find(id contenderID) contender {
	for _, c := range b.all {
		if c.id() == id {
			return c
		}
	}
	panic("no contender " + id)
}
