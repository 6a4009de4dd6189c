package proxy_test

import (
	"bytes"
	"testing"
	"time"

	"levee/proxy"
	"levee/proxy/proxytest"
)

// The server is not to take the time until levee acknowledges its SYN-ACK for a round trip to the client.
func TestUnmeasured(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		cfg := early(v)
		cfg.Proxy.Services[0].ServerAck = proxy.AckUnmeasured
		s := &session{Network: proxytest.New(t, cfg), t: t, v: v}
		c := newRawClient(s)
		r := &rawServer{Peer: s.Peer(v.serverAddr().Addr(), true), s: s, isn: 77}
		c.connect()
		c.send(0, data(1, 100))
		s.Advance(20 * time.Millisecond)
		syns := r.Take()
		if len(syns) != 2 || !syns[0].Is(syn) || !bytes.Equal(syns[0].Frame, syns[1].Frame) {
			t.Fatalf("the server gets %d segments, not the SYN twice", len(syns))
		}
		r.syn = syns[0].TCP

		// Both are answered.
		for i := range uint32(2) {
			p := r.segment(synAck)
			p.MSS, p.WScale, p.TSVal = 1460, 9, 7777+i
			r.Send(&p, nil)
		}
		s.Advance(20 * time.Millisecond)
		got := r.Take()
		if len(got) != 2 || !got[0].Is(ack) || got[0].TCP.PayloadLen != 0 || got[1].TCP.PayloadLen != 100 {
			t.Fatalf("the server gets %d segments, not an ACK and the data", len(got))
		}
		if o := got[0].TCP.Options; o.Timestamps != v.timestamps || o.TSEcr != 0 {
			t.Errorf("the ACK has options %+v", o)
		}
		if o := got[1].TCP.Options; v.timestamps && o.TSEcr != 7777 {
			t.Errorf("the data have options %+v", o)
		}
		if f := s.flow(); f.State != proxy.StateOpen {
			t.Errorf("flow %+v", f)
		}
		wantDrops(t, s.Network, nil)

		// The acknowledgement was lost, or the server found something wrong with it.
		s.Advance(time.Second)
		p := r.segment(synAck)
		p.TSVal = 9999
		r.Send(&p, nil)
		s.Advance(20 * time.Millisecond)
		got = r.Take()
		if len(got) != 1 || !got[0].Is(ack) || v.timestamps && got[0].TCP.Options.TSEcr != 9999 {
			t.Errorf("the SYN-ACK again gets %d answers", len(got))
		}
	})
}

// A server with many SYNs to answer may be about to use cookies, whose timestamps must come back.
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
