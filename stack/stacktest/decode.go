package stacktest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// maxExtensions is how many IPv6 extension headers a packet may have.
const maxExtensions = 8

// DecodeFrame reads a frame, a virtio header and a packet, and refuses, besides what Decode refuses, virtio headers
// that the kernel would refuse or that would make it send rubbish.
func DecodeFrame(frame []byte) (Segment, error) {
	if len(frame) < virtioLen {
		return Segment{}, errors.New("virtio header cut off")
	}
	partial := frame[0]&needsCsum != 0
	s, err := Decode(frame[virtioLen:], partial)
	if err != nil {
		return Segment{}, err
	}
	gsoType := frame[1]
	hdrLen := int(binary.LittleEndian.Uint16(frame[2:]))
	s.GSOSize = binary.LittleEndian.Uint16(frame[4:])
	start, offset := int(binary.LittleEndian.Uint16(frame[6:])), binary.LittleEndian.Uint16(frame[8:])
	switch {
	case partial && (start != s.l4() || offset != 16):
		return Segment{}, fmt.Errorf("virtio checksum at %d+%d, TCP header at %d", start, offset, s.l4())
	case gsoType == 0 && s.GSOSize != 0:
		return Segment{}, fmt.Errorf("virtio gso_size %d without a GSO type", s.GSOSize)
	case gsoType == 0:
		return s, nil
	case gsoType&^gsoECN != s.gsoType()&^gsoECN:
		return Segment{}, fmt.Errorf("virtio GSO type %#x with source %s", gsoType, s.Src)
	case !partial:
		return Segment{}, errors.New("virtio GSO without a partial checksum")
	case s.GSOSize == 0 || len(s.Payload) <= int(s.GSOSize):
		return Segment{}, fmt.Errorf("virtio gso_size %d with %d bytes of payload", s.GSOSize, len(s.Payload))
	case hdrLen < s.l4()+20+len(s.Options):
		return Segment{}, fmt.Errorf("virtio hdr_len %d with %d bytes of headers", hdrLen, s.l4()+20+len(s.Options))
	}
	return s, nil
}

// Decode reads packet, an IP packet and possibly more bytes after it, and returns copies of what it holds. It fails unless that
// is TCP with a whole and sound header. partial says that the checksum field holds only the pseudo-header's sum.
// The checksum is never a reason to fail: see Segment.ChecksumError.
func Decode(packet []byte, partial bool) (Segment, error) {
	if len(packet) < 20 {
		return Segment{}, errors.New("no room for an IP header")
	}
	switch packet[0] >> 4 {
	case 4:
		return decode4(packet, partial)
	case 6:
		return decode6(packet, partial)
	}
	return Segment{}, fmt.Errorf("IP version %d", packet[0]>>4)
}

func decode4(b []byte, partial bool) (Segment, error) {
	headerLen := int(b[0]&0xf) * 4
	total := int(binary.BigEndian.Uint16(b[2:]))
	switch {
	case headerLen < 20:
		return Segment{}, errors.New("IPv4 header length below 20")
	case total < headerLen:
		return Segment{}, errors.New("IPv4 total length below the header's")
	case total > len(b):
		return Segment{}, errors.New("IPv4 packet cut off")
	case b[9] != protoTCP:
		return Segment{}, fmt.Errorf("IPv4 protocol %d", b[9])
	}
	s := Segment{
		TrafficClass: b[1],
		ID:           binary.BigEndian.Uint16(b[4:]),
		Fragment:     binary.BigEndian.Uint16(b[6:]),
		TTL:          b[8],
		IPOptions:    slices.Clone(b[20:headerLen]),
		Partial:      partial,
	}
	if s.Fragment&0x1fff != 0 {
		return Segment{}, errors.New("IPv4 fragment without the TCP header")
	}
	src, dst := netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
	err := s.decodeTCP(src, dst, b[headerLen:total])
	return s, err
}

func decode6(b []byte, partial bool) (Segment, error) {
	if len(b) < 40 {
		return Segment{}, errors.New("no room for an IPv6 header")
	}
	total := 40 + int(binary.BigEndian.Uint16(b[4:]))
	if total > len(b) {
		return Segment{}, errors.New("IPv6 packet cut off")
	}
	word := binary.BigEndian.Uint32(b)
	s := Segment{
		TrafficClass: uint8(word >> 20),
		FlowLabel:    word & 0xfffff,
		TTL:          b[7],
		Partial:      partial,
	}
	src, dst := netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
	if src.Is4In6() || dst.Is4In6() {
		return Segment{}, errors.New("IPv4-mapped address in an IPv6 header")
	}
	kind, rest := b[6], b[40:total]
	for kind != protoTCP {
		if len(s.Extensions) == maxExtensions {
			return Segment{}, errors.New("too many IPv6 extension headers")
		}
		size, err := extensionSize(kind, rest)
		if err != nil {
			return Segment{}, err
		}
		header := slices.Clone(rest[:size])
		next := header[0]
		header[0] = 0
		s.Extensions = append(s.Extensions, Extension{kind, header})
		kind, rest = next, rest[size:]
	}
	err := s.decodeTCP(src, dst, rest)
	return s, err
}

// extensionSize is the length in bytes of the extension header of that kind at the start of b (RFC 8200 §4, RFC 4302 §2.2).
func extensionSize(kind uint8, b []byte) (int, error) {
	if len(b) < 8 {
		return 0, fmt.Errorf("%d bytes for IPv6 header %d", len(b), kind)
	}
	size := 0
	switch kind {
	case HopByHop, Routing, DestinationOptions:
		size = 8 + 8*int(b[1])
	case Authentication:
		size = 8 + 4*int(b[1])
	case Fragmentation:
		size = 8
		if binary.BigEndian.Uint16(b[2:])>>3 != 0 {
			return 0, errors.New("IPv6 fragment without the TCP header")
		}
	default:
		return 0, fmt.Errorf("IPv6 next header %d", kind)
	}
	if size > len(b) {
		return 0, fmt.Errorf("IPv6 header %d of %d bytes in %d", kind, size, len(b))
	}
	return size, nil
}

// decodeTCP reads the TCP header with payload b.
func (s *Segment) decodeTCP(src, dst netip.Addr, b []byte) error {
	if len(b) < 20 {
		return errors.New("no room for a TCP header")
	}
	headerLen := int(b[12]>>4) * 4
	if headerLen < 20 || headerLen > len(b) {
		return fmt.Errorf("TCP header of %d bytes in %d", headerLen, len(b))
	}
	s.Src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(b))
	s.Dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(b[2:]))
	s.Seq = binary.BigEndian.Uint32(b[4:])
	s.Ack = binary.BigEndian.Uint32(b[8:])
	s.Reserved = b[12] & 0xf
	s.Flags = b[13]
	s.Window = binary.BigEndian.Uint16(b[14:])
	s.Urgent = binary.BigEndian.Uint16(b[18:])
	s.Options = slices.Clone(b[20:headerLen])
	s.Payload = slices.Clone(b[headerLen:])
	if got, right := binary.BigEndian.Uint16(b[16:]), rightChecksum(src, dst, b, s.Partial); got != right {
		s.ChecksumError = plus(got, ^right)
	}
	_, err := ParseOptions(s.Options)
	return err
}
