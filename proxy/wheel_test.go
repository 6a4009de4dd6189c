package proxy

import (
	"testing"

	"pgregory.net/rapid"
)

// TestWheelAgainstModel arms flows at random deadlines, moves the clock in random steps, and checks that every
// flow fires at the first look at or after its deadline, and none before.
func TestWheelAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &heapTable(32).stripes[0]
		// The model keeps each flow's deadline where due can find it.
		due := func(f *flow) tick { return tick(f.clientTSVal) }
		now := tick(0)
		live := map[uint32]tick{}
		next := 0
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if len(live) < 32 && rapid.Bool().Draw(t, "arm") {
				k := key(next)
				next++
				slot, ok := s.insert(&k, s.hash.of(&k), func(*flow) {})
				if !ok {
					t.Fatal("full")
				}
				deadline := now + tick(rapid.OneOf(rapid.Uint32Range(1, 3), rapid.Uint32Range(1, 40000)).Draw(t, "in"))
				s.flows[slot].clientTSVal = uint32(deadline)
				s.setState(slot, StateOpen)
				s.arm(slot, deadline)
				live[slot] = deadline
				continue
			}
			now += tick(rapid.OneOf(rapid.Uint32Range(0, 3), rapid.Uint32Range(0, 3000)).Draw(t, "pass"))
			for slot, deadline := range live { // activity moves some deadlines without the wheel's knowledge
				if deadline > now && rapid.IntRange(0, 4).Draw(t, "touch") == 0 {
					live[slot] = deadline + 500
					s.flows[slot].clientTSVal = uint32(deadline + 500)
				}
			}
			fired := map[uint32]bool{}
			budget := rapid.IntRange(1, 8).Draw(t, "budget")
			for rounds := 0; s.expire(now, budget, due, func(slot uint32) {
				if live[slot] > now {
					t.Fatalf("slot %d fired at %d, before its deadline %d", slot, now, live[slot])
				}
				fired[slot] = true
				delete(live, slot)
				s.remove(slot)
			}) == 0; rounds++ {
				if rounds > 10_000 {
					t.Fatal("expire never finishes")
				}
			}
			for slot, deadline := range live {
				if deadline <= now {
					t.Fatalf("slot %d did not fire at %d, its deadline was %d", slot, now, deadline)
				}
			}
			checkStripe(t, s)
		}
	})
}

// TestEndedInOrder checks that remembered flows go in the order in which they ended.
func TestEndedInOrder(t *testing.T) {
	s := &heapTable(8).stripes[0]
	due := func(f *flow) tick { return f.lastSeen + cookieLifetime }
	for i := range 8 {
		k := key(i)
		slot, _ := s.insert(&k, s.hash.of(&k), func(*flow) {})
		s.flows[slot].lastSeen = tick(i)
		s.setState(slot, StateReset)
		s.bury(slot)
	}
	var order []uint16
	for now := tick(0); now <= cookieLifetime+8; now++ {
		s.expire(now, 100, due, func(slot uint32) {
			if at := s.flows[slot].lastSeen + cookieLifetime; at != now {
				t.Errorf("fired at %d instead of %d", now, at)
			}
			order = append(order, s.flows[slot].key.lowPort)
			s.remove(slot)
		})
	}
	for i, n := range order {
		if int(n) != i {
			t.Fatalf("order %v", order)
		}
	}
	if len(order) != 8 {
		t.Fatalf("%d of 8 fired", len(order))
	}
}
