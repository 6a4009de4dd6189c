package proxy

import (
	"sync"
	"sync/atomic"
	"time"

	"levee/proxy/flood"
	"levee/proxy/servers"
)

// Proxy is the SYN proxy: the services, the flow table and the workers.
type Proxy struct {
	// cfg is what New was given, but for what a reload changes: that is in policy.
	cfg Config
	// policy is the latest. Each worker takes it at the beginning of a batch.
	policy atomic.Pointer[policy]
	table  *table
	early  *earlyPool
	// opening counts connections whose server has not answered.
	opening openings
	// servers is what is known of the servers. Its locks are taken last.
	servers *servers.Table
	// floods watches the services of ModeAuto and ModeMonitor. Its locks are taken last too.
	floods *flood.Detector
	// What follows is about sources; it outlives services.
	replies   replies
	verified  *verifiedSources
	opened    *budget // connections, by source
	perSource *tally  // proven flows, by source
	fragments fragments
	// grace bounds what passes during the grace.
	grace bucket
	// around is until when packets last went around levee, since the start: as long as there was grace from then.
	around atomic.Int64
	// start is the zero of all ticks: the time of New, or that of the first in a row that go on with the same flows.
	start time.Time
	// timeline is what the wall clock is by the monotonic one.
	timeline atomic.Pointer[timeline]
	// kills are orders to end flows, for whichever worker comes first.
	kills chan killOrder
	// began is when New was called.
	began    tick
	restored Restored
	// evicted counts flows that made room for others.
	evicted atomic.Uint64

	roundTrips roundTrips

	// observers are those who look at decisions, nil if nobody does. The slice is never changed, only replaced, under mu.
	observers atomic.Pointer[[]*Observer]

	// mu guards workers, which only grows, the roster of services, and unused.
	mu      sync.Mutex
	workers []*Worker
	roster  *roster
	// unused is what is usual for services that aren't configured, by name.
	unused map[string]flood.Learned
}

// ownServers is how many servers a Proxy remembers that was given no table.
const ownServers = 1024

// New checks the configuration and makes a Proxy whose clock starts at now, or goes on with that of the flows in Config.State. It
// allocates the whole flow table.
func New(cfg Config, now time.Time) (*Proxy, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Memory == nil {
		cfg.Memory = func(bytes int) ([]byte, error) { return make([]byte, bytes), nil }
	}
	if cfg.State != nil {
		if err := cfg.State.Check(cfg.Capacity); err != nil {
			return nil, err
		}
	}
	table, err := newTable(cfg.Capacity, cfg.State, cfg.Memory)
	if err != nil {
		return nil, err
	}
	if cfg.Servers == nil {
		cfg.Servers = servers.New(servers.Config{Capacity: ownServers, WScale: DefaultWScale, ClosedFor: servers.DefaultClosedFor})
	}
	if cfg.Probe == nil {
		cfg.Probe = func(servers.Key, servers.Question) {}
	}
	early, err := newEarlyPool(cfg.EarlyPool, cfg.Memory)
	if err != nil {
		return nil, err
	}
	p := &Proxy{
		cfg: cfg, table: table, early: early, servers: cfg.Servers, start: now, roster: newRoster(),
		unused:  make(map[string]flood.Learned),
		kills:   make(chan killOrder, killQueue),
		replies: newReplies(), verified: newVerifiedSources(), opened: newBudget(), perSource: newTally(cfg.Capacity),
		floods: flood.New(), fragments: fragments{passed: newRecent(fragmentPairs)},
	}
	if cfg.State != nil {
		p.start = cfg.State.zero(now)
	}
	p.timeline.Store(&timeline{zero: now.UnixNano() - int64(now.Sub(p.start))})
	at := p.instant(now)
	p.use(newPolicy(&cfg, &policy{}, p.roster, at, 0))
	if cfg.State != nil {
		p.began = at.tick
		p.restore(at)
	}
	return p, nil
}

// WentAround says that until now packets may have gone around levee, because somebody had taken away what leads them there. Connections that
// were opened meanwhile are taken as they are, for Config.Grace.
func (p *Proxy) WentAround(now time.Time) { p.around.Store(int64(p.instant(now).since)) }

// use makes a policy the one that workers take next. Proxy.mu is held, or nobody else has the Proxy yet.
func (p *Proxy) use(next *policy) {
	p.policy.Store(next)
	p.floods.Use(next.watched())
}

// Snapshot sums the counters. It may be called at any time.
func (p *Proxy) Snapshot() Snapshot {
	s := Snapshot{Capacity: p.table.capacity(), Evicted: p.evicted.Load()}
	s.EarlyUsed, s.EarlySize = p.early.level()
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
	for _, svc := range p.policy.Load().services {
		service := ServiceSnapshot{Name: svc.Name, Mode: svc.Mode, Flows: int(svc.state.flows.Load()), Engagement: svc.engagement(p.start)}
		for _, c := range svc.state.counters {
			c.addTo(&service)
		}
		s.Services = append(s.Services, service)
	}
	for _, w := range p.workers {
		w.counters.addTo(&s)
	}
	return s
}

// flowsChunk is how many records are looked at under one lock: a worker waits for no longer than that takes, some tens of microseconds.
const flowsChunk = 512

// Flows calls yield for every flow in the table, those that have ended included, until it
// returns false. It copies a few at a time: yield may take as long as it likes. A flow that lasts from the first to the last call
// is among them, once.
func (p *Proxy) Flows(now time.Time, yield func(FlowInfo) bool) {
	at := p.instant(now)
	copies := make([]flow, 0, flowsChunk)
	for i := range p.table.stripes {
		stripe := &p.table.stripes[i]
		for first := 0; first < len(stripe.flows); first += flowsChunk {
			copies = stripe.copyLive(copies[:0], first)
			for j := range copies {
				if !yield(p.info(&copies[j], at)) {
					return
				}
			}
		}
	}
}

// copyLive appends the flows in the chunk of slots from first on. A flow keeps its slot for as long as it lasts.
func (s *stripe) copyLive(into []flow, first int) []flow {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.flows[first:min(first+flowsChunk, len(s.flows))] {
		if f := &s.flows[first+i]; f.state != StateFree {
			into = append(into, *f)
		}
	}
	return into
}

func (p *Proxy) info(f *flow, at instant) FlowInfo {
	client, server := f.ends()
	name := ""
	if svc := p.policy.Load().of(f.service); svc != nil { // it may be gone by now, and its service
		name = svc.Name
	}
	age := max(at.since-f.created, 0)
	// Of the tick in which the last packet passed, part was over already.
	idle := min(time.Duration(at.tick-min(f.lastSeen, at.tick))*time.Second/ticksPerSecond, age)
	info := FlowInfo{
		Client: client, Server: server,
		Service:     name,
		State:       f.state,
		Direct:      f.has(direct),
		Age:         age,
		Idle:        idle,
		ClientBytes: f.half[0].bytes, ServerBytes: f.half[1].bytes,
	}
	if f.has(opened) {
		info.Delta, info.TSDelta = f.delta, f.tsDelta
	}
	return info
}
