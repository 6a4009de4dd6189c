package proxy

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/dchest/siphash"
)

// table is the flow table: a fixed number of records, in stripes by hash. Nothing in it
// grows or is allocated after newTable. It costs 142 to 147 bytes for each flow of capacity:
// the record, its link, and its part of an index that is between three eighths and three quarters full.
type table struct {
	hash    hasher
	stripes []stripe
}

// hasher is keyed, so that nobody outside can choose tuples that collide. The key outlives the process where the records do.
type hasher struct{ k0, k1 uint64 }

func newHasher() hasher {
	var b [16]byte
	_, _ = rand.Read(b[:]) // can't fail since Go 1.24
	return hasher{binary.LittleEndian.Uint64(b[:]), binary.LittleEndian.Uint64(b[8:])}
}

func (h hasher) of(k *flowKey) uint64 {
	return siphash.Hash(h.k0, h.k1, (*[unsafe.Sizeof(*k)]byte)(unsafe.Pointer(k))[:])
}

// stripesWanted trades lock contention (a few workers) against the cost of visiting every stripe on each tick.
const stripesWanted = 64

// minStripe keeps stripes large enough that hashing fills them evenly.
const minStripe = 4096

// shape is how many stripes a table for at least capacity flows has, and how many records are in each.
func shape(capacity int) (stripes, each int) {
	n := 1
	for n < stripesWanted && capacity/(n*2) >= minStripe {
		n *= 2
	}
	// Hashing spreads evenly but not exactly: a table that is full in one stripe may have a little room in another.
	return n, (capacity + n - 1) / n
}

// newTable makes a table for at least capacity flows, out of memory from allocate (see Config.Memory). If state isn't nil the records are in
// there; those that are there already are no flows before they are restored (see Proxy.restore).
func newTable(capacity int, state *FlowState, allocate func(bytes int) ([]byte, error)) (*table, error) {
	n, each := shape(capacity)
	bytes := n * stripeBytes(each)
	if state == nil {
		bytes += n * carved[flow](each)
	}
	memory, err := allocate(bytes)
	if err != nil {
		return nil, fmt.Errorf("memory for %d flows: %w", capacity, err)
	}
	t := &table{hash: newHasher(), stripes: make([]stripe, n)}
	records, marks := &memory, make([]stateMark, n)
	if state != nil {
		if state.Fresh() {
			state.begin(capacity, t.hash, state.Monotonic)
		}
		t.hash = hasher{state.header().Hash0, state.header().Hash1}
		kept := state.Memory[stateRecordsAt:]
		records, marks = &kept, state.marks()
	}
	for i := range t.stripes {
		t.stripes[i].flows = carve[flow](records, each)
		t.stripes[i].mark = &marks[i].record
		t.stripes[i].init(t.hash, &memory)
	}
	return t, nil
}

// carve takes n zero elements, without pointers, off the front of memory.
func carve[T any](memory *[]byte, n int) []T {
	bytes := carved[T](n)
	taken := unsafe.Slice((*T)(unsafe.Pointer(&(*memory)[0])), n)
	*memory = (*memory)[bytes:]
	return taken
}

// carved is how many bytes carve takes: whole cache lines.
func carved[T any](n int) int {
	var t T
	return wholeLines(n * int(unsafe.Sizeof(t)))
}

// wholeLines rounds bytes up to cache lines.
func wholeLines(bytes int) int {
	const line = 64
	return (bytes + line - 1) / line * line
}

// stripeBytes is the memory of a stripe but for its records, and indexSize the number of entries of its index.
func stripeBytes(capacity int) int {
	return carved[entry](indexSize(capacity)) + carved[link](linksSize(capacity))
}

func indexSize(capacity int) int {
	size := 8
	for size*3/4 < capacity {
		size *= 2
	}
	return size
}

func linksSize(capacity int) int { return capacity + 3 + wheelSlots }

// stripe is the stripe for a hash.
func (t *table) stripe(hash uint64) *stripe { return &t.stripes[hash&uint64(len(t.stripes)-1)] }

// capacity is how many flows fit.
func (t *table) capacity() int { return len(t.stripes) * len(t.stripes[0].flows) }

// stripe is a part of the table with a lock of its own.
type stripe struct {
	// mu guards everything below.
	mu sync.Mutex

	hash  hasher
	flows []flow
	// mark says which record is being rewritten, see stateMark.
	mark *uint32
	// index is an open-addressed hash table with linear probing.
	index []entry
	links links
	wheel wheel
	// unproven and ended list the flows that are evictable (see flow.evictable), the oldest first; free the unused slots.
	unproven, ended, free uint32
	// states counts flows by state.
	states [NumStates]int

	// Stripes lie in one slice: keep their locks in different cache lines.
	_ [64]byte
}

