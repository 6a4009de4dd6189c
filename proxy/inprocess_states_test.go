package proxy_test

import (
	"fmt"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/proxy"
	"levee/proxy/proxytest"
	"levee/stack"
)

// pair is a connection between two raw hosts, who can say where they are in it.
type pair struct {
	s *session
	c *rawClient
	r *rawServer
	// sent says whether the client and the server have sent their FIN.
	sent [2]bool
}

func openPair(t *testing.T, v variant) *pair {
	s, c, r := rawPair(t, v, v.config(), nil)
	r.accept()
	s.Advance(20 * time.Millisecond)
	c.Take() // the window update
	return &pair{s: s, c: c, r: r}
}

// segment starts an ACK of the client (0) or the server (1) at the end of what it has sent, and of all that the other has.
func (p *pair) segment(side int) stack.Segment {
	beyond := func(side int) seqnum.Value {
		if p.sent[side] {
			return 1
		}
		return 0
	}
	if side == 0 {
		seg := p.c.segment(int(beyond(0)))
		seg.Ack += beyond(1)
		return seg
	}
	seg := p.r.segment(ack)
	seg.Seq += 1 + beyond(1)
	seg.Ack += beyond(0)
	return seg
}

// send sends a segment of a side, and says what arrives at the other.
func (p *pair) send(side int, frame []byte) []*proxytest.Packet {
	hop, to := proxytest.FromClient, p.r.Peer
	if side == 1 {
		hop, to = proxytest.FromServer, p.c.Peer
	}
	to.Take()
	p.s.Inject(hop, frame)
	p.s.Advance(20 * time.Millisecond)
	return to.Take()
}

// fin sends the FIN of a side, a second time if it has been sent.
func (p *pair) fin(side int) []*proxytest.Packet {
	p.sent[side] = false
	seg := p.segment(side)
	p.sent[side] = true
	seg.Flags |= fin
	return p.send(side, proxytest.Frame(&seg, nil))
}

// FINs in every order, each sent twice and then acknowledged, half-closed for hours in between.
func TestFINs(t *testing.T) {
	closed := [2]proxy.State{proxy.StateClientClosed, proxy.StateServerClosed}
	for first := range 2 {
		for _, crossed := range []bool{false, true} {
			t.Run(fmt.Sprintf("side %d first, crossed %v", first, crossed), func(t *testing.T) {
				forVariants(t, false, func(t *testing.T, v variant) {
					p := openPair(t, v)
					arrives := func(what string, got []*proxytest.Packet, flags header.TCPFlags) {
						t.Helper()
						if len(got) != 1 || !got[0].Is(flags) {
							t.Errorf("%s: %d packets arrive", what, len(got))
						}
					}
					acknowledge := func(side int, want proxy.State) {
						t.Helper()
						seg := p.segment(side)
						arrives("acknowledgement", p.send(side, proxytest.Frame(&seg, nil)), ack)
						p.s.wantState(want)
					}
					for range 2 {
						arrives("first FIN", p.fin(first), fin|ack)
						p.s.wantState(proxy.StateOpen)
					}
					if !crossed { // the other goes on sending for hours
						acknowledge(1-first, closed[first])
						arrives("first FIN again", p.fin(first), fin|ack)
						acknowledge(1-first, closed[first])
						for range 4 {
							p.s.Advance(2 * time.Hour)
							seg := p.segment(1 - first)
							arrives("half-closed", p.send(1-first, proxytest.Frame(&seg, nil)), ack)
							p.s.wantState(closed[first])
						}
					}
					if crossed { // it has not seen the first
						p.sent[first] = false
					}
					halfway := closed[first]
					if crossed {
						halfway = proxy.StateOpen
					}
					for range 2 {
						arrives("second FIN", p.fin(1-first), fin|ack)
						p.s.wantState(halfway)
					}
					p.sent[first] = true
					if crossed {
						acknowledge(1-first, closed[first])
					}
					acknowledge(first, proxy.StateTimeWait)
					for side := range 2 {
						arrives("FIN again", p.fin(side), fin|ack)
						acknowledge(side, proxy.StateTimeWait)
					}
					wantDrops(t, p.s.Network, nil)
					p.s.Advance(remembered - time.Second)
					p.s.wantState(proxy.StateTimeWait)
					p.s.Advance(2 * time.Second)
					wantEmpty(t, p.s)
				})
			})
		}
	}
}

