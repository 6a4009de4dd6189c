package proxy

import (
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/stack"
)

// These tests are about connections that protected servers open themselves: nobody is their client.

// call has the server open a connection to a port of the host's, and says whether all of the handshake passes.
func (h *host) call(isn seqnum.Value) bool {
	h.port++
	syn := h.hears(stack.Segment{Seq: isn, Flags: flagSYN, Window: 64240, MSS: 1460, WScale: 7})
	synAck := h.sends(stack.Segment{Seq: 9000, Ack: isn + 1, Flags: flagSYN | flagACK, Window: 64240, MSS: 1460, WScale: 7})
	ack := h.hears(stack.Segment{Seq: isn + 1, Ack: 9001, Flags: flagACK, Window: 500})
	return len(syn) == 1 && len(synAck) == 1 && len(ack) == 1 && ack[0].Ack == 9001
}

// counted is how many flows a host, and its server, have by the count of their service.
func (h *host) counted() (host, server int) {
	p, svc := h.proxy, h.proxy.policy.Load().services[0]
	peer, own := stack.AddrFrom(h.addr), h.server()
	return p.perSource.of(sourceOf(&peer, svc)), p.perSource.of(sourceOf(&own, svc))
}

func (h *host) wantCounted(when string, host, server int) {
	h.t.Helper()
	if a, b := h.counted(); a != host || b != server {
		h.t.Errorf("%s: %s has %d flows and its server %d, not %d and %d", when, h.addr, a, b, host, server)
	}
}

// TestOutboundIsNoClient: the connections that a server opens count for nobody, whatever becomes of the policy and the process meanwhile, so that
// none that ends is taken from what somebody has; and they use up nothing of anybody's rate.
func TestOutboundIsNoClient(t *testing.T) {
	for _, mode := range []Mode{ModeAuto, ModeMonitor, ModeAlways} {
		for _, addr := range []string{"203.0.113.1", "2001:db8:5::1"} {
			r := newWatchedRig(t, mode, func(s *Service) { s.PerSource = PerSource{Flows: 2, Rate: 2} })
			cfg := r.proxy.cfg
			cfg.State = keptState(cfg.Capacity)
			r.start(cfg)
			h := r.host(addr)
			for range 4 {
				if !h.call(1000) {
					t.Fatalf("%v, %s: a connection of the server's doesn't pass", mode, addr)
				}
			}
			r.wantStates(StateOpen, 4)
			h.wantCounted("open", 0, 0)
			off := func(s *Service) { s.Mode = ModeOff }
			on := func(s *Service) { s.Mode = mode }
			r.change(off)
			r.change(on)
			h.wantCounted("reloaded", 0, 0)
			cfg = r.proxy.cfg
			r.restart(time.Second)
			r.wantStates(StateOpen, 4)
			h.wantCounted("restarted", 0, 0)

			last := h.port
			h.port = 50000
			connect := h.shake
			if mode == ModeAlways {
				connect = h.connect
			}
			for range 2 {
				if !connect() {
					t.Errorf("%v, %s: the peer of the server's connections may have none of its own", mode, addr)
				}
			}
			h.wantCounted("the peer's own two", 2, 0)

			h.port = last
			h.hears(stack.Segment{Seq: 1001, Ack: 9001, Flags: flagFIN | flagACK})
			h.sends(stack.Segment{Seq: 9001, Ack: 1002, Flags: flagFIN | flagACK})
			h.hears(stack.Segment{Seq: 1002, Ack: 9002, Flags: flagACK})
			h.port--
			h.sends(stack.Segment{Seq: 9001, Flags: flagRST})
			r.change(off)
			h.port--
			h.hears(stack.Segment{Seq: 1001, Flags: flagRST})
			r.change(on)
			h.port--
			h.call(500_000) // it begins anew on the ports of the last
			h.wantCounted("ended", 2, 0)
			for range 10 { // a handshake with a server that doesn't answer has several time-outs
				r.now = r.now.Add(DefaultIdleTimeout + time.Minute)
				r.sentFor(make([]byte, 3))
			}
			if n := r.proxy.SourceFlows(); n != 0 {
				t.Errorf("%v, %s: %d flows are counted when there are none", mode, addr, n)
			}
		}
	}
}

// TestOutboundVerifiesNobody: a server doesn't become a verified source, whose address would then be worth forging, by what it opens itself.
func TestOutboundVerifiesNobody(t *testing.T) {
	r := newWatchedRig(t, ModeAlways, func(s *Service) { s.Verified = Verified{TTL: time.Hour, Rate: 10} })
	h := r.host("203.0.113.1")
	if !h.call(1000) {
		t.Fatal("a connection of the server's doesn't pass")
	}
	r.wantStates(StateOpen, 1)
	p, svc, own := r.proxy, r.proxy.policy.Load().services[0], h.server()
	if p.verified.knows(sourceOf(&own, svc), p.instant(r.now).since, svc.Verified) {
		t.Error("the server is a verified source")
	}
}

// TestOutboundNoLonger: when its peer has become a server too, the opener's next connection on the same ports counts as a client's.
func TestOutboundNoLonger(t *testing.T) {
	r := newWatchedRig(t, ModeAlways, func(*Service) {})
	h := r.host("203.0.113.1")
	if !h.call(1000) {
		t.Fatal("a connection of the server's doesn't pass")
	}
	h.wantCounted("opened by a server", 0, 0)
	r.change(func(s *Service) {
		s.Prefixes = append(s.Prefixes, netip.PrefixFrom(h.addr, 32))
		s.Allow = []netip.Prefix{netip.PrefixFrom(rigServer.Netip(), 32)} // it shakes hands itself
		s.Ports = nil
	})
	h.port--
	if !h.call(500_000) {
		t.Fatal("the next one doesn't pass")
	}
	h.wantCounted("opened by a client", 0, 1)
	h.hears(stack.Segment{Seq: 500_001, Flags: flagRST})
	h.wantCounted("reset", 0, 0)
}
