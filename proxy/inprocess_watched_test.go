package proxy_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"levee/proxy"
	"levee/proxy/flood"
	"levee/proxy/proxytest"
)

const floodHold = 10 * time.Second

// watchedConfig is a service that is engaged when 20 handshakes are half-open with one of its servers.
func (v variant) watchedConfig(mode proxy.Mode) proxytest.Config {
	cfg := v.config()
	cfg.Proxy.Services[0].Mode = mode
	cfg.Proxy.Services[0].Engage = flood.Limits{HalfOpen: 20, SYNRate: 1000, Hold: floodHold}
	return cfg
}

// forger sends SYNs for others, whose answers nobody hears.
type forger struct {
	*proxytest.Peer
	s    *session
	port uint16
}

func newForger(s *session) *forger {
	addr := netip.MustParseAddr("198.51.100.99")
	if s.v.v6 {
		addr = netip.MustParseAddr("2001:db8:c::99")
	}
	return &forger{Peer: s.Peer(addr, false), s: s, port: 1000}
}

// flood sends n SYNs, each of another port.
func (f *forger) flood(n int) {
	for range n {
		f.port++
		syn := f.Segment(f.port, f.s.v.serverAddr(), 1, 0)
		syn.Flags, syn.MSS = flagsSYN, 1460
		f.Send(&syn, nil)
	}
	f.s.Advance(300 * time.Millisecond)
	f.Take()
}

const flagsSYN = 2

func (s *session) wantEngaged(want int) {
	s.t.Helper()
	if got := s.service().Engaged; got != want {
		s.t.Fatalf("at %v %d destinations are engaged, not %d", s.Clock.Elapsed(), got, want)
	}
}

// delta is the Δ of the flow from a port of the client's.
func (s *session) delta(port uint16) uint32 {
	s.t.Helper()
	for _, f := range s.Flows() {
		if f.Client.Port() == port {
			return f.Delta
		}
	}
	s.t.Fatalf("no flow from port %d", port)
	return 0
}

// Without a flood a connection is as if levee were not there, but known to it from the SYN-ACK on.
func TestWatchedPasses(t *testing.T) {
	for _, mode := range []proxy.Mode{proxy.ModeAuto, proxy.ModeMonitor} {
		t.Run(mode.String(), func(t *testing.T) {
			forVariants(t, true, func(t *testing.T, v variant) {
				s := newSession(t, v, v.watchedConfig(mode))
				frames := watchAll(s)
				s.dial()
				s.Until("SYN at the server", soon, func() bool { return len(frames[proxytest.ToServer]) == 1 })
				wantEmpty(t, s)
				s.Until("open", soon, func() bool { return s.server != nil && s.client.Established() })
				s.wantState(proxy.StateOpen)
				if f := s.flow(); f.Client.Port() != clientPort || f.Server != v.serverAddr() || f.Delta != 0 || f.TSDelta != 0 || f.Service != "web" {
					t.Errorf("the flow is %+v", f)
				}
				talk(s, s.client, s.server)
				wantUntouched(t, frames)
				wantDrops(t, s.Network, nil)
				snapshot := s.Proxy.Snapshot()
				if svc := snapshot.Services[0]; svc.SynPassed != 1 || svc.SynReceived != 0 || snapshot.Passed[proxy.PassHandshake] != 1 {
					t.Errorf("the counters are %+v, %v", svc, snapshot.Passed)
				}
				s.wantEngaged(0)
				s.Advance(remembered)
				wantEmpty(t, s)
			})
		})
	}
}

