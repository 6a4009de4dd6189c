package control

import (
	"time"

	"levee/proxy"
)

// Engagement is what a service of mode auto does about floods now, and one of mode monitor would do, see proxy.Engagement.
type Engagement struct {
	// Engaged says that SYNs of the service are answered with cookies: those to so many Destinations, or all of them if it is Spread.
	Engaged      bool `json:"engaged"`
	Destinations int  `json:"destinations"`
	Spread       bool `json:"spread"`
	// HalfOpen and SynRate are the limits of a destination, configured or learned, and HoldSeconds how long it takes to let go.
	HalfOpen    int     `json:"half_open"`
	SynRate     int     `json:"syn_rate"`
	HoldSeconds float64 `json:"hold_seconds"`
	// HalfOpenNow and SynRateNow are how near to them the destination is that is nearest, see flood.Watch.Nearest.
	HalfOpenNow int `json:"half_open_now"`
	SynRateNow  int `json:"syn_rate_now"`
	// FloodsStarted and FloodsEnded count floods; PeakSynRate is the most SYNs in a second of the one that lasts, or else of the latest.
	FloodsStarted uint64 `json:"floods_started"`
	FloodsEnded   uint64 `json:"floods_ended"`
	PeakSynRate   int    `json:"peak_syn_rate"`
	// WouldAnswer counts SYNs that would have been answered with a cookie and WouldDrop packets that would have been dropped, had the service not
	// only been monitored.
	WouldAnswer uint64 `json:"would_answer"`
	WouldDrop   uint64 `json:"would_drop"`
}

// newEngagement is nil unless floods of the service are looked for.
func newEngagement(v *proxy.ServiceSnapshot) *Engagement {
	if v.Mode != proxy.ModeAuto && v.Mode != proxy.ModeMonitor {
		return nil
	}
	return &Engagement{
		Engaged: v.Engaged > 0 || v.Whole, Destinations: v.Engaged, Spread: v.Whole,
		HalfOpen: v.HalfOpen, SynRate: v.SYNRate, HoldSeconds: seconds(v.Hold),
		HalfOpenNow: v.MostHalfOpen, SynRateNow: v.MostRate,
		FloodsStarted: v.FloodsStarted, FloodsEnded: v.FloodsEnded, PeakSynRate: v.PeakRate,
		WouldAnswer: v.WouldAnswer, WouldDrop: v.WouldDrop,
	}
}

// Flood is one flood, see proxy.Flood.
type Flood struct {
	ID      uint64 `json:"id"`
	Service string `json:"service"`
	// Monitored says that nothing was done about it.
	Monitored bool      `json:"monitored"`
	Start     time.Time `json:"start"`
	// End is null while it lasts, and Seconds is how long it has lasted.
	End     *time.Time `json:"end"`
	Seconds float64    `json:"seconds"`
	// Cause is the limit that was reached first: half_open or syn_rate.
	Cause        string `json:"cause"`
	Destinations int    `json:"destinations"`
	Spread       bool   `json:"spread"`
	// Top is the destination that got the most SYNs in a second, empty if none reached a limit of its own.
	Top         string `json:"top"`
	TopSynRate  int    `json:"top_syn_rate"`
	PeakSynRate int    `json:"peak_syn_rate"`
}

// SetFloods adds the latest floods, the oldest first, and says of each service that is watched for how long it has been flooded.
func (s *Status) SetFloods(now time.Time, floods []proxy.Flood) {
	lasting := make(map[string]float64)
	for i := range floods {
		f := &floods[i]
		info := Flood{
			ID: f.ID, Service: f.Service, Monitored: f.Monitored, Start: f.Start, Seconds: seconds(now.Sub(f.Start)), Cause: f.Cause.String(),
			Destinations: f.Destinations, Spread: f.Spread, TopSynRate: f.TopRate, PeakSynRate: f.PeakRate,
		}
		if f.Top.IsValid() {
			info.Top = f.Top.String()
		}
		if f.End.IsZero() {
			lasting[f.Service] = max(info.Seconds, 1)
		} else {
			info.End, info.Seconds = &f.End, seconds(f.End.Sub(f.Start))
		}
		s.Floods = append(s.Floods, info)
	}
	for i := range s.Services {
		if v := &s.Services[i]; v.Engagement != nil {
			v.FloodSeconds = lasting[v.Name]
		}
	}
}
