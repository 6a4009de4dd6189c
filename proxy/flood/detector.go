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

	// mu guards what follows. It is taken before the lock of a set.
	mu      sync.Mutex
	watches []*Watch
	floods  floods
	// used: a service has been watched, so that there may be something to look after.
	used bool
	// taken are the slots of services.
	taken [slots]bool
	// marks are what the Tick at work forgets.
	marks marks
}

// New makes a Detector that watches nothing. It takes about 2 MB.
func New() *Detector {
	return &Detector{destinations: destinations{seed: maphash.MakeSeed()}}
}

// Watch is what is known of one service. It outlives changes of the service's configuration.
type Watch struct {
	name string
	// limits are those of a destination, never nil.
	limits atomic.Pointer[limits]
	// slot is the number that the service's half-open handshakes are counted by, while it is watched.
	slot atomic.Uint32
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
	// unplaced is the most half-open handshakes that a destination without a place had since the latest Tick, when one more began.
	unplaced atomic.Uint32
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
	// lately is what unplaced was lately, and less from Tick to Tick.
	lately uint32
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
			if free := slices.Index(d.taken[1:], false) + 1; free > 0 {
				d.taken[free] = true
				w.slot.Store(uint32(free))
			}
		}
	}
}

func (w *Watch) setLimits() {
	l := w.configured.resolve(w.busiest.Rate())
	w.wholeLimits = l.spread(w.total.Rate())
	l.whole = w.wholeLimits.halfOpen
	if l != *w.limits.Load() {
		w.limits.Store(&l)
	}
}

// SYN notes a SYN of a service to one of its destinations and says whether that is engaged, so that it must not go to the server.
// flow is a keyed hash of the connection's addresses and ports.
func (d *Detector) SYN(w *Watch, to *Destination, flow uint64, now time.Duration) (engaged bool) {
	l := w.limits.Load()
	s, by := d.destinations.of(w, to)
	s.mu.Lock()
	p := s.claim(w, to, by, now)
	if p != nil {
		p.roll(now, *l)
		p.syns++
		if !p.engaged && p.syns >= l.synRate {
			p.engage(now, *l, BySYNRate)
		}
		engaged = p.engaged
	}
	s.mu.Unlock()
	if engaged {
		return true
	}
	w.syns.Add(1)
	return w.engaged.Load() || d.begin(w, to, flow, now, l, p != nil)
}

// begin counts a handshake as half-open with a destination, and says whether that engages it, or the service until the next Tick decides.
func (d *Detector) begin(w *Watch, to *Destination, flow uint64, now time.Duration, l *limits, placed bool) (engaged bool) {
	s, by := d.destinations.of(w, to)
	if d.halfOpen.ofService(by.service) >= l.whole {
		return true
	}
	if d.halfOpen.count(by) < l.halfOpen {
		added := d.halfOpen.add(flow, by, secondOf(now))
		n := d.halfOpen.count(by)
		if !placed && n > w.unplaced.Load() {
			w.unplaced.Store(n)
		}
		if !added || n < l.halfOpen {
			return false
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.force(w, to, by, now); p != nil && !p.engaged {
		p.engage(now, *l, ByHalfOpen)
	}
	return true
}

// Unfinished notes that a handshake is half-open still of which Refused was told: its server goes on with it.
func (d *Detector) Unfinished(w *Watch, to *Destination, flow uint64, now time.Duration) {
	s, _ := d.destinations.of(w, to)
	s.mu.Lock()
	p := s.find(w, to)
	engaged := w.engaged.Load() || p != nil && p.engaged
	s.mu.Unlock()
	if !engaged { // else so many are half-open there that one more is none
		d.begin(w, to, flow, now, w.limits.Load(), p != nil)
	}
}

// Finished notes that a client has proved to be there, by an acknowledgement to the server or by a cookie.
func (d *Detector) Finished(w *Watch, to *Destination, flow uint64, now time.Duration) {
	d.Refused(flow)
	s, _ := d.destinations.of(w, to)
	s.mu.Lock()
	p := s.find(w, to)
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
	s, by := d.destinations.of(w, to)
	if d.halfOpen.count(by) >= w.limits.Load().halfOpen {
		return true // perhaps without a place
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.find(w, to)
	return p != nil && p.engaged
}

// Refused notes that a handshake is half-open no longer.
func (d *Detector) Refused(flow uint64) {
	d.halfOpen.remove(flow)
}

// Tick does what time brings; it is due four times a second. unix is the time in seconds since 1970.
func (d *Detector) Tick(now time.Duration, unix int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.used {
		return // there is nothing to sweep
	}
	d.halfOpen.sweep(secondOf(now))
	for _, w := range d.watches {
		w.now = scene{}
	}
	for i := range d.destinations.sets {
		d.destinations.sets[i].tick(now, &d.halfOpen, &d.marks)
	}
	d.halfOpen.forget(&d.marks)
	kept := d.watches[:0]
	for _, w := range d.watches {
		slot := uint16(w.slot.Load())
		if w.tick(now, unix, d.halfOpen.ofService(slot)) {
			d.marks.service(slot)
		}
		d.floods.note(w, now)
		if w.active || w.flood != 0 {
			kept = append(kept, w)
			continue
		}
		d.marks.service(slot)
		d.taken[slot] = false
		w.slot.Store(0)
	}
	d.halfOpen.forget(&d.marks)
	clear(d.watches[len(kept):])
	d.watches = kept
}

// tick looks after the destinations of a set. Of one that has been engaged no handshakes need be known any longer: from now on its server gets
// none, and when it is let go the server has had the time to forget those.
func (s *set) tick(now time.Duration, h *halfOpen, m *marks) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.places {
		p := &s.places[i]
		if p.watch == nil {
			continue
		}
		if !p.watch.active {
			p.watch, p.alarm, p.credit = nil, alarm{}, 0
			continue
		}
		l := p.watch.limits.Load()
		if secondOf(now) > p.second {
			p.credit /= 2
		}
		p.roll(now, *l)
		if p.engaged && p.fresh {
			m.destination(p.by)
			p.fresh = false
		}
		if p.engaged && p.calm(now, *l) {
			p.engaged = false
		}
		p.show(&p.watch.now, h.count(p.by))
	}
}

// show adds a destination, with which so many handshakes are half-open, to the scene.
func (p *place) show(sc *scene, halfOpen uint32) {
	rate := max(p.rate, p.syns)
	sc.busiest, sc.mostRate = max(sc.busiest, p.finished), max(sc.mostRate, rate)
	if !p.engaged {
		sc.mostHalfOpen = max(sc.mostHalfOpen, halfOpen)
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

// tick decides about the service as a whole, and learns. So many handshakes are half-open with destinations that aren't engaged themselves. It says
// whether the service has just been engaged.
func (w *Watch) tick(now time.Duration, unix int64, halfOpen uint32) (engaged bool) {
	a, l := &w.whole, w.wholeLimits
	a.roll(now, l)
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
	case halfOpen >= l.halfOpen:
		a.engage(now, l, ByHalfOpen)
	}
	engaged, a.fresh = a.fresh, false
	w.lately = max(w.unplaced.Swap(0), w.lately-(w.lately+15)/16)
	w.engaged.Store(a.engaged)
	w.destinations.Store(int32(w.now.engaged))
	w.nearest.halfOpen.Store(max(w.now.mostHalfOpen, w.lately))
	w.nearest.rate.Store(w.now.mostRate)
	w.now.finished += a.finished
	if changed := w.busiest.Observe(unix, w.now.busiest); w.total.Observe(unix, w.now.finished) || changed {
		w.setLimits()
	}
	return engaged
}
