package proxy

import (
	"sync"
	"sync/atomic"
	"time"

	"levee/proxy/servers"
)

// Proxy is the SYN proxy: the services, the flow table and the workers.
type Proxy struct {
	cfg    Config
	policy *policy
	table  *table
	early  *earlyPool
	// opening counts connections whose server has not answered.
	opening openings
	// servers is what is known of the servers. Its locks are taken last.
	servers *servers.Table
	// remembered is how long a flow lasts that has ended, or an outbound one without an answer.
	remembered tick
	// start is the zero of all ticks.
	start time.Time
	// evicted counts flows that made room for others.
	evicted atomic.Uint64

	// mu guards workers, which only grows.
	mu      sync.Mutex
	workers []*Worker
}

// ownServers is how many servers a Proxy remembers that was given no table.
const ownServers = 1024

// New checks the configuration and makes a Proxy whose clock starts at now. It allocates the whole flow table.
func New(cfg Config, now time.Time) (*Proxy, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Memory == nil {
		cfg.Memory = func(bytes int) ([]byte, error) { return make([]byte, bytes), nil }
	}
	table, err := newTable(cfg.Capacity, cfg.Memory)
	if err != nil {
		return nil, err
	}
	if cfg.Servers == nil {
		cfg.Servers = servers.New(servers.Config{Capacity: ownServers, WScale: DefaultWScale, ClosedFor: servers.DefaultClosedFor})
	}
	if cfg.Probe == nil {
		cfg.Probe = func(servers.Key) {}
	}
	early, err := newEarlyPool(cfg.EarlyPool, cfg.Memory)
	if err != nil {
		return nil, err
	}
	return &Proxy{
		cfg: cfg, policy: newPolicy(&cfg), table: table, early: early, servers: cfg.Servers, start: now,
		remembered: max(ticks(cfg.TransitoryTimeout), cookieLifetime),
	}, nil
}

// Snapshot sums the counters. It may be called at any time.
func (p *Proxy) Snapshot() Snapshot {
	s := Snapshot{Capacity: p.table.capacity(), Evicted: p.evicted.Load()}
	s.EarlyUsed, s.EarlySize = p.early.level()
	for _, svc := range p.policy.services {
		s.Services = append(s.Services, ServiceSnapshot{Name: svc.Name, Mode: svc.Mode, Flows: int(svc.flows.Load())})
	}
	for i := range p.table.stripes {
		stripe := &p.table.stripes[i]
		stripe.mu.Lock()
		for state, n := range stripe.states {
			s.Flows[state] += n
		}
		stripe.mu.Unlock()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.workers {
		w.counters.addTo(&s)
	}
	return s
}

// Flows calls yield for every flow in the table, those that have ended included, until it
// returns false. It copies one stripe at a time: yield may take as long as it likes.
func (p *Proxy) Flows(now time.Time, yield func(FlowInfo) bool) {
	at := p.instant(now)
	var flows []flow
	for i := range p.table.stripes {
		stripe := &p.table.stripes[i]
		flows = flows[:0]
		stripe.mu.Lock()
		for j := range stripe.flows {
			if f := &stripe.flows[j]; f.state != StateFree {
				flows = append(flows, *f)
			}
		}
		stripe.mu.Unlock()
		for j := range flows {
			if !yield(p.info(&flows[j], at)) {
				return
			}
		}
	}
}

func (p *Proxy) info(f *flow, at instant) FlowInfo {
	client, server := f.ends()
	info := FlowInfo{
		Client: client, Server: server,
		Service:     p.policy.services[f.service].Name,
		State:       f.state,
		Age:         max(at.since-f.created, 0),
		Idle:        time.Duration(at.tick-min(f.lastSeen, at.tick)) * time.Second / ticksPerSecond,
		ClientBytes: f.half[0].bytes, ServerBytes: f.half[1].bytes,
	}
	if f.has(opened) {
		info.Delta, info.TSDelta = f.delta, f.tsDelta
	}
	return info
}
