package proxy_test

import (
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/proxy"
	"levee/proxy/proxytest"
	"levee/stack"
)

// rawClient speaks TCP by hand, and so also as no stack would.
type rawClient struct {
	*proxytest.Peer
	s    *session
	port uint16
	// isn and cookie are the two initial sequence numbers, tsval and tsecr what the next segment carries.
	isn, cookie  seqnum.Value
	tsval, tsecr uint32
	told         stack.Options // what the SYN-ACK says
}

var (
	raw4 = netip.MustParseAddr("198.51.100.77")
	raw6 = netip.MustParseAddr("2001:db8:c::77")
)

func newRawClient(s *session) *rawClient {
	addr := raw4
	if s.v.v6 {
		addr = raw6
	}
	return &rawClient{Peer: s.Peer(addr, false), s: s, port: clientPort, isn: 0xfffffff0, tsval: 0xffffff00}
}

// segment starts one from the client: an ACK of everything sent so far, offset bytes into the stream.
func (c *rawClient) segment(offset int) stack.Segment {
	s := c.Segment(c.port, c.s.v.serverAddr(), c.isn+1+seqnum.Value(offset), c.cookie+1)
	s.Timestamps, s.TSVal, s.TSEcr = c.s.v.timestamps, c.tsval, c.tsecr
	return s
}

// connect sends a SYN and takes the cookie of the answer. The ACK is still to be sent.
func (c *rawClient) connect() {
	c.s.t.Helper()
	c.Take()
	s := c.Segment(c.port, c.s.v.serverAddr(), c.isn, 0)
	s.Timestamps, s.TSVal, s.WScale = c.s.v.timestamps, c.tsval, 7
	c.Send(&s, nil)
	c.s.Until("SYN-ACK", soon, func() bool { return len(c.Inbox) > 0 })
	p := c.Take()[0]
	if !p.Is(synAck) || p.TCP.Ack != c.isn+1 {
		c.s.t.Fatalf("the answer to the SYN is %+v", p.TCP)
	}
	c.cookie, c.tsecr, c.told = p.TCP.Seq, p.TCP.Options.TSVal, p.TCP.Options
	c.tsval++
}

// acknowledge sends the ACK of the handshake.
func (c *rawClient) acknowledge() {
	s := c.segment(0)
	c.Send(&s, nil)
}

// open opens a connection as far as the server's SYN-ACK.
func (c *rawClient) open() {
	c.s.t.Helper()
	before := len(c.s.servers)
	c.connect()
	c.acknowledge()
	c.s.Until("accepted", soon, func() bool { return len(c.s.servers) > before })
	c.s.Advance(20 * time.Millisecond) // the window update
}

// takeFIN has the server close its half, and acknowledges its FIN, which follows no data.
func (c *rawClient) takeFIN() {
	c.s.t.Helper()
	c.s.server.CloseWrite()
	c.s.Until("FIN", soon, func() bool { return c.got(fin | ack) })
	s := c.segment(0)
	s.Ack++
	c.Send(&s, nil)
	c.s.Advance(20 * time.Millisecond)
}

// send sends data at an offset of the stream.
func (c *rawClient) send(offset int, data []byte) {
	s := c.segment(offset)
	s.Flags |= header.TCPFlagPsh
	c.Send(&s, data)
}

// got says whether a segment with these flags has come, and empties the inbox up to it.
func (c *rawClient) got(flags header.TCPFlags) bool {
	for i, p := range c.Inbox {
		if p.Is(flags) {
			c.Inbox = c.Inbox[i+1:]
			return true
		}
	}
	return false
}

// Nothing that a client sends before it has a window breaks the connection.
func TestDataIntoZeroWindow(t *testing.T) {
	request := data(1, 1000)
	for _, test := range []struct {
		name string
		send func(c *rawClient)
	}{
		{"with the ACK", func(c *rawClient) { c.send(0, request) }},
		{"right after the ACK", func(c *rawClient) { c.acknowledge(); c.send(0, request) }},
		{"in pieces", func(c *rawClient) { c.send(0, request[:500]); c.send(500, request[500:]) }},
		{"pieces the wrong way round", func(c *rawClient) { c.send(500, request[500:]); c.send(0, request[:500]) }},
		{"with a FIN", func(c *rawClient) {
			s := c.segment(0)
			s.Flags |= header.TCPFlagFin
			c.Send(&s, request)
		}},
		{"one byte, as a window probe of RFC 9293", func(c *rawClient) { c.send(0, request[:1]) }},
		{"a probe below the window, as Linux does", func(c *rawClient) { c.send(-1, nil) }},
		{"a junk byte below the window, as gVisor does", func(c *rawClient) { c.send(-1, []byte{0}) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			forVariants(t, false, func(t *testing.T, v variant) {
				s := newSession(t, v, v.config())
				c := newRawClient(s)
				c.connect()
				test.send(c)
				s.Until("accepted", soon, func() bool { return s.server != nil })
				s.Advance(300 * time.Millisecond)
				if n := len(s.server.Received()); n != 0 {
					t.Errorf("%d bytes have come before the window was open", n)
				}
				// The retransmission.
				c.tsval += 300
				c.send(0, request)
				s.received("server", s.server, request)
				s.server.Send(data(2, 10))
				s.Until("answer", soon, func() bool { return c.got(ack) })
				if got := s.service(); got.CookieValid != 1 || got.Opened != 1 || got.ConnReopened != 0 {
					t.Errorf("counters are %+v", got)
				}
			})
		})
	}
}

