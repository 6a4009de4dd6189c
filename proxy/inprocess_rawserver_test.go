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
	if v.v6 {
		a.FlowLabel = 0x12345
	}
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
	p := r.Take()[0]
	if !p.Is(ack) || p.TCP.Ack != r.isn+1 || p.TCP.Seq != r.syn.Seq+1 {
		r.s.t.Fatalf("the server gets %+v", p.TCP)
	}
	if got := p.TCP.TrafficClass(); got != r.syn.TrafficClass() {
		r.s.t.Errorf("the traffic class of the ACK to the server is %#x, that of the SYN was %#x", got, r.syn.TrafficClass())
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
		t.Fatalf("the %s gets %v, not %v", who, flags, want)
	}
}

// A server that goes on challenging, or somebody in its name, gets no endless answer, and takes none of the SYNs that a server gets
// that has lost some.
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
	if resets != 1 {
		t.Errorf("%d resets for 10 challenges", resets)
	}
	s.Advance(2 * time.Second)
	checkControl(t, "server", r.Take(), []header.TCPFlags{syn})
	a := r.segment(ack)
	a.Ack += 5
	r.Send(&a, nil) // that SYN is challenged, too
	s.Advance(8 * time.Second)
	checkControl(t, "server", r.Take(), []header.TCPFlags{rst, syn, syn, syn})
	r.accept()
	s.wantState(proxy.StateOpen)
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
					toClient, toServer := c.Take(), r.Take()
					checkControl(t, "client", toClient, []header.TCPFlags{rst | ack})
					checkControl(t, "server", toServer, []header.TCPFlags{rst | ack})
					if p := toClient[0].TCP; p.Seq != c.cookie+1 || p.Ack != c.isn+1 {
						t.Errorf("the reset for the client is %+v", p)
					}
					if p := toServer[0].TCP; p.Seq != r.syn.Seq+1 || p.Ack != a.Seq+1 {
						t.Errorf("the reset for the server is %+v", p)
					}
					if got := s.service(); got.Mismatched != 1 {
						t.Errorf("counters are %+v", got)
					}
				}
			}
		})
	}
}
