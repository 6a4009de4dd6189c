package cookie

import "testing"

func TestNoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates by itself; runs without -race")
	}
	layouts(t, func(t *testing.T, tuple *Tuple, timestamps bool) {
		m := NewMaker(testSecret)
		var unix int64 = now
		isn, tsval := issue(m, timestamps, unix, tuple, 1, Options{MSS: 1460, WScale: 7})
		// The previous epoch's key too.
		m.Check(unix, tuple, Ack{Ack: (isn ^ 1<<31) + 1})
		good := Ack{Seq: 2, Ack: isn + 1, Timestamps: timestamps, TSEcr: tsval}
		bad := good
		bad.Seq = 77
		old := good
		old.Ack ^= 1 << 31
		for name, f := range map[string]func(){
			"issue":                     func() { issue(m, timestamps, unix, tuple, 1, Options{MSS: 1460, WScale: 7}) },
			"check valid":               func() { m.Check(unix, tuple, good) },
			"check invalid":             func() { m.Check(unix, tuple, bad) },
			"check of the epoch before": func() { m.Check(unix, tuple, old) },
		} {
			if n := testing.AllocsPerRun(1000, f); n != 0 {
				t.Errorf("%s: %v allocations", name, n)
			}
		}
	})
}
