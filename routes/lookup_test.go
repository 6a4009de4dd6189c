package routes

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// The kernel says which way packets go with the plan and without, and which rule sends them there.
func TestLookup(t *testing.T) {
	enterGateway(t)
	set(t, keyForward4, "1")
	set(t, keyForward6, "1")
	cfg := config(t)
	for _, v := range []struct{ client, server string }{{"203.0.113.7:40000", "192.0.2.9:80"}, {"[2001:db8:c::7]:40000", "[2001:db8:1::9]:80"}} {
		client, server := netip.MustParseAddrPort(v.client), netip.MustParseAddrPort(v.server)
		there := Probe{Iif: "cli0", Src: client, Dst: server}
		way, err := Lookup(there)
		if err != nil || way.Interface != "srv0" || way.Table != unix.RT_TABLE_MAIN || way.Gateway.IsValid() || way.Local {
			t.Errorf("%+v without levee: %+v, %v", there, way, err)
		}
		closeTUN := openTUN(t, cfg.TUN, false)
		plan := newPlan(t, cfg)
		must(t, plan.Apply())
		live, err := Read(cfg)
		must(t, err)
		for _, tt := range []struct {
			probe    Probe
			to       string
			table    int
			priority int
		}{
			{there, cfg.TUN, cfg.Table, cfg.Priority + fromClients},
			{Probe{Iif: cfg.TUN, Src: client, Dst: server}, "srv0", unix.RT_TABLE_MAIN, cfg.Priority + loopBreaker},
			{Probe{Iif: "srv0", Src: server, Dst: client}, cfg.TUN, cfg.Table, cfg.Priority + fromServers},
			{Probe{Iif: cfg.TUN, Src: server, Dst: client}, "cli0", unix.RT_TABLE_MAIN, cfg.Priority + loopBreaker},
			{Probe{Dst: client}, "cli0", unix.RT_TABLE_MAIN, 32766},
		} {
			way, err := Lookup(tt.probe)
			if err != nil || way.Interface != tt.to || way.Table != tt.table {
				t.Errorf("%+v: %+v, %v", tt.probe, way, err)
			}
			if r, ok := live.RuleFor(tt.probe, way.Table); !ok || r.Priority != tt.priority {
				t.Errorf("%+v: by rule %v", tt.probe, r)
			}
		}
		must(t, plan.Remove())
		closeTUN()
	}
	if way, err := Lookup(Probe{Dst: netip.MustParseAddrPort("192.0.2.1:80")}); err != nil || !way.Local {
		t.Errorf("to the gateway: %+v, %v", way, err)
	}
	if way, err := Lookup(Probe{Dst: netip.MustParseAddrPort("198.51.100.1:80")}); err != nil || way.Gateway != netip.MustParseAddr("192.0.2.2") {
		t.Errorf("by a router: %+v, %v", way, err)
	}
	if _, err := Lookup(Probe{Dst: netip.MustParseAddrPort("100.64.0.1:80")}); !errors.Is(err, ErrNoRoute) {
		t.Errorf("to nowhere: %v", err)
	}
	there := Probe{Iif: "cli0", Src: netip.MustParseAddrPort("203.0.113.7:1"), Dst: netip.MustParseAddrPort("192.0.2.9:80")}
	set(t, keyForward4, "0")
	if _, err := Lookup(there); !errors.Is(err, ErrNotForwarded) {
		t.Errorf("without forwarding: %v", err)
	}
	set(t, keyForward4, "1")
	set(t, confKey(V4, "cli0/rp_filter"), "1")
	there.Src = netip.MustParseAddrPort("192.0.2.77:1")
	if _, err := Lookup(there); !errors.Is(err, ErrNotForwarded) {
		t.Errorf("a source from the other side: %v", err)
	}
	there.Iif = "eth9"
	if _, err := Lookup(there); err == nil {
		t.Error("by an interface that isn't there")
	}
}
