package flood

import (
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Detector watches the services of a proxy. SYN, Finished and Refused may be called by several goroutines at once, and never allocate; Tick by
// one at a time. Times are since any zero, the same for all.
type Detector struct {
	destinations destinations
	halfOpen     halfOpen
	// ended is what is done about a handshake that has lasted too long.
	ended func(ref)

	// mu guards what follows. It is taken before the lock of a set.
	mu      sync.Mutex
	watches []*Watch
	floods  floods
	// used: a service has been watched, so that there may be something to look after.
	used bool
}

// New makes a Detector that watches nothing. It takes about 2 MB.
func New() *Detector {
	d := &Detector{destinations: destinations{seed: maphash.MakeSeed()}}
	d.ended = func(r ref) { d.destinations.counter(r).add(r.generation, -1) }
	return d
}

// Watch is what is known of one service. It outlives changes of the service's configuration.
type Watch struct {
	name string
	// limits are those of a destination, never nil.
	limits atomic.Pointer[limits]
	// syns counts SYNs to destinations that aren't engaged themselves, and finished their finished handshakes.
	syns, finished atomic.Uint64
	// engaged says that the service is as a whole.
	engaged atomic.Bool
	// destinations is how many of them are engaged.
	destinations atomic.Int32
	// started and ended count floods; peak is the most SYNs in a second of the one that lasts, or else of the latest.
	started, ended atomic.Uint64
	peak           atomic.Uint32
	// began and over are when the one that lasts, or else the latest, began and ended: since the Detector's zero, 0 for not yet.
	began, over atomic.Int64
	// nearest is how near the destinations are to their limits.
	nearest struct{ halfOpen, rate atomic.Uint32 }

	// The rest is the Detector's, under its lock.

	// configured, monitored and active are as Use has them.
	configured        Limits
	monitored, active bool
	// whole decides about the service as a whole. Of syns and finished it has had counted so many.
	whole                    alarm
	wholeLimits              limits
	countedSYNs, countedDone uint64
	// forget says that the service has just been let go: its servers have had the time to forget the handshakes of the flood.
	forget bool
	// busiest is of the busiest destination, total of all together.
	busiest, total Baseline
	// now is what the latest Tick saw.
	now scene
	// flood is the number of the one that lasts, or 0.
	flood uint64
}

// scene is a service at one moment.
type scene struct {
	// engaged destinations, the SYNs they got in a second, and who got the most.
	engaged  int
	rate     uint32
	top      Destination
	topRate  uint32
	topCause Cause
	// halfOpen handshakes with the others, and the most with one of all.
	halfOpen uint32
	// mostHalfOpen and mostRate are of any one destination, engaged or not: what the limits are for.
	mostHalfOpen, mostRate uint32
	// finished handshakes of the second before, and the most of one destination.
	finished, busiest uint32
}

// NewWatch makes a Watch for a service, for Use.
func NewWatch(name string) *Watch {
	w := &Watch{name: name}
	l := Limits{Hold: DefaultHold}.resolve(0)
	w.limits.Store(&l)
	return w
}

// Service is how a service is watched.
type Service struct {
	*Watch
	Limits
	// Monitored services are watched only: what is decided is not done.
	Monitored bool
}

// Use says which services are watched from now on, and how. What is engaged of others is let go.
func (d *Detector) Use(services []Service) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, w := range d.watches {
		w.active = false
	}
	d.used = d.used || len(services) > 0
	for _, s := range services {
		w := s.Watch
		w.active, w.configured, w.monitored = true, s.Limits, s.Monitored
		w.setLimits()
		if !slices.Contains(d.watches, w) {
			d.watches = append(d.watches, w)
		}
	}
}

func (w *Watch) setLimits() {
	l := w.configured.resolve(w.busiest.Rate())
	if l != *w.limits.Load() {
		w.limits.Store(&l)
	}
	w.wholeLimits = l.spread(w.total.Rate())
}

// SYN notes a SYN of a service to one of its destinations and says whether that is engaged, so that it must not go to the server.
// flow is a keyed hash of the connection's addresses and ports.
func (d *Detector) SYN(w *Watch, to *Destination, flow uint64, now time.Duration) (engaged bool) {
	l := w.limits.Load()
	at := d.destinations.at(to)
	s := &d.destinations.sets[at]
	s.mu.Lock()
	p, i := s.claim(w, to, now)
	if p == nil {
		s.mu.Unlock()
		w.syns.Add(1)
		return w.engaged.Load()
	}
	p.roll(now, *l)
	p.syns++
	if !p.engaged && p.syns >= l.synRate {
		p.engage(now, *l, BySYNRate)
	}
	engaged = p.engaged
	r := ref{place: uint16(at*ways + i), generation: p.halfOpen.generation()}
	s.mu.Unlock()
	switch {
	case engaged:
		return true
	case w.engaged.Load():
		w.syns.Add(1)
		return true
	}
	w.syns.Add(1)
	return d.begin(p, r, flow, now, l)
}

// begin counts a handshake as half-open with the destination that has a place, and says whether that engages it.
func (d *Detector) begin(p *place, r ref, flow uint64, now time.Duration, l *limits) (engaged bool) {
	added, gone, lost := d.halfOpen.add(flow, r, secondOf(now))
	if lost {
		d.ended(gone)
	}
	if !added || d.destinations.counter(r).add(r.generation, 1) < l.halfOpen {
		return false
	}
	s := &d.destinations.sets[r.place/ways]
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.halfOpen.generation() == r.generation && !p.engaged {
		p.engage(now, *l, ByHalfOpen)
	}
	return true
}

