package proxy_test

import (
	"testing"
	"time"

	"levee/proxy"
	"levee/proxy/proxytest"
	"levee/proxy/servers"
	"levee/stack"
)

// unmeasured makes hosts without stacks and a levee that sends its SYN twice, and opens a connection if the server is to be known already to
// repeat its SYN-ACK.
func unmeasured(t *testing.T, v variant, known bool, change func(*proxy.Options)) (*session, *rawClient, *rawServer) {
	t.Helper()
	cfg := early(v)
	cfg.Proxy.Services[0].ServerAck = proxy.AckUnmeasured
	if change != nil {
		change(&cfg.Proxy.Services[0].Options)
	}
	s := &session{Network: proxytest.New(t, cfg), t: t, v: v}
	c := newRawClient(s)
	r := &rawServer{Peer: s.Peer(v.serverAddr().Addr(), true), s: s, isn: 77}
	if known {
		c.port--
		r.takeSYNs(c, 2)
		for range 2 {
			r.answer(7000, nil)
		}
		if got := r.Take(); len(got) != 2 || !got[0].Is(ack) || v.timestamps && got[0].TCP.Options.TSEcr != 7000 {
			t.Fatalf("the server's first SYN-ACK gets %d segments, not an exact ACK and the data", len(got))
		}
		c.port++
		c.isn += 1000
	}
	return s, c, r
}

// takeSYNs connects the client, which sends 100 bytes at once, and takes the SYNs that the server gets.
func (r *rawServer) takeSYNs(c *rawClient, n int) []*proxytest.Packet {
	r.s.t.Helper()
	c.connect()
	c.send(0, data(1, 100))
	r.s.Advance(20 * time.Millisecond)
	syns := r.Take()
	if len(syns) != n {
		r.s.t.Fatalf("the server gets %d segments, not %d SYNs", len(syns), n)
	}
	for _, p := range syns {
		if !p.Is(syn) || p.TCP.Seq != syns[0].TCP.Seq {
			r.s.t.Fatalf("the server gets %+v", p.TCP)
		}
	}
	r.syn = syns[0].TCP
	return syns
}

// answer sends a SYN-ACK, which change may have changed.
func (r *rawServer) answer(tsval uint32, change func(*stack.Segment)) {
	p := r.segment(synAck)
	p.MSS, p.WScale, p.SACKPermitted, p.TSVal = 1460, 9, true, tsval
	if change != nil {
		change(&p)
	}
	r.Send(&p, nil)
	r.s.Advance(20 * time.Millisecond)
}

// acknowledged wants levee to have sent an ACK with this TSecr, and the client's data.
func (r *rawServer) acknowledged(tsecr uint32) {
	r.s.t.Helper()
	got := r.Take()
	if len(got) != 2 || !got[0].Is(ack) || got[0].TCP.PayloadLen != 0 || got[1].TCP.PayloadLen != 100 {
		r.s.t.Fatalf("the server gets %d segments, not an ACK and the data", len(got))
	}
	o := got[0].TCP.Options
	if o.Timestamps != r.s.v.timestamps || o.Timestamps && o.TSEcr != tsecr {
		r.s.t.Errorf("the ACK has options %+v", o)
	}
	if n := r.s.Proxy.Snapshot().Flows[proxy.StateOpening]; n != 0 {
		r.s.t.Errorf("%d flows are opening", n)
	}
}

// silent wants levee to have sent the server nothing.
func (r *rawServer) silent() {
	r.s.t.Helper()
	if got := r.Take(); len(got) > 0 {
		r.s.t.Fatalf("the server gets %d segments: %+v", len(got), got[0].TCP)
	}
}

