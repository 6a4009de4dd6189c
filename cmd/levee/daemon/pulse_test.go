package daemon

import (
	"slices"
	"testing"
	"time"
)

// TestPulse: a worker hangs if it doesn't move for long while packets wait for it, and for no other reason.
func TestPulse(t *testing.T) {
	for _, tt := range []struct {
		name string
		// pause is between two looks, moves whether a worker moves before the look of that number, waits whether packets wait for it.
		pause func(look int) time.Duration
		moves func(look, worker int) bool
		waits bool
		// hangs is the first look that finds one, 0 if none of a hundred does; worker is which.
		hangs, worker int
		lively        bool
	}{
		{name: "all move", moves: func(int, int) bool { return true }, waits: true, lively: true},
		{name: "one doesn't", moves: func(_, w int) bool { return w != 1 }, waits: true, hangs: 20, worker: 1},
		{name: "one stops later", moves: func(l, w int) bool { return w != 2 || l < 30 }, waits: true, hangs: 49, worker: 2},
		{name: "one doesn't, and nothing waits", moves: func(_, w int) bool { return w != 1 }},
		{name: "one moves now and then", moves: func(l, w int) bool { return w != 1 || l%19 == 0 }, waits: true, lively: true},
		{name: "nobody looks", pause: func(int) time.Duration { return time.Minute }, moves: func(int, int) bool { return false }, waits: true, lively: true},
		{name: "the machine sleeps now and then", pause: func(l int) time.Duration {
			if l%15 == 14 {
				return time.Hour
			}
			return pulseEvery
		}, moves: func(int, int) bool { return false }, waits: true},
		{name: "the clock goes back now and then", pause: func(l int) time.Duration {
			if l%15 == 14 {
				return -time.Hour
			}
			return pulseEvery
		}, moves: func(int, int) bool { return false }, waits: true},
		{name: "the clock goes back once", pause: func(l int) time.Duration {
			if l == 5 {
				return -time.Hour
			}
			return pulseEvery
		}, moves: func(int, int) bool { return false }, waits: true, hangs: 25},
		{name: "looks come late", pause: func(int) time.Duration { return 3 * pulseEvery }, moves: func(_, w int) bool { return w != 0 }, waits: true, hangs: 7},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var p pulse
			now := time.Unix(1e9, 0)
			beats := make([]uint64, 3)
			p.look(now, beats)
			hangs := 0
			for look := 1; look <= 100 && hangs == 0; look++ {
				pause := pulseEvery
				if tt.pause != nil {
					pause = tt.pause(look)
				}
				now = now.Add(pause)
				for w := range beats {
					if tt.moves(look, w) {
						beats[w]++
					}
				}
				p.look(now, slices.Clone(beats))
				if worker, still, ok := p.hanging(func(int) bool { return tt.waits }); ok {
					if hangs = look; worker != tt.worker || still < hangAfter {
						t.Errorf("worker %d, for %v", worker, still)
					}
				}
			}
			if hangs != tt.hangs {
				t.Errorf("hangs at look %d, want %d", hangs, tt.hangs)
			}
			if hangs == 0 && tt.lively != p.lively() && tt.pause == nil {
				t.Errorf("lively %t", p.lively())
			}
		})
	}
}
