package bench

import (
	"testing"
	"time"

	"levee/integration/lab/labtest"
)

func TestMain(m *testing.M) { labtest.Main(m) }

// newBench is a bench with a lab and all contenders, that measures next to nothing.
func newBench(t *testing.T) *bench {
	t.Helper()
	labtest.RequireRoot(t)
	binary, err := labtest.Binary()
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
		trips: 10, downloads: 1, flows: []int{100, 2000}, crowdRate: 20_000, packetRate: 10_000,
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
