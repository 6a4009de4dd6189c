package proxy

import (
	"bytes"
	"fmt"
	"slices"
)

// Conversion is what became of the flows of a FlowState from which another was made.
type Conversion struct {
	// Flows are in the new one, those that are only remembered included. NoRoom found its stripes full.
	Flows, NoRoom int
	// Rewritten were being rewritten when the process before ended.
	Rewritten int
}

// stateRecords are the records of a FlowState of any layout.
type stateRecords struct {
	memory        []byte // of all stripes
	stripes, each int
	// size is that of a record, stride that of a stripe, in bytes; state is where in a record that is.
	size, stride, state int
	moves               []move
}

// records checks the header, whoever has written it, and says how to read what follows. Its errors match ErrStateDamaged or ErrStateForeign.
func (s *FlowState) records() (r stateRecords, err error) {
	h := s.header()
	switch {
	case h.Magic != stateMagic:
		return r, fmt.Errorf("%w: it doesn't begin as a flow file does", ErrStateDamaged)
	case h.Checksum != s.sum():
		return r, fmt.Errorf("%w: its header doesn't match its checksum", ErrStateDamaged)
	case h.Version == 0 || h.Version > stateVersion:
		return r, fmt.Errorf("%w: its version is %d, this levee knows those up to %d", ErrStateForeign, h.Version, stateVersion)
	case h.Version == 1 && h.Layout != layout1Hash:
		return r, fmt.Errorf("%w: its records are of another build of levee", ErrStateForeign)
	case h.Boot != s.Boot || h.Zero > s.Monotonic:
		return r, fmt.Errorf("%w: it is from before the machine's start", ErrStateForeign)
	case h.Stripes < 1 || h.Stripes > stripesWanted || h.Stripes&(h.Stripes-1) != 0 || h.Capacity < 1 || h.Capacity > MaxCapacity:
		return r, fmt.Errorf("%w: it has %d stripes of %d records", ErrStateDamaged, h.Stripes, h.Capacity)
	}
	text := layout1
	if h.Version > 1 {
		described, _, _ := bytes.Cut(s.described(), []byte{0})
		text = string(described)
	}
	l, err := parseLayout(text)
	if err != nil {
		return r, err
	}
	if r.moves, err = l.moves(); err != nil {
		return r, err
	}
	r.stripes, r.each, r.size = int(h.Stripes), int(h.Capacity), l.size
	r.stride = wholeLines(r.each * r.size)
	r.state = l.fields[slices.IndexFunc(l.fields, func(f layoutField) bool { return f.name == "state" })].offset
	if whole := stateRecordsAt + r.stripes*r.stride; len(s.Memory) != whole {
		return r, fmt.Errorf("%w: it is %d bytes long, not %d", ErrStateDamaged, len(s.Memory), whole)
	}
	r.memory = s.Memory[stateRecordsAt:]
	return r, nil
}

// at is the bytes of a record.
func (r *stateRecords) at(stripe, slot int) []byte {
	return r.memory[stripe*r.stride+slot*r.size:][:r.size]
}

// Convert makes of fresh memory what a Proxy of this capacity goes on with in place of another FlowState, which it only reads. What makes no
// sense there is left for New to find. If there is not room for all flows it is those that are over that go without.
func (s *FlowState) Convert(from *FlowState, capacity int) (c Conversion, err error) {
	if len(from.Memory) < stateRecordsAt {
		return c, fmt.Errorf("%w: it is %d bytes long, shorter than its header", ErrStateDamaged, len(from.Memory))
	}
	records, err := from.records()
	if err != nil {
		return c, err
	}
	h := from.header()
	key := hasher{h.Hash0, h.Hash1}
	s.begin(capacity, key, h.Zero)
	room := newRoomFor(capacity, key)
	memory := s.Memory[stateRecordsAt:]
	stripes := make([][]flow, len(room.used))
	for i := range stripes {
		stripes[i] = carve[flow](&memory, room.each)
	}
	for _, over := range []bool{false, true} {
		for stripe := range records.stripes {
			mark := int(from.marks()[stripe].record) - 1
			for slot := range records.each {
				bytes := records.at(stripe, slot)
				state := State(bytes[records.state])
				if state == StateFree || state.Ended() != over {
					continue
				}
				if slot == mark {
					c.Rewritten++
					continue
				}
				f := record(bytes, records.moves)
				to, place, ok := room.take(&f.key)
				if !ok {
					c.NoRoom++
					continue
				}
				stripes[to][place] = f
				c.Flows++
			}
		}
	}
	return c, nil
}

// roomFor gives flows places in the stripes of a table, which don't fill evenly.
type roomFor struct {
	key hasher
	// each is how many flows go into a stripe, and used how many have in each.
	each int
	used []int
}

func newRoomFor(capacity int, key hasher) *roomFor {
	n, each := shape(capacity)
	return &roomFor{key, each, make([]int, n)}
}

// take is the next place for a flow, if its stripe has one.
func (r *roomFor) take(k *flowKey) (stripe, slot int, ok bool) {
	stripe = int(r.key.of(k) & uint64(len(r.used)-1))
	if slot = r.used[stripe]; slot == r.each {
		return stripe, slot, false
	}
	r.used[stripe]++
	return stripe, slot, true
}

// Live counts the flows in Memory, which a Proxy may be using meanwhile, that have not ended, and those of them for which a table of this capacity has no
// room: its stripes don't fill evenly. Memory has passed Check, but for differences.
func (s *FlowState) Live(capacity int) (live, noRoom int) {
	if s.Fresh() {
		return 0, 0
	}
	records, err := s.records()
	if err != nil {
		return 0, 0
	}
	room := newRoomFor(capacity, hasher{s.header().Hash0, s.header().Hash1})
	for stripe := range records.stripes {
		for slot := range records.each {
			bytes := records.at(stripe, slot)
			if state := State(bytes[records.state]); state == StateFree || state.Ended() {
				continue
			}
			live++
			f := record(bytes, records.moves)
			if _, _, ok := room.take(&f.key); !ok {
				noRoom++
			}
		}
	}
	return live, noRoom
}