// The server is not to take the time until levee acknowledges its SYN-ACK for a round trip to the client.
func TestUnmeasured(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		s, c, r := unmeasured(t, v, true, nil)
		syns := r.takeSYNs(c, 2)
		first, second := syns[0].TCP.Options, syns[1].TCP.Options
		if v.timestamps {
			if !first.SACKPermitted {
				t.Error("the SYN doesn't permit SACK")
			}
			first.SACKPermitted = false
		}
		if first != second {
			t.Errorf("the SYNs have options %+v and %+v", first, second)
		}
		r.answer(7777, nil)
		if v.timestamps { // otherwise the server has no choice but to leave it
			r.silent()
			r.answer(7778, nil)
			r.acknowledged(0)
		} else {
			r.acknowledged(0)
			r.answer(7778, nil)
			r.silent()
		}
		wantDrops(t, s.Network, nil)
		if got := s.service(); got.ServerCookies != 0 || got.CookieRetrans != 0 {
			t.Errorf("service %+v", got)
		}

		// The acknowledgement was lost, or the server found something wrong with it.
		s.Advance(time.Second)
		r.answer(9999, nil)
		if got := r.Take(); len(got) != 1 || !got[0].Is(ack) || v.timestamps && got[0].TCP.Options.TSEcr != 9999 {
			t.Errorf("the SYN-ACK again gets %d answers", len(got))
		}
	})
}

// What levee can't be sure of is acknowledged exactly.
func TestUnmeasuredInDoubt(t *testing.T) {
	noSACK := func(p *stack.Segment) { p.SACKPermitted = false }
	noScale := func(p *stack.Segment) { p.WScale = stack.WScaleNone }
	v := variant{timestamps: true}
	learning := func(o *proxy.Options) { o.Learn = servers.All }
	t.Run("a server that nothing is known of", func(t *testing.T) {
		_, c, r := unmeasured(t, v, false, nil)
		r.takeSYNs(c, 2)
		r.answer(7777, nil)
		r.acknowledged(7777)
		r.answer(7778, nil)
		r.silent()
	})
	t.Run("SYN cookies", func(t *testing.T) {
		s, c, r := unmeasured(t, v, true, nil)
		r.takeSYNs(c, 2)
		r.answer(7777, nil)
		r.silent()
		r.answer(7761, noSACK)
		got := r.Take()
		if len(got) != 1 || !got[0].Is(syn) || !got[0].TCP.Options.SACKPermitted {
			t.Fatalf("the server gets %d segments, not the whole SYN", len(got))
		}
		r.answer(7778, nil)
		r.acknowledged(7778)
		if got := s.service(); got.ServerCookies != 1 || got.CookieRetrans != 0 {
			t.Errorf("service %+v", got)
		}
		wantDrops(t, s.Network, nil)
	})
	t.Run("SYN cookies, no SACK", func(t *testing.T) {
		s, c, r := unmeasured(t, v, true, func(o *proxy.Options) { o.SACK = false })
		if o := r.takeSYNs(c, 2)[1].TCP.Options; o.WScale != stack.WScaleNone {
			t.Fatalf("the second SYN has %+v", o)
		}
		r.answer(7777, noSACK)
		r.silent()
		r.answer(7769, func(p *stack.Segment) { noSACK(p); noScale(p) })
		if got := r.Take(); len(got) != 1 || !got[0].Is(syn) || got[0].TCP.Options.WScale != 7 {
			t.Fatalf("the server gets %d segments, not the whole SYN", len(got))
		}
		r.answer(7778, noSACK)
		r.acknowledged(7778)
		if got := s.service(); got.ServerCookies != 1 {
			t.Errorf("service %+v", got)
		}
	})
	t.Run("no option to leave away", func(t *testing.T) {
		_, c, r := unmeasured(t, v, false, func(o *proxy.Options) { o.SACK, o.WScale = false, proxy.WScaleNone })
		r.takeSYNs(c, 1)
		r.answer(7777, func(p *stack.Segment) { noSACK(p); noScale(p) })
		r.acknowledged(7777)
	})
	t.Run("only the second SYN has come", func(t *testing.T) {
		_, c, r := unmeasured(t, v, true, learning)
		r.takeSYNs(c, 2)
		r.answer(7777, noSACK)
		r.acknowledged(7777)
		// The server does SACK all the same.
		c.port++
		if c.connect(); !c.told.SACKPermitted {
			t.Errorf("the next client is told %+v", c.told)
		}
	})
	t.Run("only the first SYN has come", func(t *testing.T) {
		s, c, r := unmeasured(t, v, true, nil)
		r.takeSYNs(c, 2)
		r.answer(7777, nil)
		r.silent()
		s.Advance(500 * time.Millisecond) // sooner than the time-out of a server that doesn't answer
		if got := r.Take(); len(got) != 1 || !got[0].Is(syn) || !got[0].TCP.Options.SACKPermitted {
			t.Fatalf("the server gets %d segments, not the whole SYN", len(got))
		}
		r.answer(7778, nil)
		r.acknowledged(7778)
		// It may be a server that has stopped to repeat its SYN-ACK: nobody waits for that again.
		c.port++
		r.takeSYNs(c, 2)
		r.answer(8888, nil)
		r.acknowledged(8888)
	})
	t.Run("the server answers after a second", func(t *testing.T) {
		s, c, r := unmeasured(t, v, true, nil)
		r.takeSYNs(c, 2)
		s.Advance(1600 * time.Millisecond)
		if got := r.Take(); len(got) != 1 || !got[0].Is(syn) {
			t.Fatalf("the server gets %d segments, not the SYN", len(got))
		}
		r.answer(7778, nil)
		r.acknowledged(7778)
	})
	t.Run("a server that has stopped to do SACK", func(t *testing.T) {
		s, c, r := unmeasured(t, v, true, learning)
		r.takeSYNs(c, 2)
		s.Advance(1600 * time.Millisecond)
		r.Take()
		r.answer(7778, noSACK) // to the SYN that was sent again, whole
		r.acknowledged(7778)
		c.port++
		if c.connect(); c.told.SACKPermitted {
			t.Errorf("the next client is told %+v", c.told)
		}
	})
	t.Run("an old connection of the server's", func(t *testing.T) {
		_, c, r := unmeasured(t, v, true, nil)
		r.takeSYNs(c, 2)
		r.answer(7777, func(p *stack.Segment) { p.Flags, p.Ack = ack, p.Ack+12345 })
		if got := r.Take(); len(got) != 2 || !got[0].Is(rst) || !got[1].Is(syn) {
			t.Fatalf("the server gets %d segments, not a RST and the SYN", len(got))
		}
		r.answer(7778, nil)
		r.acknowledged(7778)
	})
}

