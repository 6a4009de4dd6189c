package proxy

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/proxy/flood"
	"levee/stack"
)

// These tests are about the bounds of what a source has, where its handshakes are with the server itself.

// newWatchedRig is a rig of a service that floods are looked for, with limits that no test reaches.
func newWatchedRig(t *testing.T, mode Mode, edit func(*Service)) *rig {
	return newSourceRig(t, func(cfg *Config) {
		s := &cfg.Services[0]
		s.Mode, s.Engage = mode, flood.Limits{HalfOpen: 1000, SYNRate: 10_000, Hold: time.Minute}
		edit(s)
	})
}

// accept gives levee the server's SYN-ACK to the host's latest SYN.
func (h *host) accept() {
	h.hears(stack.Segment{Seq: 5000, Ack: 1001, Flags: flagSYN | flagACK, Window: 64240, MSS: 1460, WScale: 7})
}

// finish gives levee the host's acknowledgement of that, and says whether it goes to the server.
func (h *host) finish() bool {
	sent := h.sends(stack.Segment{Seq: 1001, Ack: 5001, Flags: flagACK, Window: 500})
	return len(sent) == 1 && sent[0].Dst == h.server() && sent[0].Ack == 5001
}

// shake shakes hands with the server itself and says whether levee lets it.
func (h *host) shake() bool {
	if !h.direct() {
		return false
	}
	h.accept()
	return h.finish()
}

// bothFamilies are sources of one host, another of it or its /64, and a stranger.
var bothFamilies = []struct{ one, same, other string }{
	{"203.0.113.1", "203.0.113.1", "203.0.113.2"},
	{"2001:db8:5:1::1", "2001:db8:5:1::2", "2001:db8:5:2::1"},
}

// TestPerSourceFlowsWatched: without a flood too a source has so many connections, however many handshakes it begins at once.
func TestPerSourceFlowsWatched(t *testing.T) {
	const most = 3
	for _, tt := range bothFamilies {
		r := newWatchedRig(t, ModeAuto, func(s *Service) { s.PerSource.Flows = most })
		h, same := r.host(tt.one), r.host(tt.same)
		same.port = 50000
		for range most + 2 {
			if !h.direct() {
				t.Fatal("a handshake doesn't begin, though nothing is open")
			}
			h.accept()
		}
		last := h.port
		for i := range seqnum.Value(most + 2) {
			h.port = last - uint16(i)
			if got, want := h.finish(), i < most; got != want {
				t.Errorf("%s: end %d of a handshake passes: %t", tt.one, i, got)
			}
		}
		refused := h.port
		if same.direct() {
			t.Errorf("%s: a SYN beyond the limit passes", tt.one)
		}
		if n := r.drops(DropSourceFlows); n != 3 {
			t.Errorf("%s: %d dropped for it", tt.one, n)
		}
		if !r.host(tt.other).shake() {
			t.Errorf("%s: another source is refused", tt.one)
		}
		h.port = last
		h.sends(stack.Segment{Seq: 1001, Flags: flagRST})
		h.port = refused
		if !h.finish() {
			t.Errorf("%s: when one has ended, a client that tries again is not let in", tt.one)
		}
	}
}

// TestPerSourceRateWatched: without a flood too a source opens so many connections a second; SYNs, and handshakes that don't end, take nothing
// from it.
func TestPerSourceRateWatched(t *testing.T) {
	const rate = 5
	for _, tt := range bothFamilies {
		r := newWatchedRig(t, ModeAuto, func(s *Service) { s.PerSource.Rate = rate })
		h, same := r.host(tt.one), r.host(tt.same)
		same.port = 50000
		for range 100 {
			if !h.direct() {
				t.Fatal("SYNs use up what is the source's")
			}
			h.accept()
		}
		opened, last := 0, h.port
		for i := range uint16(20) {
			if h.port = last - i; h.finish() {
				opened++
			}
		}
		if opened != rate || r.drops(DropSourceRate) != 20-rate {
			t.Errorf("%s: %d connections opened, %d dropped", tt.one, opened, r.drops(DropSourceRate))
		}
		if same.direct() || r.drops(DropSourceRate) != 20-rate+1 {
			t.Errorf("%s: a SYN passes though there is no token", tt.one)
		}
		if !r.host(tt.other).shake() {
			t.Errorf("%s: another source is refused", tt.one)
		}
		r.now = r.now.Add(time.Second)
		if !h.finish() {
			t.Errorf("%s: a second later, a client that tries again is not let in", tt.one)
		}
		if !same.shake() {
			t.Errorf("%s: a second later no connection is opened", tt.one)
		}
	}
}

// TestPerSourceFragments: whoever ends his handshakes in fragments opens nothing unseen.
func TestPerSourceFragments(t *testing.T) {
	for _, bounded := range []bool{false, true} {
		r := newWatchedRig(t, ModeAuto, func(s *Service) {
			if bounded {
				s.PerSource.Flows = 3
			}
		})
		h := r.host("203.0.113.1")
		h.direct()
		h.accept()
		frame := h.frame(client, stack.Segment{Seq: 1001, Ack: 5001, Flags: flagACK | flagPSH, Window: 500})
		ip := header.IPv4(frame[stack.VirtioLen:])
		ip.SetFlagsFragmentOffset(header.IPv4FlagMoreFragments, 0)
		ip.SetChecksum(0)
		ip.SetChecksum(^ip.CalculateChecksum())
		frame[0] = 0 // its checksum is not partial
		if passes := len(r.sentFor(frame)) == 1; passes == bounded {
			t.Errorf("bounded %t: a first fragment passes: %t", bounded, passes)
		}
	}
}

