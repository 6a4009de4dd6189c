package proxy_test

import (
	"slices"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/proxy"
	"levee/proxy/proxytest"
	"levee/stack"
)

const (
	ece = header.TCPFlagEce
	cwr = header.TCPFlagCwr
)

// rawServer speaks the server's TCP by hand.
type rawServer struct {
	*proxytest.Peer
	s   *session
	syn stack.Packet // the SYN that levee has sent
	isn seqnum.Value
}

// rawPair makes a client and a server without stacks, and opens a connection as far as levee's SYN.
func rawPair(t *testing.T, v variant, cfg proxytest.Config, spoil func(syn *stack.Segment)) (*session, *rawClient, *rawServer) {
	t.Helper()
	s := &session{Network: proxytest.New(t, cfg), t: t, v: v}
	c := newRawClient(s)
	addr := v.serverAddr().Addr()
	r := &rawServer{Peer: s.Peer(addr, true), s: s, isn: 0xfffffffe}

	first := c.Segment(c.port, v.serverAddr(), c.isn, 0)
	first.Timestamps, first.TSVal, first.WScale = v.timestamps, c.tsval, 7
	if spoil != nil {
		spoil(&first)
	}
	c.Send(&first, nil)
	s.Until("SYN-ACK", soon, func() bool { return len(c.Inbox) > 0 })
	reply := c.Take()[0]
	c.cookie, c.tsecr = reply.TCP.Seq, reply.TCP.Options.TSVal
	a := c.segment(0)
	a.Timestamps = first.Timestamps && reply.TCP.Options.Timestamps
	a.TrafficClass = 0xb8 | 1 // DSCP EF, ECT(1)
	c.Send(&a, nil)
	r.awaitSyn()
	return s, c, r
}

func (r *rawServer) awaitSyn() {
	r.s.t.Helper()
	r.s.Until("SYN at the server", soon, func() bool { return len(r.Inbox) > 0 })
	p := r.Take()
	if last := p[len(p)-1]; !last.Is(syn) {
		r.s.t.Fatalf("the server gets %+v", last.TCP)
	} else {
		r.syn = last.TCP
	}
}

// segment starts an answer to the SYN with these flags.
func (r *rawServer) segment(flags header.TCPFlags) stack.Segment {
	return stack.Segment{
		Src: r.syn.Dst, Dst: r.syn.Src, SrcPort: r.syn.DstPort, DstPort: r.syn.SrcPort,
		Seq: r.isn, Ack: r.syn.Seq + 1, Flags: flags, Window: 1000, WScale: stack.WScaleNone,
		Timestamps: r.syn.Options.Timestamps, TSVal: 7777, TSEcr: r.syn.Options.TSVal,
	}
}

// accept answers the SYN and waits for levee's ACK.
func (r *rawServer) accept() {
	r.s.t.Helper()
	a := r.segment(synAck)
	a.MSS, a.WScale, a.SACKPermitted = 1460, 7, true
	r.Send(&a, nil)
	r.s.Until("ACK at the server", soon, func() bool { return len(r.Inbox) > 0 })
	if p := r.Take()[0]; !p.Is(ack) || p.TCP.Ack != r.isn+1 || p.TCP.Seq != r.syn.Seq+1 {
		r.s.t.Fatalf("the server gets %+v", p.TCP)
	}
}

