package proxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"levee/proxy/cookie"
	"levee/stack"
)

const (
	// batchSize is the most frames between two readings of the clock. A batch of superpackets (64 KB each) should not
	// leave the processor's caches before it is sent.
	batchSize = 32
	// frameSize holds the longest IP packet.
	frameSize = stack.VirtioLen + 65535
	// frameSkew, from the beginning of a cache line, puts the payload behind the most frequent headers (IPv4, and TCP with
	// timestamps) at the beginning of a cache line too: the kernel then copies it in and out 5 to 10 % faster.
	frameSkew = 2
	// idleWait is how long a worker waits for packets before it looks after time-outs.
	idleWait = time.Second / ticksPerSecond
	// expireBudget bounds the flows looked at for time-outs between two batches.
	expireBudget = 512
)

// Worker moves packets from one Link through the proxy and back. It belongs to the goroutine that calls Run or Step.
type Worker struct {
	proxy    *Proxy
	link     Link
	counters *counters
	// policy is that of the batch in work; generation is its number, or that of an earlier one.
	policy     *policy
	generation atomic.Uint64
	// beat counts the calls of Step.
	beat  atomic.Uint64
	out   *output
	maker *cookie.Maker
	// formerMaker has the keys of the time before a step of the clock, for checks.
	formerMaker *cookie.Maker
	// id is the worker's number: it looks after the time-outs of every stripe whose number is id modulo the number of workers.
	id int
	// expired is the tick up to which all of them are done.
	expired tick
	// watchedAt is the tick of the latest look at floods, which is the first worker's business.
	watchedAt tick
	// behind: there were more of them than one batch may take, so that the next must not wait for packets.
	behind bool

	buffers, frames [][]byte
	pkt             stack.Packet
	quote           stack.Quote
	// now is the time of the batch in work.
	now instant
	// verdict is what becomes of the packet in work, dropped or passed why; decision is for those who look on (see observe.go).
	verdict  Verdict
	dropped  DropReason
	passed   PassReason
	decision Decision

	whenDue func(*flow) tick
	fire    func(uint32)
	// firing is the stripe whose time-outs are in work.
	firing *stripe
}

// NewWorker makes the worker for one link. Make all workers before the first runs.
func (p *Proxy) NewWorker(link Link) *Worker {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := &counters{}
	w := &Worker{
		proxy: p, link: link, counters: c,
		out:   newOutput(link, c, p.cfg.largestEarly()),
		maker: cookie.NewMaker(p.cfg.Secret), formerMaker: cookie.NewMaker(p.cfg.Secret),
		id: len(p.workers),
	}
	for range batchSize {
		w.buffers = append(w.buffers, make([]byte, frameSkew+frameSize)[frameSkew:])
	}
	w.frames = make([][]byte, batchSize)
	w.whenDue = w.due
	w.fire = w.timeout
	p.roster.join()
	w.take(p.policy.Load())
	p.workers = append(p.workers, w)
	return w
}

// Run moves packets until ctx is done or the link is closed, which is no error, or until the
// link fails. Closing the link ends it at once, ctx within a quarter of a second. It may be called again after an error: for a link
// that works again.
func (w *Worker) Run(ctx context.Context) error {
	w.out.err = nil
	for ctx.Err() == nil {
		if _, err := w.Step(time.Now, idleWait); err != nil {
			if errors.Is(err, os.ErrClosed) {
				return nil
			}
			return fmt.Errorf("worker %d: %w", w.id, err)
		}
	}
	return nil
}

// Beat returns a number that changes as long as the worker moves, several times a second even where there are no packets, because Run never waits
// for longer than that. It takes no lock, and may be called at any time.
func (w *Worker) Beat() uint64 { return w.beat.Load() }

// Step moves one batch of packets, waiting at most the given time for the first, and looks after time-outs. clock is read once,
// after the wait. It returns how many packets it received.
func (w *Worker) Step(clock func() time.Time, wait time.Duration) (int, error) {
	w.beat.Add(1)
	copy(w.frames, w.buffers)
	if w.behind || len(w.proxy.kills) > 0 {
		wait = 0
	}
	n, err := w.link.Recv(w.frames, wait)
	if err != nil {
		return 0, err
	}
	w.now = w.proxy.instant(clock())
	if p := w.proxy.policy.Load(); p != w.policy {
		w.take(p)
	}
	bytes := 0
	observers := w.proxy.observers.Load()
	for _, frame := range w.frames[:n] {
		bytes += len(frame) - stack.VirtioLen
		w.out.reserve()
		if observers == nil {
			w.packet(frame)
		} else {
			w.observed(*observers, frame)
		}
	}
	if n > 0 {
		w.counters.received.Add(uint64(n))
		w.counters.receivedBytes.Add(uint64(bytes))
	}
	w.carryOut()
	w.expire()
	w.watch()
	w.out.flush()
	return n, w.out.err
}

// take makes a policy the worker's, between two batches.
func (w *Worker) take(p *policy) {
	w.policy = p
	w.generation.Store(p.generation)
}

// serviceOf is the service of a record, whose stripe is locked. It is never nil.
func (w *Worker) serviceOf(f *flow) *service {
	if s := w.policy.of(f.service); s != nil {
		return s
	}
	// A worker that has taken a later policy made the record, just now: before it could lock the stripe, that policy was there.
	return w.proxy.policy.Load().of(f.service)
}

// assign makes a record that of a service. Its state stays for enter to change.
func (w *Worker) assign(f *flow, svc *service) {
	if f.service == svc.state.index || f.state == StateFree {
		f.service = svc.state.index
		return
	}
	was, proven := w.serviceOf(f).state, f.proven()
	if proven {
		w.proxy.count(f, -1) // of its source, with the former service
	}
	f.service = svc.state.index
	if proven {
		w.proxy.count(f, 1)
	}
	was.records.Add(-1)
	svc.state.records.Add(1)
	if live(f.state) {
		was.flows.Add(-1)
		svc.state.flows.Add(1)
	}
}

// count is what the worker counts of a service.
func (w *Worker) count(svc *service) *serviceCounters { return svc.state.counters[w.id] }

// expire looks after the time-outs of the worker's stripes, if the tick has changed.
func (w *Worker) expire() {
	w.behind = false
	if w.expired == w.now.tick {
		return
	}
	stripes, workers := w.proxy.table.stripes, len(w.proxy.workers)
	budget := expireBudget
	for i := w.id; i < len(stripes); i += workers {
		w.firing = &stripes[i]
		for done := false; !done; {
			// A time-out sends at most one segment, and not by way of the link while the lock is held.
			w.out.reserve()
			part := min(budget, w.out.room())
			w.firing.mu.Lock()
			left := w.firing.expire(w.now.tick, part, w.whenDue, w.fire)
			w.firing.mu.Unlock()
			budget -= part - left
			if budget == 0 {
				w.behind = true
				return
			}
			done = left > 0
		}
	}
	w.expired = w.now.tick
}

func (w *Worker) drop(r DropReason) {
	w.counters.drops[r].inc()
	w.verdict, w.dropped = VerdictDrop, r
}

func (w *Worker) pass(r PassReason, frame []byte) {
	w.counters.passed[r].inc()
	w.verdict, w.passed = VerdictPass, r
	w.out.forward(frame)
}
