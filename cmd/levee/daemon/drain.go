package daemon

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"levee/cmd/levee/control"
	"levee/proxy"
)

const (
	// drainEvery is how often connections are counted, drainTick how often the time-out is looked at.
	drainEvery, drainTick = time.Second, 100 * time.Millisecond
	// drainLeast is how long a drain takes at least: clients that have just been sent a cookie come back with it.
	drainLeast = 3 * time.Second
	// drainQuiet is for how many counts no connection must be open: until then hosts send last segments again that were lost.
	drainQuiet = 2
	// drainLinger is how long those who look on have to hear that a drain is over.
	drainLinger = time.Second
)

// drains is the latest drain. reloads.mu is held by those that begin or cancel one; mu guards what follows.
type drains struct {
	mu       sync.Mutex
	state    control.DrainState
	began    time.Time
	deadline time.Time // zero: none
	// connections were open at the latest count, at the time counted, and none at as many counts in a row as quiet says.
	connections, quiet int
	counted            time.Time
}

// due says that connections are to be counted: a second after the last time, and when the time is over.
func (s *drains) due(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state == control.Draining && (now.Sub(s.counted) >= drainEvery || s.over(now))
}

// over says that the time is over. mu is held.
func (s *drains) over(now time.Time) bool { return !s.deadline.IsZero() && !now.Before(s.deadline) }

// look notes how many connections are open, and says whether the drain is over.
func (s *drains) look(now time.Time, connections int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != control.Draining {
		return false
	}
	s.connections, s.counted = connections, now
	if s.quiet++; connections > 0 {
		s.quiet = 0
	}
	switch took := now.Sub(s.began); {
	case s.quiet >= drainQuiet && took >= drainLeast:
		s.state = control.Drained
	case s.over(now):
		s.state = control.DrainTimedOut
		if connections == 0 {
			s.state = control.Drained
		}
	}
	return s.state != control.Draining
}

func (s *drains) progress(now time.Time) control.Drain {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == "" {
		return control.Drain{}
	}
	p := control.Drain{State: s.state, Connections: s.connections, Seconds: now.Sub(s.began).Seconds()}
	if !s.deadline.IsZero() {
		p.TimeoutSeconds = s.deadline.Sub(s.began).Seconds()
	}
	return p
}

// active says that levee drains, or is about to stop because it has.
func (s *drains) active() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state != "" && s.state != control.DrainCancelled
}

// allowDrains looks after drains.
func (d *daemon) allowDrains() error {
	d.background("drain", func(ctx context.Context) {
		tick := time.NewTicker(drainTick)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if now := time.Now(); !d.drains.due(now) || !d.drains.look(now, d.proxy.Spliced()) {
				continue
			}
			p := d.DrainProgress()
			d.log.Info("drain is over", "state", p.State, "connections", p.Connections)
			if sleep(ctx, drainLinger) {
				close(d.drained)
			}
			return
		}
	})
	return nil
}

// Drain implements control.Source: from now on every SYN goes to its server, as if all services were off.
func (d *daemon) Drain(timeout time.Duration) error {
	d.reloads.mu.Lock()
	defer d.reloads.mu.Unlock()
	s := &d.drains
	if !d.reloads.open {
		return errors.New("levee is starting or stopping: try again")
	}
	now := time.Now()
	if !s.active() {
		if err := d.proxy.Reload(drainConfig(proxyConfig(*d.reloads.cfg.Load(), d.layout, d.secret)), now); err != nil {
			return err
		}
		s.mu.Lock()
		s.state, s.began, s.quiet = control.Draining, now, 0
		s.connections, s.counted = d.proxy.Spliced(), now
		s.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline = time.Time{}
	if timeout > 0 {
		s.deadline = now.Add(timeout)
	}
	d.log.Info("draining: new connections go to the servers themselves", "connections", s.connections, "timeout", timeout)
	return nil
}

// drainConfig is that of a proxy that protects nothing new.
func drainConfig(cfg proxy.Config) proxy.Config {
	cfg.Services = slices.Clone(cfg.Services)
	for i := range cfg.Services {
		cfg.Services[i].Mode = proxy.ModeOff
	}
	return cfg
}

// DrainProgress implements control.Source.
func (d *daemon) DrainProgress() control.Drain { return d.drains.progress(time.Now()) }

// CancelDrain implements control.Source. The connections that began meanwhile are taken as they are for flows.grace, like those from before a
// start.
func (d *daemon) CancelDrain() error {
	d.reloads.mu.Lock()
	defer d.reloads.mu.Unlock()
	s := &d.drains
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.state {
	case control.Draining:
	case "", control.DrainCancelled:
		return errors.New("levee isn't draining")
	default:
		return errors.New("it is too late: the drain is over, and levee stops")
	}
	if !d.reloads.open {
		return errors.New("it is too late: levee stops")
	}
	if err := d.proxy.Reload(proxyConfig(*d.reloads.cfg.Load(), d.layout, d.secret), time.Now()); err != nil {
		return err
	}
	s.state = control.DrainCancelled
	d.log.Info("drain cancelled: protecting again", "connections", s.connections)
	return nil
}