// What levee makes of everything that a server can answer to its SYN.
func TestServerAnswers(t *testing.T) {
	badSum := func(f []byte) { f[len(f)-1] ^= 1 }
	for _, test := range []struct {
		name   string
		change func(s *stack.Segment)
		spoil  func(frame []byte)
		drop   proxy.DropReason // NumDropReasons if not dropped
		state  proxy.State
		// server and client are the control flags of what levee sends to each, in order.
		server, client []header.TCPFlags
	}{
		{"SYN-ACK", nil, nil, proxy.NumDropReasons, proxy.StateOpen,
			[]header.TCPFlags{ack}, []header.TCPFlags{ack}},
		{"RST", func(s *stack.Segment) { s.Flags = rst | ack }, nil, proxy.NumDropReasons, proxy.StateReset,
			nil, []header.TCPFlags{rst | ack}},
		{"SYN-ACK with a bad checksum", nil, badSum, proxy.DropBadChecksum, proxy.StateOpening, nil, nil},
		{"RST with a bad checksum", func(s *stack.Segment) { s.Flags = rst | ack }, badSum, proxy.DropBadChecksum, proxy.StateOpening, nil, nil},
		{"RST without ACK", func(s *stack.Segment) { s.Flags = rst }, nil, proxy.DropBadAck, proxy.StateOpening, nil, nil},
		{"RST of another connection", func(s *stack.Segment) { s.Flags = rst | ack; s.Ack += 5 }, nil, proxy.DropBadAck, proxy.StateOpening, nil, nil},
		{"ACK", func(s *stack.Segment) { s.Flags = ack }, nil, proxy.DropBadAck, proxy.StateOpening, nil, nil},
		{"FIN", func(s *stack.Segment) { s.Flags = fin | ack }, nil, proxy.DropBadAck, proxy.StateOpening, nil, nil},
		{"SYN of its own", func(s *stack.Segment) { s.Flags = syn }, nil, proxy.DropBadAck, proxy.StateOpening, nil, nil},
		{"challenge ACK of an old connection", func(s *stack.Segment) { s.Flags = ack; s.Ack += 5 }, nil,
			proxy.NumDropReasons, proxy.StateOpening, []header.TCPFlags{rst, syn}, nil},
		{"SYN-ACK to an old SYN", func(s *stack.Segment) { s.Ack += 5 }, nil,
			proxy.NumDropReasons, proxy.StateOpening, []header.TCPFlags{rst, syn}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			forVariants(t, false, func(t *testing.T, v variant) {
				s, c, r := rawPair(t, v, v.config(), nil)
				a := r.segment(synAck)
				if test.change != nil {
					test.change(&a)
				}
				frame := proxytest.Frame(&a, nil)
				if test.spoil != nil {
					test.spoil(frame)
				}
				s.Inject(proxytest.FromServer, frame)
				s.Advance(20 * time.Millisecond)
				s.wantState(test.state)
				want := map[proxy.DropReason]uint64{}
				if test.drop != proxy.NumDropReasons {
					want[test.drop] = 1
				}
				wantDrops(t, s.Network, want)
				toServer, toClient := r.Take(), c.Take()
				checkControl(t, "server", toServer, test.server)
				checkControl(t, "client", toClient, test.client)
				for _, p := range toServer {
					if p.Is(rst) && p.TCP.Seq != a.Ack {
						t.Errorf("the reset's sequence number is %d, not %d", p.TCP.Seq, a.Ack)
					}
					if p.Is(syn) && p.TCP.Seq != r.syn.Seq {
						t.Errorf("the SYN's sequence number is %d, not %d", p.TCP.Seq, r.syn.Seq)
					}
				}
			})
		})
	}
}

func checkControl(t *testing.T, who string, got []*proxytest.Packet, want []header.TCPFlags) {
	t.Helper()
	var flags []header.TCPFlags
	for _, p := range got {
		flags = append(flags, p.TCP.Flags&(syn|fin|rst|ack))
	}
	if !slices.Equal(flags, want) {
		t.Errorf("the %s gets %v, not %v", who, flags, want)
	}
}

// A server that goes on challenging gets no endless answer.
func TestChallengesAreBounded(t *testing.T) {
	v := variant{}
	s, _, r := rawPair(t, v, v.config(), nil)
	for range 10 {
		a := r.segment(ack)
		a.Ack += 5
		r.Send(&a, nil)
		s.Advance(10 * time.Millisecond)
	}
	resets := 0
	for _, p := range r.Take() {
		if p.Is(rst) {
			resets++
		}
	}
	if resets == 0 || resets > 5 {
		t.Errorf("%d resets for 10 challenges", resets)
	}
}

// A second SYN-ACK of an open connection: the same again is acknowledged with its own timestamp; another is dropped.
func TestSynAckAgain(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		s, c, r := rawPair(t, v, v.config(), nil)
		r.accept()
		c.send(0, data(1, 100))
		s.Advance(20 * time.Millisecond)
		c.Take()
		r.Take()

		a := r.segment(synAck)
		a.TSVal += 1000
		r.Send(&a, nil)
		s.Advance(20 * time.Millisecond)
		p := r.Take()
		checkControl(t, "server", p, []header.TCPFlags{ack})
		if got := p[0].TCP; got.Ack != r.isn+1 || v.timestamps && got.Options.TSEcr != a.TSVal || got.Seq != r.syn.Seq+101 {
			t.Errorf("the answer is %+v", got)
		}

		a.Seq += 5
		r.Send(&a, nil)
		s.Advance(20 * time.Millisecond)
		checkControl(t, "server", r.Take(), nil)
		checkControl(t, "client", c.Take(), nil)
		wantDrops(t, s.Network, map[proxy.DropReason]uint64{proxy.DropBadAck: 1})
		s.wantState(proxy.StateOpen)
	})
}