// The whole course: quiet, flood, quiet. Connections of either time never notice, and new ones work at all times.
func TestAutoCourse(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		s := newSession(t, v, v.watchedConfig(proxy.ModeAuto))
		bad := newForger(s)
		s.open()
		before, beforeServer := s.client, s.server
		bad.flood(30)
		s.wantEngaged(1)
		if n := s.service().SynReceived; n < 10 || n > 12 {
			t.Errorf("%d SYNs of 30 were answered with cookies, not about 11", n)
		}
		during := s.Client.Dial(clientPort+1, v.serverAddr())
		s.Until("open in the flood", soon, func() bool { return during.Established() && len(s.servers) == 2 })
		duringServer := s.server
		if s.delta(clientPort) != 0 || s.delta(clientPort+1) == 0 {
			t.Error("the connection from before is translated, or the one in the flood is not")
		}
		s.client, s.server = before, beforeServer
		s.exchange()
		s.client, s.server = during, duringServer
		s.exchange()

		s.Advance(floodHold - 2*time.Second)
		s.wantEngaged(1)
		s.Advance(5 * time.Second)
		s.wantEngaged(0)
		after := s.Client.Dial(clientPort+2, v.serverAddr())
		s.Until("open after the flood", soon, func() bool { return after.Established() && len(s.servers) == 3 })
		if s.delta(clientPort+2) != 0 {
			t.Error("the connection after the flood is translated")
		}
		s.client = after
		s.exchange()
		s.client, s.server = before, beforeServer
		s.exchange()
		floods := s.Proxy.Floods()
		if len(floods) != 1 {
			t.Fatalf("the floods are %+v", floods)
		}
		f := floods[0]
		if f.Monitored || f.Cause != flood.ByHalfOpen || f.Top != v.serverAddr() || f.TopRate < 30 || f.End.Sub(f.Start) < floodHold || f.Service != "web" {
			t.Errorf("the flood was %+v", f)
		}
	})
}

// A service that is only monitored decides the same about the same packets and changes none of them, whatever they are.
func TestMonitorCourse(t *testing.T) {
	var course [2][]proxy.Flood
	for i, mode := range []proxy.Mode{proxy.ModeAuto, proxy.ModeMonitor} {
		v := variant{timestamps: true}
		cfg := v.watchedConfig(mode)
		cfg.Hostile = true
		s := newSession(t, v, cfg)
		frames := watchAll(s)
		bad := newForger(s)
		s.open()
		bad.flood(100)
		s.wantEngaged(1)
		s.Client.Dial(clientPort+1, v.serverAddr())
		for _, flags := range []header.TCPFlags{0x3f, 3, 0, 4, 0x10, 0x12, 0x11, 0x18} {
			for _, port := range []uint16{7, 1001} { // of no flow, and of one that is half-open
				stray := bad.Segment(port, v.serverAddr(), 5, 6)
				stray.Flags = flags
				bad.Send(&stray, nil)
			}
		}
		s.exchange()
		s.Advance(2 * floodHold)
		s.wantEngaged(0)
		course[i] = s.Proxy.Floods()
		if mode != proxy.ModeMonitor {
			continue
		}
		wantUntouched(t, frames)
		wantDrops(t, s.Network, nil)
		svc := s.service()
		if svc.SynReceived != 0 || svc.WouldAnswer < 80 || svc.WouldDrop < 4 {
			t.Errorf("the counters are %+v", svc)
		}
	}
	auto, monitored := course[0], course[1]
	if len(auto) != 1 || len(monitored) != 1 {
		t.Fatalf("the floods are %+v and %+v", auto, monitored)
	}
	if !monitored[0].Monitored {
		t.Error("the flood isn't said to be monitored only")
	}
	monitored[0].Monitored = false
	if auto[0] != monitored[0] {
		t.Errorf("the floods are %+v and %+v", auto[0], monitored[0])
	}
}

// What reached the server before a flood was noticed doesn't fill its queue for the next minute.
func TestEngagedFreesServer(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		cfg := v.watchedConfig(proxy.ModeAuto)
		spared := netip.MustParseAddr("198.51.100.98")
		if v.v6 {
			spared = netip.MustParseAddr("2001:db8:c::98")
		}
		cfg.Proxy.Services[0].Allow = []netip.Prefix{netip.PrefixFrom(spared, spared.BitLen())}
		s := newSession(t, v, cfg)
		again, ended := map[uint16]int{}, map[uint16]int{}
		s.Hooks[proxytest.FromServer] = append(s.Hooks[proxytest.FromServer], func(p *proxytest.Packet) proxytest.Fate {
			if p.Is(synAck) {
				again[p.TCP.DstPort]++
			}
			return proxytest.Fate{Copies: 1, CopyDelay: 500 * time.Millisecond} // sooner than a server sends anything again
		})
		s.Hooks[proxytest.ToServer] = append(s.Hooks[proxytest.ToServer], func(p *proxytest.Packet) proxytest.Fate {
			if p.Is(rst) {
				ended[p.TCP.SrcPort]++
			}
			return proxytest.Fate{}
		})
		slow := &forger{Peer: s.Peer(spared, false), s: s, port: 500}
		slow.flood(1) // allowed, so none of levee's business
		s.open()
		bad := newForger(s)
		bad.flood(30)
		s.wantEngaged(1)
		half := len(again) - 2
		if half < 15 || len(ended) != 0 {
			t.Fatalf("%d handshakes are half-open, %d were ended", half, len(ended))
		}
		if s.Advance(400 * time.Millisecond); len(ended) != 0 {
			t.Errorf("%d were ended after copies of their SYN-ACKs", len(ended))
		}
		s.Advance(1100 * time.Millisecond)
		if n := int(s.service().HalfOpenReset); n != half || len(ended) != half {
			t.Errorf("of %d half-open handshakes %d were ended, by resets to %d", half, n, len(ended))
		}
		s.Advance(10 * time.Second)
		for port, n := range again {
			switch {
			case port == 501:
				if n < 3 || ended[port] != 0 {
					t.Errorf("that of the allowed client was answered %d times and ended %d times", n, ended[port])
				}
			case port == clientPort:
				if n != 1 || ended[port] != 0 {
					t.Errorf("that of the open connection was answered %d times and ended %d times", n, ended[port])
				}
			case n != 2 || ended[port] != 1:
				t.Errorf("that of port %d was answered %d times and ended %d times", port, n, ended[port])
			}
		}
		s.exchange()
		wantDrops(t, s.Network, nil)
	})
}

