package proxy_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/proxy"
	"levee/proxy/proxytest"
	"levee/stack"
)

// Options that stack.Segment doesn't make, with made-up contents.
var (
	optionMD5       = append([]byte{19, 18}, make([]byte, 16)...)
	optionAO        = []byte{29, 16, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	optionJoin      = []byte{30, 12, 0x10, 1, 1, 2, 3, 4, 5, 6, 7, 8}
	optionMPCapable = []byte{30, 4, 0x01, 0x81}
	optionTFO       = []byte{34, 10, 1, 2, 3, 4, 5, 6, 7, 8}
)

// addOptions puts options behind those of a frame's TCP header, filled up to whole words.
func addOptions(frame []byte, options ...byte) []byte {
	var p stack.Packet
	if kind := p.Parse(frame[stack.VirtioLen:], false); kind != stack.KindTCP {
		panic(kind)
	}
	options = slices.Concat(options, make([]byte, -len(options)&3))
	frame = slices.Insert(slices.Clone(frame), stack.VirtioLen+p.L4+p.HeaderLen, options...)
	ip := frame[stack.VirtioLen:]
	if p.V6 {
		header.IPv6(ip).SetPayloadLength(uint16(len(ip) - header.IPv6MinimumSize))
	} else {
		header.IPv4(ip).SetTotalLength(uint16(len(ip)))
	}
	header.TCP(ip[p.L4:]).SetDataOffset(uint8(p.HeaderLen + len(options)))
	checksumAgain(frame, p.L4)
	return frame
}

// bypassed is a network in which such SYNs may pass, and its two raw hosts.
func bypassed(t *testing.T, v variant, rate int) (*session, *rawClient, *proxytest.Peer) {
	t.Helper()
	cfg := v.config()
	cfg.Proxy.Services[0].BypassRate = rate
	s := &session{Network: proxytest.New(t, cfg), t: t, v: v}
	return s, newRawClient(s), s.Peer(v.serverAddr().Addr(), true)
}

// back turns a segment of the client's into an answer of the server's.
func back(s stack.Segment, flags header.TCPFlags, seq, ack seqnum.Value) stack.Segment {
	s.Src, s.Dst, s.SrcPort, s.DstPort = s.Dst, s.Src, s.DstPort, s.SrcPort
	s.Flags, s.Seq, s.Ack = flags, seq, ack
	return s
}

// What can't be proxied goes to the server as it is, and so does the whole connection.
func TestBypass(t *testing.T) {
	for _, test := range []struct {
		name   string
		syn    []byte
		others []byte // on the other segments
	}{
		{"TCP-MD5", optionMD5, optionMD5},
		{"TCP-AO", optionAO, optionAO},
		{"MPTCP join", optionJoin, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			forVariants(t, false, func(t *testing.T, v variant) {
				s, c, r := bypassed(t, v, 10)
				const isn = 5_000_000
				send := func(hop proxytest.Hop, seg stack.Segment, payload, options []byte) {
					t.Helper()
					to := r
					if hop == proxytest.FromServer {
						to = c.Peer
					}
					frame := addOptions(proxytest.Frame(&seg, payload), options...)
					s.Inject(hop, slices.Clone(frame))
					s.Advance(20 * time.Millisecond)
					if got := to.Take(); len(got) != 1 || !bytes.Equal(got[0].Frame, frame) {
						t.Fatalf("%d packets come, or not the same", len(got))
					}
				}
				first := c.Segment(c.port, v.serverAddr(), c.isn, 0)
				first.WScale = 7
				send(proxytest.FromClient, first, nil, test.syn)
				s.wantState(proxy.StateOpening)
				reply := back(first, synAck, isn, c.isn+1)
				send(proxytest.FromServer, reply, nil, test.syn)
				s.wantState(proxy.StateOpening) // anybody can have sent that SYN
				c.cookie = isn
				send(proxytest.FromClient, c.segment(0), nil, test.others)
				s.wantState(proxy.StateOpen)
				if f := s.flow(); f.Delta != 0 || f.TSDelta != 0 || f.Client.Addr() != c.Addr {
					t.Errorf("the flow is %+v", f)
				}
				send(proxytest.FromClient, c.segment(0), data(1, 1000), test.others)
				send(proxytest.FromServer, back(c.segment(0), ack, isn+1, c.isn+1001), data(2, 1000), test.others)
				if test.others != nil { // whoever heeds signatures doesn't heed this
					blind := c.segment(1000)
					blind.Flags = rst
					send(proxytest.FromClient, blind, nil, nil)
					blind.Flags = fin | ack
					send(proxytest.FromClient, blind, nil, nil)
					s.wantState(proxy.StateOpen)
				}
				s.Advance(time.Hour)
				send(proxytest.FromServer, back(c.segment(0), fin|ack, isn+1001, c.isn+1001), nil, test.others)
				s.wantState(proxy.StateOpen)
				last := c.segment(1000)
				last.Ack = isn + 1002
				send(proxytest.FromClient, last, nil, test.others)
				s.wantState(proxy.StateServerClosed)
				last.Flags |= fin
				send(proxytest.FromClient, last, nil, test.others)
				s.wantState(proxy.StateServerClosed)
				send(proxytest.FromServer, back(c.segment(0), ack, isn+1002, c.isn+1002), nil, test.others)
				s.wantState(proxy.StateTimeWait)
				if n := s.Proxy.Snapshot().Passed[proxy.PassBypass]; n != 1 {
					t.Errorf("%d SYNs counted", n)
				}
				wantDrops(t, s.Network, nil)
				s.Advance(remembered + time.Second)
				wantEmpty(t, s)
			})
		})
	}
}