// A server with many SYNs to answer is spared the second of each.
func TestUnmeasuredOnlyIfFewOpen(t *testing.T) {
	v := variant{timestamps: true}
	cfg := early(v)
	cfg.Proxy.Services[0].ServerAck = proxy.AckUnmeasured
	s := &session{Network: proxytest.New(t, cfg), t: t, v: v}
	r := &rawServer{Peer: s.Peer(v.serverAddr().Addr(), true), s: s, isn: 77}
	const few = 64
	open := func(port uint16) int {
		c := newRawClient(s)
		c.port = port
		c.connect()
		c.acknowledge()
		s.Advance(20 * time.Millisecond)
		n := 0
		for _, p := range r.Take() {
			if p.TCP.SrcPort == port { // the others are sent again
				n++
				r.syn = p.TCP
			}
		}
		return n
	}
	for i := range uint16(few) {
		if n := open(1000 + i); n != 2 {
			t.Fatalf("connection %d: the SYN is sent %d times", i, n)
		}
	}
	if n := open(2000); n != 1 {
		t.Errorf("the SYN is sent %d times when %d connections are opening", n, few)
	}
	p := r.segment(synAck)
	p.MSS = 1460
	r.Send(&p, nil)
	s.Advance(20 * time.Millisecond)
	answers := 0
	for _, p := range r.Take() {
		if p.Is(ack) {
			answers++
			if p.TCP.Options.TSEcr != 7777 {
				t.Errorf("the SYN-ACK is acknowledged with %+v", p.TCP.Options)
			}
		}
	}
	if answers != 1 {
		t.Errorf("the SYN-ACK gets %d answers", answers)
	}
	// All give up in the end, and nothing is left of them.
	s.Advance(20 * time.Second)
	r.Take()
	for i := range uint16(few) {
		if n := open(3000 + i); n != 2 {
			t.Fatalf("connection %d after all that: the SYN is sent %d times", i, n)
		}
	}
}

// Hosts with a whole stack don't mind.
func TestUnmeasuredConversation(t *testing.T) {
	forVariants(t, true, func(t *testing.T, v variant) {
		cfg := early(v)
		cfg.Proxy.Services[0].ServerAck = proxy.AckUnmeasured
		s := newSession(t, v, cfg)
		s.open()
		s.exchange()
		if len(s.servers) != 1 {
			t.Errorf("the server has %d connections", len(s.servers))
		}
		wantDrops(t, s.Network, nil)
	})
}