// Handshakes that were under way when the flood began, or ended, are completed.
func TestEngagedMeanwhile(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		t.Run("answered by the server", func(t *testing.T) {
			s := newSession(t, v, v.watchedConfig(proxy.ModeAuto))
			bad, c := newForger(s), newRawClient(s)
			c.connect()
			bad.flood(30)
			s.wantEngaged(1)
			c.acknowledge()
			s.Until("open", soon, func() bool { return s.server != nil })
			if s.delta(clientPort) != 0 {
				t.Error("it is translated")
			}
			c.send(0, data(1, 100))
			s.received("server", s.server, data(1, 100))
		})
		t.Run("answer lost", func(t *testing.T) {
			s := newSession(t, v, v.watchedConfig(proxy.ModeAuto))
			bad := newForger(s)
			s.Hooks[proxytest.FromServer] = append(s.Hooks[proxytest.FromServer], func(p *proxytest.Packet) proxytest.Fate {
				return proxytest.Fate{Drop: p.TCP.DstPort == clientPort && p.Is(synAck) && s.Clock.Elapsed() < 900*time.Millisecond}
			})
			s.dial()
			bad.flood(30)
			s.wantEngaged(1)
			s.Until("open", soon, func() bool { return s.client.Established() && s.server != nil })
			s.exchange()
		})
		t.Run("record evicted", func(t *testing.T) { // by later handshakes, in a table that is full
			cfg := v.watchedConfig(proxy.ModeAuto)
			cfg.Proxy.Capacity = 10
			s := newSession(t, v, cfg)
			bad := newForger(s)
			late := 0
			s.Hooks[proxytest.FromClient] = append(s.Hooks[proxytest.FromClient], func(p *proxytest.Packet) proxytest.Fate {
				if p.TCP.SrcPort == clientPort && p.Is(ack) && s.Clock.Elapsed() < 900*time.Millisecond {
					late++
					return proxytest.Fate{Delay: 400 * time.Millisecond}
				}
				return proxytest.Fate{}
			})
			s.dial()
			s.Advance(50 * time.Millisecond)
			bad.flood(30)
			s.wantEngaged(1)
			if n := s.Proxy.Snapshot().Evicted; n == 0 || late == 0 {
				t.Fatalf("%d records had to make room, %d segments were late", n, late)
			}
			s.Advance(300 * time.Millisecond)
			if n := s.Proxy.Snapshot().Drops[proxy.DropCookieInvalid]; n == 0 {
				t.Error("the client's acknowledgement found a record")
			}
			s.Until("open", soon, func() bool { return s.client.Established() && s.server != nil }) // the server sends its SYN-ACK again
			s.exchange()
		})
		t.Run("cookie outstanding", func(t *testing.T) {
			s := newSession(t, v, v.watchedConfig(proxy.ModeAuto))
			bad, c := newForger(s), newRawClient(s)
			bad.flood(30)
			c.connect()
			s.Advance(floodHold + 5*time.Second)
			s.wantEngaged(0)
			c.acknowledge()
			s.Until("open", soon, func() bool { return s.server != nil })
			if s.delta(clientPort) == 0 {
				t.Error("it is not translated")
			}
		})
		t.Run("client begins anew", func(t *testing.T) {
			s := newSession(t, v, v.watchedConfig(proxy.ModeAuto))
			bad, c := newForger(s), newRawClient(s)
			c.open()
			old := s.server
			bad.flood(30)
			c.isn += 1 << 30
			c.connect()
			c.acknowledge()
			s.Until("open again", soon, func() bool { return len(s.servers) == 2 })
			if old.Err() == nil {
				t.Error("the server still has the old connection")
			}
			c.send(0, data(1, 100))
			s.received("server", s.server, data(1, 100))
		})
	})
}

