package daemon

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"levee/cmd/levee/config"
	"levee/cmd/levee/control"
	"levee/proxy"
	"levee/proxy/cookie"
	"levee/proxy/servers"
	"levee/routes"
)

// Reloading is how a daemon gets another configuration while it runs.
type Reloading struct {
	// File is the configuration's, for messages; Load reads it.
	File string
	Load func() (config.Config, error)
	// Asked brings a value when it is to be read again, as SIGHUP asks for.
	Asked <-chan struct{}
	// Level is set to that of the configuration.
	Level *slog.LevelVar
}

// reloads is the configuration in force and what became of the latest reload.
type reloads struct {
	Reloading
	cfg    atomic.Pointer[config.Config]
	status atomic.Pointer[control.Configuration]

	// mu lets one reload at a time be at work, and guards what follows.
	mu sync.Mutex
	// open: everything is up, and nothing is being taken down.
	open bool
	// leaving are prefixes that no service has any longer, and since when: their rules stay while they are needed (see settle).
	leaving map[netip.Prefix]time.Time
}

const (
	// leaveEvery is how often levee looks whether the rules of removed prefixes are needed still.
	leaveEvery = 30 * time.Second
	// leaveAfter is how long they stay at least: clients have cookies.
	leaveAfter = 2*cookie.EpochSeconds*time.Second + time.Second
)

// allowReloads is the last step of the start, and its undoing the first of the end.
func (d *daemon) allowReloads() error {
	d.reloads.mu.Lock()
	d.reloads.open = true
	d.reloads.mu.Unlock()
	d.undo.add("reloads", func() error {
		d.reloads.mu.Lock()
		defer d.reloads.mu.Unlock()
		d.reloads.open = false
		return nil
	})
	d.background("reloads on demand", func(ctx context.Context) {
		tick := time.NewTicker(leaveEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-d.reloads.Asked:
				_, _ = d.Reload() // which logs
			case now := <-tick.C:
				d.settle(now)
			}
		}
	})
	return nil
}

// Reload implements control.Source. Whatever goes wrong, the configuration in force stays.
func (d *daemon) Reload() (changes []string, err error) {
	r := &d.reloads
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open {
		d.super.reloading()
		defer func() { d.super.ready(d.summary()) }()
	}
	status := control.Configuration{LoadedAt: time.Now(), LastReloadSuccessful: true}
	if changes, err = d.reload(status.LoadedAt); err != nil {
		status = control.Configuration{LoadedAt: r.status.Load().LoadedAt, LastError: err.Error()}
		d.log.Error("not reloaded, the configuration stays as it was", "error", err)
	} else {
		d.log.Info("reloaded", "changes", changes)
	}
	r.status.Store(&status)
	return changes, err
}

func (d *daemon) reload(now time.Time) ([]string, error) {
	r := &d.reloads
	if !r.open {
		return nil, errors.New("levee is starting or stopping: try again")
	}
	if d.drains.active() {
		return nil, errors.New("levee is draining, and then stops: levee drain --cancel first")
	}
	was := r.cfg.Load()
	next, err := r.Load()
	if err != nil {
		return nil, err
	}
	if err := was.Reloadable(&next, r.File); err != nil {
		return nil, err
	}
	leaving := make(map[netip.Prefix]time.Time)
	for p, since := range r.leaving {
		leaving[p] = since
	}
	for _, p := range was.Prefixes() {
		leaving[p] = now
	}
	for _, p := range next.Prefixes() {
		delete(leaving, p)
	}
	layout, err := d.relayout(next, leaving)
	if err != nil {
		return nil, err
	}
	former := d.layout
	if err := d.keepTUN(layout); err != nil {
		return nil, err
	}
	if layout.Routes != nil {
		if err := layout.Routes.Update(); err != nil {
			return nil, err
		}
	}
	if err := d.proxy.Reload(proxyConfig(next, layout, d.secret), now); err != nil {
		if layout.Routes != nil {
			err = errors.Join(err, former.Routes.Update())
		}
		return nil, err
	}
	changes := was.Changes(&next)
	d.layout, r.leaving = layout, leaving
	r.cfg.Store(&next)
	r.Level.Set(next.Log.Level)
	d.askServers(was, &next)
	return changes, nil
}

// relayout is the layout with rules for what is leaving too. If those can't be had any longer, because the way to them is gone, they
// are left out.
func (d *daemon) relayout(cfg config.Config, leaving map[netip.Prefix]time.Time) (*Layout, error) {
	was := d.former(leaving)
	layout, err := newLayout(cfg, was, routes.NewPlan)
	if err != nil && len(was.prefixes) > 0 {
		clear(leaving)
		was.prefixes = nil
		return newLayout(cfg, was, routes.NewPlan)
	}
	return layout, err
}

// former is what of the layout in force stays in the next one.
func (d *daemon) former(leaving map[netip.Prefix]time.Time) (was former) {
	was.prefixes = slices.SortedFunc(maps.Keys(leaving), netip.Prefix.Compare)
	if p := d.layout.Routes; p != nil {
		forgotten := func(name string) bool { return d.mending.forgotten(name) }
		was.clients, was.servers = slices.DeleteFunc(p.ClientInterfaces(), forgotten), slices.DeleteFunc(p.ServerInterfaces(), forgotten)
	}
	return was
}

// keepTUN makes the TUN of a new layout the one that is open. It stays as it is, but for its MTU, which grows with the interfaces'.
func (d *daemon) keepTUN(l *Layout) error {
	l.live = routes.Live{}
	mtu := max(l.TUN.MTU, d.layout.TUN.MTU)
	l.TUN = d.layout.TUN
	l.TUN.MTU = mtu
	return d.device.SetMTU(mtu)
}

// settle takes away the rules of removed prefixes that no flow needs: spliced connections have to go through levee until they end.
func (d *daemon) settle(now time.Time) {
	r := &d.reloads
	r.mu.Lock()
	defer r.mu.Unlock()
	leaving := make(map[netip.Prefix]time.Time)
	due := 0
	for p, since := range r.leaving {
		leaving[p] = since
		if now.Sub(since) >= leaveAfter {
			due++
		}
	}
	if !r.open || due == 0 {
		return
	}
	used := make(map[netip.Prefix]bool)
	d.proxy.Flows(now, func(f proxy.FlowInfo) bool {
		for p := range leaving {
			if p.Contains(f.Server.Addr()) {
				used[p] = true
			}
		}
		return true
	})
	for p, since := range leaving {
		if now.Sub(since) >= leaveAfter && !used[p] {
			delete(leaving, p)
		}
	}
	if len(leaving) == len(r.leaving) {
		return
	}
	layout, err := d.relayout(*r.cfg.Load(), leaving)
	if err == nil {
		err = d.keepTUN(layout)
	}
	if err == nil && layout.Routes != nil {
		err = layout.Routes.Update()
	}
	if err != nil {
		d.log.Warn("the rules of removed prefixes stay", "error", err)
		return
	}
	layout.MTU = d.layout.MTU
	d.layout, r.leaving = layout, leaving
	d.log.Info("rules of removed prefixes are gone", "left", len(leaving))
}

// askServers has the servers probed that only next lists.
func (d *daemon) askServers(was, next *config.Config) {
	if d.prober == nil {
		return
	}
	known := firstProbes(*was)
	for _, k := range firstProbes(*next) {
		if !slices.Contains(known, k) {
			d.prober.Ask(k, servers.WhatItDoes)
		}
	}
}

// Configuration implements metrics.Source.
func (d *daemon) Configuration() control.Configuration { return *d.reloads.status.Load() }
