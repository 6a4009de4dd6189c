package bench

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"levee/integration/lab"
)

const (
	// connWorkers connect one time after another, as fast as they can.
	connWorkers = 16
	// latencyRate is connections a second, evenly spread, few enough to leave the machine idle; latencyWorkers make
	// them, enough that one that waits holds up no other.
	latencyRate    = 500
	latencyWorkers = 64
)

// tally is what came of many connections.
type tally struct {
	mu        sync.Mutex // guards the rest
	tried     int
	completed []times
	failures  map[string]int
}

func (t *tally) add(one times, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tried++
	if err == nil {
		t.completed = append(t.completed, one)
		return
	}
	if t.failures == nil {
		t.failures = map[string]int{}
	}
	kind := err.Error()
	var errno syscall.Errno
	if errors.As(err, &errno) {
		kind = errno.Error()
	}
	t.failures[kind]++
}

// share is how many of those tried were completed, in percent.
func (t *tally) share() float64 { return 100 * float64(len(t.completed)) / float64(t.tried) }

// sorted are the durations of those completed.
func (t *tally) sorted(of func(times) time.Duration) []time.Duration {
	var all []time.Duration
	for _, one := range t.completed {
		all = append(all, of(one))
	}
	slices.Sort(all)
	return all
}

// err says what went wrong, if less than all were completed or none was tried.
func (t *tally) err() error { return t.errBelow(100) }

// errBelow is err for those that need only a percentage to be completed.
func (t *tally) errBelow(percent float64) error {
	if t.tried == 0 {
		return errors.New("no connection was tried")
	}
	if t.share() >= percent {
		return nil
	}
	var kinds []string
	for _, k := range slices.Sorted(maps.Keys(t.failures)) {
		kinds = append(kinds, fmt.Sprintf("%d × %s", t.failures[k], k))
	}
	return fmt.Errorf("%d of %d connections failed: %s", t.tried-len(t.completed), t.tried, strings.Join(kinds, ", "))
}

// inside runs a number of workers in a namespace, each on a thread of its own, and waits for them.
func inside(n *lab.Namespace, workers int, work func()) error {
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() { errs[i] = n.Do(func() error { work(); return nil }) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// race connects with every worker as often as it can, and returns how many were completed each second of the
// window. A connection that hangs at its end costs its worker's time, but doesn't make the window longer.
func race(n *lab.Namespace, to netip.AddrPort, window time.Duration) (t *tally, rate float64, err error) {
	t = &tally{}
	var inTime atomic.Int64
	begin := time.Now()
	err = inside(n, connWorkers, func() {
		for time.Since(begin) < window {
			one, err := exchange(to, clientFirst, peerTimeout)
			t.add(one, err)
			if err == nil && time.Since(begin) <= window {
				inTime.Add(1)
			}
		}
	})
	return t, float64(inTime.Load()) / window.Seconds(), err
}

// pace makes count connections, rate of them each second.
func pace(n *lab.Namespace, to netip.AddrPort, rate, count int) (*tally, error) {
	t := &tally{}
	var next atomic.Int64
	begin := time.Now()
	err := inside(n, latencyWorkers, func() {
		for {
			i := int(next.Add(1)) - 1
			if i >= count {
				return
			}
			time.Sleep(time.Until(begin.Add(time.Duration(i) * time.Second / time.Duration(rate))))
			t.add(exchange(to, clientFirst, peerTimeout))
		}
	})
	return t, err
}

// runConn measures how many short connections a second there can be, how long one takes when there are few, and how long
// when there are few and a flood.
func (b *bench) runConn(ctx context.Context, id contenderID) (expect seen, err error) {
	server, err := startResponder(b.server.Namespace, b.nextPort(), clientFirst, latencyWorkers)
	if err != nil {
		return expect, err
	}
	defer func() { err = errors.Join(err, server.close()) }()

	fast, rate, err := race(b.near.Namespace, server.addr, b.length.rate)
	if err != nil {
		return expect, err
	}
	if err := errors.Join(fast.err(), ctx.Err()); err != nil {
		return expect, fmt.Errorf("as fast as it goes: %w", err)
	}
	count := int(latencyRate * b.length.latency.Seconds())
	idle, err := pace(b.near.Namespace, server.addr, latencyRate, count)
	if err != nil {
		return expect, err
	}
	if err := errors.Join(idle.err(), ctx.Err()); err != nil {
		return expect, fmt.Errorf("without a flood: %w", err)
	}
	even, err := b.paceFlooded(ctx, server.addr, count, evenFlood)
	if err != nil {
		return expect, err
	}
	flooded, err := b.paceFlooded(ctx, server.addr, count, 0)
	if err != nil {
		return expect, err
	}

	b.report.add("conn-rate", id, rate)
	b.addLatencies("idle", id, idle)
	b.addLatencies("even", id, even)
	b.report.add("even-completed", id, even.share())
	b.addLatencies("flood", id, flooded)
	b.report.add("flood-completed", id, flooded.share())
	return seen{connections: uint64(len(fast.completed) + len(idle.completed) + len(even.completed) + len(flooded.completed))}, nil
}

// evenFlood is a flood, in SYNs a second, that each contender answers wholly. With one as fast as the generator goes, each has another:
// the generator's core does SYNPROXY's work too, and that slows it down, but not levee's.
const evenFlood = 50_000

// paceFlooded connects during a flood to the same port, of so many SYNs a second, or with 0 as fast as one core goes. That
// connections fail is a result here.
func (b *bench) paceFlooded(ctx context.Context, to netip.AddrPort, count, rate int) (t *tally, err error) {
	f, err := b.lab.Attacker.Link.StartFlood(ctx, floodConfig(to, rate, b.length.settle+b.length.latency+2*peerTimeout))
	if err != nil {
		return nil, err
	}
	defer func() {
		_, e := f.Stop()
		err = errors.Join(err, e)
	}()
	if err := sleep(ctx, b.length.settle); err != nil {
		return nil, err
	}
	if t, err = pace(b.near.Namespace, to, latencyRate, count); err != nil {
		return nil, err
	}
	select {
	case <-f.Done():
		return nil, errors.Join(errors.New("the flood ended before the connections did"), ctx.Err())
	default:
	}
	return t, ctx.Err()
}

// percentiles of the time from connect to the last byte of the page.
var percentiles = []struct {
	name string
	p    float64
}{{"p50", 0.5}, {"p99", 0.99}, {"p999", 0.999}}

func (b *bench) addLatencies(when string, id contenderID, t *tally) {
	sorted := t.sorted(func(t times) time.Duration { return t.last })
	for _, p := range percentiles {
		b.report.add(when+"-"+p.name, id, milliseconds(percentile(sorted, p.p)))
	}
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }
