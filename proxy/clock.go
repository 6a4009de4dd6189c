package proxy

import (
	"time"

	"levee/proxy/cookie"
)

// tick counts quarters of a second since the Proxy's start, for time-outs: 34 years of them.
type tick uint32

const ticksPerSecond = 4

// start is when a tick begins, since the Proxy's start.
func (t tick) start() time.Duration { return time.Duration(t) * time.Second / ticksPerSecond }

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
	// former is what unix would be without the clock's latest step, for as long as there may be cookies from before it. Otherwise it is unix.
	former int64
}

// timeline ties the wall clock to the monotonic one, which has no steps and stands still while the machine sleeps.
type timeline struct {
	// zero is the wall clock at the Proxy's start, and former what it was before its latest step, in nanoseconds since 1970.
	zero, former int64
	// until is when all cookies from before that step have expired. Until then no other step is followed, so that there are never more than two
	// timelines that cookies may be of, however often the clock is set.
	until tick
}

// step is by how much the wall clock has to differ from the timeline to have been set. It is beyond what can pass between the
// readings of the two clocks, mostly, and within what the clocks of nodes that share cookies may differ. A step that was none does no harm.
const step = 10 * time.Millisecond

// left says that the wall clock, which now tells this zero, has been set and is to be followed.
func (t *timeline) left(at tick, zero int64) bool {
	d := time.Duration(zero - t.zero)
	return at >= t.until && (d <= -step || step <= d)
}

// unixAt is the time in seconds on a timeline with this zero.
func unixAt(zero int64, since time.Duration) int64 { return time.Unix(0, zero+int64(since)).Unix() }

// instant turns a reading of the clock into the Proxy's terms. A clock before the start counts as the start.
func (p *Proxy) instant(now time.Time) instant {
	since := now.Sub(p.start)
	zero := now.UnixNano() - int64(since)
	since = max(since, 0)
	i := instant{tick: tick(since / (time.Second / ticksPerSecond)), since: since}
	line := p.timeline.Load()
	for line.left(i.tick, zero) {
		// Another worker may be first.
		p.timeline.CompareAndSwap(line, &timeline{zero: zero, former: line.zero, until: i.tick + cookieLifetime})
		line = p.timeline.Load()
	}
	i.unix = unixAt(line.zero, since)
	i.former = i.unix
	if i.tick < line.until {
		i.former = unixAt(line.former, since)
	}
	return i
}

// outstanding says whether cookies that a gate knows of may still come back.
func (i *instant) outstanding(g *cookie.Gate) bool { return g.Open(i.unix) || g.Open(i.former) }
