package proxytest

import (
	"encoding/binary"
	"fmt"
	"slices"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"levee/stack"
)

// addrOf is a as gVisor writes it.
func addrOf(a stack.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.Netip().AsSlice()) }

// Frame builds the frame of a segment with payload, its checksum complete.
func Frame(s *stack.Segment, payload []byte) []byte {
	frame := append(slices.Clone(s.Build(make([]byte, stack.MaxBuilt))), payload...)
	stack.Virtio{}.Encode(frame)
	setLength(frame[stack.VirtioLen:])
	fixFrame(frame)
	return frame
}

// fixFrame completes the TCP checksum of a well-formed frame.
func fixFrame(frame []byte) {
	var p stack.Packet
	if kind := p.Parse(frame[stack.VirtioLen:], false); kind != stack.KindTCP {
		panic(fmt.Sprintf("proxytest: a frame without a TCP segment (kind %d)", kind))
	}
	fixChecksum(&p, p.IP[p.L4:])
}

// setLength makes the IP header say the length that ip has, and its checksum right.
func setLength(ip []byte) {
	if ip[0]>>4 == header.IPv6Version {
		header.IPv6(ip).SetPayloadLength(uint16(len(ip) - header.IPv6MinimumSize))
		return
	}
	h := header.IPv4(ip)
	h.SetTotalLength(uint16(len(ip)))
	h.SetChecksum(0)
	h.SetChecksum(^h.CalculateChecksum())
}

// frameOf turns what a stack sends into a frame. It only reads pkt.
func frameOf(pkt *gstack.PacketBuffer) []byte {
	frame := make([]byte, stack.VirtioLen, stack.VirtioLen+pkt.Size())
	for _, s := range pkt.AsSlices() {
		frame = append(frame, s...)
	}
	gso := &pkt.GSOOptions
	if gso.Type == gstack.GSONone || !gso.NeedsCsum {
		return frame
	}
	tcp := header.TCP(pkt.TransportHeader().Slice())
	v := stack.Virtio{
		Flags:      stack.VirtioNeedsCsum,
		HdrLen:     gso.L3HdrLen + uint16(len(tcp)),
		CsumStart:  gso.L3HdrLen,
		CsumOffset: gso.CsumOffset,
	}
	if payload := pkt.Size() - int(v.HdrLen); payload > int(gso.MSS) {
		v.GSOSize = gso.MSS
		v.GSOType = stack.GSOTCPv4
		if gso.Type == gstack.GSOTCPv6 {
			v.GSOType = stack.GSOTCPv6
		}
	}
	v.Encode(frame)
	return frame
}

// checkVirtio says what the kernel would have against a frame (virtio_net_hdr_to_skb(), and for its own good).
func checkVirtio(p *Packet) error {
	v := stack.DecodeVirtio(p.Frame)
	partial := v.Flags&stack.VirtioNeedsCsum != 0
	if partial && (p.Kind != stack.KindTCP || int(v.CsumStart) != p.TCP.L4 || v.CsumOffset != header.TCPChecksumOffset) {
		return fmt.Errorf("checksum to be put at %d+%d, TCP header at %d", v.CsumStart, v.CsumOffset, p.TCP.L4)
	}
	if v.GSOType == stack.GSONone {
		if v.GSOSize != 0 {
			return fmt.Errorf("gso size %d without a gso type", v.GSOSize)
		}
		return nil
	}
	want := uint8(stack.GSOTCPv4)
	if p.TCP.V6 {
		want = stack.GSOTCPv6
	}
	switch {
	case p.Kind != stack.KindTCP || v.GSOType&^stack.GSOECN != want:
		return fmt.Errorf("gso type %d on a packet of another kind", v.GSOType)
	case !partial:
		return fmt.Errorf("a superpacket with a complete checksum")
	case v.GSOSize == 0 || p.TCP.PayloadLen <= int(v.GSOSize):
		return fmt.Errorf("gso size %d for %d bytes of payload", v.GSOSize, p.TCP.PayloadLen)
	case int(v.HdrLen) != p.TCP.L4+p.TCP.HeaderLen:
		return fmt.Errorf("header length %d, headers of %d", v.HdrLen, p.TCP.L4+p.TCP.HeaderLen)
	}
	return nil
}

// packets turns a frame into what arrives at a host: segments of at most the GSO size, their checksums complete.
func packets(p *Packet) [][]byte {
	ip := slices.Clone(p.Frame[stack.VirtioLen:])
	v := stack.DecodeVirtio(p.Frame)
	if v.GSOType == stack.GSONone {
		if v.Flags&stack.VirtioNeedsCsum != 0 {
			complete(ip[:len(p.TCP.IP)], v)
		}
		return [][]byte{ip}
	}
	headers := ip[:p.TCP.L4+p.TCP.HeaderLen]
	payload := ip[len(headers):len(p.TCP.IP)]
	var out [][]byte
	for at := 0; at < len(payload); at += int(v.GSOSize) {
		chunk := payload[at:min(at+int(v.GSOSize), len(payload))]
		segment := append(slices.Clone(headers), chunk...)
		setLength(segment)
		tcp := header.TCP(segment[p.TCP.L4:])
		tcp.SetSequenceNumber(uint32(p.TCP.Seq) + uint32(at))
		flags := p.TCP.Flags
		if at > 0 {
			flags &^= header.TCPFlagCwr
		}
		if at+len(chunk) < len(payload) {
			flags &^= header.TCPFlagFin | header.TCPFlagPsh
		}
		tcp.SetFlags(uint8(flags))
		// What the kernel does: the pseudo-header sum is the sender's, corrected for the length.
		sum := checksum.Combine(tcp.Checksum(), ^uint16(len(p.TCP.IP)-p.TCP.L4))
		tcp.SetChecksum(checksum.Combine(sum, uint16(len(tcp))))
		complete(segment, v)
		out = append(out, segment)
	}
	return out
}

// complete puts the checksum into a packet that has the pseudo-header sum in its place.
func complete(ip []byte, v stack.Virtio) {
	sum := ^checksum.Checksum(ip[v.CsumStart:], 0)
	binary.BigEndian.PutUint16(ip[v.CsumStart+v.CsumOffset:], sum)
}
