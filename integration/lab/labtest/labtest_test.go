package labtest

import (
	"os"
	"path/filepath"
	"testing"
)

// played is a test that fails, or not, and runs its cleanups when told.
type played struct {
	testing.TB
	failed   bool
	cleanups []func()
}

func (p *played) Failed() bool        { return p.failed }
func (p *played) Cleanup(f func())    { p.cleanups = append(p.cleanups, f) }
func (p *played) Logf(string, ...any) {}
func (p *played) end() {
	for i := len(p.cleanups) - 1; i >= 0; i-- {
		p.cleanups[i]()
	}
}

func TestKeepOnFailure(t *testing.T) {
	for _, failed := range []bool{true, false} {
		artifacts := filepath.Join(t.TempDir(), "artifacts")
		t.Setenv("LEVEE_ARTIFACTS", artifacts)
		file := filepath.Join(t.TempDir(), "x.pcap")
		if err := os.WriteFile(file, []byte("evidence"), 0o600); err != nil {
			t.Fatal(err)
		}
		p := &played{TB: t, failed: failed}
		KeepOnFailure(p, file)
		p.end()
		got, err := os.ReadFile(filepath.Join(artifacts, "x.pcap"))
		if kept := err == nil && string(got) == "evidence"; kept != failed {
			t.Errorf("test failed: %t, file kept: %t (%v)", failed, kept, err)
		}
	}
}
