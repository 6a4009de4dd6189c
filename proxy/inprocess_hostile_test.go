package proxy_test

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"levee/proxy"
	"levee/proxy/proxytest"
	"levee/stack"
)

func address(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

// crafted builds a frame from a raw client to the server, which mend may spoil. Checksums are made right
// before that, and again after it if again is set.
type crafted struct {
	flags   header.TCPFlags
	payload int
	// spoil gets the IP packet and the offset of the TCP header.
	spoil func(ip []byte, tcp int)
	again bool
}

func (c crafted) frame(v variant) []byte {
	src, dst := raw4, v.serverAddr()
	if v.v6 {
		src = raw6
	}
	s := stack.Segment{
		Src: stack.AddrFrom(src), Dst: stack.AddrFrom(dst.Addr()), SrcPort: 1234, DstPort: dst.Port(),
		Seq: 1000, Ack: 2000, Flags: c.flags, Window: 100,
		MSS: 1400, WScale: 7, SACKPermitted: true, Timestamps: v.timestamps, TSVal: 5,
	}
	frame := proxytest.Frame(&s, make([]byte, c.payload))
	if c.spoil != nil {
		at := header.IPv4MinimumSize
		if v.v6 {
			at = header.IPv6MinimumSize
		}
		c.spoil(frame[stack.VirtioLen:], at)
		if c.again {
			checksumAgain(frame, at)
		}
	}
	return frame
}

// checksumAgain makes the checksums of IPv4 and TCP right, whatever else is wrong.
func checksumAgain(frame []byte, tcp int) {
	ip := frame[stack.VirtioLen:]
	src, dst := tcpip.AddrFromSlice(ip[8:24]), tcpip.AddrFromSlice(ip[24:40])
	if tcp == header.IPv4MinimumSize {
		h := header.IPv4(ip)
		h.SetChecksum(0)
		h.SetChecksum(^h.CalculateChecksum())
		src, dst = h.SourceAddress(), h.DestinationAddress()
	}
	t := header.TCP(ip[tcp:])
	t.SetChecksum(0)
	sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, src, dst, uint16(len(t)))
	for i := 0; i < len(t)&^1; i += 2 {
		total := uint32(sum) + uint32(binary.BigEndian.Uint16(t[i:]))
		sum = uint16(total>>16) + uint16(total)
	}
	t.SetChecksum(^sum)
}

// wantDropped sends a frame from the client's side into a network and checks that it is dropped, for this reason, counted
// once, and not answered.
func wantDropped(t *testing.T, s *session, frame []byte, reason proxy.DropReason) {
	t.Helper()
	before := s.Proxy.Snapshot()
	s.Inject(proxytest.FromClient, frame)
	s.Advance(10 * time.Millisecond)
	after := s.Proxy.Snapshot()
	for r := range proxy.NumDropReasons {
		want := uint64(0)
		if r == reason {
			want = 1
		}
		if got := after.Drops[r] - before.Drops[r]; got != want {
			t.Errorf("counted %d times as %v, not %d", got, r, want)
		}
	}
	if got := after.Workers[0].Sent - before.Workers[0].Sent; got != 0 {
		t.Errorf("%d packets sent", got)
	}
	if after.Passed != before.Passed || after.Flows != before.Flows {
		t.Errorf("passed %v, flows %v", after.Passed, after.Flows)
	}
}

