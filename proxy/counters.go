package proxy

import (
	"slices"
	"sync/atomic"
	"time"
)

// counter is written by one worker and read by anybody.
type counter struct{ atomic.Uint64 }

func (c *counter) inc() { c.Add(1) }

// counters are one worker's. They lie in an allocation of their own, padded, so that no two workers write to one cache line.
type counters struct {
	_        [64]byte
	drops    [NumDropReasons]counter
	passed   [NumPassReasons]counter
	services []serviceCounters

	received, sent           counter
	receivedBytes, sentBytes counter

	handshakes   [len(HandshakeBuckets) + 1]counter
	handshakeSum counter // nanoseconds
	_            [64]byte
}

// serviceCounters is what ServiceSnapshot says.
type serviceCounters struct {
	synReceived, cookieValid, cookieInvalid, cookieRetrans, connReopened counter
	opened, refused, unreachable, timedOut, mismatched                   counter
	earlyHeld, closedReset                                               counter
}

func newCounters(services int) *counters {
	// One more at each end: the elements at the edges share no line with a stranger's.
	padded := make([]serviceCounters, services+2)
	return &counters{services: padded[1 : services+1]}
}

func (c *counters) handshake(d time.Duration) {
	bucket, _ := slices.BinarySearch(HandshakeBuckets[:], d.Seconds())
	c.handshakes[bucket].inc()
	c.handshakeSum.Add(uint64(d))
}

// addTo sums the worker's counters into a snapshot whose services are there already.
func (c *counters) addTo(s *Snapshot) {
	for i := range c.drops {
		s.Drops[i] += c.drops[i].Load()
	}
	for i := range c.passed {
		s.Passed[i] += c.passed[i].Load()
	}
	for i := range c.services {
		from, to := &c.services[i], &s.Services[i]
		to.SynReceived += from.synReceived.Load()
		to.CookieValid += from.cookieValid.Load()
		to.CookieInvalid += from.cookieInvalid.Load()
		to.CookieRetrans += from.cookieRetrans.Load()
		to.ConnReopened += from.connReopened.Load()
		to.Opened += from.opened.Load()
		to.Refused += from.refused.Load()
		to.Unreachable += from.unreachable.Load()
		to.TimedOut += from.timedOut.Load()
		to.Mismatched += from.mismatched.Load()
		to.EarlyHeld += from.earlyHeld.Load()
		to.ClosedReset += from.closedReset.Load()
	}
	for i := range c.handshakes {
		s.Handshake.Buckets[i] += c.handshakes[i].Load()
	}
	s.Handshake.Sum += time.Duration(c.handshakeSum.Load())
	s.Workers = append(s.Workers, WorkerSnapshot{
		Received: c.received.Load(), Sent: c.sent.Load(),
		ReceivedBytes: c.receivedBytes.Load(), SentBytes: c.sentBytes.Load(),
	})
}
