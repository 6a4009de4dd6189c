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
	_      [64]byte
	drops  [NumDropReasons]counter
	passed [NumPassReasons]counter

	received, sent           counter
	receivedBytes, sentBytes counter

	// clients' halves of handshakes, as far as they are measured, and servers'.
	clients, servers durations
	_                [64]byte
}

// durations are what one Histogram is summed from.
type durations struct {
	buckets [len(HandshakeBuckets) + 1]counter
	sum     counter // nanoseconds
}

// serviceCounters is what ServiceSnapshot says, as one worker has counted it. It is padded like counters.
type serviceCounters struct {
	_                                                                    [64]byte
	synReceived, cookieValid, cookieInvalid, cookieRetrans, connReopened counter
	opened, refused, unreachable, timedOut, mismatched                   counter
	earlyHeld, closedReset, serverCookies                                counter
	allowed, denied, verified, unknownReset, adopted                     counter
	synPassed, halfOpenReset, wouldAnswer, wouldDrop                     counter
	_                                                                    [64]byte
}

func (c *durations) observe(d time.Duration) {
	bucket, _ := slices.BinarySearch(HandshakeBuckets[:], d.Seconds())
	c.buckets[bucket].inc()
	c.sum.Add(uint64(d))
}

func (c *durations) addTo(h *Histogram) {
	for i := range c.buckets {
		h.Buckets[i] += c.buckets[i].Load()
	}
	h.Sum += time.Duration(c.sum.Load())
}

// addTo adds a worker's counters to those of the service.
func (c *serviceCounters) addTo(s *ServiceSnapshot) {
	s.SynReceived += c.synReceived.Load()
	s.CookieValid += c.cookieValid.Load()
	s.CookieInvalid += c.cookieInvalid.Load()
	s.CookieRetrans += c.cookieRetrans.Load()
	s.ConnReopened += c.connReopened.Load()
	s.Opened += c.opened.Load()
	s.Refused += c.refused.Load()
	s.Unreachable += c.unreachable.Load()
	s.TimedOut += c.timedOut.Load()
	s.Mismatched += c.mismatched.Load()
	s.ServerCookies += c.serverCookies.Load()
	s.EarlyHeld += c.earlyHeld.Load()
	s.ClosedReset += c.closedReset.Load()
	s.Allowed += c.allowed.Load()
	s.Denied += c.denied.Load()
	s.Verified += c.verified.Load()
	s.UnknownReset += c.unknownReset.Load()
	s.Adopted += c.adopted.Load()
	s.SynPassed += c.synPassed.Load()
	s.HalfOpenReset += c.halfOpenReset.Load()
	s.WouldAnswer += c.wouldAnswer.Load()
	s.WouldDrop += c.wouldDrop.Load()
}

// addTo adds the worker's counters to a snapshot, but for those of services.
func (c *counters) addTo(s *Snapshot) {
	for i := range c.drops {
		s.Drops[i] += c.drops[i].Load()
	}
	for i := range c.passed {
		s.Passed[i] += c.passed[i].Load()
	}
	c.clients.addTo(&s.ClientHandshake)
	c.servers.addTo(&s.Handshake)
	s.Workers = append(s.Workers, WorkerSnapshot{
		Received: c.received.Load(), Sent: c.sent.Load(),
		ReceivedBytes: c.receivedBytes.Load(), SentBytes: c.sentBytes.Load(),
	})
}
