package proxy_test

import (
	"testing"
	"time"

	"levee/proxy"
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
