package stack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
)

// Kind is what Parse found.
type Kind uint8

// The kinds. Only for KindTCP all fields of the Packet are set; Src, Dst and the ports are where there is enough of the packet to tell.
const (
	// KindTCP is a packet, or the first fragment of one, whose TCP header is all there and sound.
	KindTCP Kind = iota
	// KindLaterFragment is a fragment that does not start at offset 0: it has no TCP header. Src, Dst and Protocol are set.
	KindLaterFragment
	// KindOther is a sound IP packet, or the first fragment of one, that carries something other than TCP. Src, Dst, L4
	// and Protocol are set.
	KindOther
	// KindTruncated is shorter than its IP header says, or too short for the fixed part of a TCP header.
	KindTruncated
	// KindBadIP has an impossible IP version or header length, too many extension headers, or an IPv4-mapped
	// address in an IPv6 header (which Addr would take for that of an IPv4 packet).
	KindBadIP
	// KindTinyFragment is a first fragment that does not hold the whole TCP header, or a later one that begins inside the fixed
	// part of it (RFC 1858, RFC 3128).
	KindTinyFragment
	// KindBadTCP has a data offset below 5 or beyond the packet.
	KindBadTCP
	// KindBadOptions has a TCP option of length 0 or 1, or one that runs beyond the header.
	KindBadOptions
)

// maxExtensionHeaders bounds the walk over an IPv6 header chain. RFC 8200 §4.1 knows six kinds,
// one of which may occur twice; each of ours costs a few nanoseconds.
const maxExtensionHeaders = 8

// IPv6 extension headers that the walk steps over (IANA protocol numbers).
const (
	extHopByHop    = 0
	extRouting     = 43
	extFragment    = 44
	extAuth        = 51
	extDestOptions = 60
)

// Packet is a checked view of one IP packet that carries TCP. Parse fills it and may be called again
// on the same value; nothing is kept from before. It borrows the packet's bytes: the view
// is good as long as they are left alone.
type Packet struct {
	// IP is the packet, without what may have followed its total length.
	IP []byte
	// L4 is the offset in bytes, in IP, of the TCP header or of whatever else follows the IP headers; HeaderLen is the length
	// of the TCP header with its options.
	L4, HeaderLen int
	// Protocol is the IP protocol number of what is at L4. Of a later IPv6 fragment it is that of what begins in the first, which may be
	// another extension header.
	Protocol uint8
	// PayloadLen is the number of TCP payload bytes in this packet.
	PayloadLen int

	Src, Dst         Addr
	SrcPort, DstPort uint16
	Seq, Ack         seqnum.Value
	Flags            header.TCPFlags
	Window           uint16
	Options          Options

	// V6 says IPv6.
	V6 bool
	// FirstFragment says that more of the TCP payload follows in other packets.
	FirstFragment bool
	// Partial says that the TCP checksum field holds only the pseudo-header sum (VirtioNeedsCsum),
	// which no edit of the TCP header changes.
	Partial bool
}

// Parse checks the IP packet b once and fills p. It reads b only. partial says that the frame it
// came in had VirtioNeedsCsum set. No input makes it panic; it does at most
// maxExtensionHeaders + 40 steps.
func (p *Packet) Parse(b []byte, partial bool) Kind {
	*p = Packet{IP: b, Partial: partial}
	if len(b) < header.IPv4MinimumSize {
		return KindTruncated
	}
	switch b[0] >> 4 {
	case header.IPv4Version:
		return p.parse4(b)
	case header.IPv6Version:
		return p.parse6(b)
	}
	return KindBadIP
}

func (p *Packet) parse4(b []byte) Kind {
	ip := header.IPv4(b)
	headerLen, total := int(ip.HeaderLength()), int(ip.TotalLength())
	p.Src, p.Dst = addr4(ip.SourceAddressSlice()), addr4(ip.DestinationAddressSlice())
	switch {
	case headerLen < header.IPv4MinimumSize || total < headerLen:
		return KindBadIP
	case total > len(b):
		return KindTruncated
	}
	p.IP = b[:total]
	p.L4 = headerLen
	p.Protocol = ip.Protocol()
	if offset := ip.FragmentOffset(); offset != 0 {
		return laterFragment(p.Protocol, offset)
	}
	p.FirstFragment = ip.More()
	if p.Protocol != uint8(header.TCPProtocolNumber) {
		return KindOther
	}
	return p.parseTCP()
}

func (p *Packet) parse6(b []byte) Kind {
	if len(b) < header.IPv6MinimumSize {
		return KindTruncated
	}
	ip := header.IPv6(b)
	total := header.IPv6MinimumSize + int(ip.PayloadLength())
	p.V6 = true
	p.Src, p.Dst = Addr(ip.SourceAddressSlice()), Addr(ip.DestinationAddressSlice())
	switch {
	case total > len(b):
		return KindTruncated
	case p.Src.Is4() || p.Dst.Is4():
		return KindBadIP
	}
	p.IP = b[:total]

	next, at := ip.NextHeader(), header.IPv6MinimumSize
	for range maxExtensionHeaders + 1 { // the last turn is for what follows the headers
		size, extension := extensionLen(next, b[at:total])
		if !extension {
			p.L4, p.Protocol = at, next
			if next == uint8(header.TCPProtocolNumber) {
				return p.parseTCP()
			}
			return KindOther
		}
		if size == 0 || at+size > total {
			return KindTruncated
		}
		if next == extFragment {
			offset := binary.BigEndian.Uint16(b[at+2:]) // in units of 8 bytes, shifted to the left by 3 bits
			if offset>>3 != 0 {
				p.Protocol = b[at]
				return laterFragment(p.Protocol, offset&^7)
			}
			p.FirstFragment = p.FirstFragment || offset&1 != 0 // a second such header takes nothing back
		}
		next, at = b[at], at+size
	}
	return KindBadIP
}

