package flood

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	halfOpenBuckets = 1 << 14
	bucketCells     = 7
	// sweepPart is which part of the buckets each Tick looks at for handshakes that have lasted too long.
	sweepPart = 16
	// numbers is how many a row has.
	numbers = 1 << 13
	// slots is how many services are told apart, by numbers from 1; 0 is of those for which there is none.
	slots = 1 << 11
)

// halfOpen is the set of handshakes that have begun and not ended, and how many there are with each destination and each service.
type halfOpen struct {
	buckets [halfOpenBuckets]bucket
	swept   int
	// rows count by the hash of the destination, each by other bits of it, so that two destinations are unlikely to share both their numbers.
	rows     [2][numbers]atomic.Uint32
	services [slots]atomic.Uint32
}

// bucket is one cache line.
type bucket struct {
	// mu guards cells.
	mu    sync.Mutex
	cells [bucketCells]cell
}

// owner is what a handshake counts for: the numbers of its destination and of its service.
type owner struct {
	rows    [2]uint16
	service uint16
}

// cell is one handshake, or 0:
//
//	63 fingerprint 45 │ 44 service 34 │ 33 number in row 1 21 │ 20 number in row 0 8 │ 7 second it ends 0
type cell uint64

const fingerprintMask = ^cell(1<<45 - 1)

func newCell(flow uint64, by owner, ends uint8) cell {
	return fingerprintOf(flow) | cell(by.service)<<34 | cell(by.rows[1])<<21 | cell(by.rows[0])<<8 | cell(ends)
}

func fingerprintOf(flow uint64) cell { return cell(flow) & fingerprintMask }

func (c cell) fingerprint() cell { return c & fingerprintMask }
func (c cell) owner() owner {
	return owner{rows: [2]uint16{uint16(c>>8) % numbers, uint16(c>>21) % numbers}, service: uint16(c>>34) % slots}
}

// left is how many seconds are left of the handshake, negative if it should have ended.
func (c cell) left(second uint32) int8 { return int8(uint8(c) - uint8(second)) }

// count is how many are half-open with a destination, or a few more. ofService is the same of a service.
func (h *halfOpen) count(by owner) uint32 {
	return min(h.rows[0][by.rows[0]].Load(), h.rows[1][by.rows[1]].Load())
}

func (h *halfOpen) ofService(slot uint16) uint32 {
	if slot == 0 {
		return 0
	}
	return h.services[slot].Load()
}

// put puts a handshake, or 0, in the place of another. The bucket is locked.
func (h *halfOpen) put(at *cell, c cell) {
	if *at != 0 {
		h.tally(at.owner(), ^uint32(0))
	}
	if c != 0 {
		h.tally(c.owner(), 1)
	}
	*at = c
}

func (h *halfOpen) tally(by owner, n uint32) {
	h.rows[0][by.rows[0]].Add(n)
	h.rows[1][by.rows[1]].Add(n)
	h.services[by.service].Add(n)
}

func (h *halfOpen) bucket(flow uint64) *bucket { return &h.buckets[flow>>8%halfOpenBuckets] }

// add adds a handshake unless it is there already, and says whether it was new. It may take the place of the oldest in its bucket.
func (h *halfOpen) add(flow uint64, by owner, second uint32) bool {
	b, fingerprint := h.bucket(flow), fingerprintOf(flow)
	b.mu.Lock()
	defer b.mu.Unlock()
	oldest := &b.cells[0]
	for i := range b.cells {
		c := &b.cells[i]
		switch {
		case *c != 0 && c.fingerprint() == fingerprint && c.owner() == by && c.left(second) > 0:
			return false
		case *oldest != 0 && (*c == 0 || c.left(second) < oldest.left(second)):
			oldest = c
		}
	}
	h.put(oldest, newCell(flow, by, uint8(second+uint32(Lifetime/time.Second))))
	return true
}

// remove removes a handshake.
func (h *halfOpen) remove(flow uint64) {
	b, fingerprint := h.bucket(flow), fingerprintOf(flow)
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.cells {
		if c := &b.cells[i]; *c != 0 && c.fingerprint() == fingerprint {
			h.put(c, 0)
			return
		}
	}
}

// sweep removes the handshakes of the next part of the buckets that have lasted too long.
func (h *halfOpen) sweep(second uint32) {
	for range halfOpenBuckets / sweepPart {
		h.clear(&h.buckets[h.swept], func(c cell) bool { return c.left(second) <= 0 })
		h.swept = (h.swept + 1) % halfOpenBuckets
	}
}

// clear removes the handshakes of a bucket that are over.
func (h *halfOpen) clear(b *bucket, over func(cell) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.cells {
		if c := &b.cells[i]; *c != 0 && over(*c) {
			h.put(c, 0)
		}
	}
}

// marks are destinations and services whose handshakes are to be forgotten.
type marks struct {
	any      bool
	rows     [2][numbers]bool
	services [slots]bool
}

func (m *marks) destination(by owner) {
	m.any, m.rows[0][by.rows[0]], m.rows[1][by.rows[1]] = true, true, true
}

func (m *marks) service(slot uint16) {
	if slot != 0 {
		m.any, m.services[slot] = true, true
	}
}

// forget removes the handshakes of all that are marked, and the marks.
func (h *halfOpen) forget(m *marks) {
	if !m.any {
		return
	}
	for i := range h.buckets {
		h.clear(&h.buckets[i], func(c cell) bool {
			by := c.owner()
			return m.services[by.service] || m.rows[0][by.rows[0]] && m.rows[1][by.rows[1]]
		})
	}
	*m = marks{}
}
