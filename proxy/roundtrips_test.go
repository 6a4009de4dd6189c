package proxy

import (
	"testing"
	"time"
)

func TestRoundTrips(t *testing.T) {
	const isn, other = 0x12345678, 0x9abc5678 // of one place
	const start = time.Duration(1<<32-1_000_000) * time.Microsecond
	type step struct {
		isn  uint32
		at   time.Duration
		sent bool
		want time.Duration // of what comes back; 0 if nothing is known
	}
	for _, test := range []struct {
		name  string
		steps []step
	}{
		{"there and back", []step{{isn, 0, true, 0}, {isn, 30 * time.Millisecond, false, 30 * time.Millisecond}}},
		{"never sent", []step{{isn, time.Second, false, 0}}},
		{"sent again: the first counts", []step{{isn, 0, true, 0}, {isn, time.Second, true, 0}, {isn, 1100 * time.Millisecond, false, 1100 * time.Millisecond}}},
		{"the place is taken", []step{{isn, 0, true, 0}, {other, time.Second, true, 0}, {other, 2 * time.Second, false, 0}, {isn, 3 * time.Second, false, 3 * time.Second}}},
		{"the place is free again", []step{{isn, 0, true, 0}, {other, roundTripLimit, true, 0}, {isn, roundTripLimit + 1, false, 0}, {other, roundTripLimit + time.Second, false, time.Second}}},
		{"answered once", []step{{isn, 0, true, 0}, {isn, time.Second, false, time.Second}, {isn, time.Second, false, 0}}},
	} {
		for _, from := range []time.Duration{time.Hour, start} { // the second wraps around
			r := new(roundTrips)
			for i, s := range test.steps {
				if s.sent {
					r.sent(s.isn, from+s.at)
					continue
				}
				if got, ok := r.returned(s.isn, from+s.at); got != s.want || ok != (s.want > 0) {
					t.Errorf("%s, from %v, step %d: %v %t, want %v", test.name, from, i, got, ok, s.want)
				}
			}
		}
	}
}
