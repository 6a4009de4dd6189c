package proxy

import (
	"sync/atomic"
	"time"
)

// roundTrips measures how long clients take to return their cookies. Nothing is stored for a SYN, so this is a sample: a fixed number of
// places, of which a SYN-ACK takes the one that its cookie names if that is free. A flood takes nearly all of them, and what
// is measured of honest clients is fewer, not other, times.
type roundTrips struct {
	// places hold the cookie, and the microseconds since the Proxy's start below it, which may have wrapped around.
	places [roundTripPlaces]atomic.Uint64
}

const (
	// roundTripPlaces is a power of two, 512 KiB in all.
	roundTripPlaces = 1 << 16
	// roundTripLimit is how long a place stays taken: nearly every client answers the first, second or third SYN-ACK by then.
	roundTripLimit = 8 * time.Second
)

// place is where a cookie belongs: its low bits are those of a MAC.
func (r *roundTrips) place(isn uint32) *atomic.Uint64 { return &r.places[isn%roundTripPlaces] }

func micros(d time.Duration) uint32 { return uint32(d / time.Microsecond) }

// sent notes that a cookie went out, since being the time then.
func (r *roundTrips) sent(isn uint32, since time.Duration) {
	place := r.place(isn)
	if old := place.Load(); old == 0 || micros(since)-uint32(old) >= micros(roundTripLimit) {
		place.Store(uint64(isn)<<32 | uint64(micros(since)))
	}
}

// returned says how long after sent a cookie came back, if that was noted. It answers once.
func (r *roundTrips) returned(isn uint32, since time.Duration) (d time.Duration, ok bool) {
	place := r.place(isn)
	old := place.Load()
	if old == 0 || uint32(old>>32) != isn || !place.CompareAndSwap(old, 0) {
		return 0, false
	}
	return time.Duration(micros(since)-uint32(old)) * time.Microsecond, true
}
