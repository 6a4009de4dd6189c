package proxy_test

import (
	"testing"
	"time"

	"levee/proxy"
	"levee/proxy/proxytest"
)

// A client that was restarted connects from the same port with initial sequence numbers that have started anew, smaller ones: where
// no segment of an earlier connection can be about, that is a new connection, however busy the old one is.
func TestRestartedClient(t *testing.T) {
	for _, test := range []struct {
		name string
		// before is what happens on the old connection.
		before func(s *session, c *rawClient)
	}{
		{"first connection, idle", func(s *session, _ *rawClient) { s.Advance(10 * time.Second) }},
		{"older than any cookie, busy", func(s *session, c *rawClient) {
			for i := range 14 {
				s.Advance(10 * time.Second)
				c.send(i, data(1, 1))
			}
		}},
		{"the third, older than any cookie, busy", func(s *session, c *rawClient) {
			for range 2 {
				c.isn += 1 << 16
				c.open()
			}
			for i := range 14 {
				s.Advance(10 * time.Second)
				c.send(i, data(1, 1))
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			forVariants(t, false, func(t *testing.T, v variant) {
				s := newSession(t, v, v.config())
				c := newRawClient(s)
				c.open()
				test.before(s, c)
				old := s.server
				c.isn -= 1 << 20
				c.tsval = 5
				c.open()
				c.send(0, data(5, 2000))
				s.received("server", s.server, data(5, 2000))
				if !old.Gone() {
					t.Errorf("the server's old connection is in state %v", old.State())
				}
				wantDrops(t, s.Network, nil)
				s.wantState(proxy.StateOpen)
			})
		})
	}
}

// The first segment of a new incarnation to arrive may be one that overtook the handshake's ACK. Sent on with the numbers of the connection before,
// it would make the server reset the new one exactly.
func TestEarlyDataOvertakesItsACK(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		s := newSession(t, v, early(v))
		c := newRawClient(s)
		c.open()
		p := c.segment(0)
		p.Flags = rst
		c.Send(&p, nil)
		s.Advance(20 * time.Millisecond)
		s.wantState(proxy.StateReset)
		c.isn += 1 << 24
		c.connect()
		c.send(1000, data(2, 500))
		s.Advance(20 * time.Millisecond)
		if got := c.Take(); len(got) != 0 {
			t.Errorf("the client gets %+v", got[0].TCP)
		}
		c.send(0, data(1, 1000))
		c.send(1000, data(2, 500))
		s.Until("accepted", soon, func() bool { return len(s.servers) == 2 })
		s.received("server", s.server, append(data(1, 1000), data(2, 500)...))
		wantDrops(t, s.Network, map[proxy.DropReason]uint64{proxy.DropNoFlow: 1})
	})
}

// TestDamagedAcknowledgement: what levee learns from a segment it repeats in its own, so that it must not come from one that is damaged.
func TestDamagedAcknowledgement(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		s, c, r := rawPair(t, v, v.config(), nil)
		r.accept()
		r.Take()
		p := c.segment(0)
		p.Ack += 8 // nothing has been sent yet
		frame := proxytest.Frame(&p, nil)
		frame[len(frame)-1] ^= 1
		s.Inject(proxytest.FromClient, frame)
		s.Advance(20 * time.Millisecond)
		r.Take()
		again := r.segment(synAck)
		r.Send(&again, nil)
		s.Advance(20 * time.Millisecond)
		if got := r.Take(); len(got) != 1 || got[0].TCP.Ack != r.isn+1 {
			t.Errorf("a repeated SYN-ACK is answered by %+v", got)
		}
	})
}