// A flood of such SYNs reaches the server at the configured rate, takes no room that a client needs, and opens no way for anything
// else.
func TestBypassFlood(t *testing.T) {
	v := variant{}
	cfg := v.config()
	cfg.Proxy.Services[0].BypassRate = 50
	cfg.Proxy.Capacity = 100
	s := newSession(t, v, cfg)
	silent := s.Peer(netip.MustParseAddr("192.0.2.99"), true)
	c := newRawClient(s)
	to := netip.AddrPortFrom(silent.Addr, serverPort)
	for i := range 1000 { // ten seconds
		p := c.Segment(uint16(1000+i), to, seqnum.Value(i), 0)
		frame := addOptions(proxytest.Frame(&p, nil), optionMD5...)
		s.Inject(proxytest.FromClient, frame)
		s.Advance(10 * time.Millisecond)
	}
	got := silent.Take()
	if n := len(got); n < 540 || n > 560 {
		t.Errorf("%d SYNs at the server, not 550", n)
	}
	drops := s.Proxy.Snapshot().Drops[proxy.DropBypassRate]
	if drops+uint64(len(got)) != 1000 {
		t.Errorf("%d dropped and %d passed of 1000", drops, len(got))
	}
	// The answer, and what a forger can send without having seen it.
	last := got[len(got)-1].TCP
	reply := back(c.Segment(last.SrcPort, to, 0, 0), synAck, 1<<30, last.Seq+1)
	for _, answered := range []bool{false, true} {
		if answered {
			silent.Send(&reply, nil)
			s.Advance(20 * time.Millisecond)
		}
		for _, number := range []seqnum.Value{1, 1 << 29, 1<<30 - 100, 1<<30 + 2} {
			p := c.Segment(last.SrcPort, to, last.Seq+1, number)
			c.Send(&p, data(1, 100))
			s.Advance(20 * time.Millisecond)
			if n := len(silent.Take()); n != 0 {
				t.Errorf("answered %v: data that acknowledges %d reaches the server", answered, number)
			}
		}
	}
	s.open()
	s.exchange()
}