// A server that answers after levee has given up is reset; its own resets are dropped.
func TestLateSynAck(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		s, c, r := rawPair(t, v, v.config(), nil)
		s.Advance(20 * time.Second)
		s.wantState(proxy.StateReset)
		r.Take()
		c.Take()
		a := r.segment(synAck)
		r.Send(&a, nil)
		s.Advance(20 * time.Millisecond)
		p := r.Take()
		checkControl(t, "server", p, []header.TCPFlags{rst})
		if p[0].TCP.Seq != r.syn.Seq+1 {
			t.Errorf("the reset's sequence number is %d, not %d", p[0].TCP.Seq, r.syn.Seq+1)
		}
		checkControl(t, "client", c.Take(), nil)
		a = r.segment(rst | ack)
		r.Send(&a, nil)
		s.Advance(20 * time.Millisecond)
		checkControl(t, "client", c.Take(), nil)
		wantDrops(t, s.Network, map[proxy.DropReason]uint64{proxy.DropNoFlow: 1})
	})
}

// A port that was refused is open a moment later: the next connection from the same client port gets through.
func TestRefusedThenOpen(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		s, c, r := rawPair(t, v, v.config(), nil)
		refusal := r.segment(rst | ack)
		r.Send(&refusal, nil)
		s.Until("reset", soon, func() bool { return c.got(rst | ack) })
		c.isn += 99999
		c.connect()
		c.acknowledge()
		r.awaitSyn()
		r.accept()
		s.wantState(proxy.StateOpen)
		if got := s.service(); got.Refused != 1 || got.Opened != 1 || got.ConnReopened != 1 {
			t.Errorf("counters are %+v", got)
		}
	})
}

// Explicit congestion notification is negotiated through levee where both hosts and the promise allow it.
func TestECN(t *testing.T) {
	for _, test := range []struct {
		name            string
		timestamps      bool // without them the cookie has no room
		client, promise bool
		server          header.TCPFlags // the bits of its SYN-ACK
		agreed          bool            // told to the client
		state           proxy.State
	}{
		{"all agree", true, true, true, ece, true, proxy.StateOpen},
		{"client does not ask", true, false, true, 0, false, proxy.StateOpen},
		{"not promised", true, true, false, 0, false, proxy.StateOpen},
		{"no timestamps", false, true, true, 0, false, proxy.StateOpen},
		{"server does not do what is promised", true, true, true, 0, true, proxy.StateReset},
		{"server reflects the bits", true, true, true, ece | cwr, true, proxy.StateReset},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, v6 := range []bool{false, true} {
				v := variant{v6: v6, timestamps: test.timestamps}
				cfg := v.config()
				cfg.Proxy.Services[0].Options.ECN = test.promise
				s, c, r := rawPair(t, v, cfg, func(syn *stack.Segment) {
					if test.client {
						syn.Flags |= ece | cwr
					}
				})
				want := header.TCPFlags(0)
				if test.agreed {
					want = ece | cwr
				}
				if got := r.syn.Flags & (ece | cwr); got != want {
					t.Errorf("ECN bits of the SYN to the server are %v, not %v", got, want)
				}
				if got := s.Trace.At(proxytest.ToClient, isSynAck)[0].TCP.Flags & (ece | cwr); got != want&ece {
					t.Errorf("ECN bits of the SYN-ACK are %v, not %v", got, want&ece)
				}
				if got := r.syn.TrafficClass(); got != 0xb8 {
					t.Errorf("the traffic class of the SYN to the server is %#x", got)
				}
				a := r.segment(synAck | test.server)
				r.Send(&a, nil)
				s.Advance(20 * time.Millisecond)
				s.wantState(test.state)
				if test.state == proxy.StateReset {
					checkControl(t, "client", c.Take(), []header.TCPFlags{rst | ack})
					checkControl(t, "server", r.Take(), []header.TCPFlags{rst | ack})
					if got := s.service(); got.Mismatched != 1 {
						t.Errorf("counters are %+v", got)
					}
				}
			}
		})
	}
}

// What levee must not touch passes through a translation as it is.
func TestUntouchedFields(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		s, c, r := rawPair(t, v, v.config(), nil)
		r.accept()
		for _, direction := range []string{"up", "down"} {
			seg, out, inbox := c.segment(0), proxytest.FromClient, r.Peer
			if direction == "down" {
				seg, out, inbox = r.segment(ack), proxytest.FromServer, c.Peer
				seg.Seq++
			}
			inbox.Take()
			seg.Flags = ack | header.TCPFlagPsh | header.TCPFlagUrg | ece | cwr
			seg.TrafficClass = 0xba // AF, ECT(0)
			if v.v6 {
				seg.FlowLabel = 0xabcde
			}
			seg.MSS = 1234 // options that have no business here
			frame := proxytest.Frame(&seg, data(1, 333))
			in := slices.Clone(frame)
			s.Inject(out, frame)
			s.Advance(20 * time.Millisecond)
			got := inbox.Take()
			if len(got) != 1 {
				t.Fatalf("%d segments came %s", len(got), direction)
			}
			// Put back what must change, and nothing is different.
			back, p := slices.Clone(got[0].Frame), got[0]
			at := stack.VirtioLen + p.TCP.L4
			copy(back[at+4:at+12], in[at+4:at+12])   // numbers
			copy(back[at+14:at+18], in[at+14:at+18]) // window and checksum
			if v.timestamps {
				copy(back[at+28:at+36], in[at+28:at+36])
			}
			if !slices.Equal(back, in) {
				t.Errorf("%s: more has changed than may:\n% x\n% x", direction, in, p.Frame)
			}
			if !p.TCP.ChecksumOK() {
				t.Errorf("%s: the checksum is wrong", direction)
			}
		}
	})
}

