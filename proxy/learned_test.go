package proxy

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"levee/proxy/flood"
)

// limitsOf are the limits of the service of this name.
func (r *rig) limitsOf(name string) (halfOpen, synRate int) {
	r.t.Helper()
	for _, s := range r.proxy.Snapshot().Services {
		if s.Name == name {
			return s.Engagement.HalfOpen, s.Engagement.SYNRate
		}
	}
	r.t.Fatalf("no service %s", name)
	return 0, 0
}

// learningConfig is the rig's configuration, with services of these names whose limits are learned.
func (r *rig) learningConfig(names ...string) Config {
	cfg := r.proxy.cfg
	cfg.Services = nil
	for i, name := range names {
		cfg.Services = append(cfg.Services, Service{
			Name: name, Prefixes: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/32", i))}, Mode: ModeAuto, Engage: flood.Limits{Hold: time.Minute},
		})
	}
	return cfg
}

// TestRemovedIsRemembered: what is usual for a service that a reload removes is known still when another brings it back, or a restart, within a
// week and not after it.
func TestRemovedIsRemembered(t *testing.T) {
	r := newRig(t, DefaultOptions())
	var l flood.Learned
	for hour := range int64(flood.Hours) {
		l.Busiest.Observe(r.now.Unix()+(hour+1-flood.Hours)*3600, 3000)
	}
	reload := func(names ...string) {
		t.Helper()
		if err := r.proxy.Reload(r.learningConfig(names...), r.now); err != nil {
			t.Fatal(err)
		}
		r.sentFor(nil) // the worker sees it
	}
	want := func(rate int) {
		t.Helper()
		if _, got := r.limitsOf("web"); got != rate {
			t.Errorf("the limit is %d, not %d", got, rate)
		}
	}
	const floor = 1000
	reload("web", "other")
	want(floor)
	r.proxy.Relearn(map[string]flood.Learned{"web": l, "coming": l})
	want(12_000)
	for range 3 { // until its state is forgotten
		reload("other")
		r.now = r.now.Add(time.Hour)
	}
	reload("other", "web")
	want(12_000)
	reload("other", "web", "coming")
	if _, got := r.limitsOf("coming"); got != 12_000 {
		t.Errorf("what was known before the start of a service that came later is forgotten: %d", got)
	}
	if _, got := r.limitsOf("other"); got != floor {
		t.Errorf("the limit of another service is %d", got)
	}

	reload("other")
	learned := r.proxy.Learned()["web"]
	if rate := learned.Busiest.Rate(); rate != 3000 {
		t.Errorf("what is known of a removed service is not saved: %d", rate)
	}
	r.now = r.now.Add(8 * 24 * time.Hour)
	for range 3 {
		reload("other")
	}
	if _, known := r.proxy.Learned()["web"]; known {
		t.Error("what is known of a removed service is kept for more than a week")
	}
	reload("web")
	want(floor)
}

// TestRemovedIsBounded: services that come and go fill no memory, and take nothing from those that stay.
func TestRemovedIsBounded(t *testing.T) {
	r := newRig(t, DefaultOptions())
	var l flood.Learned
	l.Busiest.Observe(r.now.Unix(), 3000)
	if err := r.proxy.Reload(r.learningConfig("web"), r.now); err != nil {
		t.Fatal(err)
	}
	learned := map[string]flood.Learned{"web": l}
	for i := range 2 * maxUnused {
		learned[fmt.Sprint("other-", i)] = l
	}
	r.proxy.Relearn(learned)
	if _, got := r.limitsOf("web"); got != 12_000 {
		t.Errorf("the limit is %d", got)
	}
	if n := len(r.proxy.Learned()); n != maxUnused+1 {
		t.Errorf("%d are known", n)
	}
}
