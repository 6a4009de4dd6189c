package daemon

import (
	"testing"
	"time"

	"levee/cmd/levee/control"
	"levee/proxy"
)

// A flood is seen within a second, lasts through its pauses, and is over half a minute after its end; a rush of real clients is none.
func TestTrend(t *testing.T) {
	var tr trend
	now := time.Unix(1e9, 0)
	var web, rush proxy.ServiceSnapshot
	web.Name, rush.Name = "web", "rush"
	second := func(syns, valid uint64) control.Status {
		now = now.Add(time.Second)
		web.SynReceived += syns
		web.CookieValid += valid
		web.Opened += valid
		web.Refused++
		rush.SynReceived += 5000
		rush.CookieValid += 4000
		tr.take(now, &proxy.Snapshot{Services: []proxy.ServiceSnapshot{web, rush}})
		s := control.Status{Services: []control.Service{{Name: "web"}, {Name: "rush"}, {Name: "new"}}}
		tr.fill(now, &s)
		if s.Services[1].FloodSeconds != 0 || s.Services[2] != (control.Service{Name: "new"}) {
			t.Fatalf("%v: %+v", now, s.Services)
		}
		return s
	}
	for range 20 {
		if s := second(999, 0); s.Services[0].FloodSeconds != 0 {
			t.Fatal("too early")
		}
	}
	if s := second(100, 10); s.Services[0].Rates != (control.Rates{Syn: 909.1, CookieValid: 1, Opened: 1, Failed: 1}) {
		t.Errorf("%+v", s.Services[0].Rates)
	}
	for i := range 100 {
		syns := uint64(50000)
		if i%20 > 10 {
			syns = 0 // pauses
		}
		if s := second(syns, 100); s.Services[0].FloodSeconds != float64(max(i, 1)) {
			t.Fatalf("%d: %+v", i, s.Services[0])
		}
	}
	for i := range 100 {
		if s := second(10, 10); (s.Services[0].FloodSeconds != 0) != (i < 20) { // the last 9 of the loop above were a pause
			t.Fatalf("%d s after the end: %+v", i, s.Services[0])
		}
	}
}

// The rates of a flood that is younger than ten seconds are its own, not those of the quiet before, also where the floods are told by others.
func TestTrendYoungFlood(t *testing.T) {
	for _, watched := range []bool{false, true} {
		var tr trend
		now := time.Unix(1e9, 0)
		web := proxy.ServiceSnapshot{Name: "web"}
		second := func(syns uint64) {
			now = now.Add(time.Second)
			web.SynReceived += syns
			tr.take(now, &proxy.Snapshot{Services: []proxy.ServiceSnapshot{web}})
		}
		for range 20 {
			second(10)
		}
		for age := range 15 {
			second(5000)
			s := control.Status{Services: []control.Service{{Name: "web"}}}
			if watched {
				s.Services[0].Engagement = &control.Engagement{Engaged: true}
				s.Services[0].FloodSeconds = float64(age) + 0.5
			}
			tr.fill(now, &s)
			if got := s.Services[0].Rates.Syn; got != 5000 {
				t.Errorf("watched is %v: %d s after its beginning a flood of 5000 SYNs a second has %v", watched, age, got)
			}
		}
	}
}
