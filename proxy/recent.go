package proxy

import (
	"hash/maphash"
	"sync/atomic"
	"time"

	"levee/stack"
)

// recent remembers pairs of addresses and when they were noted last, by a keyed hash in a fixed number of places. Of two that share a place
// the later takes it. It is safe for concurrent use.
type recent struct {
	seed   maphash.Seed
	places []recentPlace
}

// recentPlace: the print of the pair, and when it was noted, since the Proxy's start. They may be of two pairs for a moment, in which one
// is taken for remembered that is not, or the other way round.
type recentPlace struct {
	print atomic.Uint64
	noted atomic.Int64
}

// newRecent has room for about n pairs, in 16 bytes each.
func newRecent(n int) *recent {
	return &recent{seed: maphash.MakeSeed(), places: make([]recentPlace, n)}
}

func (r *recent) find(a, b *stack.Addr) (print uint64, place *recentPlace) {
	print = max(maphash.Comparable(r.seed, [2]stack.Addr{*a, *b}), 1)
	return print, &r.places[print%uint64(len(r.places))]
}

func (r *recent) note(a, b *stack.Addr, now time.Duration) {
	print, place := r.find(a, b)
	place.noted.Store(int64(now))
	place.print.Store(print)
}

// within says whether a pair was noted at most so long ago.
func (r *recent) within(a, b *stack.Addr, now, life time.Duration) bool {
	print, place := r.find(a, b)
	return place.print.Load() == print && now-time.Duration(place.noted.Load()) <= life
}
