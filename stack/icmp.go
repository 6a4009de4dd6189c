package stack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
)

// Quote is the TCP segment that an ICMP or ICMPv6 error quotes: the start of what somebody on its way could not deliver
// (RFC 792, RFC 4443 §3). It borrows the packet's bytes.
type Quote struct {
	Src, Dst         Addr
	SrcPort, DstPort uint16
	Seq              seqnum.Value
	// Unreachable says that the error is about the destination: there is no way there, or nobody (RFC 792,
	// RFC 4443 §3.1). That a packet was too long for the way is none of those.
	Unreachable bool

	// packet holds the message, icmp is the message from its type on, and tcp what it holds of the segment, at least 8 bytes.
	packet    *Packet
	icmp, tcp []byte
}

// quoteAt is where an error's quotation begins, in bytes of the message.
const quoteAt = 8

// quotedTCP is how much of a TCP header every quotation holds: ports and sequence number (RFC 792).
const quotedTCP = 8

// Parse reads the quotation of p, which Packet.Parse found to be KindOther, and says whether p is an error about a TCP
// segment that has its ports. Of an error in fragments, as a narrow path behind its sender makes them, the first has all that counts.
func (q *Quote) Parse(p *Packet) bool {
	*q = Quote{packet: p}
	if len(p.IP) < p.L4+quoteAt {
		return false
	}
	q.icmp = p.IP[p.L4:]
	inner := q.icmp[quoteAt:]
	var l4 int
	switch {
	case !p.V6 && p.Protocol == uint8(header.ICMPv4ProtocolNumber):
		switch header.ICMPv4Type(q.icmp[0]) {
		case header.ICMPv4DstUnreachable:
			q.Unreachable = header.ICMPv4Code(q.icmp[1]) != header.ICMPv4FragmentationNeeded
		case header.ICMPv4SrcQuench, header.ICMPv4TimeExceeded, header.ICMPv4ParamProblem:
		default:
			return false
		}
		if len(inner) < header.IPv4MinimumSize || inner[0]>>4 != header.IPv4Version {
			return false
		}
		ip := header.IPv4(inner)
		if l4 = int(ip.HeaderLength()); l4 < header.IPv4MinimumSize || ip.FragmentOffset() != 0 ||
			ip.Protocol() != uint8(header.TCPProtocolNumber) {
			return false
		}
		q.Src, q.Dst = addr4(ip.SourceAddressSlice()), addr4(ip.DestinationAddressSlice())
	case p.V6 && p.Protocol == uint8(header.ICMPv6ProtocolNumber):
		switch header.ICMPv6Type(q.icmp[0]) {
		case header.ICMPv6DstUnreachable:
			q.Unreachable = true
		case header.ICMPv6PacketTooBig, header.ICMPv6TimeExceeded, header.ICMPv6ParamProblem:
		default:
			return false
		}
		if len(inner) < header.IPv6MinimumSize || inner[0]>>4 != header.IPv6Version {
			return false
		}
		ip := header.IPv6(inner)
		if l4 = quotedTCP6(inner, ip.NextHeader()); l4 == 0 {
			return false
		}
		q.Src, q.Dst = Addr(ip.SourceAddressSlice()), Addr(ip.DestinationAddressSlice())
	default:
		return false
	}
	if len(inner) < l4+quotedTCP {
		return false
	}
	q.tcp = inner[l4:]
	tcp := header.TCP(q.tcp)
	q.SrcPort, q.DstPort, q.Seq = tcp.SourcePort(), tcp.DestinationPort(), seqnum.Value(tcp.SequenceNumber())
	return true
}

// quotedTCP6 is the offset of the TCP header in a quoted IPv6 packet, whose first header is of kind next, or 0 if there is none.
func quotedTCP6(inner []byte, next uint8) int {
	at := header.IPv6MinimumSize
	for range maxExtensionHeaders + 1 {
		size, extension := extensionLen(next, inner[at:])
		switch {
		case next == uint8(header.TCPProtocolNumber):
			return at
		case !extension || size == 0 || at+size > len(inner):
			return 0
		case next == extFragment && binary.BigEndian.Uint16(inner[at+2:])>>3 != 0:
			return 0 // of a later part
		}
		next, at = inner[at], at+size
	}
	return 0
}

// ChecksumOK says whether the message's checksum is right. A partial one is right by the kernel's word; that of a first fragment
// covers bytes that are not here, and counts as wrong.
func (q *Quote) ChecksumOK() bool {
	if q.packet.Partial {
		return true
	}
	if q.packet.FirstFragment {
		return false
	}
	sum := uint16(0)
	if q.packet.V6 {
		sum = pseudoSum(&q.packet.Src, &q.packet.Dst, header.ICMPv6ProtocolNumber, len(q.icmp)) // RFC 4443 §2.3
	}
	return checksum.Checksum(q.icmp, sum) == 0xffff
}

// AddSeq adds d, modulo 2^32, to the quoted sequence number, and keeps the message's checksum, and the segment's if it is
// quoted, as right or wrong as they were.
func (q *Quote) AddSeq(d uint32) {
	q.Seq += seqnum.Value(d)
	at := len(q.icmp) - len(q.tcp)
	if len(q.tcp) >= offChecksum+2 {
		var inner, outer sum16
		old := binary.BigEndian.Uint16(q.tcp[offChecksum:])
		inner.put32(q.tcp, offSeq, uint32(q.Seq))
		inner.apply(q.tcp, offChecksum)
		// Both together are what the message's own checksum must change by.
		outer = inner + sum16(^old) + sum16(binary.BigEndian.Uint16(q.tcp[offChecksum:]))
		q.finish(outer)
		return
	}
	var outer sum16
	outer.put32(q.icmp, at+offSeq, uint32(q.Seq))
	q.finish(outer)
}

// finish updates the checksum of the message, at offset 2 (RFC 792, RFC 4443 §2.3).
func (q *Quote) finish(s sum16) {
	if !q.packet.Partial {
		s.apply(q.icmp, 2)
	}
}