// A client that resets the connection before the server has answered leaves no half of it behind.
func TestClientResetWhileOpening(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		cfg := v.config()
		cfg.ServerLatency = 100 * time.Millisecond
		s := newSession(t, v, cfg)
		c := newRawClient(s)
		c.connect()
		c.acknowledge()
		s.Advance(20 * time.Millisecond)
		s.wantState(proxy.StateOpening)

		blind := c.segment(5) // not the next sequence number
		blind.Flags, blind.Ack = rst, 0
		c.Send(&blind, nil)
		s.Advance(10 * time.Millisecond)
		s.wantState(proxy.StateOpening)

		reset := c.segment(0)
		reset.Flags, reset.Ack = rst, 0
		c.Send(&reset, nil)
		s.Advance(10 * time.Millisecond)
		s.wantState(proxy.StateReset)
		s.Until("reset at the server", soon, func() bool {
			return len(s.Trace.At(proxytest.ToServer, isRst)) > 0
		})
		s.Advance(time.Second)
		if s.server != nil {
			t.Error("the server has accepted the connection")
		}
		if n := s.Server.Stats().TCP.CurrentEstablished.Value(); n != 0 {
			t.Errorf("%d connections are established at the server", n)
		}
	})
}

// A late copy of the handshake's ACK opens nothing, whenever it comes.
func TestReplayedAck(t *testing.T) {
	for _, test := range []struct {
		name  string
		until func(s *session, c *rawClient)
		state proxy.State
	}{
		{"while open", func(*session, *rawClient) {}, proxy.StateOpen},
		{"half-closed", func(_ *session, c *rawClient) { c.takeFIN() }, proxy.StateServerClosed},
		{"closed", func(_ *session, c *rawClient) {
			c.takeFIN()
			f := c.segment(0)
			f.Flags |= header.TCPFlagFin
			f.Ack++
			c.Send(&f, nil)
		}, proxy.StateTimeWait},
		{"reset", func(s *session, _ *rawClient) { s.server.Abort() }, proxy.StateReset},
	} {
		t.Run(test.name, func(t *testing.T) {
			forVariants(t, false, func(t *testing.T, v variant) {
				s := newSession(t, v, v.config())
				c := newRawClient(s)
				c.open()
				test.until(s, c)
				s.Advance(100 * time.Millisecond)
				s.wantState(test.state)
				syns := len(s.Trace.At(proxytest.ToServer, isSyn))
				for range 2 {
					c.acknowledge()
					s.Advance(20 * time.Second)
				}
				s.wantState(test.state)
				if n := len(s.Trace.At(proxytest.ToServer, isSyn)) - syns; n != 0 || len(s.servers) != 1 {
					t.Errorf("%d more SYNs to the server, %d connections in all", n, len(s.servers))
				}
				if got := s.service(); got.CookieValid != 1 || got.ConnReopened != 0 {
					t.Errorf("counters are %+v", got)
				}
			})
		})
	}
}

// The server's reset is lost. What the client sends again, its first data, finds out, though it looks like the ACK
// of the handshake.
func TestResetLost(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		s := openSession(t, v)
		s.Hooks[proxytest.ToClient] = []proxytest.Hook{proxytest.DropFirst(1, func(p *proxytest.Packet) bool { return p.Has(rst) })}
		s.server.Abort()
		s.Advance(time.Second)
		s.wantState(proxy.StateReset)
		s.client.Send(data(1, 100))
		s.Until("reset", soon, func() bool { return s.client.Err() != nil })
		if s.client.Err() != proxytest.ErrReset {
			t.Errorf("the client sees %v", s.client.Err())
		}
		wantDrops(t, s.Network, nil)
	})
}

// What comes for a connection that the server has refused, or has not answered, is a reset again, in the
// client's numbers.
func TestAfterRefusal(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		s := &session{Network: proxytest.New(t, v.config()), t: t, v: v} // nobody listens
		c := newRawClient(s)
		c.connect()
		c.acknowledge()
		for what := range 3 {
			s.Until("reset", soon, func() bool { return len(c.Inbox) > 0 })
			p := c.Take()[0]
			if !p.Is(rst|ack) || p.TCP.Seq != c.cookie+1 || p.TCP.Ack != c.isn+1 {
				t.Fatalf("answer %d is %+v", what, p.TCP)
			}
			c.send(0, data(1, 10))
		}
		if got := s.service(); got.CookieValid != 1 || got.Refused != 1 {
			t.Errorf("counters are %+v", got)
		}
	})
}

// A SYN with data is answered like one without; the data isn't acknowledged.
func TestDataOnSyn(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		s := newSession(t, v, v.config())
		c := newRawClient(s)
		p := c.Segment(c.port, v.serverAddr(), c.isn, 0)
		c.Send(&p, data(1, 100))
		s.Until("SYN-ACK", soon, func() bool { return len(c.Inbox) > 0 })
		if got := c.Take()[0]; !got.Is(synAck) || got.TCP.Ack != c.isn+1 {
			t.Errorf("the answer is %+v", got.TCP)
		}
	})
}

// at is where the client connects from.
func (c *rawClient) at() netip.AddrPort { return netip.AddrPortFrom(c.Addr, c.port) }
