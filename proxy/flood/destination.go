package flood

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"levee/stack"
)

// Destination is where SYNs go: an address and port of a server.
type Destination struct {
	Addr stack.Addr
	Port uint16
}

// AddrPort is the destination as people read it.
func (d *Destination) AddrPort() netip.AddrPort { return netip.AddrPortFrom(d.Addr.Netip(), d.Port) }

const (
	sets   = 512
	ways   = 8
	places = sets * ways
)

// ref is a destination's place, and the generation of who has it.
type ref struct{ place, generation uint16 }

// destinations are those that get the most SYNs.
type destinations struct {
	seed maphash.Seed
	sets [sets]set
}

// set is the places of all destinations of one hash.
type set struct {
	// mu guards everything but halfOpen of the places.
	mu     sync.Mutex
	places [ways]place
	_      [48]byte
}

// place is one destination.
type place struct {
	to Destination
	// watch is its service; nil means that the place is free.
	watch *Watch
	// credit is how many SYNs more than others it has got lately. At 0 it makes room.
	credit   int32
	halfOpen counter
	alarm
}

// counter counts the half-open handshakes of whoever has the place: its generation in the upper half, the number in the lower.
type counter struct{ atomic.Uint64 }

func (c *counter) generation() uint16 { return uint16(c.Load() >> 32) }
func (c *counter) count() uint32      { return uint32(c.Load()) }

// forget begins a new generation.
func (c *counter) forget() {
	for {
		old := c.Load()
		if c.CompareAndSwap(old, (old>>32+1)&0xffff<<32) {
			return
		}
	}
}

// add counts up or down if the generation is the same, and returns the number.
func (c *counter) add(generation uint16, n int32) uint32 {
	for {
		old := c.Load()
		if uint16(old>>32) != generation {
			return 0
		}
		count := uint32(max(int64(uint32(old))+int64(n), 0))
		if c.CompareAndSwap(old, old>>32<<32|uint64(count)) {
			return count
		}
	}
}

func (d *destinations) at(to *Destination) int { return int(maphash.Comparable(d.seed, *to) % sets) }

// find is the place of a destination in the locked set and its number there, or nil.
func (s *set) find(w *Watch, to *Destination) (*place, int) {
	for i := range s.places {
		if p := &s.places[i]; p.watch == w && p.to == *to {
			return p, i
		}
	}
	return nil, 0
}

// maxCredit lets a destination that gets no more SYNs make room soon.
const maxCredit = 1 << 20

// claim is the place of a destination that gets a SYN and its number in the set, or nil if others have got too many more (Misra and Gries 1982). Destinations that are
// engaged keep their places.
func (s *set) claim(w *Watch, to *Destination, now time.Duration) (*place, int) {
	if p, i := s.find(w, to); p != nil {
		p.credit = min(p.credit+1, maxCredit)
		return p, i
	}
	for i := range s.places {
		p := &s.places[i]
		if p.watch == nil || p.credit == 0 && !p.engaged {
			p.halfOpen.forget()
			p.to, p.watch, p.credit, p.alarm = *to, w, 1, alarm{second: secondOf(now)}
			return p, i
		}
	}
	for i := range s.places {
		s.places[i].credit = max(s.places[i].credit-1, 0)
	}
	return nil, 0
}