func TestHostile(t *testing.T) {
	set := func(at int, b ...byte) func([]byte, int) {
		return func(ip []byte, tcp int) { copy(ip[tcp+at:], b) }
	}
	option := func(b ...byte) func([]byte, int) { return set(header.TCPMinimumSize, b...) }
	doff := func(words byte) func([]byte, int) { return set(12, words<<4) }
	for _, test := range []struct {
		name   string
		packet crafted
		reason proxy.DropReason
	}{
		{"SYN with a bad checksum", crafted{flags: syn, spoil: set(16, 0x12, 0x34)}, proxy.DropBadChecksum},
		{"SYN with a changed port", crafted{flags: syn, spoil: set(0, 0x12, 0x34)}, proxy.DropBadChecksum},
		{"ACK with a bad checksum", crafted{flags: ack, spoil: set(16, 0x12, 0x34)}, proxy.DropBadChecksum},
		{"data offset 0", crafted{flags: syn, spoil: doff(0), again: true}, proxy.DropBadTCP},
		{"data offset 4", crafted{flags: syn, spoil: doff(4), again: true}, proxy.DropBadTCP},
		{"data offset beyond the packet", crafted{flags: syn, spoil: doff(15), again: true}, proxy.DropBadTCP},
		{"data offset beyond the packet, ACK", crafted{flags: ack, spoil: doff(15), again: true}, proxy.DropBadTCP},
		{"option of length 0", crafted{flags: syn, spoil: option(99, 0), again: true}, proxy.DropBadOptions},
		{"option of length 1", crafted{flags: syn, spoil: option(99, 1), again: true}, proxy.DropBadOptions},
		{"option beyond the header", crafted{flags: syn, spoil: option(99, 41), again: true}, proxy.DropBadOptions},
		{"SACK option beyond the header", crafted{flags: ack, spoil: option(5, 34), again: true}, proxy.DropBadOptions},
		{"option without a length at the end", crafted{flags: syn, spoil: func(ip []byte, tcp int) {
			for i := tcp + header.TCPMinimumSize; i < len(ip); i++ {
				ip[i] = header.TCPOptionNOP
			}
			ip[len(ip)-1] = 99
		}, again: true}, proxy.DropBadOptions},

		{"SYN+FIN", crafted{flags: syn | fin}, proxy.DropBadFlags},
		{"SYN+RST", crafted{flags: syn | rst}, proxy.DropBadFlags},
		{"SYN+FIN+ACK", crafted{flags: syn | fin | ack}, proxy.DropBadFlags},
		{"SYN+RST+ACK", crafted{flags: syn | rst | ack}, proxy.DropBadFlags},
		{"FIN+RST", crafted{flags: fin | rst | ack}, proxy.DropBadFlags},
		{"no flags", crafted{}, proxy.DropBadFlags},
		{"all flags", crafted{flags: 0xff}, proxy.DropBadFlags},
		{"FIN alone", crafted{flags: fin}, proxy.DropBadFlags},
		{"FIN+PSH+URG", crafted{flags: fin | header.TCPFlagPsh | header.TCPFlagUrg}, proxy.DropBadFlags},
		{"PSH alone", crafted{flags: header.TCPFlagPsh, payload: 10}, proxy.DropBadFlags},
		{"ECE+CWR alone", crafted{flags: header.TCPFlagEce | header.TCPFlagCwr}, proxy.DropBadFlags},

		{"RST of no flow", crafted{flags: rst}, proxy.DropNoFlowRST},
		{"RST+ACK of no flow", crafted{flags: rst | ack}, proxy.DropNoFlowRST},
		{"SYN-ACK of no flow", crafted{flags: synAck}, proxy.DropNoFlowSYNACK},
		{"FIN of no flow", crafted{flags: fin | ack}, proxy.DropNoFlowFIN},
		{"ACK of no flow", crafted{flags: ack}, proxy.DropCookieInvalid},
		{"data of no flow", crafted{flags: ack | header.TCPFlagPsh, payload: 100}, proxy.DropCookieInvalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			forVariants(t, false, func(t *testing.T, v variant) {
				s := newSession(t, v, v.config())
				wantDropped(t, s, test.packet.frame(v), test.reason)
			})
		})
	}
}

func TestHostileIPv4(t *testing.T) {
	for _, test := range []struct {
		name   string
		packet crafted
		reason proxy.DropReason
	}{
		{"version 0", crafted{flags: syn, spoil: func(ip []byte, _ int) { ip[0] = 0x05 }}, proxy.DropBadIP},
		{"version 15", crafted{flags: syn, spoil: func(ip []byte, _ int) { ip[0] = 0xf5 }}, proxy.DropBadIP},
		{"header length 4", crafted{flags: syn, spoil: func(ip []byte, _ int) { ip[0] = 0x44 }}, proxy.DropBadIP},
		{"total length 19", crafted{flags: syn, spoil: func(ip []byte, _ int) { ip[2], ip[3] = 0, 19 }}, proxy.DropBadIP},
		{"total length 0", crafted{flags: syn, spoil: func(ip []byte, _ int) { ip[2], ip[3] = 0, 0 }}, proxy.DropBadIP},
		{"total length beyond the packet", crafted{flags: syn, spoil: func(ip []byte, _ int) { ip[2] = 0xff }}, proxy.DropTruncated},
		{"header length beyond the packet", crafted{flags: syn, spoil: func(ip []byte, _ int) { ip[0] = 0x4f; ip[3] = 60 }}, proxy.DropTruncated},
		{"SYN in fragments", crafted{flags: syn, spoil: func(ip []byte, _ int) { ip[6] = 0x20 }, again: true}, proxy.DropFragment},
		{"ACK of no flow in fragments", crafted{flags: ack, spoil: func(ip []byte, _ int) { ip[6] = 0x20 }, again: true}, proxy.DropFragment},
		{"tiny fragment", crafted{flags: syn, spoil: func(ip []byte, _ int) { ip[6], ip[3] = 0x20, 28 }}, proxy.DropFragment},
		{"fragment that ends in the options", crafted{flags: syn, spoil: func(ip []byte, _ int) { ip[6], ip[3] = 0x20, 44 }}, proxy.DropFragment},
		{"fragment over the ports and numbers", crafted{flags: ack, spoil: func(ip []byte, _ int) { ip[7] = 1 }, again: true}, proxy.DropFragment},
		{"fragment over the flags", crafted{flags: ack, spoil: func(ip []byte, _ int) { ip[7] = 2 }, again: true}, proxy.DropFragment},
		{"LAND", crafted{flags: syn, spoil: func(ip []byte, tcp int) {
			copy(ip[12:16], ip[16:20])
			copy(ip[tcp:tcp+2], ip[tcp+2:tcp+4])
		}, again: true}, proxy.DropLand},
		{"LAND with another port", crafted{flags: syn, spoil: func(ip []byte, _ int) { copy(ip[12:16], ip[16:20]) }, again: true}, proxy.DropLand},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newSession(t, variant{}, variant{}.config())
			wantDropped(t, s, test.packet.frame(variant{}), test.reason)
		})
	}
}

