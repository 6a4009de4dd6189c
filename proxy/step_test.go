package proxy

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/proxy/cookie"
	"levee/stack"
)

// These tests are about flows whose record fell out of step with the connection, or stood in the way of another one.

// keepLink brings frames once, and keeps those that the worker sends.
type keepLink struct{ in, out [][]byte }

func (l *keepLink) Recv(frames [][]byte, _ time.Duration) (int, error) {
	for i, f := range l.in {
		frames[i] = frames[i][:copy(frames[i], f)]
	}
	return len(l.in), nil
}

func (l *keepLink) Send(frames [][]byte) error {
	for _, f := range frames {
		l.out = append(l.out, append([]byte(nil), f...))
	}
	return nil
}

// framesFor gives the worker a frame and returns those that it sends.
func (r *rig) framesFor(frame []byte) [][]byte {
	l := &keepLink{in: [][]byte{frame}}
	was := r.worker.link
	r.worker.link, r.worker.out.link = l, l
	defer func() { r.worker.link, r.worker.out.link = was, was }()
	if _, err := r.worker.Step(r.clock, 0); err != nil {
		r.t.Fatal(err)
	}
	return l.out
}

// sentFor gives the worker a frame and returns all that it sends.
func (r *rig) sentFor(frame []byte) (sent []stack.Packet) {
	for _, f := range r.framesFor(frame) {
		var p stack.Packet
		p.Parse(f[stack.VirtioLen:], true)
		sent = append(sent, p)
	}
	return sent
}

// from is a segment of a side with so many bytes of payload, all zero: they change only the lengths.
func (r *rig) from(s side, seq, ack seqnum.Value, flags header.TCPFlags, window uint16, payload int) []byte {
	f := r.segment(s, stack.Segment{Seq: seq, Ack: ack, Flags: flags, Window: window, WScale: WScaleNone})
	f = append(append([]byte(nil), f...), make([]byte, payload)...)
	ip := header.IPv4(f[stack.VirtioLen:])
	ip.SetTotalLength(uint16(len(ip)))
	ip.SetChecksum(0)
	ip.SetChecksum(^ip.CalculateChecksum())
	return f // its TCP checksum is partial
}

// wantStates checks how many flows there are in a state, and in all.
func (r *rig) wantStates(state State, n int) {
	r.t.Helper()
	total := 0
	for f := range flowsOf(r) {
		total++
		if f.State != state {
			r.t.Errorf("%v > %v is %v, want %v", f.Client, f.Server, f.State, state)
		}
	}
	if total != n {
		r.t.Errorf("%d flows, want %d", total, n)
	}
}

// TestWindowGrowsWhileOpening: a client whose handshake ACK promises nearly nothing, and more before the server has answered.
func TestWindowGrowsWhileOpening(t *testing.T) {
	for _, window := range []uint16{0, 1, 500} {
		t.Run(fmt.Sprint(window), func(t *testing.T) {
			r := newRig(t, DefaultOptions())
			k := r.step(r.syn()).Seq
			r.sentFor(r.from(client, 1001, k+1, flagACK, window, 0))
			r.sentFor(r.from(client, 1001, k+1, flagACK, 500, 0))
			r.sentFor(r.segment(server, stack.Segment{
				Seq: 5000, Ack: 1001, Flags: flagSYN | flagACK, Window: 65535, MSS: 1460, WScale: 9, SACKPermitted: true,
			}))
			const segment, segments = 1460, 10
			for i := range seqnum.Value(segments) {
				r.sentFor(r.from(server, 5001+i*segment, 1001, flagACK, 128, segment))
			}
			const all = segment * segments
			r.sentFor(r.from(client, 1001, k+1+all, flagACK, 500, 0))
			r.sentFor(r.from(server, 5001+all, 1001, flagFIN|flagACK, 128, 0))
			r.sentFor(r.from(client, 1001, k+1+all+1, flagFIN|flagACK, 500, 0))
			r.sentFor(r.from(server, 5001+all+1, 1002, flagACK, 128, 0))
			r.wantStates(StateTimeWait, 1)
		})
	}
}

