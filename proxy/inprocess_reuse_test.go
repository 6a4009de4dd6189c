package proxy_test

import (
	"fmt"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"levee/proxy"
	"levee/proxy/proxytest"
)

// A client uses a port again as soon as its last connection from there is over, whoever ended it and how.
func TestPortReuse(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(s *session)
	}{
		{"client closes first", func(s *session) {
			s.client.CloseWrite()
			s.Until("end of request", soon, s.server.EOF)
			s.server.Close()
		}},
		{"server closes first", func(s *session) {
			s.server.CloseWrite()
			s.Until("end of answer", soon, s.client.EOF)
			s.client.CloseWrite()
		}},
		{"client resets", func(s *session) { s.client.Abort() }},
		{"server resets", func(s *session) { s.server.Abort() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			forVariants(t, false, func(t *testing.T, v variant) {
				cfg := v.config()
				cfg.Client.TimeWait = time.Millisecond // so that it lets us have the port again
				s := newSession(t, v, cfg)
				const times = 5
				for i := range times {
					s.open()
					s.exchange()
					test.end(s)
					s.Until(fmt.Sprintf("end of connection %d at the client", i), soon, s.client.Gone)
				}
				want := proxy.ServiceSnapshot{
					Name: "web", Mode: proxy.ModeAlways,
					SynReceived: times, CookieValid: times, ConnReopened: times - 1, Opened: times,
				}
				s.Advance(100 * time.Millisecond)
				got := s.service()
				// A late segment of the old connection makes gVisor repeat the SYN of the new one.
				got.SynReceived = min(got.SynReceived, times)
				if got != want {
					t.Errorf("counters are %+v, not %+v", got, want)
				}
				s.Advance(remembered + time.Second)
				wantEmpty(t, s)
			})
		})
	}
}

// A client that has forgotten a connection, for example because it was rebooted, opens a new one from the same port.
// The server loses the old one and gets the new.
func TestNewIncarnation(t *testing.T) {
	for _, test := range []struct {
		name  string
		state proxy.State
		until func(s *session, c *rawClient)
		// reset says that the server has something to lose.
		reset bool
	}{
		{"while open", proxy.StateOpen, func(*session, *rawClient) {}, true},
		{"with data on the way", proxy.StateOpen, func(s *session, c *rawClient) {
			c.send(0, data(1, 1000))
			s.Advance(20 * time.Millisecond)
			s.Hooks[proxytest.ToServer] = []proxytest.Hook{proxytest.DropFirst(1, func(*proxytest.Packet) bool { return true })}
			c.send(1000, data(2, 1000)) // is lost
			s.server.Send(data(3, 10000))
			s.Advance(time.Second)
		}, true},
		{"after the client's FIN", proxy.StateClientClosed, func(s *session, c *rawClient) {
			f := c.segment(0)
			f.Flags |= header.TCPFlagFin
			c.Send(&f, nil)
			s.Advance(time.Second)
		}, true},
		{"after the server's FIN", proxy.StateServerClosed, func(s *session, c *rawClient) {
			c.takeFIN()
		}, true},
		{"while the server's FIN is lost", proxy.StateOpen, func(s *session, _ *rawClient) {
			s.server.CloseWrite()
			s.Advance(time.Second)
		}, true},
		{"after a reset", proxy.StateReset, func(s *session, _ *rawClient) {
			s.server.Abort()
			s.Advance(time.Second)
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			forVariants(t, false, func(t *testing.T, v variant) {
				s := newSession(t, v, v.config())
				c := newRawClient(s)
				c.open()
				test.until(s, c)
				s.wantState(test.state)
				old := s.server

				c.isn += 0x12345678 // forgotten; timestamps start anew
				c.tsval = 5
				c.open()
				c.send(0, data(5, 2000))
				s.received("server", s.server, data(5, 2000))
				if !old.Gone() {
					t.Errorf("the server's old connection is in state %v", old.State())
				}
				if test.reset && len(s.Trace.At(proxytest.ToServer, isRst)) != 1 {
					t.Error("that was not because of one reset")
				}
				s.wantState(proxy.StateOpen)
				if got := s.service(); got.ConnReopened != 1 || got.CookieValid != 2 || got.Opened != 2 || got.Flows != 1 {
					t.Errorf("counters are %+v", got)
				}
			})
		})
	}
}

