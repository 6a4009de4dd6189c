package proxy_test

import (
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/proxy"
	"levee/proxy/proxytest"
)

// Insane flags on an open flow, from either side, go no further and change nothing.
func TestHostileOnFlow(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		s := newSession(t, v, v.config())
		c := newRawClient(s)
		c.open()
		for _, flags := range []header.TCPFlags{0, fin, syn | fin | ack, syn | rst | ack, fin | rst | ack, 0xff, header.TCPFlagPsh} {
			p := c.segment(0)
			p.Flags = flags
			wantDropped(t, s, proxytest.Frame(&p, nil), proxy.DropBadFlags)
			p.Src, p.Dst, p.SrcPort, p.DstPort = p.Dst, p.Src, p.DstPort, p.SrcPort
			wantDropped(t, s, proxytest.Frame(&p, nil), proxy.DropBadFlags)
		}
		s.wantState(proxy.StateOpen)
		c.send(0, data(1, 100))
		s.received("server", s.server, data(1, 100))
	})
}

// Resets that aren't exactly in sequence are for the hosts to judge: they pass, and the flow stays.
func TestBlindReset(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		s := newSession(t, v, v.config())
		c := newRawClient(s)
		c.open()
		for _, offset := range []int{1, 100, -1, 60000, 1 << 30} {
			p := c.segment(offset)
			p.Flags = rst
			before := len(s.Trace.At(proxytest.ToServer, isRst))
			c.Send(&p, nil)
			s.Advance(time.Second)
			if n := len(s.Trace.At(proxytest.ToServer, isRst)) - before; n != 1 {
				t.Errorf("%d resets have reached the server", n)
			}
			s.wantState(proxy.StateOpen)
		}
		if s.server.Err() != nil {
			t.Errorf("the server sees %v", s.server.Err())
		}
		c.send(0, data(1, 100))
		s.received("server", s.server, data(1, 100))
	})
}

// Segments that can't belong to the flow teach levee nothing: what it says of its own afterwards is right.
func TestImplausible(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		s := newSession(t, v, v.config())
		c := newRawClient(s)
		c.open()
		c.send(0, data(1, 100))
		s.received("server", s.server, data(1, 100))
		for _, jump := range []seqnum.Value{1 << 28, 1 << 31, 3 << 30} {
			for _, flags := range []header.TCPFlags{ack, fin | ack} {
				p := c.segment(100)
				p.Seq += jump
				p.Flags = flags
				c.Send(&p, nil)
				p = c.segment(100)
				p.Ack += jump
				p.Flags = flags
				c.Send(&p, nil)
			}
		}
		s.Advance(time.Second)
		s.wantState(proxy.StateOpen)

		// The reset of a new incarnation must be exactly what the server expects.
		old := s.server
		c.isn += 1 << 20
		c.open()
		if !old.Gone() {
			t.Errorf("the server's old connection is in state %v", old.State())
		}
	})
}
