package flood

import (
	"sync"
	"time"
)

const (
	halfOpenBuckets = 1 << 14
	bucketCells     = 7
	// sweepPart is which part of the buckets each Tick looks at for handshakes that have lasted too long.
	sweepPart = 16
)

// halfOpen is the set of handshakes that have begun and not ended, each with the destination it counts for.
type halfOpen struct {
	buckets [halfOpenBuckets]bucket
	swept   int
}

// bucket is one cache line.
type bucket struct {
	// mu guards cells.
	mu    sync.Mutex
	cells [bucketCells]cell
}

// cell is one handshake, or 0:
//
//	63 fingerprint 45 │ 44 1 │ 43 place of its destination 32 │ 31 generation of that 16 │ 15 second it ends 0
type cell uint64

const fingerprintMask = ^cell(1<<44 - 1)

func newCell(flow uint64, d ref, ends uint16) cell {
	return fingerprintOf(flow) | cell(d.place)<<32 | cell(d.generation)<<16 | cell(ends)
}

func fingerprintOf(flow uint64) cell { return cell(flow)&fingerprintMask | 1<<44 }

func (c cell) fingerprint() cell { return c & (fingerprintMask | 1<<44) }
func (c cell) ref() ref          { return ref{place: uint16(c>>32) & (places - 1), generation: uint16(c >> 16)} }
func (c cell) ends() uint16      { return uint16(c) }

// left is how many seconds are left of the handshake, negative if it should have ended.
func (c cell) left(second uint32) int16 { return int16(c.ends() - uint16(second)) }

func (h *halfOpen) bucket(flow uint64) *bucket { return &h.buckets[flow>>8%halfOpenBuckets] }

// add adds a handshake unless it is there already. It says whether it was new, and which other one has gone for it, if one has.
func (h *halfOpen) add(flow uint64, d ref, second uint32) (added bool, gone ref, lost bool) {
	b, fingerprint := h.bucket(flow), fingerprintOf(flow)
	b.mu.Lock()
	defer b.mu.Unlock()
	oldest := &b.cells[0]
	for i := range b.cells {
		c := &b.cells[i]
		switch {
		case *c != 0 && c.fingerprint() == fingerprint && c.ref() == d && c.left(second) > 0:
			return false, ref{}, false
		case *oldest != 0 && (*c == 0 || c.left(second) < oldest.left(second)):
			oldest = c
		}
	}
	gone, lost = oldest.ref(), *oldest != 0
	*oldest = newCell(flow, d, uint16(second+uint32(Lifetime/time.Second)))
	return true, gone, lost
}

// remove removes a handshake, and says which destination it counted for.
func (h *halfOpen) remove(flow uint64) (d ref, ok bool) {
	b, fingerprint := h.bucket(flow), fingerprintOf(flow)
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.cells {
		if c := &b.cells[i]; *c != 0 && c.fingerprint() == fingerprint {
			d = c.ref()
			*c = 0
			return d, true
		}
	}
	return ref{}, false
}

// sweep removes the handshakes of the next part of the buckets that have lasted too long.
func (h *halfOpen) sweep(second uint32, ended func(ref)) {
	for range halfOpenBuckets / sweepPart {
		b := &h.buckets[h.swept]
		h.swept = (h.swept + 1) % halfOpenBuckets
		b.mu.Lock()
		for i := range b.cells {
			if c := &b.cells[i]; *c != 0 && c.left(second) <= 0 {
				ended(c.ref())
				*c = 0
			}
		}
		b.mu.Unlock()
	}
}
