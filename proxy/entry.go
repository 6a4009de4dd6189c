package proxy

// entry is an entry of a stripe's index, 0 if empty: which flow it is about, enough of the flow's hash to pass over
// nearly all others without a look at their records, and how far behind its home it had to be put, so
// that entries can move up when one is removed without a look at the records either. In 4 bytes rather than 8, because
// what is more is paid for each flow of capacity, and the index of a million flows nearly fits the caches.
//
//	31 tag 25 │ 24 distance 21 │ 20 slot + 1 0
type entry uint32

const (
	slotBits     = 21
	distanceBits = 4

	// maxSlots is the most flows of a stripe: enough for MaxCapacity, or this does not compile.
	maxSlots = 1<<slotBits - 1
	_        = uint(maxSlots - (MaxCapacity+stripesWanted-1)/stripesWanted)
	// farAway stands for every distance that doesn't fit.
	farAway = 1<<distanceBits - 1
)

func newEntry(slot uint32, tag uint32, distance uint64) entry {
	return entry(tag<<(slotBits+distanceBits) | uint32(min(distance, farAway))<<slotBits | (slot + 1))
}

// slot is only for an entry that isn't empty.
func (e entry) slot() uint32 { return uint32(e)&maxSlots - 1 }

func (e entry) tag() uint32 { return uint32(e) >> (slotBits + distanceBits) }

// distance counts positions from the home to the entry. It is not known if it is farAway or more.
func (e entry) distance() (d uint64, known bool) {
	d = uint64(e) >> slotBits & farAway
	return d, d < farAway
}

// home is where in the index the search for a hash begins, before the reduction to the index's size, and tagOf its
// tag. The stripe takes the lowest bits of the hash: these are others.
func home(hash uint64) uint64  { return hash >> 32 }
func tagOf(hash uint64) uint32 { return uint32(hash) >> (slotBits + distanceBits) }
