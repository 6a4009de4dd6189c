package proxy_test

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/proxy"
	"levee/proxy/proxytest"
	"levee/stack"
)

// icmpError is what a router sends to the source of a packet that it can't pass on, quoting its IP header and n bytes of what follows.
// kind and code are ICMPv6's; for IPv4 the corresponding ones are taken.
func icmpError(kind, code byte, quoted []byte, n int) []byte {
	v6 := quoted[0]>>4 == header.IPv6Version
	ipLen, router, to := header.IPv4MinimumSize, "203.0.113.1", quoted[12:16]
	if v6 {
		ipLen, router, to = header.IPv6MinimumSize, "2001:db8:f::1", quoted[8:24]
	}
	message := slices.Concat([]byte{kind, code, 0, 0, 0, 0, 5, 0}, quoted[:min(ipLen+n, len(quoted))])
	frame := slices.Concat(make([]byte, stack.VirtioLen+ipLen), message)
	ip := frame[stack.VirtioLen:]
	src, dst := address(netip.MustParseAddr(router)), tcpip.AddrFromSlice(to)
	if v6 {
		header.IPv6(ip).Encode(&header.IPv6Fields{
			PayloadLength: uint16(len(message)), TransportProtocol: header.ICMPv6ProtocolNumber, HopLimit: 64, SrcAddr: src, DstAddr: dst,
		})
		sum := header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, src, dst, uint16(len(message)))
		binary.BigEndian.PutUint16(ip[ipLen+2:], ^checksum.Checksum(ip[ipLen:], sum))
		return frame
	}
	switch kind {
	case unreachable:
		ip[ipLen] = 3
	case tooBig:
		ip[ipLen], ip[ipLen+1] = 3, 4
	case timeExceeded:
		ip[ipLen] = 11
	}
	h := header.IPv4(ip)
	h.Encode(&header.IPv4Fields{TotalLength: uint16(len(ip)), TTL: 64, Protocol: uint8(header.ICMPv4ProtocolNumber), SrcAddr: src, DstAddr: dst})
	h.SetChecksum(^h.CalculateChecksum())
	binary.BigEndian.PutUint16(ip[ipLen+2:], ^checksum.Checksum(ip[ipLen:], 0))
	return frame
}

// Types of ICMPv6 (RFC 4443 §2.1).
const unreachable, tooBig, timeExceeded = 1, 2, 3

// An ICMP error about levee's SYN is a reset for the client that waits, and only if it is about just that SYN.
func TestUnreachableServer(t *testing.T) {
	for _, test := range []struct {
		name       string
		kind, code byte
		quoted     int
		change     func(ip []byte, tcp int) // of the quoted SYN
		spoil      func(frame []byte)
		reset      bool
	}{
		{"port unreachable", unreachable, 3, 40, nil, nil, true},
		{"prohibited, quoting eight bytes", unreachable, 1, 8, nil, nil, true},
		{"quoting seven bytes", unreachable, 1, 7, nil, nil, false},
		{"too big", tooBig, 0, 40, nil, nil, false},
		{"time exceeded", timeExceeded, 0, 40, nil, nil, false},
		{"another sequence number", unreachable, 0, 40, func(ip []byte, tcp int) { ip[tcp+7]++ }, nil, false},
		{"another port", unreachable, 0, 40, func(ip []byte, tcp int) { ip[tcp+1]++ }, nil, false},
		{"bad checksum", unreachable, 0, 40, nil, func(frame []byte) { frame[len(frame)-1] ^= 1 }, false},
		{"for somebody else", unreachable, 0, 40, nil, func(frame []byte) {
			if ip := frame[stack.VirtioLen:]; ip[0]>>4 == header.IPv6Version {
				ip[39] ^= 1
			} else {
				ip[19] ^= 1
			}
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			forVariants(t, false, func(t *testing.T, v variant) {
				cfg := v.config()
				s, c, r := rawPair(t, v, cfg, nil)
				other := c.Addr.As16() // where a misled error goes
				other[15] ^= 1
				s.Peer(netip.AddrFrom16(other).Unmap(), false)
				quoted := slices.Clone(r.syn.IP)
				if test.change != nil {
					test.change(quoted, r.syn.L4)
				}
				frame := icmpError(test.kind, test.code, quoted, test.quoted)
				if test.spoil != nil {
					test.spoil(frame)
				}
				s.Inject(proxytest.FromServer, frame)
				s.Advance(20 * time.Millisecond)
				got := c.Take()
				if !test.reset {
					s.wantState(proxy.StateOpening)
					for _, p := range got {
						if p.Kind == stack.KindTCP {
							t.Errorf("the client gets %+v", p.TCP)
						}
					}
					r.accept()
					s.wantState(proxy.StateOpen)
					return
				}
				s.wantState(proxy.StateReset)
				checkControl(t, "client", got, []header.TCPFlags{rst | ack})
				if p := got[0].TCP; p.Seq != c.cookie+1 || p.Ack != c.isn+1 {
					t.Errorf("the reset is %+v", p)
				}
				if n := s.service(); n.Unreachable != 1 || n.TimedOut != 0 || n.Flows != 0 {
					t.Errorf("counters are %+v", n)
				}
				wantDrops(t, s.Network, nil)
			})
		})
	}
}

