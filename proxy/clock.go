package proxy

import "time"

// tick counts quarters of a second since the Proxy's start, for time-outs: 34 years of them.
type tick uint32

const ticksPerSecond = 4

// ticks is after how many ticks d has surely passed: rounded up, and one more because part of the present tick may be
// over already. A time-out is never early.
func ticks(d time.Duration) tick {
	const unit = time.Second / ticksPerSecond
	return tick((d+unit-1)/unit) + 1
}

// instant is one reading of the clock, made once for each batch of packets.
type instant struct {
	// tick and since count from the Proxy's start, by the monotonic clock.
	tick  tick
	since time.Duration
	// unix is the wall clock in seconds: cookies live by it, so that nodes can share them.
	unix int64
}

// instant turns a reading of the clock into the Proxy's terms. A clock before the start counts as the start.
func (p *Proxy) instant(now time.Time) instant {
	since := max(now.Sub(p.start), 0)
	return instant{
		tick:  tick(since / (time.Second / ticksPerSecond)),
		since: since,
		unix:  now.Unix(),
	}
}
