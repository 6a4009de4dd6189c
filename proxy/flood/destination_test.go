package flood

import (
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

// TestCounterGenerations: what ends of a handshake with whoever had the place before changes nothing.
func TestCounterGenerations(t *testing.T) {
	var c counter
	before := c.generation()
	if n := c.add(before, 5); n != 5 {
		t.Fatalf("%d, not 5", n)
	}
	c.forget()
	for _, n := range []int32{1, -1} {
		if got := c.add(before, n); got != 0 || c.count() != 0 {
			t.Errorf("a former handshake counts: %d, %d", got, c.count())
		}
	}
	c.add(c.generation(), 2)
	if got := c.add(before, -1); got != 0 || c.count() != 2 {
		t.Errorf("the end of a former handshake counts: %d, %d", got, c.count())
	}
	if got := c.add(c.generation(), -3); got != 0 {
		t.Errorf("%d handshakes", got)
	}
}

// TestPlaceChangesHands: when a destination has made room, the end of its handshakes is not taken for that of its successor's.
func TestPlaceChangesHands(t *testing.T) {
	s := service("web", fixed)
	r := newRig(t, s)
	old := destination(1)
	flow := r.rand.Uint64()
	r.SYN(s.Watch, &old, flow, r.now)
	at := r.destinations.at(&old)
	var next Destination
	for n := 2; ; n++ { // fill the set; then whoever comes takes the place of one that is worth none
		to := destination(n)
		if r.destinations.at(&to) != at {
			continue
		}
		r.SYN(s.Watch, &to, r.rand.Uint64(), r.now)
		r.SYN(s.Watch, &to, r.rand.Uint64(), r.now)
		if p, _ := r.destinations.sets[at].find(s.Watch, &old); p == nil {
			next = to
			break
		}
	}
	before := r.count(next)
	r.Refused(flow)
	if after := r.count(next); before == 0 || after != before {
		t.Errorf("%d handshakes are half-open, then %d", before, after)
	}
}
