package proxy_test

import (
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"levee/proxy"
	"levee/proxy/proxytest"
	"levee/stack"
)

// setReserved sets bits of the low half of the byte that holds the data offset (RFC 9293 §3.1): the reserved ones and, lowest, AE
// (RFC 9768 §3.1). The frame's checksum is complete.
func setReserved(frame []byte, bits byte) []byte {
	var p stack.Packet
	if kind := p.Parse(frame[stack.VirtioLen:], false); kind != stack.KindTCP {
		panic(kind)
	}
	p.IP[p.L4+12] |= bits
	checksumAgain(frame, p.L4)
	return frame
}

// reserved are those bits of a packet.
func reserved(p *stack.Packet) byte { return p.IP[p.L4+12] & 15 }

// A SYN that offers AccECN gets what a server of RFC 3168 would answer, or one without ECN, and none of its bits back (RFC 9768 §3.1.2);
// reserved bits are no reason to drop or reset anything (RFC 3360).
func TestAccECN(t *testing.T) {
	for _, promise := range []bool{false, true} {
		forVariants(t, false, func(t *testing.T, v variant) {
			cfg := v.config()
			cfg.Proxy.Services[0].Options.ECN = promise
			s := &session{Network: proxytest.New(t, cfg), t: t, v: v}
			c := newRawClient(s)
			r := &rawServer{Peer: s.Peer(v.serverAddr().Addr(), true), s: s, isn: 77}
			first := c.Segment(c.port, v.serverAddr(), c.isn, 0)
			first.Timestamps, first.TSVal, first.WScale = v.timestamps, c.tsval, 7
			first.Flags |= ece | cwr
			s.Inject(proxytest.FromClient, setReserved(proxytest.Frame(&first, nil), 15))
			s.Until("SYN-ACK", soon, func() bool { return len(c.Inbox) > 0 })
			reply := c.Take()[0].TCP
			want := synAck
			if promise && v.timestamps {
				want |= ece
			}
			if reply.Flags != want || reserved(&reply) != 0 {
				t.Errorf("the SYN-ACK has flags %v, not %v, and %#x", reply.Flags, want, reserved(&reply))
			}
			c.cookie, c.tsecr = reply.Seq, reply.Options.TSVal
			c.acknowledge()
			r.awaitSyn()
			if got, asked := r.syn.Flags&(ece|cwr), header.TCPFlags(ece|cwr); reserved(&r.syn) != 0 || got != 0 && (got != asked || want == synAck) {
				t.Errorf("the SYN to the server has flags %v and %#x", r.syn.Flags, reserved(&r.syn))
			}
			a := r.segment(synAck | want&ece)
			r.Send(&a, nil)
			s.Advance(20 * time.Millisecond)
			s.wantState(proxy.StateOpen)

			// On an open flow they pass, with whatever they mean.
			r.Take()
			for bits := byte(1); bits < 16; bits++ {
				p := c.segment(0)
				p.Flags |= ece | cwr
				s.Inject(proxytest.FromClient, setReserved(proxytest.Frame(&p, data(1, 10)), bits))
				s.Advance(20 * time.Millisecond)
				got := r.Take()
				if len(got) != 1 || reserved(&got[0].TCP) != bits || got[0].TCP.Flags != p.Flags || !got[0].TCP.ChecksumOK() {
					t.Errorf("bits %#x: %d segments come, or others", bits, len(got))
				}
			}
			wantDrops(t, s.Network, nil)
		})
	}
}

// What levee sends of its own is marked like what it stands for: to the server as the client's ACK, to the client as the
// server's SYN-ACK, but never as ECN-capable.
func TestTrafficClassOfItsOwn(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		s, c, r := rawPair(t, v, v.config(), nil)
		label := uint32(0)
		if v.v6 {
			label = 0x12345
		}
		s.Advance(2 * time.Second) // the SYN is sent again
		for _, p := range append(r.Take(), &proxytest.Packet{TCP: r.syn}) {
			if p.TCP.TrafficClass() != 0xb8 || p.TCP.FlowLabel() != label {
				t.Errorf("a SYN to the server has %#x and flow label %#x", p.TCP.TrafficClass(), p.TCP.FlowLabel())
			}
		}
		a := r.segment(synAck)
		a.TrafficClass = 0x2e
		if v.v6 {
			a.FlowLabel = 0xabcde
		}
		r.Send(&a, nil)
		s.Advance(20 * time.Millisecond)
		if p := r.Take()[0].TCP; p.TrafficClass() != 0xb8 || p.FlowLabel() != label {
			t.Errorf("the ACK to the server has %#x and flow label %#x", p.TrafficClass(), p.FlowLabel())
		}
		if p := c.Take()[0].TCP; p.TrafficClass() != 0x2c || p.FlowLabel() != a.FlowLabel {
			t.Errorf("the window update has %#x and flow label %#x", p.TrafficClass(), p.FlowLabel())
		}
	})
}

// Timestamps that are missing from a segment of a connection that uses them are for its receiver to miss (RFC 7323 §3.2): levee forwards
// it, and heeds it like any.
func TestTimestampsMissing(t *testing.T) {
	v := variant{timestamps: true}
	s, c, r := rawPair(t, v, v.config(), nil)
	r.accept()
	p := c.segment(0)
	p.Timestamps = false
	c.Send(&p, data(1, 10))
	d := r.segment(ack)
	d.Seq++
	d.Timestamps = false
	r.Send(&d, data(2, 20))
	s.Advance(20 * time.Millisecond)
	up, down := r.Take(), c.Take()
	if n := len(up); n != 1 || up[0].TCP.PayloadLen != 10 || up[0].TCP.Options.Timestamps || up[0].TCP.Ack != r.isn+1 {
		t.Errorf("%d segments at the server: %+v", n, up)
	}
	last := down[len(down)-1].TCP // the window update came before
	if last.PayloadLen != 20 || last.Options.Timestamps || last.Seq != c.cookie+1 {
		t.Errorf("the client gets %+v", last)
	}
	// levee's own ACK has what the client said last.
	again := r.segment(synAck)
	r.Send(&again, nil)
	s.Advance(20 * time.Millisecond)
	if got := r.Take(); len(got) != 1 || !got[0].TCP.Options.Timestamps || got[0].TCP.Options.TSVal != c.tsval || got[0].TCP.Seq != c.isn+11 {
		t.Errorf("the SYN-ACK is answered with %+v", got)
	}
}
