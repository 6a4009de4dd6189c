package proxy_test

import (
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"levee/proxy"
	"levee/proxy/proxytest"
)

// The server has not seen levee's ACK, and sends its SYN-ACK again when the client has gone: it is told so, as often as it asks,
// and makes no connection of it.
func TestSynAckAfterClientReset(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		s, c, r := rawPair(t, v, v.config(), nil)
		s.Hooks[proxytest.ToServer] = []proxytest.Hook{proxytest.DropFirst(2, func(*proxytest.Packet) bool { return true })}
		a := r.segment(synAck)
		r.Send(&a, nil)
		s.Advance(20 * time.Millisecond)
		reset := c.segment(0)
		reset.Flags = rst
		c.Send(&reset, nil)
		s.Advance(20 * time.Millisecond)
		s.wantState(proxy.StateReset)
		for range 2 {
			r.Send(&a, nil)
			s.Advance(time.Second)
			got := r.Take()
			checkControl(t, "server", got, []header.TCPFlags{rst})
			if got[0].TCP.Seq != a.Ack {
				t.Errorf("the reset's sequence number is %d, not %d", got[0].TCP.Seq, a.Ack)
			}
		}
		s.wantState(proxy.StateReset)
	})
}

// A server that opens a connection to the client at the same moment, between the same ports, answers levee's SYN as RFC 9293 §3.5
// has it, and both end up with one connection.
func TestSimultaneousOpen(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		s, c, r := rawPair(t, v, v.config(), nil)
		own := r.segment(syn)
		own.Ack, own.MSS = 0, 1460
		r.Send(&own, nil) // crossed levee's
		s.Advance(20 * time.Millisecond)
		checkControl(t, "server", r.Take(), nil)
		checkControl(t, "client", c.Take(), nil)
		s.wantState(proxy.StateOpening)
		wantDrops(t, s.Network, map[proxy.DropReason]uint64{proxy.DropBadAck: 1})
		r.accept()
		s.wantState(proxy.StateOpen)
	})
}

// A client connects to the very port from which a server is connecting to it: the cookie of its handshake makes of the two one
// connection by way of levee.
func TestSimultaneousOpenOutbound(t *testing.T) {
	v := variant{}
	s := newSession(t, v, v.config())
	c := newRawClient(s)
	s.server = s.Server.Dial(serverPort+1, c.at())
	s.Until("SYN at the client", soon, func() bool { return c.got(syn) })
	to := v.serverAddr()
	first := c.Segment(c.port, to, c.isn, 0)
	first.DstPort = serverPort + 1
	c.Send(&first, nil)
	s.Until("SYN-ACK", soon, func() bool { return len(c.Inbox) > 0 })
	k := c.Take()[0].TCP
	if !k.Flags.Contains(synAck) {
		t.Fatalf("the answer is %+v", k)
	}
	a := c.Segment(c.port, to, c.isn+1, k.Seq+1)
	a.DstPort = serverPort + 1
	c.Send(&a, nil)
	s.Until("open at the server", soon, func() bool { return s.server.Established() })
	s.Advance(time.Second)
	if f := s.flow(); f.State != proxy.StateOpen || f.Client != c.at() || f.Delta == 0 {
		t.Errorf("the flow is %+v", f)
	}
	p := a
	p.Flags |= header.TCPFlagPsh
	c.Send(&p, data(1, 100))
	s.received("server", s.server, data(1, 100))
}
