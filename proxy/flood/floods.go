package flood

import "time"

// Flood is the time during which something of a service is engaged.
type Flood struct {
	// ID numbers floods from 1, in the order of their starts.
	ID      uint64
	Service string
	// Monitored says that nothing was done about it.
	Monitored bool
	// Start and End are since the Detector's zero; End means nothing until it is Over.
	Start, End time.Duration
	Over       bool
	// Cause is what engaged the first destination, or the service.
	Cause Cause
	// Destinations is how many were engaged at once at most; Spread says that the service was engaged as a whole.
	Destinations int
	Spread       bool
	// Top is the destination that got the most SYNs in a second, and TopRate how many; the zero Destination if none was engaged.
	Top     Destination
	TopRate uint32
	// PeakRate is how many SYNs in a second all got that were engaged, at most.
	PeakRate uint32
}

// kept is how many floods are remembered.
const kept = 64

// floods are the latest.
type floods struct {
	latest uint64
	ring   [kept]Flood
}

// note sees what a service's latest scene means: the beginning of a flood, more of it, or its end.
func (fs *floods) note(w *Watch, now time.Duration) {
	sc := &w.now
	on := sc.engaged > 0 || w.whole.engaged
	if !on && w.flood == 0 {
		return
	}
	if w.flood == 0 {
		fs.latest++
		w.flood = fs.latest
		w.started.Add(1)
		w.peak.Store(0)
		w.over.Store(0)
		w.began.Store(int64(max(now, 1)))
		cause := sc.topCause
		if sc.engaged == 0 {
			cause = w.whole.cause
		}
		fs.ring[w.flood%kept] = Flood{ID: w.flood, Service: w.name, Monitored: w.monitored, Start: now, Cause: cause}
	}
	rate := sc.rate
	if w.whole.engaged {
		rate += max(w.whole.rate, w.whole.syns)
	}
	w.peak.Store(max(w.peak.Load(), rate))
	f := &fs.ring[w.flood%kept]
	if f.ID == w.flood { // else so many others have begun since that it is forgotten
		f.Destinations = max(f.Destinations, sc.engaged)
		if sc.engaged > 0 && (sc.topRate > f.TopRate || f.Top == Destination{}) {
			f.Top, f.TopRate = sc.top, sc.topRate
		}
		f.Spread = f.Spread || w.whole.engaged
		f.PeakRate = max(f.PeakRate, rate)
		if !on {
			f.Over, f.End = true, now
		}
	}
	if !on {
		w.ended.Add(1)
		w.over.Store(int64(now))
		w.flood = 0
	}
}

// Floods returns the latest, the oldest first, at most 64.
func (d *Detector) Floods() []Flood {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []Flood
	first := uint64(1)
	if d.floods.latest > kept {
		first = d.floods.latest - kept + 1
	}
	for id := first; id <= d.floods.latest; id++ {
		all = append(all, d.floods.ring[id%kept])
	}
	return all
}

// Engaged is how many destinations of the service are engaged, and whether it is as a whole.
func (w *Watch) Engaged() (destinations int, whole bool) {
	return int(w.destinations.Load()), w.engaged.Load()
}

// Counts are how many floods have begun and how many of them have ended, and the most SYNs in a second of the one that lasts, or else of the
// latest.
func (w *Watch) Counts() (started, ended uint64, peakRate int) {
	return w.started.Load(), w.ended.Load(), int(w.peak.Load())
}

// Latest is when the flood that lasts, or else the latest, began and ended, since the Detector's zero: 0 for not yet.
func (w *Watch) Latest() (began, ended time.Duration) {
	return time.Duration(w.began.Load()), time.Duration(w.over.Load())
}

// Nearest is how near the service's destinations are to Thresholds: the most half-open handshakes that any of them has, and the most SYNs
// that any of them got in a second, as of the latest Tick. Of a destination that is engaged, whose handshakes are half-open nowhere, the first is how many SYNs
// nobody has stood by lately, and no more than the limit. The SYN rate of destinations that get too few to be known counts for nothing; their half-open
// handshakes are told for some seconds after the latest SYN.
func (w *Watch) Nearest() (halfOpen, synRate int) {
	return int(w.nearest.halfOpen.Load()), int(w.nearest.rate.Load())
}

// Thresholds are the limits that a destination is judged by now: the configured ones, or those learned in their place.
func (w *Watch) Thresholds() (halfOpen, synRate int) {
	l := w.limits.Load()
	return int(l.halfOpen), int(l.synRate)
}

// Learned is what a service has usually been like, to be given to Relearn after a restart.
type Learned struct {
	// Busiest is of the busiest destination, Total of all together.
	Busiest, Total Baseline
}

// Learned returns what is known of a service.
func (d *Detector) Learned(w *Watch) Learned {
	d.mu.Lock()
	defer d.mu.Unlock()
	return Learned{w.busiest, w.total}
}

// Relearn gives a service what was known of it before.
func (d *Detector) Relearn(w *Watch, l Learned) {
	d.mu.Lock()
	defer d.mu.Unlock()
	w.busiest, w.total = l.Busiest, l.Total
	w.setLimits()
}
