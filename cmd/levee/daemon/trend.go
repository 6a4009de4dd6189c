package daemon

import (
	"context"
	"sync"
	"time"

	"levee/cmd/levee/control"
	"levee/proxy"
)

// What counts as a flood for people: far more SYNs than clients that return their cookie.
const (
	// floodRate is the least rate of SYNs to one service, a second.
	floodRate = 1000
	// floodShare is how many SYNs there are for each valid cookie at least.
	floodShare = 4
	// floodHold is how long it must be calm before a flood is over.
	floodHold = 30 * time.Second
)

const (
	trendEvery = time.Second
	// trendSpan is how many samples lie between the two that rates are made of.
	trendSpan = 10
)

// trend remembers the counters of the last seconds, for rates, and since when each service is flooded.
type trend struct {
	mu      sync.Mutex
	samples []trendSample // at most trendSpan+1, the oldest first
	floods  map[string]floodTimes
}

type trendSample struct {
	at       time.Time
	services map[string]proxy.ServiceSnapshot
}

// floodTimes are when a flood began and when it was last seen.
type floodTimes struct{ since, last time.Time }

// take notes a snapshot.
func (t *trend) take(now time.Time, s *proxy.Snapshot) {
	sample := trendSample{now, make(map[string]proxy.ServiceSnapshot, len(s.Services))}
	for _, v := range s.Services {
		sample.services[v.Name] = v
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.floods == nil {
		t.floods = make(map[string]floodTimes)
	}
	if n := len(t.samples); n > 0 {
		before := &t.samples[n-1]
		for name, v := range sample.services {
			t.judge(now, now.Sub(before.at), name, before.services[name], v)
		}
	}
	if t.samples = append(t.samples, sample); len(t.samples) > trendSpan+1 {
		t.samples = t.samples[1:]
	}
}

// judge says from two samples of a service whether it is flooded.
func (t *trend) judge(now time.Time, between time.Duration, name string, before, after proxy.ServiceSnapshot) {
	syns, valid := after.SynReceived-before.SynReceived, after.CookieValid-before.CookieValid
	f, known := t.floods[name]
	switch {
	case perSecond(syns, between) >= floodRate && syns >= floodShare*valid:
		if !known {
			f.since = now
		}
		f.last = now
		t.floods[name] = f
	case known && now.Sub(f.last) >= floodHold:
		delete(t.floods, name)
	}
}

func perSecond(n uint64, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}

// since is what rates are made from: the oldest sample, or the first of a flood that is younger, but never the last one.
func (t *trend) since(began time.Time) *trendSample {
	for i := range t.samples[:len(t.samples)-1] {
		if s := &t.samples[i]; !s.at.Before(began) {
			return s
		}
	}
	return &t.samples[len(t.samples)-2]
}

// fill adds rates to a status, and the floods of services that are not watched for them: those of others are there already.
func (t *trend) fill(now time.Time, s *control.Status) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range s.Services {
		v := &s.Services[i]
		if f, ok := t.floods[v.Name]; ok && v.Engagement == nil {
			v.FloodSeconds = max(now.Sub(f.since).Seconds(), 1)
		}
		if len(t.samples) < 2 {
			continue
		}
		first, last := &t.samples[0], &t.samples[len(t.samples)-1]
		if v.FloodSeconds > 0 {
			first = t.since(now.Add(-time.Duration(v.FloodSeconds * float64(time.Second))))
		}
		a, b, d := first.services[v.Name], last.services[v.Name], last.at.Sub(first.at)
		v.Rates = control.Rates{
			Syn:         perSecond(b.SynReceived-a.SynReceived+b.SynPassed-a.SynPassed, d),
			CookieValid: perSecond(b.CookieValid-a.CookieValid, d),
			Opened:      perSecond(b.Opened-a.Opened, d),
			Failed:      perSecond(failures(&b)-failures(&a), d),
		}
	}
}

// failures are clients with a valid cookie that got no connection.
func failures(s *proxy.ServiceSnapshot) uint64 {
	return s.Refused + s.Unreachable + s.TimedOut + s.Mismatched
}

// watchTrend takes a sample every second.
func (d *daemon) watchTrend() error {
	d.background("trend", func(ctx context.Context) {
		every := time.NewTicker(trendEvery)
		defer every.Stop()
		for {
			s := d.proxy.Snapshot()
			d.trend.take(time.Now(), &s)
			select {
			case <-ctx.Done():
				return
			case <-every.C:
			}
		}
	})
	return nil
}
