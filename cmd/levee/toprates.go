package main

import (
	"time"

	"levee/cmd/levee/control"
)

// queuesFull stands among the reasons of drops for packets that found the TUN's queues full and never came to levee.
const queuesFull = "(queues full)"

// topRates are counts a second between two statuses.
type topRates struct {
	// Bits are what came out of the TUN.
	packets, bits                  float64
	syn, valid, bad, opened, fails float64
	dropped                        float64 // all of drops
	drops, passed                  map[string]float64
	services                       map[string]serviceRates
}

type serviceRates struct{ syn, valid, bad, opened, fails float64 }

// topSample is a status and when it was read.
type topSample struct {
	at     time.Time
	status control.Status
}

// ratesBetween returns what happened a second from a to b.
func ratesBetween(a, b *topSample) topRates {
	seconds := b.at.Sub(a.at).Seconds()
	per := func(before, after uint64) float64 {
		if seconds <= 0 || after < before { // a ring's least is not exact, and may be less than the one before
			return 0
		}
		return float64(after-before) / seconds
	}
	r := topRates{drops: map[string]float64{}, passed: map[string]float64{}, services: map[string]serviceRates{}}
	before := make(map[string]control.Service)
	for _, v := range a.status.Services {
		before[v.Name] = v
	}
	for _, v := range b.status.Services {
		u := before[v.Name] // nothing, for one that a reload has added
		s := serviceRates{
			syn:    per(u.SynReceived+u.SynPassed, v.SynReceived+v.SynPassed),
			valid:  per(u.CookieValid, v.CookieValid),
			bad:    per(u.CookieInvalid, v.CookieInvalid),
			opened: per(u.Opened, v.Opened),
			fails:  per(failedConnections(&u), failedConnections(&v)),
		}
		r.services[v.Name] = s
		r.syn, r.valid, r.bad, r.opened, r.fails = r.syn+s.syn, r.valid+s.valid, r.bad+s.bad, r.opened+s.opened, r.fails+s.fails
	}
	for reason, n := range b.status.Drops {
		r.drops[reason] = per(a.status.Drops[reason], n)
	}
	r.drops[queuesFull] = per(a.status.TUN.TxDrops, b.status.TUN.TxDrops)
	for _, n := range r.drops {
		r.dropped += n
	}
	for reason, n := range b.status.Passed {
		r.passed[reason] = per(a.status.Passed[reason], n)
	}
	var was, is control.Worker
	for to, workers := range map[*control.Worker][]control.Worker{&was: a.status.Workers, &is: b.status.Workers} {
		for _, w := range workers {
			to.Received, to.ReceivedBytes = to.Received+w.Received, to.ReceivedBytes+w.ReceivedBytes
		}
	}
	r.packets, r.bits = per(was.Received, is.Received), 8*per(was.ReceivedBytes, is.ReceivedBytes)
	return r
}

// failedConnections are clients with a valid cookie that got no connection.
func failedConnections(v *control.Service) uint64 {
	return v.Refused + v.Unreachable + v.TimedOut + v.Mismatched
}

// topHistory is what top has seen of one process of the daemon.
type topHistory struct {
	last  *topSample
	rates []topRates // one a look, the latest last
}

// maxTopHistory is as many looks as the widest screen shows.
const maxTopHistory = 500

// add takes a look into the history. Counters begin anew with each process.
func (h *topHistory) add(s topSample) {
	if h.last != nil && h.last.status.Started.Equal(s.status.Started) {
		h.rates = append(h.rates, ratesBetween(h.last, &s))
		h.rates = h.rates[max(len(h.rates)-maxTopHistory, 0):]
	}
	h.last = &s
}

// now are the latest rates, all 0 before the second look.
func (h *topHistory) now() topRates {
	if len(h.rates) == 0 {
		return topRates{}
	}
	return h.rates[len(h.rates)-1]
}
