package tunnel

import "testing"

// TestRingLook reads a ring of 10 packets several times.
func TestRingLook(t *testing.T) {
	type reading struct {
		chosen, read uint64
		atRest       bool
	}
	for _, tt := range []struct {
		name     string
		readings []reading
		dropped  uint64
		exact    bool
	}{
		{"all read", []reading{{7, 7, true}}, 0, true},
		{"some lost", []reading{{7, 4, true}}, 3, true},
		{"all may be waiting", []reading{{10, 0, false}}, 0, false},
		{"more than fit", []reading{{12, 0, false}}, 2, false},
		{"at rest in the end", []reading{{12, 0, false}, {12, 8, true}}, 4, true},
		{"at rest at first", []reading{{12, 8, true}, {40, 20, false}}, 4, true},
		{"a packet on its way", []reading{{8, 7, true}, {8, 8, true}}, 0, true},
		{"another one on its way", []reading{{8, 8, true}, {9, 8, true}}, 0, true},
		{"the worker was faster than the counters", []reading{{8, 9, true}, {9, 9, true}}, 0, true},
		{"split behind the program, so that lost ones are hidden", []reading{{8, 300, true}, {9, 301, true}}, 0, false},
	} {
		var r RingStats
		for _, g := range tt.readings {
			r.look(g.chosen, g.read, 10, g.atRest)
		}
		if r.Dropped != tt.dropped || r.Exact != tt.exact {
			t.Errorf("%s: %+v, want %d dropped (exact: %t)", tt.name, r, tt.dropped, tt.exact)
		}
	}
}

func TestTrafficOf(t *testing.T) {
	for queues, want := range map[int][]Traffic{
		2: {FirstSYNs, Flows},
		3: {FirstSYNs, RepeatedSYNs, Flows},
		5: {FirstSYNs, RepeatedSYNs, Flows, Flows, Flows},
	} {
		for q, w := range want {
			if got := trafficOf(q, queues); got != w {
				t.Errorf("queue %d of %d takes %v, want %v", q, queues, got, w)
			}
		}
	}
}