// Unfinished notes that a handshake is half-open still of which Refused was told: its server goes on with it.
func (d *Detector) Unfinished(w *Watch, to *Destination, flow uint64, now time.Duration) {
	at := d.destinations.at(to)
	s := &d.destinations.sets[at]
	s.mu.Lock()
	p, i := s.find(w, to)
	if p == nil || p.engaged {
		s.mu.Unlock()
		return // so many are half-open there that one more is none
	}
	r := ref{place: uint16(at*ways + i), generation: p.halfOpen.generation()}
	s.mu.Unlock()
	d.begin(p, r, flow, now, w.limits.Load())
}

// Finished notes that a client has proved to be there, by an acknowledgement to the server or by a cookie.
func (d *Detector) Finished(w *Watch, to *Destination, flow uint64, now time.Duration) {
	d.Refused(flow)
	s := &d.destinations.sets[d.destinations.at(to)]
	s.mu.Lock()
	p, _ := s.find(w, to)
	if p != nil {
		p.roll(now, *w.limits.Load())
		p.proven++
	}
	alone := p != nil && p.engaged
	s.mu.Unlock()
	if !alone {
		w.finished.Add(1)
	}
}

// Engaged says whether a destination is engaged.
func (d *Detector) Engaged(w *Watch, to *Destination) bool {
	if w.engaged.Load() {
		return true
	}
	s := &d.destinations.sets[d.destinations.at(to)]
	s.mu.Lock()
	defer s.mu.Unlock()
	p, _ := s.find(w, to)
	return p != nil && p.engaged
}

// Refused notes that a handshake is half-open no longer.
func (d *Detector) Refused(flow uint64) {
	if r, ok := d.halfOpen.remove(flow); ok {
		d.ended(r)
	}
}

// Tick does what time brings; it is due four times a second. unix is the time in seconds since 1970.
func (d *Detector) Tick(now time.Duration, unix int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.used {
		return // there is nothing to sweep
	}
	d.halfOpen.sweep(secondOf(now), d.ended)
	for _, w := range d.watches {
		w.now = scene{}
	}
	for i := range d.destinations.sets {
		d.destinations.sets[i].tick(now)
	}
	kept := d.watches[:0]
	for _, w := range d.watches {
		w.tick(now, unix)
		d.floods.note(w, now)
		if w.active || w.flood != 0 {
			kept = append(kept, w)
		}
	}
	clear(d.watches[len(kept):])
	d.watches = kept
}

// tick looks after the destinations of a set.
func (s *set) tick(now time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.places {
		p := &s.places[i]
		if p.watch == nil {
			continue
		}
		if !p.watch.active {
			p.watch, p.alarm, p.credit = nil, alarm{}, 0
			p.halfOpen.forget()
			continue
		}
		l := p.watch.limits.Load()
		if secondOf(now) > p.second {
			p.credit /= 2
		}
		p.roll(now, *l)
		calm := p.engaged && p.calm(now, *l)
		if calm {
			p.engaged = false
		}
		if calm || p.watch.forget && !p.engaged {
			p.halfOpen.forget() // the server has had the time for it too
		}
		p.show(&p.watch.now)
	}
}

// show adds a destination to the scene.
func (p *place) show(sc *scene) {
	rate := max(p.rate, p.syns)
	sc.busiest, sc.mostRate = max(sc.busiest, p.finished), max(sc.mostRate, rate)
	if !p.engaged {
		sc.halfOpen += p.halfOpen.count()
		sc.mostHalfOpen = max(sc.mostHalfOpen, p.halfOpen.count())
		return
	}
	sc.mostHalfOpen = max(sc.mostHalfOpen, uint32(p.unproven))
	sc.engaged++
	sc.rate += rate
	if sc.engaged == 1 || rate > sc.topRate {
		sc.top, sc.topRate, sc.topCause = p.to, rate, p.cause
	}
	sc.finished += p.finished
}

// tick decides about the service as a whole, and learns.
func (w *Watch) tick(now time.Duration, unix int64) {
	a, l := &w.whole, w.wholeLimits
	a.roll(now, l)
	was := a.engaged
	syns, done := w.syns.Load(), w.finished.Load()
	a.syns += uint32(syns - w.countedSYNs)
	a.proven += uint32(done - w.countedDone)
	w.countedSYNs, w.countedDone = syns, done
	switch {
	case !w.active:
		a.engaged = false
	case a.engaged:
		a.engaged = !a.calm(now, l)
	case a.syns >= l.synRate:
		a.engage(now, l, BySYNRate)
	case w.now.halfOpen >= l.halfOpen:
		a.engage(now, l, ByHalfOpen)
	}
	w.forget = was && !a.engaged
	w.engaged.Store(a.engaged)
	w.destinations.Store(int32(w.now.engaged))
	w.nearest.halfOpen.Store(w.now.mostHalfOpen)
	w.nearest.rate.Store(w.now.mostRate)
	w.now.finished += a.finished
	if changed := w.busiest.Observe(unix, w.now.busiest); w.total.Observe(unix, w.now.finished) || changed {
		w.setLimits()
	}
}

func (d *destinations) counter(r ref) *counter {
	return &d.sets[r.place/ways].places[r.place%ways].halfOpen
}