// TestPerSourceExempt: what the service allows is not bounded; and a service that is only monitored refuses nothing, and counts what it would have.
func TestPerSourceExempt(t *testing.T) {
	limits := PerSource{Flows: 3, Rate: 4}
	r := newWatchedRig(t, ModeAuto, func(s *Service) {
		s.PerSource, s.Allow = limits, []netip.Prefix{netip.MustParsePrefix("203.0.113.1/32")}
	})
	for i := range 20 {
		if !r.host("203.0.113.1").shakeFrom(uint16(i)) {
			t.Fatal("an allowed source is bounded")
		}
	}
	for _, limits := range []PerSource{{Flows: 3}, {Rate: 3}} {
		r = newWatchedRig(t, ModeMonitor, func(s *Service) { s.PerSource = limits })
		h := r.host("203.0.113.1")
		for range 4 {
			h.direct()
			h.accept()
		}
		for range 4 { // the end of the fourth handshake would be dropped
			if !h.finish() {
				t.Fatal("the end of a handshake is dropped in monitor")
			}
			h.port--
		}
		h.port = 50000
		for range 2 {
			if !h.direct() {
				t.Fatal("a SYN is dropped in monitor")
			}
		}
		svc := r.proxy.Snapshot().Services[0]
		if svc.WouldDrop != 3 || svc.WouldAnswer != 0 || r.drops(DropSourceFlows)+r.drops(DropSourceRate) != 0 {
			t.Errorf("%+v: the counters are %+v", limits, svc)
		}
	}
}

// shakeFrom shakes hands from a port of its own.
func (h *host) shakeFrom(n uint16) bool {
	h.port += n
	return h.shake()
}

// TestDroppedIsNoFlood: SYNs that are dropped for their source's sake are no part of a flood, so that a source without room, or one that is denied,
// engages no destination.
func TestDroppedIsNoFlood(t *testing.T) {
	for _, mode := range []Mode{ModeAuto, ModeMonitor} {
		for name, edit := range map[string]func(*Service){
			"crowded": func(s *Service) { s.PerSource.Flows = 1 },
			"denied":  func(s *Service) { s.Deny = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")} },
			"neither": func(*Service) {},
		} {
			r := newWatchedRig(t, mode, func(s *Service) {
				s.Engage.HalfOpen = 10
				edit(s)
			})
			h := r.host("203.0.113.1")
			h.shake()
			for range 100 {
				h.direct()
			}
			r.now = r.now.Add(time.Second)
			r.sentFor(nil) // a tick
			if e := r.proxy.Snapshot().Services[0].Engagement; e.Engaged > 0 != (name == "neither") {
				t.Errorf("%v, %s: %+v", mode, name, e)
			}
		}
	}
}

// TestPerSourceExplained: what a source has explains what becomes of its next SYN, whatever the mode.
func TestPerSourceExplained(t *testing.T) {
	for _, mode := range []Mode{ModeAuto, ModeMonitor, ModeAlways} {
		for reason, limits := range map[DropReason]PerSource{DropSourceFlows: {Flows: 2}, DropSourceRate: {Rate: 2}} {
			r := newWatchedRig(t, mode, func(s *Service) { s.PerSource = limits })
			h := r.host("203.0.113.1")
			for i := range 3 {
				e := r.proxy.Explain(r.now, netip.AddrPortFrom(h.addr, h.port+1), netip.AddrPortFrom(h.server().Netip(), 80))
				if got, want := e.Verdict == VerdictDrop && e.Drop == reason, i == 2 && mode != ModeMonitor; got != want {
					t.Errorf("%v: after %d connections it is %v %v", mode, i, e.Verdict, e.Drop)
				}
				before := r.drops(reason)
				if mode == ModeAlways {
					h.connect()
				} else {
					h.shake()
				}
				if got, want := r.drops(reason) > before, e.Verdict == VerdictDrop; got != want {
					t.Errorf("%v: after %d connections a SYN is dropped as %v: %t", mode, i, reason, got)
				}
			}
		}
	}
}

// TestPerSourceVerified: what a source opens by itself because it is verified counts like any other.
func TestPerSourceVerified(t *testing.T) {
	r := newSourceRig(t, func(cfg *Config) {
		cfg.Services[0].PerSource.Rate = 3
		cfg.Services[0].Verified = Verified{TTL: time.Hour, Rate: 1000}
	})
	h := r.host("203.0.113.1")
	if !h.connect() {
		t.Fatal("no connection")
	}
	opened := slices.Repeat([]bool{false}, 5)
	for i := range opened {
		opened[i] = h.shake()
	}
	if !slices.Equal(opened, []bool{true, true, false, false, false}) {
		t.Errorf("opened: %v", opened)
	}
}