func TestHostileIPv6(t *testing.T) {
	// extended puts extension headers in front of the TCP header.
	extended := func(next byte, chain ...byte) func(frame []byte) []byte {
		return func(frame []byte) []byte {
			at := stack.VirtioLen + header.IPv6MinimumSize
			frame = slices.Insert(frame, at, chain...)
			ip := header.IPv6(frame[stack.VirtioLen:])
			ip.SetPayloadLength(uint16(len(ip) - header.IPv6MinimumSize))
			ip.SetNextHeader(next)
			return frame
		}
	}
	var long []byte // nine destination options headers
	for i := range 9 {
		next := byte(60)
		if i == 8 {
			next = 6
		}
		long = append(long, next, 0, 1, 4, 0, 0, 0, 0)
	}
	for _, test := range []struct {
		name   string
		make   func(frame []byte) []byte
		reason proxy.DropReason
	}{
		{"nine extension headers", extended(60, long...), proxy.DropBadIP},
		{"hop-by-hop headers without end", extended(0, make([]byte, 1000)...), proxy.DropBadIP},
		{"extension header beyond the packet", extended(60, 6, 255, 1, 4, 0, 0, 0, 0), proxy.DropTruncated},
		{"authentication header beyond the packet", extended(51, 6, 255, 0, 0, 0, 0, 0, 0), proxy.DropTruncated},
		{"payload length beyond the packet", func(frame []byte) []byte {
			header.IPv6(frame[stack.VirtioLen:]).SetPayloadLength(60000)
			return frame
		}, proxy.DropTruncated},
		{"payload length 0", func(frame []byte) []byte {
			header.IPv6(frame[stack.VirtioLen:]).SetPayloadLength(0)
			return frame
		}, proxy.DropTruncated},
		{"SYN in fragments", extended(44, 6, 0, 0, 1, 0, 0, 0, 1), proxy.DropFragment},
		{"fragment over the flags", extended(44, 6, 0, 0, 2<<3, 0, 0, 0, 1), proxy.DropFragment},
		{"tiny fragment", func(frame []byte) []byte {
			return extended(44, 6, 0, 0, 1, 0, 0, 0, 1)(frame[:len(frame)-20])
		}, proxy.DropFragment},
		{"LAND", func(frame []byte) []byte {
			ip := frame[stack.VirtioLen:]
			copy(ip[8:24], ip[24:40])
			copy(ip[40:42], ip[42:44])
			checksumAgain(frame, header.IPv6MinimumSize)
			return frame
		}, proxy.DropLand},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := variant{v6: true}
			s := newSession(t, v, v.config())
			wantDropped(t, s, test.make(crafted{flags: syn}.frame(v)), test.reason)
		})
	}
}

// Packets cut off at every length, with and without a length in the IP header that says so.
func TestHostileTruncated(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		s := newSession(t, v, v.config())
		for _, flags := range []header.TCPFlags{syn, ack} {
			whole := crafted{flags: flags}.frame(v)
			for n := range len(whole) {
				wantDropped(t, s, slices.Clone(whole[:n]), proxy.DropTruncated)
				if t.Failed() {
					t.Fatalf("%d of %d bytes, flags %v", n, len(whole), flags)
				}
			}
			at := stack.VirtioLen + header.IPv4MinimumSize
			if v.v6 {
				at = stack.VirtioLen + header.IPv6MinimumSize
			}
			for n := at; n < len(whole); n++ {
				cut := slices.Clone(whole[:n])
				if ip := cut[stack.VirtioLen:]; v.v6 {
					header.IPv6(ip).SetPayloadLength(uint16(len(ip) - header.IPv6MinimumSize))
				} else {
					header.IPv4(ip).SetTotalLength(uint16(len(ip)))
				}
				reason := proxy.DropBadTCP // the header is longer than the packet
				if n < at+header.TCPMinimumSize {
					reason = proxy.DropTruncated
				}
				wantDropped(t, s, cut, reason)
				if t.Failed() {
					t.Fatalf("%d of %d bytes, flags %v", n, len(whole), flags)
				}
			}
		}
	})
}
