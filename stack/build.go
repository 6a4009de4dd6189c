package stack

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
)

// MaxBuilt is the length in bytes of the longest frame that Segment.Build makes: virtio header,
// IPv6 header, TCP header, 20 bytes of options.
const MaxBuilt = VirtioLen + header.IPv6MinimumSize + header.TCPMinimumSize + maxBuiltOptions

// maxBuiltOptions is MSS, SACK-permitted, timestamps and window scale as Linux lays them out.
const maxBuiltOptions = 20

// hopLimit of what levee sends of its own.
const hopLimit = 64

// Segment is a segment for levee to send: SYN, SYN-ACK, ACK or RST, or one with payload that it has held.
type Segment struct {
	Src, Dst         Addr // of one family
	SrcPort, DstPort uint16
	Seq, Ack         seqnum.Value
	Flags            header.TCPFlags
	// Window is the field as it goes on the wire: scaled by the sender, except on SYNs.
	Window uint16
	// Urgent is the urgent pointer, which counts only with URG among the flags.
	Urgent uint16

	// MSS in bytes, 0 for none.
	MSS uint16
	// WScale is the shift 0 to 14, or WScaleNone: a plain ACK must say WScaleNone.
	WScale        uint8
	SACKPermitted bool
	Timestamps    bool
	TSVal, TSEcr  uint32

	// TrafficClass is DSCP and ECN; FlowLabel is for IPv6.
	TrafficClass uint8
	FlowLabel    uint32
}

// Build writes the frame into b, whose capacity is at least MaxBuilt, and returns b resliced to it. The
// checksum is left to the kernel (VirtioNeedsCsum): on a link that needs none, nobody ever computes it.
func (s *Segment) Build(b []byte) []byte {
	frame, _ := s.BuildData(b, 0, 0)
	return frame
}

// BuildData is Build for a segment with so many bytes of payload, for which b has room beyond MaxBuilt: the caller puts them into
// data, which is the end of the frame. If they are more than size, which is then not 0, the frame is a superpacket of segments of
// that many bytes each. The whole packet has at most 65535 bytes.
func (s *Segment) BuildData(b []byte, payload, size int) (frame, data []byte) {
	ipLen := header.IPv6MinimumSize
	if s.Src.Is4() {
		ipLen = header.IPv4MinimumSize
	}
	var options [maxBuiltOptions]byte
	tcpLen := header.TCPMinimumSize + s.encodeOptions(options[:])
	b = b[:VirtioLen+ipLen+tcpLen+payload]
	virtio := Virtio{
		Flags:      VirtioNeedsCsum,
		HdrLen:     uint16(ipLen + tcpLen),
		CsumStart:  uint16(ipLen),
		CsumOffset: offChecksum,
	}
	if payload > size {
		virtio.GSOType, virtio.GSOSize = GSOTCPv6, uint16(size)
		if s.Src.Is4() {
			virtio.GSOType = GSOTCPv4
		}
	}
	virtio.Encode(b)

	ip := b[VirtioLen:]
	if s.Src.Is4() {
		h := header.IPv4(ip)
		h.Encode(&header.IPv4Fields{
			TOS:         s.TrafficClass,
			TotalLength: uint16(ipLen + tcpLen + payload),
			Flags:       header.IPv4FlagDontFragment,
			TTL:         hopLimit,
			Protocol:    uint8(header.TCPProtocolNumber),
			SrcAddr:     tcpip.AddrFrom4([4]byte(s.Src[12:])),
			DstAddr:     tcpip.AddrFrom4([4]byte(s.Dst[12:])),
		})
		h.SetChecksum(^h.CalculateChecksum())
	} else {
		header.IPv6(ip).Encode(&header.IPv6Fields{
			TrafficClass:      s.TrafficClass,
			FlowLabel:         s.FlowLabel,
			PayloadLength:     uint16(tcpLen + payload),
			TransportProtocol: header.TCPProtocolNumber,
			HopLimit:          hopLimit,
			SrcAddr:           tcpip.AddrFrom16(s.Src),
			DstAddr:           tcpip.AddrFrom16(s.Dst),
		})
	}

	tcp := header.TCP(ip[ipLen:])
	tcp.Encode(&header.TCPFields{
		SrcPort:       s.SrcPort,
		DstPort:       s.DstPort,
		SeqNum:        uint32(s.Seq),
		AckNum:        uint32(s.Ack),
		DataOffset:    uint8(tcpLen),
		Flags:         s.Flags,
		WindowSize:    s.Window,
		Checksum:      pseudoSum(&s.Src, &s.Dst, header.TCPProtocolNumber, tcpLen+payload),
		UrgentPointer: s.Urgent,
	})
	copy(tcp[header.TCPMinimumSize:tcpLen], options[:])
	return b, b[len(b)-payload:]
}

// encodeOptions writes the options in Linux's order, each 32-bit field aligned, and returns
// their length, a multiple of 4.
func (s *Segment) encodeOptions(b []byte) int {
	n := 0
	if s.MSS != 0 {
		n += header.EncodeMSSOption(uint32(s.MSS), b[n:])
	}
	switch {
	case s.Timestamps:
		if s.SACKPermitted {
			n += header.EncodeSACKPermittedOption(b[n:])
		} else {
			n += header.EncodeNOP(b[n:])
			n += header.EncodeNOP(b[n:])
		}
		n += header.EncodeTSOption(s.TSVal, s.TSEcr, b[n:])
	case s.SACKPermitted:
		n += header.EncodeNOP(b[n:])
		n += header.EncodeNOP(b[n:])
		n += header.EncodeSACKPermittedOption(b[n:])
	}
	if s.WScale != WScaleNone {
		n += header.EncodeNOP(b[n:])
		n += header.EncodeWSOption(int(s.WScale), b[n:])
	}
	return n
}
