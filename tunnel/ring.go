package tunnel

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Traffic is what a queue takes when the device is steered.
type Traffic uint8

const (
	FirstSYNs    Traffic = iota // on SYNQueue
	RepeatedSYNs                // on RepeatQueue
	Flows                       // everything else
)

// String returns the word that status and metrics use.
func (t Traffic) String() string {
	switch t {
	case FirstSYNs:
		return "first_syns"
	case RepeatedSYNs:
		return "repeated_syns"
	case Flows:
		return "flows"
	}
	return "unknown"
}

// trafficOf says what a queue of a steered device with so many of them takes.
func trafficOf(queue, queues int) Traffic {
	switch {
	case queue >= FlowQueue(queues):
		return Flows
	case queue == RepeatQueue:
		return RepeatedSYNs
	}
	return FirstSYNs
}

// RingStats is what became of the packets that the kernel chose a queue for.
type RingStats struct {
	Takes Traffic
	// Chosen counts them; a superpacket is one.
	Chosen uint64
	// Dropped is how many of those did not reach the worker, nearly always because the queue's ring was full. If packets were waiting
	// whenever the counters were read, it is what must have been dropped even if the ring was full of them, and more may
	// have been; Exact says that there was a moment when none were. It is not exact either once more were read than chosen: then the kernel has
	// split some.
	Dropped uint64
	Exact   bool
}

const (
	// ringLooks is how often Rings looks for a moment at which it can be exact, with pauses of ringPause.
	ringLooks = 4
	ringPause = time.Millisecond
)

// Rings returns the rings' counters, element i being queue i's, or nil without steering: only the
// steering program counts by queue. A packet that the kernel splits after it chose the queue, which
// the offloads avoid, hides a drop. It takes some milliseconds while packets arrive all the time. The error matches os.ErrClosed after Close.
func (d *Device) Rings() ([]RingStats, error) {
	d.controlMu.Lock()
	defer d.controlMu.Unlock()
	if d.closed {
		return nil, fmt.Errorf("queues of %s: %w", d.name, os.ErrClosed)
	}
	if d.steering == nil {
		return nil, nil
	}
	rings := make([]RingStats, len(d.queues))
	for i := range rings {
		rings[i].Takes = trafficOf(i, len(rings))
	}
	var device uint64
	for look := range ringLooks {
		if look > 0 {
			time.Sleep(ringPause)
		}
		if err := d.lookAtRings(rings); err != nil {
			return nil, err
		}
		stats, err := d.stats()
		if err != nil {
			return nil, err
		}
		device = stats.TxDropped
		var sum uint64
		for _, r := range rings {
			sum += r.Dropped
		}
		if sum == device {
			break
		}
	}
	for i := range rings {
		// No queue lost more than the device did. And what was known to be lost stays lost, also when less can be known now.
		d.dropped[i] = max(d.dropped[i], min(rings[i].Dropped, device))
		rings[i].Dropped = d.dropped[i]
	}
	return rings, nil
}

// lookAtRings adds what can be known now.
func (d *Device) lookAtRings(rings []RingStats) error {
	before := make([]uint64, len(rings))
	for i, q := range d.queues {
		before[i] = q.read()
	}
	chosen, err := d.steering.counts(len(rings))
	if err != nil {
		return err
	}
	for i, q := range d.queues {
		// What was chosen by then has been read or dropped if nothing is waiting now; nothing that came later
		// has been read if that counter still stands.
		atRest := !q.waiting() && q.read() == before[i]
		rings[i].look(chosen[i], q.read(), uint64(d.cfg.TxQueueLen), atRest)
	}
	return nil
}

// look adds one reading of the counters, of a queue that holds at most ring packets, and none if it is at rest. A packet that the
// kernel has chosen the queue for and not put into it yet seems to be lost, for a moment; so the least of several readings at rest is
// the best.
func (r *RingStats) look(chosen, read, ring uint64, atRest bool) {
	if !atRest {
		read += ring
	}
	lost := chosen - min(chosen, read)
	if r.Exact && (!atRest || lost >= r.Dropped) {
		return
	}
	r.Chosen, r.Dropped, r.Exact = chosen, lost, atRest && read <= chosen
}

// read counts the packets that were taken out of the ring.
func (q *Queue) read() uint64 {
	return q.counters.recvFrames.Load() + q.counters.recvShort.Load() + q.counters.recvOversize.Load()
}

// waiting says whether the ring holds packets.
func (q *Queue) waiting() bool {
	q.inUse.RLock()
	defer q.inUse.RUnlock()
	if q.closed.Load() {
		return false
	}
	fds := []unix.PollFd{{Fd: int32(q.fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err != nil || n > 0
}
