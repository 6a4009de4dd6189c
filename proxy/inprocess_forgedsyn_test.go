package proxy_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"levee/proxy"
	"levee/proxy/proxytest"
	"levee/stack"
)

// forgeSYN sends a client a SYN as if the server opened a connection to it.
func forgeSYN(s *session, to netip.AddrPort) {
	server := s.v.serverAddr()
	forged := stack.Segment{
		Src: stack.AddrFrom(server.Addr()), Dst: stack.AddrFrom(to.Addr()), SrcPort: server.Port(), DstPort: to.Port(),
		Seq: 77_000_000, Flags: syn, Window: 65535, MSS: 1460, WScale: 7,
	}
	s.Inject(proxytest.FromServer, proxytest.Frame(&forged, nil))
}

// Somebody forges SYNs from the server to the client while the client connects, on the same addresses and ports: for levee the beginning of
// a connection that the server opens. The client's own opens all the same.
func TestForgedSynDuringHandshake(t *testing.T) {
	for _, forged := range [][]int{{0}, {1}, {2}, {3}, {0, 1, 2, 3}} {
		t.Run(fmt.Sprint("before step ", forged), func(t *testing.T) {
			forVariants(t, false, func(t *testing.T, v variant) {
				s := newSession(t, v, v.config())
				c := newRawClient(s)
				for i, step := range []func(){
					c.connect,
					c.acknowledge,
					func() { s.Until("accepted", soon, func() bool { return s.server != nil }) },
					func() { c.send(0, data(1, 1000)) },
				} {
					if slices.Contains(forged, i) {
						forgeSYN(s, c.at())
						s.Advance(20 * time.Millisecond)
					}
					step()
				}
				s.received("server", s.server, data(1, 1000))
				s.wantState(proxy.StateOpen)
				if f := s.flow(); f.Client != c.at() {
					t.Errorf("the flow is %+v", f)
				}
			})
		})
	}
	// A client that is a whole TCP stack answers the SYN with a challenge ACK, which looks like the last of its handshake.
	t.Run("of a stack", func(t *testing.T) {
		forVariants(t, true, func(t *testing.T, v variant) {
			s := newSession(t, v, v.config())
			s.dial()
			s.Until("SYN-ACK", soon, func() bool { return len(s.Trace.At(proxytest.ToClient, isSynAck)) > 0 })
			forgeSYN(s, v.clientAddr())
			s.Until("open at both ends", soon, func() bool { return s.client.Established() && s.server != nil })
			s.exchange()
			s.wantState(proxy.StateOpen)
		})
	})
}