// ICMP errors don't end an open connection (RFC 5382 REQ-10). They reach the host whose segment they are about if that can be
// under way, and are dropped otherwise.
func TestICMPWhileOpen(t *testing.T) {
	for _, test := range []struct {
		name string
		up   bool // about a client's segment
		seq  seqnum.Value
		pass bool
	}{
		{"about the client's data", true, 0, true},
		{"about what the client has not sent", true, 101, false},
		{"about what the client sent long ago", true, 0xff000000, false},
		{"about the server's data", false, 0, true},
		{"about what the server has not sent", false, 51, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			forVariants(t, false, func(t *testing.T, v variant) {
				s, c, r := rawPair(t, v, v.config(), nil)
				r.accept()
				c.send(0, data(1, 100))
				d := r.segment(ack)
				d.Seq++
				r.Send(&d, data(2, 50))
				s.Advance(20 * time.Millisecond)
				c.Take()
				r.Take()

				// As the segment passed the router, behind levee.
				about, to, hop, base := c.segment(0), c.Peer, proxytest.FromServer, c.isn+1
				if !test.up {
					about, to, hop, base = r.segment(ack), r.Peer, proxytest.FromClient, c.cookie+1
				}
				about.Seq = base + test.seq
				s.Inject(hop, icmpError(unreachable, 0, proxytest.Frame(&about, nil)[stack.VirtioLen:], 8))
				s.Advance(20 * time.Millisecond)
				got, dropped := to.Take(), s.Proxy.Snapshot().Drops[proxy.DropICMP]
				if test.pass != (len(got) == 1) || test.pass == (dropped == 1) {
					t.Errorf("%d packets arrive, %d dropped", len(got), dropped)
				}
				s.wantState(proxy.StateOpen)
				checkControl(t, "client", c.Take(), nil)
				checkControl(t, "server", r.Take(), nil)
			})
		})
	}
}

// An error in fragments is translated in the first, like a segment in fragments. A forged one can be told by its number, but not by its
// checksum, so that it refuses no connection.
func TestICMPInFragments(t *testing.T) {
	for _, opening := range []bool{false, true} {
		v := variant{}
		s, c, r := rawPair(t, v, v.config(), nil)
		about, hop := r.syn.IP, proxytest.FromServer
		if !opening {
			r.accept()
			d := r.segment(ack)
			d.Seq++
			r.Send(&d, data(2, 50))
			s.Advance(20 * time.Millisecond)
			d = r.segment(ack)
			d.Seq = c.cookie + 1
			about, hop = proxytest.Frame(&d, nil)[stack.VirtioLen:], proxytest.FromClient
		}
		c.Take()
		r.Take()
		frame := icmpError(unreachable, 1, about, 20)
		ip := header.IPv4(frame[stack.VirtioLen:])
		ip.SetFlagsFragmentOffset(header.IPv4FlagMoreFragments, 0)
		ip.SetChecksum(0)
		ip.SetChecksum(^ip.CalculateChecksum())
		s.Inject(hop, frame)
		s.Advance(20 * time.Millisecond)
		if opening {
			s.wantState(proxy.StateOpening)
			wantDrops(t, s.Network, map[proxy.DropReason]uint64{proxy.DropICMP: 1})
			continue
		}
		wantDrops(t, s.Network, nil)
		got := r.Take()
		if len(got) != 1 {
			t.Fatalf("%d packets at the server", len(got))
		}
		message := got[0].Frame[stack.VirtioLen+header.IPv4MinimumSize:]
		if seq := seqnum.Value(binary.BigEndian.Uint32(message[8+header.IPv4MinimumSize+4:])); seq != r.isn+1 {
			t.Errorf("the error quotes %d, not %d", seq, r.isn+1)
		}
	}
}

// Errors about connections that protected servers open themselves, or that are nobody's, pass too, if they fit.
func TestICMPOutbound(t *testing.T) {
	v := variant{}
	s := &session{Network: proxytest.New(t, v.config()), t: t, v: v}
	r := s.Peer(netip.MustParseAddr("192.0.2.77"), true)
	s.Peer(raw4, false)
	syn := r.Segment(50000, netip.AddrPortFrom(raw4, 25), 1000, 0)
	r.Send(&syn, nil)
	s.Advance(20 * time.Millisecond)
	for _, test := range []struct {
		seq  seqnum.Value
		pass int
	}{{1000, 1}, {1001, 0}} {
		about := syn
		about.Seq = test.seq
		s.Inject(proxytest.FromClient, icmpError(unreachable, 0, proxytest.Frame(&about, nil)[stack.VirtioLen:], 8))
		s.Advance(20 * time.Millisecond)
		if n := len(r.Take()); n != test.pass {
			t.Errorf("about %d: %d packets arrive, not %d", test.seq, n, test.pass)
		}
	}
	wantDrops(t, s.Network, map[proxy.DropReason]uint64{proxy.DropICMP: 1})
}