// init makes an empty stripe of records that are there already.
func (s *stripe) init(hash hasher, memory *[]byte) {
	s.hash = hash
	capacity := len(s.flows)
	n := uint32(capacity)
	s.index = carve[entry](memory, indexSize(capacity))
	s.links = carve[link](memory, linksSize(capacity))
	s.unproven, s.ended, s.free, s.wheel.first = n, n+1, n+2, n+3
	for i := range s.links {
		s.links.init(uint32(i))
	}
	for i := range n {
		s.links.push(s.free, i)
	}
	s.states[StateFree] = capacity
}

// find returns the slot of the flow with this key.
func (s *stripe) find(k *flowKey, hash uint64) (slot uint32, ok bool) {
	mask := uint64(len(s.index) - 1)
	for at := home(hash) & mask; ; at = (at + 1) & mask {
		e := s.index[at]
		if e == 0 {
			return 0, false
		}
		if e.tag() == tagOf(hash) {
			if slot := e.slot(); s.flows[slot].key == *k {
				return slot, true
			}
		}
	}
}

// insert makes a flow for a key that has none, zero but for the key. If the stripe is full the
// flow that is evictable for longest makes room, after evict has been told; if none is, insert fails. The caller sets the state.
func (s *stripe) insert(k *flowKey, hash uint64, evict func(*flow)) (slot uint32, ok bool) {
	if s.full() {
		return 0, false
	}
	if s.links.empty(s.free) {
		list := s.unproven // first of all: whoever made them need not exist
		if s.links.empty(list) {
			list = s.ended
		}
		oldest := s.links.first(list)
		evict(&s.flows[oldest])
		s.remove(oldest)
	}
	slot = s.links.first(s.free)
	s.links.unlink(slot)
	s.flows[slot] = flow{key: *k}
	s.enlist(slot, hash)
	return slot, true
}

// full says that insert would fail.
func (s *stripe) full() bool {
	return s.links.empty(s.free) && s.links.empty(s.unproven) && s.links.empty(s.ended)
}

// enlist puts a record, whose key has no other, into the index.
func (s *stripe) enlist(slot uint32, hash uint64) {
	mask := uint64(len(s.index) - 1)
	at := home(hash) & mask
	for s.index[at] != 0 {
		at = (at + 1) & mask
	}
	s.index[at] = newEntry(slot, tagOf(hash), (at-home(hash))&mask)
}

// rewrite notes that several fields of a record, which only together make sense, are about to change; rewritten that they have. A process
// that is killed in between leaves a record that is dropped by the next one, and no harm is done: a client that isn't spliced
// yet brings its cookie again. Atomic stores keep the compiler from moving others past them, and a signal that kills comes between two
// instructions.
func (s *stripe) rewrite(slot uint32) { atomic.StoreUint32(s.mark, slot+1) }

func (s *stripe) rewritten() { atomic.StoreUint32(s.mark, 0) }

// remove frees a slot. Entries that follow in the index move up, so that no search stops short of them.
func (s *stripe) remove(slot uint32) {
	hash := s.hash.of(&s.flows[slot].key)
	mask := uint64(len(s.index) - 1)
	at := home(hash) & mask
	for s.index[at] == 0 || s.index[at].slot() != slot {
		at = (at + 1) & mask
	}
	for hole, i := at, (at+1)&mask; ; i = (i + 1) & mask {
		e := s.index[i]
		if e == 0 {
			s.index[hole] = 0
			break
		}
		// e may move to the hole unless that lies before its home.
		far, step := s.distance(e, i), (i-hole)&mask
		if far >= step {
			s.index[hole] = newEntry(e.slot(), e.tag(), far-step)
			hole = i
		}
	}
	s.links.unlink(slot)
	s.links.pushFront(s.free, slot) // the next flow takes a record that is still in the caches
	s.setState(slot, StateFree)
}

// distance is how far the entry at a position of the index lies behind its home.
func (s *stripe) distance(e entry, at uint64) uint64 {
	if d, known := e.distance(); known {
		return d
	}
	return (at - home(s.hash.of(&s.flows[e.slot()].key))) & uint64(len(s.index)-1)
}

// setState changes a flow's state and the counts with it.
func (s *stripe) setState(slot uint32, to State) {
	f := &s.flows[slot]
	s.states[f.state]--
	s.states[to]++
	f.state = to
}

// arm puts the flow on the wheel, to be looked at when its time-out could have passed.
func (s *stripe) arm(slot uint32, deadline tick) {
	s.links.unlink(slot)
	s.links.push(s.wheel.head(deadline), slot)
}

// bury puts an evictable flow at the end of its list. They all last equally long, so the lists are in the
// order of their time-outs.
func (s *stripe) bury(slot uint32) {
	list := s.unproven
	if s.flows[slot].state.Ended() {
		list = s.ended
	}
	s.links.unlink(slot)
	s.links.push(list, slot)
}
