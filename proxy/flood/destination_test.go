package flood

import (
	"fmt"
	"testing"
	"time"
)

// TestEngagedKeepsItsPlace: no number of other destinations, however quiet the engaged one has become, lets it go before its time.
func TestEngagedKeepsItsPlace(t *testing.T) {
	s := service("web", Limits{HalfOpen: 500, SYNRate: 2000, Hold: time.Hour})
	r := newRig(t, s)
	hit := destination(1)
	r.pass(time.Second, r.flood(s, hit, 8000))
	r.want(s, hit, true)
	r.pass(30*time.Second, nil) // as long as it takes to be worth no place
	n := 1
	r.pass(5*time.Second, func() {
		for range 1000 {
			n++
			flow, to := r.rand.Uint64(), destination(n)
			r.SYN(s.Watch, &to, flow, r.now)
			r.Finished(s.Watch, &to, flow, r.now)
		}
	})
	if n < 4*places {
		t.Fatalf("%d destinations don't fill %d places", n, places)
	}
	r.want(s, hit, true)
	r.want(s, destination(n+1), false) // nor is it the service that is engaged
}

// TestPlaceChangesHands: when a destination has made room its handshakes still count for it, and for nobody else.
func TestPlaceChangesHands(t *testing.T) {
	s := service("web", fixed)
	r := newRig(t, s)
	old := destination(1)
	flow := r.rand.Uint64()
	r.SYN(s.Watch, &old, flow, r.now)
	in, _ := r.destinations.of(s.Watch, &old)
	var next Destination
	for n := 2; ; n++ { // fill the set; then whoever comes takes the place of one that is worth none
		to := destination(n)
		if set, _ := r.destinations.of(s.Watch, &to); set != in {
			continue
		}
		r.SYN(s.Watch, &to, r.rand.Uint64(), r.now)
		r.SYN(s.Watch, &to, r.rand.Uint64(), r.now)
		if in.find(s.Watch, &old) == nil {
			next = to
			break
		}
	}
	before := r.count(next)
	if n := r.count(old); n != 1 {
		t.Errorf("%d handshakes of who has no place are half-open, not 1", n)
	}
	r.Refused(flow)
	if after := r.count(next); before == 0 || after != before || r.count(old) != 0 {
		t.Errorf("%d handshakes are half-open, then %d; %d of who has no place", before, after, r.count(old))
	}
}

// scatter sends forged SYNs to random ports of a /17 of a service, n a second.
func (r *rig) scatter(s Service, n int) func() {
	return func() {
		for range n / 4 {
			to := destination(1<<15 + r.rand.IntN(1<<15))
			to.Port = uint16(r.rand.Uint32())
			r.SYN(s.Watch, &to, r.rand.Uint64(), r.now)
		}
	}
}

// TestNeighbourFlood: a flood of one service, whether it engages that as a whole or stays below, hides no destination of another: neither a slow flood, nor
// one among many honest connections.
func TestNeighbourFlood(t *testing.T) {
	limits := Limits{HalfOpen: 64, SYNRate: 1000, Hold: 5 * time.Second}
	for _, rate := range []int{0, 2000, 7000, 40_000, 200_000} {
		t.Run(fmt.Sprint(rate), func(t *testing.T) {
			web, game := service("web", limits), service("game", limits)
			r := newRig(t, web, game)
			hit, busy := destination(1), destination(2)
			noise, slow, honest := r.scatter(game, rate), r.flood(web, hit, 8), r.connect(web, busy, 800)
			r.pass(2*time.Second, noise)
			for r.now < 13*time.Second {
				r.pass(time.Second, func() { noise(); slow(); honest() })
				if n := 8 * (int(r.now/time.Second) - 2); n < 64 {
					if got := int(r.count(hit)); got < n || got > n+2 {
						t.Fatalf("%d half-open at %v, not %d", got, r.now, n)
					}
					if got, _ := web.Nearest(); got < n-2 || got > n+2 {
						t.Errorf("the most half-open are said to be %d at %v, not %d", got, r.now, n)
					}
				}
			}
			r.want(web, hit, true)
			r.want(web, busy, false)
			if engaged, whole := web.Engaged(); engaged != 1 || whole {
				t.Errorf("%d engaged, as a whole: %v", engaged, whole)
			}
			if _, whole := game.Engaged(); whole != (rate > 0) {
				t.Errorf("the other service is engaged as a whole: %v", whole)
			}
			r.pass(5*time.Second, func() { noise(); r.connect(web, busy, 1200)() })
			r.want(web, busy, true) // and a rate is seen
		})
	}
}

// TestNoPlaceLeft: when others that are engaged have all the places of a set, a destination's handshakes are counted still, and its SYNs answered.
func TestNoPlaceLeft(t *testing.T) {
	s := service("web", Limits{HalfOpen: 20, SYNRate: MaxSYNRate, Hold: time.Minute})
	r := newRig(t, s)
	hit := destination(1)
	in, _ := r.destinations.of(s.Watch, &hit)
	for n, left := 2, ways; left > 0; n++ {
		to := destination(n)
		if set, _ := r.destinations.of(s.Watch, &to); set == in {
			r.pass(tickEvery, r.flood(s, to, 80))
			r.want(s, to, true)
			left--
		}
	}
	for i := range 30 {
		if engaged := r.SYN(s.Watch, &hit, r.rand.Uint64(), r.now); engaged != (i >= 19) {
			t.Fatalf("SYN %d: engaged %v", i+1, engaged)
		}
	}
	r.want(s, hit, true)
	if n := r.count(hit); n != 20 {
		t.Errorf("%d are half-open at the server", n)
	}
}

// TestWholeAtOnce: between two Ticks no more handshakes begin with a service than engage it as a whole.
func TestWholeAtOnce(t *testing.T) {
	s := service("web", Limits{HalfOpen: 64, SYNRate: MaxSYNRate, Hold: time.Minute})
	r := newRig(t, s)
	passed := 0
	for range 100_000 {
		to := destination(r.rand.IntN(1 << 16))
		if !r.SYN(s.Watch, &to, r.rand.Uint64(), r.now) {
			passed++
		}
	}
	if passed != 64*Spread {
		t.Errorf("%d SYNs passed, not %d", passed, 64*Spread)
	}
	r.pass(tickEvery, nil)
	if _, whole := s.Engaged(); !whole {
		t.Error("the service is not engaged")
	}
	for to := range 1 << 16 {
		if n := r.count(destination(to)); n != 0 {
			t.Fatalf("%d are known of a destination that is engaged", n)
		}
	}
}

// TestSlots: more services than can be told apart are watched all the same, and those that go make room.
func TestSlots(t *testing.T) {
	r := newRig(t)
	for range 3 {
		var all []Service
		for range slots + 1 {
			all = append(all, service("s", Limits{HalfOpen: 20, SYNRate: MaxSYNRate, Hold: time.Minute}))
		}
		r.Use(all)
		first, last, hit, other := all[0], all[slots], destination(1), destination(2)
		if first.slot.Load() == 0 || last.slot.Load() != 0 {
			t.Fatalf("slots %d and %d", first.slot.Load(), last.slot.Load())
		}
		r.flood(first, hit, 80)()
		r.flood(last, other, 80)()
		r.want(first, hit, true)
		r.want(last, other, true)
		r.Use(nil)
		r.pass(tickEvery, nil)
		if n := r.count(hit); n != 0 {
			t.Fatalf("%d handshakes of a service that is gone", n)
		}
		r.pass(Lifetime+5*time.Second, nil) // that of other
	}
}
