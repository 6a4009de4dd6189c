package proxy_test

import (
	"net/netip"
	"testing"
	"time"

	"levee/proxy"
	"levee/proxy/proxytest"
)

// A table full of open flows takes no more; one full of ended flows forgets the oldest.
func TestFullTable(t *testing.T) {
	const capacity = 16
	v := variant{}
	cfg := v.config()
	cfg.Proxy.Capacity = capacity
	s := newSession(t, v, cfg)
	var clients []*proxytest.Conn
	dial := func() *proxytest.Conn {
		c := s.Client.Dial(uint16(clientPort+len(clients)), v.serverAddr())
		clients = append(clients, c)
		return c
	}
	for range capacity {
		dial()
	}
	s.Until("all open", soon, func() bool { return len(s.servers) == capacity })
	if got := s.Proxy.Snapshot(); got.Capacity != capacity || got.Flows[proxy.StateOpen] != capacity || got.Flows[proxy.StateFree] != 0 {
		t.Fatalf("capacity %d, flows by state %v", got.Capacity, got.Flows)
	}

	late := dial()
	late.Send(data(1, 10)) // will try again and again
	s.Until("refused", soon, func() bool { return s.Proxy.Snapshot().Drops[proxy.DropTableFull] >= 2 })
	if len(s.servers) != capacity || s.service().Flows != capacity || len(s.Flows()) != capacity {
		t.Errorf("%d connections at the server, %d flows counted, %d in the table", len(s.servers), s.service().Flows, len(s.Flows()))
	}
	if s.Proxy.Snapshot().Drops[proxy.DropCookieInvalid] != 0 {
		t.Error("the cookies were invalid")
	}

	// One ends, and makes room at once.
	clients[3].Close()
	s.servers[3].Close()
	s.Until("open after all", soon, func() bool { return len(s.servers) == capacity+1 })
	s.Until("data", soon, func() bool { return len(s.servers[capacity].Received()) == 10 })
	wantPorts(t, s, clientPort+3, false)
	if n := s.Proxy.Snapshot().Evicted; n != 1 {
		t.Errorf("%d flows evicted, not 1", n)
	}

	// All end, in this order.
	for i := capacity; i >= 0; i-- {
		if i != 3 {
			clients[i].Close()
			s.servers[i].Close()
			s.Advance(time.Second)
		}
	}
	if n := s.Proxy.Snapshot().Flows[proxy.StateTimeWait]; n != capacity {
		t.Fatalf("%d flows have ended, not %d", n, capacity)
	}
	for i := range 3 {
		dial()
		s.Until("open", soon, func() bool { return len(s.servers) == capacity+2+i })
		wantPorts(t, s, clientPort+capacity-i, false)
		wantPorts(t, s, clientPort+capacity-i-1, true)
	}
}

// wantPorts checks whether there is a flow from a client's port.
func wantPorts(t *testing.T, s *session, port int, want bool) {
	t.Helper()
	found := false
	for _, f := range s.Flows() {
		found = found || f.Client.Port() == uint16(port)
	}
	if found != want {
		t.Errorf("flow from port %d in the table: %v", port, found)
	}
}

// Flows without packets go after their time, not before, and any packet starts it anew.
func TestIdleTimeouts(t *testing.T) {
	v := variant{timestamps: true}
	for _, test := range []struct {
		name  string
		start func(s *session)
		state proxy.State
		after time.Duration
	}{
		{"open", func(*session) {}, proxy.StateOpen, 2*time.Hour + 4*time.Minute},
		{"client closed", func(s *session) { s.client.CloseWrite() }, proxy.StateClientClosed, 2*time.Hour + 4*time.Minute},
		{"server closed", func(s *session) { s.server.CloseWrite() }, proxy.StateServerClosed, 2*time.Hour + 4*time.Minute},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := openSession(t, v)
			s.exchange()
			test.start(s)
			s.Advance(time.Second)
			s.wantState(test.state)
			s.Advance(test.after - 10*time.Second)
			s.wantState(test.state)

			// A packet of the side that is still open.
			if test.state == proxy.StateClientClosed {
				s.server.Send(data(1, 1))
			} else {
				s.client.Send(data(1, 1))
			}
			s.Advance(100 * time.Millisecond)
			begin := s.Clock.Elapsed()
			if idle := s.flow().Idle; idle > time.Second {
				t.Errorf("idle for %v", idle)
			}
			s.Until("forgotten", 3*time.Hour, func() bool { return len(s.Flows()) == 0 })
			if took := s.Clock.Elapsed() - begin; took < test.after-100*time.Millisecond || took > test.after+time.Second {
				t.Errorf("the flow has lasted %v without a packet, not %v", took, test.after)
			}
			wantEmpty(t, s)

			// What comes now belongs to nobody.
			if test.state == proxy.StateServerClosed {
				s.client.Send(data(2, 1))
			} else {
				s.server.Send(data(2, 1))
			}
			s.Advance(100 * time.Millisecond)
			if n := s.Proxy.Snapshot().Drops[proxy.DropNoFlow]; n == 0 {
				t.Error("a segment of the forgotten flow was not dropped")
			}
		})
	}
}