// TestFragmentsKeepStep: of each answer of the server levee sees only the first fragment, with a part of the bytes that the client
// then acknowledges.
func TestFragmentsKeepStep(t *testing.T) {
	r := newRig(t, DefaultOptions())
	k := r.open()
	c, s := seqnum.Value(1001), seqnum.Value(5001)
	for range 100 {
		r.sentFor(r.from(client, c, k+1+s-5001, flagACK, 500, 100))
		c += 100
		f := r.from(server, s, c, flagACK, 128, 1400)
		s += 1400
		const first = 20 + 1248
		ip := header.IPv4(f[stack.VirtioLen : stack.VirtioLen+first])
		ip.SetTotalLength(first)
		ip.SetFlagsFragmentOffset(header.IPv4FlagMoreFragments, 0)
		ip.SetChecksum(0)
		ip.SetChecksum(^ip.CalculateChecksum())
		if n := len(r.sentFor(f[:stack.VirtioLen+first])); n != 1 {
			t.Fatalf("for a first fragment levee sends %d packets", n)
		}
	}
	for f := range flowsOf(r) {
		if f.ClientBytes != 100*100 {
			t.Errorf("levee has seen %d bytes of the client, not %d", f.ClientBytes, 100*100)
		}
	}
	r.sentFor(r.from(client, c, k+1+s-5001, flagFIN|flagACK, 500, 0))
	r.sentFor(r.from(server, s, c+1, flagFIN|flagACK, 128, 0))
	r.sentFor(r.from(client, c+1, k+1+s-5001+1, flagACK, 500, 0))
	r.wantStates(StateTimeWait, 1)
}

// TestOutboundFastOpen: a protected server's own connection has data on its SYN (RFC 7413), and its peer acknowledges them.
func TestOutboundFastOpen(t *testing.T) {
	r := newRig(t, DefaultOptions())
	for i, frame := range [][]byte{
		r.from(server, 9000, 0, flagSYN, 500, 100),
		r.from(client, 100, 9101, flagSYN|flagACK, 500, 0),
		r.from(server, 9101, 101, flagACK, 500, 0),
		r.from(server, 9101, 101, flagACK, 500, 50),
		r.from(client, 101, 9151, flagACK, 500, 50),
	} {
		if n := len(r.sentFor(frame)); n != 1 {
			t.Errorf("packet %d: levee sends %d", i, n)
		}
	}
	r.wantStates(StateOpen, 1)
}

// TestReverseReuse: of two protected hosts the one that accepted a connection, now over, opens the next with the same addresses and ports.
func TestReverseReuse(t *testing.T) {
	for _, after := range []time.Duration{10 * time.Second, 100 * time.Second, 200 * time.Second, 400 * time.Second} {
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			now := time.Unix(1_700_000_000, 0)
			p, err := New(Config{
				Services: []Service{{
					Name: "all", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.51.100.0/24")},
					Mode: ModeAlways, Options: DefaultOptions(),
				}},
				Capacity: 1000, MTU: 1500, IdleTimeout: DefaultIdleTimeout, TransitoryTimeout: DefaultTransitoryTimeout,
				Secret: cookie.Secret{1},
			}, now)
			if err != nil {
				t.Fatal(err)
			}
			link := &oneLink{last: make([]byte, frameSize)}
			r := &rig{t, p, p.NewWorker(link), link, now, rigClient, rigServer}
			k := r.open()
			r.sentFor(r.from(client, 1001, k+1, flagFIN|flagACK, 500, 0))
			r.sentFor(r.from(server, 5001, 1002, flagFIN|flagACK, 500, 0))
			r.sentFor(r.from(client, 1002, k+2, flagACK, 500, 0))
			r.wantStates(StateTimeWait, 1)

			r.now = now.Add(after)
			synAck := r.sentFor(r.segment(server, stack.Segment{Seq: 70_000_000, Flags: flagSYN, Window: 64240, MSS: 1460, WScale: 7}))
			if len(synAck) != 1 || synAck[0].Flags != flagSYN|flagACK {
				t.Fatalf("levee answers the SYN with %+v", synAck)
			}
			sent := r.sentFor(r.from(server, 70_000_001, synAck[0].Seq+1, flagACK, 500, 0))
			if len(sent) != 1 || sent[0].Flags != flagSYN || sent[0].Seq != 70_000_000 || sent[0].Dst != rigClient {
				t.Errorf("levee answers the ACK with %+v, want a SYN to the other host", sent)
			}
			r.wantStates(StateOpening, 1)
		})
	}
}