// FINs and resets with wrong checksums reach the hosts, which drop them, and do not move the flow.
func TestBadChecksumOnFlow(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		s, c, r := rawPair(t, v, v.config(), nil)
		r.accept()
		for _, flags := range []header.TCPFlags{fin | ack, rst} {
			p := c.segment(0)
			p.Flags = flags
			frame := proxytest.Frame(&p, nil)
			frame[len(frame)-1] ^= 1
			s.Inject(proxytest.FromClient, frame)
			s.Advance(20 * time.Millisecond)
			s.wantState(proxy.StateOpen)
			got := r.Take()
			if len(got) != 1 || got[0].TCP.ChecksumOK() {
				t.Errorf("%v: %d segments at the server, or with a checksum made right", flags, len(got))
			}
		}
	})
}

// A frame marked as a superpacket whose payload is one segment only leaves as an ordinary one.
func TestSuperpacketOfOneSegment(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		s, c, r := rawPair(t, v, v.config(), nil)
		r.accept()
		r.Take()
		for _, test := range []struct{ payload, gso int }{{100, 1400}, {1400, 1400}, {1401, 1400}, {30000, 1400}} {
			p := c.segment(0)
			frame := proxytest.Frame(&p, data(1, test.payload))
			l4 := len(frame) - stack.VirtioLen - test.payload - header.TCPMinimumSize
			if v.timestamps {
				l4 -= 12
			}
			h := stack.Virtio{
				Flags: stack.VirtioNeedsCsum, GSOType: stack.GSOTCPv4, GSOSize: uint16(test.gso),
				CsumStart: uint16(l4), CsumOffset: 16, HdrLen: uint16(len(frame) - stack.VirtioLen - test.payload),
			}
			if v.v6 {
				h.GSOType = stack.GSOTCPv6
			}
			h.Encode(frame)
			s.Inject(proxytest.FromClient, frame)
			s.Advance(20 * time.Millisecond)
			got := r.Take()
			if len(got) != 1 || got[0].TCP.PayloadLen != test.payload {
				t.Fatalf("%d frames at the server", len(got))
			}
			out := stack.DecodeVirtio(got[0].Frame)
			if whole := test.payload <= test.gso; (out.GSOType == stack.GSONone) != whole || (out.GSOSize == 0) != whole {
				t.Errorf("%d bytes of payload: %+v", test.payload, out)
			}
		}
	})
}

// A thousand clients at once.
func TestManyConnections(t *testing.T) {
	v := variant{timestamps: true}
	cfg := v.config()
	const n = 1000
	cfg.Proxy.Capacity = n
	s := newSession(t, v, cfg)
	request, answer := data(1, 200), data(2, 2000)
	var clients []*proxytest.Conn
	for i := range n {
		c := s.Client.Dial(uint16(10000+i), v.serverAddr())
		c.Send(request)
		clients = append(clients, c)
	}
	served := map[*proxytest.Conn]bool{}
	s.Until("all served", soon, func() bool {
		for _, c := range s.servers {
			if !served[c] && len(c.Received()) == len(request) {
				served[c] = true
				c.Send(answer)
				c.Close()
			}
		}
		return len(served) == n
	})
	s.Until("all answered", soon, func() bool {
		return !slices.ContainsFunc(clients, func(c *proxytest.Conn) bool { return !c.EOF() })
	})
	for i, c := range clients {
		if !slices.Equal(c.Received(), answer) {
			t.Fatalf("client %d has received %d bytes", i, len(c.Received()))
		}
		c.Close()
	}
	s.Until("all closed", soon, func() bool { return s.Proxy.Snapshot().Flows[proxy.StateTimeWait] == n })
	if got := s.service(); got.Opened != n || got.CookieValid != n || got.Flows != 0 {
		t.Errorf("counters are %+v", got)
	}
	wantDrops(t, s.Network, nil)
	s.Advance(cookieLife + time.Second)
	wantEmpty(t, s)
}
