package integration

import (
	"testing"
	"time"

	"levee/integration/lab"
)

// TestOverload makes connections during a flood of more SYNs than levee can answer, as fast as the generator goes, while eight bulk connections that were
// opened before go on. The first SYNs of many clients are lost in it, but hardly any of those that they send again, and no packet of an open
// connection. How long new connections take is in the log: here it is the CPUs, which all share, that they wait for. Without steering, all else being the
// same, the open connections come to a stand, and new ones fail.
func TestOverload(t *testing.T) {
	var steered float64 // bytes a second of the slowest
	families(t, func(t *testing.T, v6 bool) {
		f := startFlooded(t, "steering: auto", v6)
		f.run(t, lab.FloodConfig{}, lab.Load{Attempts: 500, Rate: 100, Timeout: 30 * time.Second}, 0)
		t.Log(f)
		f.spared(t)
		rings := f.status.TUN.Rings
		first, repeated := rings[0], rings[1]
		if first.Takes != "first_syns" || first.Dropped < first.Chosen/20 {
			t.Errorf("of the first SYNs %+v: the flood is too weak to show anything", first)
		}
		// Some of the forged ones are taken for such, and the queue has to wait for a CPU like everybody.
		if repeated.Takes != "repeated_syns" || repeated.Chosen == 0 || repeated.Dropped*first.Chosen > first.Dropped*repeated.Chosen/4 {
			t.Errorf("as large a part as of the first SYNs, or a quarter of it, was lost of the SYNs that were sent again: %+v, %+v", first, repeated)
		}
		if f.honest.Completed != 500 {
			t.Errorf("%d of 500 connections completed: %v", f.honest.Completed, f.honest.Failures)
		}
		for i, bytes := range f.moved {
			if bytes < bulkPiece {
				t.Errorf("bulk connection %d moved %d bytes", i, bytes)
			}
		}
		if rate := f.bulkRate(); steered == 0 || rate < steered {
			steered = rate
		}
	})
	t.Run("steering off", func(t *testing.T) {
		f := startFlooded(t, "steering: off", false)
		f.run(t, lab.FloodConfig{}, lab.Load{Attempts: 200, Rate: 100, Timeout: 6 * time.Second}, 0)
		t.Log(f)
		if rate := f.bulkRate(); f.status.TUN.TxDrops == 0 || rate > steered/2 || f.honest.Completed == f.honest.Tried {
			t.Errorf("%d packets lost, bulk at %.0f bytes a second, with steering %.0f, and %d of %d new connections: the flood is too weak to show what steering is for",
				f.status.TUN.TxDrops, rate, steered, f.honest.Completed, f.honest.Tried)
		}
	})
}