// An MSS that no cookie can say reaches the server as it is, as long as there are few of them; more are proxied.
func TestTinyMSS(t *testing.T) {
	for _, test := range []struct {
		mss   [2]uint16 // v4, v6
		rate  int
		offer [2]uint16 // to the server
		asIs  bool
	}{
		{mss: [2]uint16{535, 1219}, rate: 1, offer: [2]uint16{535, 1219}, asIs: true},
		{mss: [2]uint16{1, 1}, rate: 1, offer: [2]uint16{1, 1}, asIs: true},
		{mss: [2]uint16{535, 1219}, rate: 0, offer: [2]uint16{536, 1220}},
		{mss: [2]uint16{536, 1220}, rate: 1, offer: [2]uint16{536, 1220}},
		{mss: [2]uint16{0, 0}, rate: 1, offer: [2]uint16{536, 1220}}, // it doesn't say
	} {
		t.Run(fmt.Sprint(test), func(t *testing.T) {
			forVariants(t, false, func(t *testing.T, v variant) {
				family := 0
				if v.v6 {
					family = 1
				}
				s, c, r := bypassed(t, v, test.rate)
				send := func(seg stack.Segment) {
					c.Send(&seg, nil)
					s.Advance(20 * time.Millisecond)
				}
				first := c.Segment(c.port, v.serverAddr(), c.isn, 0)
				first.MSS = test.mss[family]
				send(first)
				if got := c.Take(); len(got) == 0 != test.asIs {
					t.Fatalf("%d answers to the SYN", len(got))
				} else if !test.asIs {
					c.cookie = got[0].TCP.Seq
					send(c.Segment(c.port, v.serverAddr(), c.isn+1, c.cookie+1))
				}
				s.wantState(proxy.StateOpening)
				got := r.Take()
				checkControl(t, "server", got, []header.TCPFlags{syn})
				if mss := got[0].TCP.Options.MSS; mss != test.offer[family] {
					t.Errorf("the server is offered an MSS of %d, not %d", mss, test.offer[family])
				}
				if n := s.Proxy.Snapshot().Passed[proxy.PassBypass]; (n == 1) != test.asIs {
					t.Errorf("%d SYNs counted as passed", n)
				}
				wantDrops(t, s.Network, nil)
			})
		})
	}
}

// An open connection that isn't proxied survives a forged SYN and SYN-ACK of the same ports.
func TestDirectSparesOpenConnection(t *testing.T) {
	v := variant{}
	s := &session{Network: proxytest.New(t, v.config()), t: t, v: v}
	r, out := s.Peer(netip.MustParseAddr("192.0.2.77"), true), s.Peer(raw4, false)
	to := netip.AddrPortFrom(raw4, 25)
	send := func(p *proxytest.Peer, seg stack.Segment) { p.Send(&seg, nil); s.Advance(20 * time.Millisecond) }
	first := r.Segment(50000, to, 1000, 0)
	send(r, first)
	send(out, back(first, synAck, 7000, 1001))
	send(r, r.Segment(50000, to, 1001, 7001))
	s.wantState(proxy.StateOpen)

	forged := first
	forged.Seq = 99999
	send(r, forged)
	send(out, back(first, synAck, 5, 777)) // a guess of what that would be answered with
	s.wantState(proxy.StateOpen)
	for range 20 {
		r.Take()
		out.Take()
		s.Advance(30 * time.Second)
		send(r, r.Segment(50000, to, 1001, 7001))
		send(out, back(first, ack, 7001, 1001))
		if len(r.Take()) != 1 || len(out.Take()) != 1 {
			t.Fatalf("the connection is cut off at %v: %+v", s.Clock.Elapsed(), s.Flows())
		}
	}
}

// A client whose ports a forged SYN has taken opens its connection by way of levee all the same.
func TestBypassedThenProxied(t *testing.T) {
	for _, answered := range []bool{false, true} {
		forVariants(t, false, func(t *testing.T, v variant) {
			s, c, r := bypassed(t, v, 10)
			first := c.Segment(c.port, v.serverAddr(), 4444, 0)
			s.Inject(proxytest.FromClient, addOptions(proxytest.Frame(&first, nil), optionMD5...))
			s.Advance(20 * time.Millisecond)
			if answered {
				reply := back(first, synAck, 1<<30, 4445)
				r.Send(&reply, nil)
				s.Advance(20 * time.Millisecond)
			}
			r.Take()
			c.connect()
			c.acknowledge()
			s.Advance(20 * time.Millisecond)
			got := r.Take()
			checkControl(t, "server", got, []header.TCPFlags{syn})
			if f := s.flow(); f.State != proxy.StateOpening || f.Client.Addr() != c.Addr {
				t.Errorf("the flow is %+v", f)
			}
			if n := s.service().Flows; n != 1 {
				t.Errorf("the service counts %d flows", n)
			}
		})
	}
}

