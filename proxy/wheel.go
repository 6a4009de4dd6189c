package proxy

// wheelSlots is the number of slots of a timing wheel, one for each tick: 256 s. A later deadline waits in the last
// slot and is looked at again every 256 s, which is cheap: the deadline itself is computed from the flow.
const wheelSlots = 1024

// wheel sorts flows by the tick at which to look at them. The flows themselves are in lists of
// the stripe's links; first is the number of the first slot's head.
type wheel struct {
	first uint32
	// now is the next tick to look at: every earlier one is done.
	now tick
}

// head is the list head for a deadline.
func (w *wheel) head(deadline tick) uint32 {
	switch {
	case deadline < w.now:
		deadline = w.now
	case deadline >= w.now+wheelSlots:
		deadline = w.now + wheelSlots - 1
	}
	return w.first + uint32(deadline%wheelSlots)
}

// expire looks at flows whose time may have come, at most budget of them, and returns how much of the budget is left: if
// nothing, there may be more. due returns when the flow is due by what is known of it now; if that has come, fire acts on it, and
// must arm, bury or remove it.
func (s *stripe) expire(now tick, budget int, due func(f *flow) tick, fire func(slot uint32)) int {
	if now >= s.wheel.now+wheelSlots { // after a long pause every slot is due once
		s.wheel.now = now - wheelSlots + 1
	}
	for ; s.wheel.now <= now; s.wheel.now++ {
		head := s.wheel.first + uint32(s.wheel.now%wheelSlots)
		for !s.links.empty(head) {
			if budget--; budget < 0 {
				return 0
			}
			slot := s.links.first(head)
			if at := due(&s.flows[slot]); at > now {
				s.arm(slot, at) // never in this slot again: head sees to it
				continue
			}
			fire(slot)
		}
	}
	for _, list := range [...]uint32{s.unproven, s.ended} {
		for !s.links.empty(list) {
			slot := s.links.first(list)
			if at := due(&s.flows[slot]); at > now {
				break
			}
			if budget--; budget < 0 {
				return 0
			}
			fire(slot)
		}
	}
	return budget
}
