package tunnel

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// RingStats is what became of the packets that the kernel chose a queue for.
type RingStats struct {
	// Chosen counts them; a superpacket is one.
	Chosen uint64
	// Dropped is how many of those did not reach the worker, nearly always because the queue's ring was full. If packets were waiting
	// when the counters were read, it is what must have been dropped even if the ring was full of them, and more may
	// have been; Exact says that none were.
	Dropped uint64
	Exact   bool
}

// Rings returns the rings' counters, element i being queue i's, or nil without steering: only the
// steering program counts by queue. A packet that the kernel splits after it chose the queue, which
// the offloads avoid, hides a drop. The error matches os.ErrClosed after Close.
func (d *Device) Rings() ([]RingStats, error) {
	d.controlMu.Lock()
	defer d.controlMu.Unlock()
	if d.closed {
		return nil, fmt.Errorf("queues of %s: %w", d.name, os.ErrClosed)
	}
	if d.steering == nil {
		return nil, nil
	}
	// Packets arrive all the time: of a few looks one finds each queue at rest, if it ever is.
	const looks = 4
	rings := make([]RingStats, len(d.queues))
	before := make([]uint64, len(d.queues))
	for range looks {
		for i, q := range d.queues {
			before[i] = q.read()
		}
		chosen, err := d.steering.counts(len(d.queues))
		if err != nil {
			return nil, err
		}
		exact := true
		for i, q := range d.queues {
			// What was chosen by then has been read or dropped if nothing is waiting now; nothing that came later
			// has been read if that counter still stands.
			settled := !q.waiting() && q.read() == before[i]
			if !rings[i].Exact {
				rings[i] = ringStats(chosen[i], q.read(), uint64(d.ring), settled)
			}
			exact = exact && rings[i].Exact
		}
		if exact {
			break
		}
	}
	for i := range rings {
		// What was known to be lost stays lost, also when less can be known now.
		d.dropped[i] = max(d.dropped[i], rings[i].Dropped)
		rings[i].Dropped = d.dropped[i]
	}
	return rings, nil
}

func ringStats(chosen, read, ring uint64, settled bool) RingStats {
	r := RingStats{Chosen: chosen, Exact: settled}
	if !settled {
		read += ring
	}
	if chosen > read {
		r.Dropped = chosen - read
	}
	return r
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
