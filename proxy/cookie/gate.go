package cookie

import "sync/atomic"

// Gate remembers whether any cookie can still be outstanding, for one service or one server: an ACK
// that comes while none is has no cookie to acknowledge and needs no check. The zero value is a shut
// gate. It is safe for concurrent use, so that one goroutine can issue and others check.
//
// Leave it out where several nodes share a secret, because it doesn't know of the others' cookies;
// and leave it open for one life of a cookie after a restart with the same secret.
type Gate struct {
	// last is the latest epoch with a cookie, plus gateBias so that 0 means never.
	last atomic.Int64
}

// gateBias is beyond every epoch: |Epoch(unix)| ≤ 2^57.
const gateBias = 1 << 60

// Issued notes that a cookie goes out. Call it before the SYN-ACK is sent. It writes to memory once
// per epoch only.
func (g *Gate) Issued(unix int64) {
	now := Epoch(unix) + gateBias
	for {
		last := g.last.Load()
		// Never backwards: of two goroutines, the one with the older time may come second.
		if now <= last || g.last.CompareAndSwap(last, now) {
			return
		}
	}
}

// Open says whether cookies may be outstanding: whether one was issued in the epoch of unix, the one
// before, or a later one (by a goroutine whose time is ahead, or before the clock was set back).
func (g *Gate) Open(unix int64) bool { return g.last.Load() >= Epoch(unix)-1+gateBias }
