package lab

import (
	"sync/atomic"
	"time"
)

// churnSlot is what the ends of a Churn know of one connection. Everything is in two words, so that the client, its reader
// and the server's can look at it at once.
type churnSlot struct {
	// state is the connection's number plus one, above churnMarks; 0 is none yet.
	state atomic.Uint64
	// answer is what the server's SYN-ACK said: the number to acknowledge above its timestamp, 0 for none.
	answer atomic.Uint64
}

// What can be true of a connection.
const (
	// churnAnswered: the client has the SYN-ACK; churnAccepted: the server has the SYN.
	churnAnswered = 1 << iota
	churnAccepted
	// churnClosing: the client has sent its FIN or RST.
	churnClosing
	// churnEnded: it is over, in whatever way.
	churnEnded

	churnOpen  = churnAnswered | churnAccepted
	churnMarks = 8 // bits
)

func (s *churnSlot) begin(i int) { s.state.Store(uint64(i+1) << churnMarks) }

// marks are what is true of connection i; all of it if the slot is another's by now.
func (s *churnSlot) marks(i int) uint64 {
	state := s.state.Load()
	if state>>churnMarks != uint64(i+1) {
		return churnOpen | churnClosing | churnEnded
	}
	return state & (1<<churnMarks - 1)
}

// free says whether the slot can be another connection's.
func (s *churnSlot) free() bool {
	state := s.state.Load()
	return state == 0 || state&churnEnded != 0
}

// mark makes something true of connection i, if what it requires is and it hasn't ended. It returns the marks then; ok is false if
// nothing was changed.
func (s *churnSlot) mark(i int, mark, requires uint64) (now uint64, ok bool) {
	for {
		state := s.state.Load()
		if state>>churnMarks != uint64(i+1) || state&(mark|churnEnded) != 0 || state&requires != requires {
			return 0, false
		}
		if s.state.CompareAndSwap(state, state|mark) {
			return (state | mark) & (1<<churnMarks - 1), true
		}
	}
}

// giveUp ends connection i if its marks are still these.
func (s *churnSlot) giveUp(i int, marks uint64) bool {
	state := uint64(i+1)<<churnMarks | marks
	return s.state.CompareAndSwap(state, state|churnEnded)
}

// churnWait is a segment that waits for its answer.
type churnWait struct {
	connection int
	closing    bool
	tries      int
	since      time.Time
}

// churnQueue is first in, first out.
type churnQueue struct {
	waits []churnWait
	head  int
}

func (q *churnQueue) empty() bool      { return q.head == len(q.waits) }
func (q *churnQueue) first() churnWait { return q.waits[q.head] }
func (q *churnQueue) push(w churnWait) { q.waits = append(q.waits, w) }

func (q *churnQueue) pop() {
	q.head++
	if q.head > 4096 && q.head > len(q.waits)/2 {
		q.waits = q.waits[:copy(q.waits, q.waits[q.head:])]
		q.head = 0
	}
}