// extensionLen is the length in bytes of the IPv6 extension header of a kind that begins at b (RFC 8200 §4, RFC 4302 §2.2), 0 if b is too
// short to tell, and whether it is one that a walk steps over. gVisor's IPv6.TryParseTransportProtocol is not
// used: a length byte of 255 makes it loop forever.
func extensionLen(kind uint8, b []byte) (n int, extension bool) {
	switch kind {
	case extFragment:
		return 8, true
	case extHopByHop, extRouting, extDestOptions, extAuth:
	default:
		return 0, false
	}
	if len(b) < 2 {
		return 0, true
	}
	if kind == extAuth {
		return (int(b[1]) + 2) * 4, true
	}
	return (int(b[1]) + 1) * 8, true
}

// MayCarryTCP says whether the packet that a later fragment is of may carry TCP: its protocol is TCP, or an IPv6 extension header with who
// knows what behind it.
func (p *Packet) MayCarryTCP() bool {
	switch p.Protocol {
	case uint8(header.TCPProtocolNumber):
		return true
	case extHopByHop, extRouting, extFragment, extAuth, extDestOptions:
		return p.V6
	}
	return false
}

// laterFragment is the kind of a fragment that begins at an offset in bytes, not 0. None need begin in the TCP header, as no
// first fragment may end there; one that does would take back, in a host that heeds the later of two, what was
// checked and translated in the first.
func laterFragment(protocol uint8, offset uint16) Kind {
	if protocol == uint8(header.TCPProtocolNumber) && offset < header.TCPMinimumSize {
		return KindTinyFragment
	}
	return KindLaterFragment
}

// parseTCP checks the TCP header at p.L4 and reads it.
func (p *Packet) parseTCP() Kind {
	short := KindTruncated
	if p.FirstFragment {
		short = KindTinyFragment
	}
	if len(p.IP)-p.L4 < header.TCPMinimumSize {
		return short
	}
	tcp := header.TCP(p.IP[p.L4:])
	p.SrcPort, p.DstPort = tcp.SourcePort(), tcp.DestinationPort()
	p.HeaderLen = int(tcp.DataOffset())
	if p.HeaderLen < header.TCPMinimumSize {
		return KindBadTCP
	}
	if p.HeaderLen > len(tcp) {
		if p.FirstFragment {
			return KindTinyFragment
		}
		return KindBadTCP
	}
	p.PayloadLen = len(tcp) - p.HeaderLen
	p.Seq, p.Ack = seqnum.Value(tcp.SequenceNumber()), seqnum.Value(tcp.AckNumber())
	p.Flags = tcp.Flags()
	p.Window = tcp.WindowSize()
	if !p.Options.parse(tcp[header.TCPMinimumSize:p.HeaderLen]) {
		return KindBadOptions
	}
	return KindTCP
}

// SeqLen is the sequence space that the segment takes: payload, SYN and FIN (RFC 9293 §3.4).
func (p *Packet) SeqLen() seqnum.Size {
	n := seqnum.Size(p.PayloadLen)
	if p.Flags.Contains(header.TCPFlagSyn) {
		n++
	}
	if p.Flags.Contains(header.TCPFlagFin) {
		n++
	}
	return n
}

// End is the sequence number after the segment.
func (p *Packet) End() seqnum.Value { return p.Seq.Add(p.SeqLen()) }

// ChecksumOK says whether the TCP checksum is right. A partial one is right by the kernel's word; that of a
// first fragment covers bytes that are not here, and counts as wrong.
func (p *Packet) ChecksumOK() bool {
	if p.Partial {
		return true
	}
	if p.FirstFragment {
		return false
	}
	return checksum.Checksum(p.IP[p.L4:], pseudoSum(&p.Src, &p.Dst, header.TCPProtocolNumber, len(p.IP)-p.L4)) == 0xffff
}

// TrafficClass is the DSCP and ECN byte of the IP header.
func (p *Packet) TrafficClass() uint8 {
	var tos uint8
	if p.V6 {
		tos, _ = header.IPv6(p.IP).TOS()
	} else {
		tos, _ = header.IPv4(p.IP).TOS()
	}
	return tos
}

// FlowLabel is the IPv6 flow label (RFC 6437), 20 bits; 0 for IPv4.
func (p *Packet) FlowLabel() uint32 {
	if !p.V6 {
		return 0
	}
	_, label := header.IPv6(p.IP).TOS()
	return label
}

// pseudoSum is the folded, not complemented sum of the pseudo-header (RFC 9293 §3.1, RFC 8200 §8.1) for
// length bytes of the protocol's header and payload.
func pseudoSum(src, dst *Addr, protocol tcpip.TransportProtocolNumber, length int) uint16 {
	sum := checksum.Checksum(src.bytes(), 0)
	sum = checksum.Checksum(dst.bytes(), sum)
	sum = checksum.Combine(sum, uint16(protocol))
	return checksum.Combine(sum, uint16(length))
}