// A RST of either side, in every state: one that its receiver expects ends the connection, any other reaches the host and changes
// nothing. A reset connection is remembered for four minutes.
func TestResets(t *testing.T) {
	for _, state := range []proxy.State{proxy.StateOpen, proxy.StateClientClosed, proxy.StateServerClosed, proxy.StateTimeWait} {
		for side := range 2 {
			t.Run(fmt.Sprintf("%v, by side %d", state, side), func(t *testing.T) {
				forVariants(t, false, func(t *testing.T, v variant) {
					p := openPair(t, v)
					if state == proxy.StateClientClosed || state == proxy.StateTimeWait {
						p.fin(0)
					}
					if state == proxy.StateServerClosed || state == proxy.StateTimeWait {
						p.fin(1)
					}
					// Both have acknowledged it.
					for side := range 2 {
						seg := p.segment(side)
						p.send(side, proxytest.Frame(&seg, nil))
					}
					p.s.wantState(state)
					for _, test := range []struct {
						offset seqnum.Value
						spoil  bool
						want   proxy.State
					}{
						{1, false, state}, {1000, false, state}, {1 << 31, false, state}, {0, true, state}, {0, false, proxy.StateReset},
					} {
						seg := p.segment(side)
						seg.Flags, seg.Timestamps = rst, false
						seg.Seq += test.offset
						frame := proxytest.Frame(&seg, nil)
						if test.spoil {
							frame[len(frame)-1] ^= 1
						}
						if got := p.send(side, frame); len(got) != 1 || !got[0].Is(rst) {
							t.Errorf("%+v: %d packets arrive", test, len(got))
						}
						p.s.wantState(test.want)
					}
					p.s.Advance(remembered - time.Second)
					p.s.wantState(proxy.StateReset)
					p.s.Advance(2 * time.Second)
					wantEmpty(t, p.s)
				})
			})
		}
	}
}

// A RST while the server has not answered ends nothing if its checksum is wrong.
func TestBadResetWhileOpening(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		s, c, r := rawPair(t, v, v.config(), nil)
		seg := c.segment(0)
		seg.Flags = rst
		frame := proxytest.Frame(&seg, nil)
		frame[len(frame)-1] ^= 1
		s.Inject(proxytest.FromClient, frame)
		s.Advance(20 * time.Millisecond)
		s.wantState(proxy.StateOpening)
		r.accept()
		s.wantState(proxy.StateOpen)
	})
}

// Segments of somebody who doesn't know the window end nothing, delay no end and teach levee nothing: not even how long ago the
// last packet was.
func TestOutOfWindowDoesNothing(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		p := openPair(t, v)
		before := p.s.flow()
		for side := range 2 {
			for _, flags := range []header.TCPFlags{ack, fin | ack, rst, rst | ack} {
				for _, jump := range []seqnum.Value{1 << 24, 1 << 31, 3 << 30} {
					p.s.Advance(time.Minute)
					seg := p.segment(side)
					seg.Flags = flags
					seg.Seq += jump
					p.send(side, proxytest.Frame(&seg, data(1, 100)))
				}
			}
		}
		after := p.s.flow()
		if after.State != proxy.StateOpen || after.ClientBytes != before.ClientBytes || after.ServerBytes != before.ServerBytes {
			t.Errorf("the flow was %+v, and is %+v", before, after)
		}
		if got, want := after.Idle-before.Idle, after.Age-before.Age; got < want-time.Second {
			t.Errorf("idle for %v, not %v", got, want)
		}
	})
}
