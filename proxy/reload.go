package proxy

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// Reload changes the services, the time-outs and the MTU, which counts for new connections, to those of cfg at the time now, or nothing at all if it returns an error. What is fixed for the life of a
// Proxy must be as New was told, except that the zero value of Memory, Servers and Probe, which are not looked at, will do.
//
// A packet is decided about by the old configuration or the new one. A service is the one before if its name is: its counters go on. Open
// flows go on whatever becomes of their service, and a client that was sent a cookie is connected still. Reload may be called at any time.
func (p *Proxy) Reload(cfg Config, now time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := errors.Join(cfg.Validate(), p.fixed(&cfg)); err != nil {
		return err
	}
	seen := p.seen()
	if err := p.roster.room(cfg.Services, seen); err != nil {
		return err
	}
	cfg.SharedSecret = p.cfg.SharedSecret
	at, former := p.instant(now), p.policy.Load()
	next := newPolicy(&cfg, former, p.roster, at, seen)
	for _, s := range next.services {
		if s.inherits(former) {
			s.state.gate.Issued(at.unix)
		}
	}
	p.use(next)
	p.leave(former, at.unix)
	p.relearn(p.unused)
	return nil
}

// fixed says what of cfg can't be reloaded.
func (p *Proxy) fixed(cfg *Config) error {
	var errs []error
	for _, x := range []struct {
		what    string
		changed bool
	}{
		{"capacity", cfg.Capacity != p.cfg.Capacity},
		{"pool for early data", cfg.EarlyPool != p.cfg.EarlyPool},
		{"secret", cfg.Secret != p.cfg.Secret || cfg.SharedSecret != p.cfg.SharedSecret},
	} {
		if x.changed {
			errs = append(errs, fmt.Errorf("%s: it can't change while there are flows", x.what))
		}
	}
	return errors.Join(errs...)
}

// seen is the generation that every worker has seen, or a later one.
func (p *Proxy) seen() uint64 {
	seen := uint64(math.MaxUint64)
	for _, w := range p.workers {
		seen = min(seen, w.generation.Load())
	}
	return seen
}

// inherits says whether cookies may come back to a service that were issued for others: the former services that had some of its addresses and
// ports.
func (s *service) inherits(former *policy) bool {
	return slices.ContainsFunc(former.indexed, func(was *service) bool {
		if was == nil || was.state == s.state {
			return false
		}
		_, overlaps := s.overlaps(&was.Service)
		return overlaps
	})
}