// A cookie is good for the rest of its epoch of 64 s and the next. The clock starts a second into an epoch.
func TestCookieAge(t *testing.T) {
	for _, test := range []struct {
		name string
		wait time.Duration
		good bool
	}{
		{"at once", 0, true},
		{"end of the epoch", 62 * time.Second, true},
		{"beginning of the next", 64 * time.Second, true},
		{"end of the next", 126 * time.Second, true},
		{"beginning of the one after", 128 * time.Second, false},
		{"an epoch of the same key bit", 191 * time.Second, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			forVariants(t, false, func(t *testing.T, v variant) {
				s := newSession(t, v, v.config())
				c := newRawClient(s)
				c.connect()
				s.Advance(test.wait)
				// Somebody else keeps the gate open.
				other := &rawClient{Peer: c.Peer, s: s, port: clientPort + 1, isn: 5}
				cookie := *c
				other.connect()
				cookie.acknowledge()
				s.Advance(time.Second)
				if got := s.server != nil; got != test.good {
					t.Errorf("opened: %v", got)
				}
				want := proxy.ServiceSnapshot{Name: "web", Mode: proxy.ModeAlways, SynReceived: 2}
				if test.good {
					want.CookieValid, want.Opened, want.Flows = 1, 1, 1
				} else {
					want.CookieInvalid = 1
				}
				if got := s.service(); got != want {
					t.Errorf("counters are %+v, not %+v", got, want)
				}
				if n := s.Proxy.Snapshot().Drops[proxy.DropCookieInvalid]; n != want.CookieInvalid {
					t.Errorf("%d packets dropped as %v", n, proxy.DropCookieInvalid)
				}
			})
		})
	}
}

// A cookie of another proxy with the same secret, as of a node before a restart: good as long as cookies can
// be outstanding.
func TestCookieOfAnotherProxy(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		for _, test := range []struct {
			name   string
			age    time.Duration // of the proxy that gets the ACK
			secret byte
			busy   bool // it has issued a cookie of its own
			want   proxy.DropReason
		}{
			{"just started", 0, 1, false, proxy.NumDropReasons},
			{"long idle", time.Hour, 1, false, proxy.DropNoFlow},
			{"long running", time.Hour, 1, true, proxy.NumDropReasons},
			{"another secret", time.Hour, 2, true, proxy.DropCookieInvalid},
		} {
			t.Run(test.name, func(t *testing.T) {
				cfg := v.config()
				cfg.Proxy.Secret[0] = 1
				cfg.Start = proxytest.DefaultStart.Add(test.age)
				issuer := newSession(t, v, cfg)
				c := newRawClient(issuer)
				c.connect()

				cfg = v.config()
				cfg.Proxy.Secret[0] = test.secret
				s := newSession(t, v, cfg)
				s.Advance(test.age)
				there := &rawClient{Peer: s.Peer(c.Addr, false), s: s, port: c.port, isn: c.isn, cookie: c.cookie, tsval: c.tsval, tsecr: c.tsecr}
				if test.busy {
					other := &rawClient{Peer: there.Peer, s: s, port: clientPort + 1, isn: 5}
					other.connect()
				}
				there.acknowledge()
				s.Advance(time.Second)
				if test.want == proxy.NumDropReasons {
					wantDrops(t, s.Network, nil)
				} else {
					wantDrops(t, s.Network, map[proxy.DropReason]uint64{test.want: 1})
				}
				if opened := s.server != nil; opened != (test.want == proxy.NumDropReasons) {
					t.Errorf("opened: %v", opened)
				}
			})
		}
	})
}

// Cookies bind the addresses and ports of both ends.
func TestCookieForSomebodyElse(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		s := newSession(t, v, v.config())
		c := newRawClient(s)
		c.connect()
		server := v.serverAddr()
		for _, to := range []struct {
			port uint16
			addr netip.AddrPort
		}{
			{clientPort + 1, server},
			{clientPort, netip.AddrPortFrom(server.Addr(), server.Port()+1)},
			{clientPort, netip.AddrPortFrom(server.Addr().Next(), server.Port())},
		} {
			a := c.segment(0)
			a.SrcPort, a.DstPort, a.Dst = to.port, to.addr.Port(), c.Segment(0, to.addr, 1, 1).Dst
			c.Send(&a, nil)
		}
		s.Advance(time.Second)
		wantDrops(t, s.Network, map[proxy.DropReason]uint64{proxy.DropCookieInvalid: 3})
		wantEmpty(t, s)
	})
}
