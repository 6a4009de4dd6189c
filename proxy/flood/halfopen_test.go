package flood

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// TestTally: whatever comes at once, and however full it is, every handshake that is known is counted once for its destination and its service.
func TestTally(t *testing.T) {
	all := []Service{
		service("a", Limits{HalfOpen: MaxHalfOpen, SYNRate: MaxSYNRate, Hold: time.Second}),
		service("b", Limits{HalfOpen: MaxHalfOpen, SYNRate: MaxSYNRate, Hold: time.Second}),
		service("c", Limits{HalfOpen: 64, SYNRate: 1000, Hold: time.Second}),
	}
	d := New()
	d.Use(all)
	var senders sync.WaitGroup
	for id := range uint64(4) {
		senders.Go(func() {
			rnd := rand.New(rand.NewPCG(id, 0))
			for i := range 60_000 {
				s, to, flow, now := all[rnd.IntN(3)], destination(rnd.IntN(1<<13)), rnd.Uint64(), time.Duration(i)*time.Millisecond
				d.SYN(s.Watch, &to, flow, now)
				switch rnd.IntN(6) {
				case 0:
					d.Finished(s.Watch, &to, flow, now)
				case 1:
					d.Refused(flow)
					d.Unfinished(s.Watch, &to, flow, now)
				}
				if id == 0 && i%250 == 0 {
					d.Tick(now, 0)
				}
			}
		})
	}
	senders.Wait()
	var want halfOpen
	known := 0
	for i := range d.halfOpen.buckets {
		for _, c := range d.halfOpen.buckets[i].cells {
			if c != 0 {
				known++
				want.tally(c.owner(), 1)
			}
		}
	}
	if known < halfOpenBuckets*bucketCells/2 {
		t.Errorf("only %d handshakes are known", known)
	}
	for row := range want.rows {
		for i := range want.rows[row] {
			if got, want := d.halfOpen.rows[row][i].Load(), want.rows[row][i].Load(); got != want {
				t.Fatalf("row %d has %d at %d, not %d", row, got, i, want)
			}
		}
	}
	for i := range want.services {
		if got, want := d.halfOpen.services[i].Load(), want.services[i].Load(); got != want {
			t.Fatalf("service %d has %d handshakes, not %d", i, got, want)
		}
	}
}