// An MPTCP connection falls back to TCP and a Fast Open one to the ordinary handshake: their options are not answered, nor is
// anything that levee doesn't know.
func TestUnansweredOptions(t *testing.T) {
	for name, options := range map[string][]byte{
		"MP_CAPABLE": optionMPCapable, "TCP Fast Open": optionTFO, "TCP Fast Open, no cookie": {34, 2}, "unknown": {253, 6, 1, 2, 3, 4}, "AccECN": {172, 11, 0, 0, 1, 0, 0, 1, 0, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			forVariants(t, false, func(t *testing.T, v variant) {
				s, c, _ := bypassed(t, v, 10)
				p := c.Segment(c.port, v.serverAddr(), c.isn, 0)
				p.WScale, p.Timestamps, p.TSVal = 7, v.timestamps, 5
				s.Inject(proxytest.FromClient, addOptions(proxytest.Frame(&p, data(1, 10)), options...))
				s.Advance(20 * time.Millisecond)
				got := c.Take()
				checkControl(t, "client", got, []header.TCPFlags{synAck})
				tcp := &got[0].TCP
				want := header.TCPMinimumSize + 4 + 4 + 4 // MSS, window scale, SACK
				if v.timestamps {
					want += 8
				}
				if tcp.HeaderLen != want || tcp.Ack != c.isn+1 || tcp.PayloadLen != 0 {
					t.Errorf("a header of %d bytes, not %d, acknowledges %d", tcp.HeaderLen, want, tcp.Ack)
				}
			})
		})
	}
}

// What passes within the bypass rate doesn't fill the server's queue for a minute, if its clients don't answer. A few may be slow.
func TestBypassFreesServer(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		const rate, seconds = 10, 30
		cfg := v.config()
		cfg.Proxy.Services[0].BypassRate = rate
		s := newSession(t, v, cfg)
		waiting, ended, atOnce := map[uint16]bool{}, 0, 0
		s.Hooks[proxytest.FromServer] = append(s.Hooks[proxytest.FromServer], func(p *proxytest.Packet) proxytest.Fate {
			if p.Is(synAck) {
				waiting[p.TCP.DstPort] = true
				atOnce = max(atOnce, len(waiting))
			}
			return proxytest.Fate{}
		})
		s.Hooks[proxytest.ToServer] = append(s.Hooks[proxytest.ToServer], func(p *proxytest.Packet) proxytest.Fate {
			if p.Is(rst) {
				ended++
			}
			if !p.Is(syn) {
				delete(waiting, p.TCP.SrcPort)
			}
			return proxytest.Fate{}
		})
		slow := newRawClient(s)
		tiny := func(p *proxytest.Peer, port uint16) {
			first := p.Segment(port, v.serverAddr(), slow.isn, 0)
			first.MSS = 500
			p.Send(&first, nil)
		}
		for i := range uint16(5) { // whose answers take two seconds, and meet two of the server's SYN-ACKs
			slow.port = clientPort + i
			tiny(slow.Peer, slow.port)
			s.Until("SYN-ACK", soon, func() bool { return len(slow.Inbox) > 0 })
			slow.cookie = slow.Take()[0].TCP.Seq
			s.Advance(2 * time.Second)
			slow.acknowledge()
			s.Until("accepted", soon, func() bool { return len(s.servers) == int(i)+1 })
			slow.Take()
		}
		if ended != 0 {
			t.Errorf("%d handshakes of slow clients were ended", ended)
		}
		clear(waiting)
		bad := newForger(s)
		for range seconds * 10 * rate {
			bad.port++
			tiny(bad.Peer, bad.port)
			s.Advance(time.Second / (10 * rate))
			bad.Take()
		}
		// Those of the latest second, and at first as many from before.
		if passed := s.Proxy.Snapshot().Passed[proxy.PassBypass]; passed < seconds*rate || atOnce > 3*rate || len(waiting) > 3*rate/2 {
			t.Errorf("of %d SYNs that passed the server waits for %d, at most for %d", passed, len(waiting), atOnce)
		}
		if n := int(s.service().HalfOpenReset); n != ended || n < (seconds-4)*rate {
			t.Errorf("%d handshakes were ended, by %d resets", n, ended)
		}
		s.dial()
		s.Until("an ordinary client", soon, func() bool { return s.client.Established() })
		wantDrops(t, s.Network, nil)
	})
}