// A new incarnation while the server has not answered the SYN of the old.
func TestNewIncarnationWhileOpening(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		cfg := v.config()
		lost := proxytest.DropFirst(1, func(p *proxytest.Packet) bool { return p.Is(syn) })
		cfg.Hooks[proxytest.ToServer] = []proxytest.Hook{lost}
		s := newSession(t, v, cfg)
		c := newRawClient(s)
		c.connect()
		c.acknowledge()
		s.Advance(100 * time.Millisecond)
		s.wantState(proxy.StateOpening)
		c.isn += 77777777
		c.open()
		c.send(0, data(5, 2000))
		s.received("server", s.server, data(5, 2000))
		s.Advance(10 * time.Second)
		if got := s.service(); got.ConnReopened != 1 || got.CookieValid != 2 || got.Opened != 1 || got.CookieRetrans != 0 || len(s.servers) != 1 {
			t.Errorf("%d connections at the server, counters are %+v", len(s.servers), got)
		}
	})
}

// levee has forgotten the old connection as well, but the server has not: it answers the SYN with an ACK of the old
// connection (RFC 5961 §4.2).
func TestServerHoldsOn(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		s := newSession(t, v, v.config())
		c := newRawClient(s)
		c.open()
		old := s.server
		s.Advance(proxy.DefaultIdleTimeout + time.Second)
		wantEmpty(t, s)

		c.isn += 0x12345678
		begin := s.Clock.Elapsed()
		c.open()
		if took := s.Clock.Elapsed() - begin; took > time.Second {
			t.Errorf("the server accepted the new connection after %v", took)
		}
		if old.Err() != proxytest.ErrReset {
			t.Errorf("the server's old connection sees %v", old.Err())
		}
		c.send(0, data(5, 2000))
		s.received("server", s.server, data(5, 2000))
	})
}

// A late segment of the incarnation before, one that looks like its handshake's ACK, does not bring that back at
// the cost of the present one.
func TestLateSegmentOfFormerIncarnation(t *testing.T) {
	for _, test := range []struct {
		name string
		late func(former *rawClient)
	}{
		{"ACK", func(former *rawClient) { former.acknowledge() }},
		{"first data", func(former *rawClient) { former.send(0, data(9, 100)) }},
		{"probe", func(former *rawClient) { former.send(-1, nil) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			forVariants(t, false, func(t *testing.T, v variant) {
				s := newSession(t, v, v.config())
				c := newRawClient(s)
				c.open()
				former := *c
				former.tsval++
				s.server.Abort()
				s.Advance(100 * time.Millisecond)

				c.isn += 1 << 28
				c.tsval += 100
				c.connect()
				c.acknowledge()
				test.late(&former) // right behind: the present one is opening
				s.Until("open", soon, func() bool { return len(s.servers) == 2 })
				s.Advance(100 * time.Millisecond)
				test.late(&former)
				c.send(0, data(5, 2000))
				s.received("server", s.server, data(5, 2000))
				test.late(&former)
				s.Advance(10 * time.Second)
				s.wantState(proxy.StateOpen)
				if got := s.service(); got.ConnReopened != 1 || got.CookieValid != 2 || len(s.servers) != 2 || s.server.Err() != nil {
					t.Errorf("%d connections at the server, the last with %v, counters are %+v", len(s.servers), s.server.Err(), got)
				}
				wantDrops(t, s.Network, map[proxy.DropReason]uint64{proxy.DropReplay: 3})
			})
		})
	}
}