// A connection that levee has not seen begin is known from what its server sends, so that a flood does not end it.
func TestFromBeforeTheStart(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		cfg := v.watchedConfig(proxy.ModeOff)
		s := newSession(t, v, cfg)
		s.open()
		wantEmpty(t, s)
		s.Reload(func(c *proxy.Config) {
			c.Services = slices.Clone(c.Services)
			c.Services[0].Mode = proxy.ModeAuto
		})
		s.Advance(cookieTime)
		s.exchange()
		s.wantState(proxy.StateOpen)
		newForger(s).flood(30)
		s.wantEngaged(1)
		s.exchange()
		s.client.Close()
		s.server.Close()
		s.Advance(time.Second)
		if flows := s.Flows(); flows[0].Client.Port() == clientPort && flows[0].State != proxy.StateTimeWait {
			t.Errorf("the flow is %+v", flows[0])
		}
	})
}

// cookieTime is longer than any cookie lives.
const cookieTime = 130 * time.Second

// A tuple goes from a connection that was proxied to one that passes, and back.
func TestTupleTurns(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		s := newSession(t, v, v.watchedConfig(proxy.ModeAuto))
		bad := newForger(s)
		for round := range 3 {
			s.open()
			if s.delta(clientPort) != 0 {
				t.Errorf("round %d: translated without a flood", round)
			}
			s.exchange()
			s.client.Abort()
			s.Advance(time.Second)
			bad.flood(30)
			s.wantEngaged(1)
			s.open()
			if s.delta(clientPort) == 0 {
				t.Errorf("round %d: not translated in a flood", round)
			}
			s.exchange()
			s.client.Abort()
			s.Advance(floodHold + 5*time.Second)
			s.wantEngaged(0)
		}
	})
}

// A client's acknowledgement that the server doesn't take ends no handshake: the server's next SYN-ACK tells. One that it has taken only the second time does.
func TestHalfOpenAcknowledged(t *testing.T) {
	for _, again := range []bool{false, true} {
		v := variant{timestamps: true}
		s := newSession(t, v, v.watchedConfig(proxy.ModeAuto))
		c := newRawClient(s)
		for range 60 {
			c.port++
			c.connect()
			ack := c.segment(0)
			ack.Timestamps = false // which were agreed upon (RFC 7323 §3.2)
			c.Send(&ack, nil)
			if again {
				s.Advance(1500 * time.Millisecond) // the SYN-ACK again
				c.acknowledge()
				hello := c.segment(0)
				c.Send(&hello, []byte("hello"))
				s.Advance(100 * time.Millisecond)
			}
		}
		s.Advance(1500 * time.Millisecond)
		want := 1
		if again {
			want = 0
		}
		s.wantEngaged(want)
	}
}

// Refused and abandoned handshakes are half-open no longer.
func TestNotHalfOpen(t *testing.T) {
	v := variant{}
	s := newSession(t, v, v.watchedConfig(proxy.ModeAuto))
	closed := netip.AddrPortFrom(v.serverAddr().Addr(), 81)
	for i := range uint16(60) {
		s.Client.Dial(clientPort+i, closed)
		s.Advance(20 * time.Millisecond)
	}
	s.Advance(time.Second)
	s.wantEngaged(0)
	c := newRawClient(s)
	for range 60 {
		c.port++
		c.connect()
		rst := c.segment(0)
		rst.Flags = 4
		c.Send(&rst, nil)
	}
	s.Advance(time.Second)
	s.wantEngaged(0)
	for range 60 {
		c.port++
		c.open()
	}
	s.wantEngaged(0)
	if floods := s.Proxy.Floods(); len(floods) != 0 {
		t.Errorf("the floods are %+v", floods)
	}
}
