package proxy

import (
	"net/netip"
	"time"

	"levee/proxy/flood"
)

// Engagement is what a service of ModeAuto does about floods now, and a service of ModeMonitor would do.
type Engagement struct {
	// Engaged is how many destinations have their SYNs answered with cookies; Whole says that all have, because a flood is spread over
	// many.
	Engaged int
	Whole   bool
	// HalfOpen and SYNRate are the limits that a destination is judged by, as configured or learned; 0 if the service is not watched.
	HalfOpen, SYNRate int
	// Hold is for how long less than half of both must be seen before a destination is let go.
	Hold time.Duration
	// FloodsStarted and FloodsEnded count floods; PeakRate is the most SYNs in a second of the one that lasts, or else of the latest.
	FloodsStarted, FloodsEnded uint64
	PeakRate                   int
	// FloodStart is when that flood began, and FloodEnd when it ended; zero if there was none, or while it lasts.
	FloodStart, FloodEnd time.Time
	// MostHalfOpen and MostRate are how near the destination is to the limits that is nearest to them, see flood.Watch.Nearest; 0 if the
	// service is not watched.
	MostHalfOpen, MostRate int
}

// engagement is of a service of a proxy that was made at start.
func (s *service) engagement(start time.Time) (e Engagement) {
	if s.watched() {
		e.Engaged, e.Whole = s.state.watch.Engaged()
		e.HalfOpen, e.SYNRate = s.state.watch.Thresholds()
		e.MostHalfOpen, e.MostRate = s.state.watch.Nearest()
		e.Hold = s.Engage.Hold
	}
	began, ended := s.state.watch.Latest()
	if began > 0 {
		e.FloodStart = start.Add(began)
	}
	if ended > 0 {
		e.FloodEnd = start.Add(ended)
	}
	e.FloodsStarted, e.FloodsEnded, e.PeakRate = s.state.watch.Counts()
	return e
}

// Flood describes a flood for people.
type Flood struct {
	// ID numbers floods from 1 in the order of their starts, since the Proxy's.
	ID      uint64
	Service string
	// Monitored says that the service was only monitored: nothing was done.
	Monitored bool
	// Start, and End, which is zero while it lasts.
	Start, End time.Time
	// Cause is the limit that was reached first.
	Cause flood.Cause
	// Destinations is how many were engaged at once, at most; Spread says that at some time all were.
	Destinations int
	Spread       bool
	// Top is the destination that got the most SYNs in a second, TopRate of them; not valid if no destination reached a limit of
	// its own.
	Top     netip.AddrPort
	TopRate int
	// PeakRate is the most SYNs in a second to all that were engaged.
	PeakRate int
}

// Floods returns the latest floods, the oldest first. It may be called at any time.
func (p *Proxy) Floods() []Flood {
	var all []Flood
	for _, f := range p.floods.Floods() {
		info := Flood{
			ID: f.ID, Service: f.Service, Monitored: f.Monitored, Start: p.start.Add(f.Start), Cause: f.Cause,
			Destinations: f.Destinations, Spread: f.Spread, TopRate: int(f.TopRate), PeakRate: int(f.PeakRate),
		}
		if f.Over {
			info.End = p.start.Add(f.End)
		}
		if f.Top != (flood.Destination{}) {
			info.Top = f.Top.AddrPort()
		}
		all = append(all, info)
	}
	return all
}
