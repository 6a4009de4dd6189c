package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Course is quiet, then a flood of one destination, then quiet again, while clients connect to that destination and to others, and exchange a little
// on connections that are open all the time.
type Course struct {
	// Targets are echo servers (StartEcho); the first is flooded.
	Targets []netip.AddrPort
	// Quiet and Flood are how long the first two parts last, and After the third.
	Quiet, Flood, After time.Duration
	// Rate of the flood, in SYNs a second, with forged sources.
	Rate int
	// Every is how often a client connects to each target and how often open connections are used.
	Every time.Duration
}

// CoursePoint is one exchange with a target: on a new connection, its handshake included, or on the one that is open all the time.
type CoursePoint struct {
	// At is when it began, since the beginning of the course, and Took how long it took.
	At, Took time.Duration
	// Target is the index of the target.
	Target int
	Open   bool
	// Retransmits of the client in a new connection.
	Retransmits int
	Err         error
}

// CourseSample is what levee said at one moment.
type CourseSample struct {
	At time.Duration
	// Flooded is how many SYNs had been forged.
	Flooded int
	// Answered SYNs got a cookie, Passed ones went to the server, of all services.
	Answered, Passed uint64
	// Engaged destinations.
	Engaged int
}

// CourseResult is what a Course saw.
type CourseResult struct {
	// Begin is the zero of all other times; the flood went from FloodFrom to FloodTo.
	Begin              time.Time
	FloodFrom, FloodTo time.Duration
	// Sent is how many SYNs were forged.
	Sent    int
	Points  []CoursePoint
	Samples []CourseSample
	// Retransmits of the clients' ends of the connections that were open all the time, by target.
	Retransmits []int
	// Status at the end.
	Status *Status
}

const (
	sampleEvery = 50 * time.Millisecond
	// exchangeTimeout bounds one exchange: two retransmissions of a SYN.
	exchangeTimeout = 5 * time.Second
)

// Run takes the course. Clients are the lab's first.
func (c Course) Run(ctx context.Context, l *Lab, lv *Levee) (*CourseResult, error) {
	r := &CourseResult{Begin: time.Now(), Retransmits: make([]int, len(c.Targets))}
	ctx, cancel := context.WithTimeout(ctx, c.Quiet+c.Flood+c.After)
	defer cancel()
	var mu sync.Mutex // guards the result
	var group sync.WaitGroup
	var failed error
	fail := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		failed = errors.Join(failed, err)
		cancel()
	}
	note := func(p CoursePoint) {
		mu.Lock()
		defer mu.Unlock()
		r.Points = append(r.Points, p)
	}
	client := l.Clients[0].Namespace
	for i, target := range c.Targets {
		conn, err := client.DialContext(ctx, "tcp", target.String())
		if err != nil {
			return nil, fmt.Errorf("connect before the flood: %w", err)
		}
		defer conn.Close()
		group.Go(func() {
			c.each(ctx, func() {
				p := CoursePoint{At: time.Since(r.Begin), Target: i, Open: true}
				p.Err = exchange(conn)
				p.Took = time.Since(r.Begin) - p.At
				note(p)
			})
			again, err := Retransmits(conn)
			if err != nil {
				fail(err)
			}
			mu.Lock()
			defer mu.Unlock()
			r.Retransmits[i] = again
		})
		group.Go(func() {
			c.each(ctx, func() {
				group.Go(func() { note(c.connect(client, r.Begin, i)) })
			})
		})
	}
	group.Go(func() {
		if err := c.flood(ctx, l, lv, r, &mu); err != nil {
			fail(err)
		}
	})
	group.Wait()
	if failed != nil {
		return nil, failed
	}
	slices.SortFunc(r.Points, func(a, b CoursePoint) int { return int(a.At - b.At) })
	var err error
	r.Status, err = lv.Status(context.WithoutCancel(ctx))
	return r, err
}

// each calls f every Every until ctx is done.
func (c Course) each(ctx context.Context, f func()) {
	tick := time.NewTicker(c.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f()
		}
	}
}

// connect is one exchange on a new connection. It goes on behind the end of the course.
func (c Course) connect(client *Namespace, begin time.Time, target int) CoursePoint {
	ctx, cancel := context.WithTimeout(context.Background(), exchangeTimeout)
	defer cancel()
	p := CoursePoint{At: time.Since(begin), Target: target}
	conn, err := client.DialContext(ctx, "tcp", c.Targets[target].String())
	if err == nil {
		err = exchange(conn)
		p.Took = time.Since(begin) - p.At
		again, e := Retransmits(conn)
		p.Retransmits = again
		err = errors.Join(err, e, conn.Close())
	}
	p.Err = err
	return p
}

// exchange sends a little and wants it back.
func exchange(conn net.Conn) error {
	var said, heard [64]byte
	err := errors.Join(conn.SetDeadline(time.Now().Add(exchangeTimeout)))
	if err == nil {
		_, err = conn.Write(said[:])
	}
	if err == nil {
		_, err = io.ReadFull(conn, heard[:])
	}
	return err
}

// flood floods when it is time, and samples levee's status all the time.
func (c Course) flood(ctx context.Context, l *Lab, lv *Levee, r *CourseResult, mu *sync.Mutex) error {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	var f *Flood
	for {
		select {
		case <-ctx.Done():
			if f == nil {
				return errors.New("the course was over before its flood began")
			}
			result, err := f.Stop()
			r.Sent = result.Sent
			if r.FloodTo == 0 {
				r.FloodTo = r.FloodFrom + result.Elapsed
			}
			return err
		case <-tick.C:
		}
		at := time.Since(r.Begin)
		if f == nil && at >= c.Quiet {
			var err error
			r.FloodFrom = at
			if f, err = l.Attacker.Link.StartFlood(context.WithoutCancel(ctx), FloodConfig{
				Target: c.Targets[0], Rate: c.Rate, Count: MaxFloodCount, Duration: c.Flood, Options: LinuxSYN,
			}); err != nil {
				return err
			}
		}
		if f != nil && r.FloodTo == 0 {
			select {
			case <-f.Done():
				result, err := f.Wait()
				if err != nil {
					return err
				}
				r.FloodTo = r.FloodFrom + result.Elapsed
			default:
			}
		}
		s := CourseSample{At: at}
		if f != nil {
			s.Flooded = f.Sent()
		}
		status, err := lv.Status(ctx)
		if ctx.Err() != nil {
			continue
		}
		if err != nil {
			return err
		}
		for _, v := range status.Services {
			s.Answered += v.SynReceived
			s.Passed += v.SynPassed
			if v.Engagement != nil {
				s.Engaged += v.Engagement.Destinations
			}
		}
		mu.Lock()
		r.Samples = append(r.Samples, s)
		mu.Unlock()
	}
}

// Took are the times of the exchanges with a target, sorted, of open connections or new ones, that began in a time.
func (r *CourseResult) Took(target int, open bool, from, to time.Duration) *LoadResult {
	l := &LoadResult{Failures: map[string]int{}}
	for _, p := range r.Points {
		if p.Target != target || p.Open != open || p.At < from || p.At >= to {
			continue
		}
		l.Tried++
		if p.Err != nil {
			l.Failures[failureKind(p.Err)]++
			continue
		}
		l.Completed++
		l.Latencies = append(l.Latencies, p.Took)
	}
	slices.Sort(l.Latencies)
	return l
}
