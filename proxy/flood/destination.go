package flood

import (
	"hash/maphash"
	"net/netip"
	"sync"
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

// destinations are those that get the most SYNs.
type destinations struct {
	seed maphash.Seed
	sets [sets]set
}

// set is the places of all destinations of one hash.
type set struct {
	mu     sync.Mutex
	places [ways]place
	_      [56]byte
}

// place is one destination.
type place struct {
	to Destination
	// watch is its service; nil means that the place is free.
	watch *Watch
	// credit is how many SYNs more than others it has got lately. At 0 it makes room.
	credit int32
	// by is what its half-open handshakes are counted by. Who has no place has them all the same.
	by owner
	alarm
}

// of is where a destination of a service has its place, and what its half-open handshakes are counted by.
func (d *destinations) of(w *Watch, to *Destination) (*set, owner) {
	h := maphash.Comparable(d.seed, *to)
	return &d.sets[h%sets], owner{service: uint16(w.slot.Load()), rows: [2]uint16{uint16(h>>16) % numbers, uint16(h>>32) % numbers}}
}

// find is the place of a destination in the locked set, or nil.
func (s *set) find(w *Watch, to *Destination) *place {
	for i := range s.places {
		if p := &s.places[i]; p.watch == w && p.to == *to {
			return p
		}
	}
	return nil
}

// maxCredit lets a destination that gets no more SYNs make room soon.
const maxCredit = 1 << 20

// claim is the place of a destination that gets a SYN, or nil if others have got too many more (Misra and Gries 1982). Destinations that are
// engaged keep their places. Those of a service that is engaged as a whole need none, and have what the others leave: a flood of one
// service costs no other's destination its place.
func (s *set) claim(w *Watch, to *Destination, by owner, now time.Duration) *place {
	if p := s.find(w, to); p != nil {
		p.credit = min(p.credit+1, maxCredit)
		return p
	}
	whole := w.engaged.Load()
	for i := range s.places {
		if p := &s.places[i]; p.yields(whole) {
			p.take(w, to, by, now)
			return p
		}
	}
	for i := range s.places {
		if p := &s.places[i]; !whole || p.watch.engaged.Load() {
			p.credit = max(p.credit-1, 0)
		}
	}
	return nil
}

// yields says whether a place is to be had for a destination of a service that is engaged as a whole, or of one that isn't.
func (p *place) yields(whole bool) bool {
	switch {
	case p.watch == nil:
		return true
	case p.engaged:
		return false
	case p.watch.engaged.Load() != whole:
		return !whole
	}
	return p.credit == 0
}

// take gives the place to another destination.
func (p *place) take(w *Watch, to *Destination, by owner, now time.Duration) {
	p.to, p.watch, p.by, p.credit, p.alarm = *to, w, by, 1, alarm{second: secondOf(now)}
}

// force is the place of a destination that must have one, or nil if all others of the set are engaged.
func (s *set) force(w *Watch, to *Destination, by owner, now time.Duration) *place {
	p := s.find(w, to)
	if p != nil {
		return p
	}
	for i := range s.places {
		if q := &s.places[i]; q.watch == nil || !q.engaged && (p == nil || q.credit < p.credit) {
			if p = q; p.watch == nil {
				break
			}
		}
	}
	if p != nil {
		p.take(w, to, by, now)
	}
	return p
}
