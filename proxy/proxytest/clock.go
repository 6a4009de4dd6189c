package proxytest

import (
	"container/heap"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// Clock is a fake clock for both stacks and the proxy. It differs from gVisor's faketime.ManualClock in
// two ways: timers of one instant fire in the order in which they were set, and it says
// when the next is due, so that the network can go from event to event.
type Clock struct {
	start time.Time

	// mu guards the rest: gVisor sets and stops timers on its own goroutines.
	mu    sync.Mutex
	now   time.Time
	set   uint64 // counts timers ever set
	queue timerQueue
}

var _ tcpip.Clock = (*Clock)(nil)

// NewClock makes a clock that stands at start.
func NewClock(start time.Time) *Clock { return &Clock{start: start, now: start} }

// Now is the fake time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Elapsed is the fake time since the start.
func (c *Clock) Elapsed() time.Duration { return c.Now().Sub(c.start) }

// NowMonotonic is Elapsed for gVisor; an hour more, so that no difference goes below zero.
func (c *Clock) NowMonotonic() tcpip.MonotonicTime {
	return tcpip.MonotonicTime{}.Add(time.Hour + c.Elapsed())
}

// AfterFunc calls f when d has passed, on the goroutine that moves the clock.
func (c *Clock) AfterFunc(d time.Duration, f func()) tcpip.Timer {
	t := &timer{clock: c, f: f, at: -1}
	t.Reset(d)
	return t
}

// next is when the first timer is due.
func (c *Clock) next() (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 {
		return time.Time{}, false
	}
	return c.queue[0].due, true
}

// moveTo moves the clock forward, but fires nothing.
func (c *Clock) moveTo(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.After(c.now) {
		c.now = now
	}
}

// fire calls the timers that are due, and says whether there was one.
func (c *Clock) fire() bool {
	for fired := false; ; fired = true {
		c.mu.Lock()
		if len(c.queue) == 0 || c.queue[0].due.After(c.now) {
			c.mu.Unlock()
			return fired
		}
		t := heap.Pop(&c.queue).(*timer)
		c.mu.Unlock()
		t.f()
	}
}

// timer is a tcpip.Timer. Its clock's mutex guards everything but f.
type timer struct {
	clock *Clock
	f     func()
	due   time.Time
	set   uint64
	at    int // index in the queue, -1 if not in it
}

// Stop implements tcpip.Timer.
func (t *timer) Stop() bool {
	t.clock.mu.Lock()
	defer t.clock.mu.Unlock()
	if t.at < 0 {
		return false
	}
	heap.Remove(&t.clock.queue, t.at)
	return true
}

// Reset implements tcpip.Timer.
func (t *timer) Reset(d time.Duration) {
	c := t.clock
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.at >= 0 {
		heap.Remove(&c.queue, t.at)
	}
	c.set++
	t.due, t.set = c.now.Add(max(d, 0)), c.set
	heap.Push(&c.queue, t)
}

// timerQueue is a heap.Interface by time and order of setting.
type timerQueue []*timer

func (q timerQueue) Len() int { return len(q) }
func (q timerQueue) Less(i, j int) bool {
	if !q[i].due.Equal(q[j].due) {
		return q[i].due.Before(q[j].due)
	}
	return q[i].set < q[j].set
}
func (q timerQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].at, q[j].at = i, j
}
func (q *timerQueue) Push(x any) {
	t := x.(*timer)
	t.at = len(*q)
	*q = append(*q, t)
}
func (q *timerQueue) Pop() any {
	old := *q
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	t.at = -1
	return t
}
