package stacktest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
)

const (
	virtioLen  = 10
	needsCsum  = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM
	gsoTCPv4   = 1
	gsoTCPv6   = 4
	gsoECN     = 0x80
	protoTCP   = 6
	defaultTTL = 64
)

// Flags of a TCP header (RFC 9293 §3.1).
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

// Bits of Segment.Fragment beside the offset.
const (
	DontFragment  = 0x4000
	MoreFragments = 0x2000
)

// IPv6 extension headers (IANA protocol numbers).
const (
	HopByHop           = 0
	Routing            = 43
	Fragmentation      = 44
	Authentication     = 51
	DestinationOptions = 60
)

// Segment is one TCP segment inside one IP packet, field by field. Frame and Packet write it with right lengths
// and checksums; to break those, change the bytes afterwards.
type Segment struct {
	// Src and Dst are of one family, which decides the IP version.
	Src, Dst netip.AddrPort
	// TrafficClass is DSCP and ECN.
	TrafficClass uint8
	// TTL, or hop limit; 0 is written as 64.
	TTL uint8
	// ID, Fragment and IPOptions are for IPv4. Fragment is flags and offset as on the wire;
	// IPOptions are a multiple of 4 bytes, at most 40.
	ID, Fragment uint16
	IPOptions    []byte
	// FlowLabel (20 bits) and Extensions are for IPv6.
	FlowLabel  uint32
	Extensions []Extension

	Seq, Ack uint32
	// Reserved is the low half of the byte that holds the data offset; its last bit is AccECN's AE.
	Reserved       uint8
	Flags          uint8
	Window, Urgent uint16
	// Options are written as they are, without padding for alignment; zeros fill the last 4 bytes. At most 40.
	Options []byte
	Payload []byte

	// Partial leaves only the sum of the pseudo-header in the checksum field.
	Partial bool
	// ChecksumError is added, in one's complement, to the right value of the checksum field.
	ChecksumError uint16
	// GSOSize makes a superpacket of segments with that many bytes of payload.
	GSOSize uint16
}

// Extension is an IPv6 extension header. Its first byte, the kind of what follows, is filled in later.
type Extension struct {
	Kind  uint8
	Bytes []byte
}

// ExtensionHeader is an extension header of size bytes, a multiple of 8 (of 4 for Authentication), filled with zeros: padding
// as the options headers understand it.
func ExtensionHeader(kind uint8, size int) Extension {
	b := make([]byte, size)
	if kind == Authentication {
		b[1] = byte(size/4 - 2)
	} else {
		b[1] = byte(size/8 - 1)
	}
	return Extension{kind, b}
}

// FragmentHeader is the IPv6 fragment header of the piece that starts at offset, in units of 8 bytes.
func FragmentHeader(offset uint16, more bool) Extension {
	word := offset << 3
	if more {
		word |= 1
	}
	return Extension{Fragmentation, []byte{0, 0, byte(word >> 8), byte(word), 0xfe, 0xed, 0xbe, 0xef}}
}

// Frame is a virtio header followed by the packet.
func (s Segment) Frame() []byte {
	packet := s.Packet()
	v := make([]byte, virtioLen)
	if s.Partial {
		v[0] = needsCsum
		binary.LittleEndian.PutUint16(v[6:], uint16(s.l4()))
		binary.LittleEndian.PutUint16(v[8:], 16)
	}
	if s.GSOSize != 0 {
		v[1] = s.gsoType()
		binary.LittleEndian.PutUint16(v[4:], s.GSOSize)
	}
	binary.LittleEndian.PutUint16(v[2:], uint16(len(packet)-len(s.Payload)))
	return append(v, packet...)
}

// Packet is the IP packet alone.
func (s Segment) Packet() []byte {
	tcp := s.tcp()
	if s.TTL == 0 {
		s.TTL = defaultTTL
	}
	if !s.Src.Addr().Is4() {
		return s.packet6(tcp)
	}
	headerLen := s.l4()
	b := []byte{byte(4<<4 | headerLen/4), s.TrafficClass}
	b = binary.BigEndian.AppendUint16(b, length(headerLen+len(tcp)))
	b = binary.BigEndian.AppendUint16(b, s.ID)
	b = binary.BigEndian.AppendUint16(b, s.Fragment)
	b = append(b, s.TTL, protoTCP, 0, 0)
	b = append(b, s.Src.Addr().AsSlice()...)
	b = append(b, s.Dst.Addr().AsSlice()...)
	b = append(b, s.IPOptions...)
	binary.BigEndian.PutUint16(b[10:], ^Sum(b))
	return append(b, tcp...)
}

func (s *Segment) packet6(tcp []byte) []byte {
	next := byte(protoTCP)
	payload := tcp
	for _, e := range slices.Backward(s.Extensions) {
		payload = slices.Concat([]byte{next}, e.Bytes[1:], payload)
		next = e.Kind
	}
	b := binary.BigEndian.AppendUint32(nil, 6<<28|uint32(s.TrafficClass)<<20|s.FlowLabel)
	b = binary.BigEndian.AppendUint16(b, length(len(payload)))
	b = append(b, next, s.TTL)
	b = append(b, s.Src.Addr().AsSlice()...)
	b = append(b, s.Dst.Addr().AsSlice()...)
	return append(b, payload...)
}

// tcp is the TCP header with options, payload and checksum.
func (s *Segment) tcp() []byte {
	options := slices.Clone(s.Options)
	for len(options)%4 != 0 {
		options = append(options, 0)
	}
	if len(options) > 40 {
		panic(fmt.Sprintf("stacktest: %d bytes of TCP options", len(options)))
	}
	b := binary.BigEndian.AppendUint16(nil, s.Src.Port())
	b = binary.BigEndian.AppendUint16(b, s.Dst.Port())
	b = binary.BigEndian.AppendUint32(b, s.Seq)
	b = binary.BigEndian.AppendUint32(b, s.Ack)
	b = append(b, byte((20+len(options))/4<<4)|s.Reserved, s.Flags)
	b = binary.BigEndian.AppendUint16(b, s.Window)
	b = append(b, 0, 0)
	b = binary.BigEndian.AppendUint16(b, s.Urgent)
	b = append(b, options...)
	b = append(b, s.Payload...)
	sum := plus(rightChecksum(s.Src.Addr(), s.Dst.Addr(), b, s.Partial), s.ChecksumError)
	binary.BigEndian.PutUint16(b[16:], sum)
	return b
}

// FirstFragment says whether more of the payload follows in other packets.
func (s *Segment) FirstFragment() bool {
	for _, e := range s.Extensions {
		if e.Kind == Fragmentation && e.Bytes[3]&1 != 0 {
			return true
		}
	}
	return s.Fragment&MoreFragments != 0
}

// l4 is the offset of the TCP header in the packet.
func (s *Segment) l4() int {
	if s.Src.Addr().Is4() {
		return 20 + len(s.IPOptions)
	}
	n := 40
	for _, e := range s.Extensions {
		n += len(e.Bytes)
	}
	return n
}

// gsoType is the virtio GSO type of a superpacket.
func (s *Segment) gsoType() uint8 {
	t := uint8(gsoTCPv6)
	if s.Src.Addr().Is4() {
		t = gsoTCPv4
	}
	if s.Flags&CWR != 0 {
		t |= gsoECN
	}
	return t
}

// length is n as a 16-bit field.
func length(n int) uint16 {
	if n > 0xffff {
		panic(fmt.Sprintf("stacktest: a packet can't hold %d bytes", n))
	}
	return uint16(n)
}
