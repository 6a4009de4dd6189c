package prober

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"

	"levee/proxy/servers"
	"levee/stack"
)

const (
	fakeHeader = header.IPv6MinimumSize
	// maxSegment is the longest that is read, in bytes: a SYN-ACK has no more than its options.
	maxSegment = 256
)

// What the SYN says of itself. No connection comes of it, so that only the presence of the options matters.
const (
	synMSS    = 1220
	synWindow = 64240
	synWScale = 7
)

const ecnSetup = header.TCPFlagEce | header.TCPFlagCwr

// syn makes the TCP segment that asks for everything (RFC 3168 §6.1.1 for ECN), checksum and all.
func syn(src stack.Addr, port uint16, k *servers.Key, isn seqnum.Value) []byte {
	s := stack.Segment{
		Src: src, Dst: k.Addr, SrcPort: port, DstPort: k.Port, Seq: isn, Flags: header.TCPFlagSyn | ecnSetup,
		Window: synWindow, MSS: synMSS, WScale: synWScale, SACKPermitted: true, Timestamps: true, TSVal: uint32(isn),
	}
	frame := s.Build(make([]byte, stack.MaxBuilt))
	headers := stack.VirtioLen + header.IPv6MinimumSize
	if src.Is4() {
		headers = stack.VirtioLen + header.IPv4MinimumSize
	}
	tcp := header.TCP(frame[headers:])
	tcp.SetChecksum(^checksum.Checksum(tcp, 0)) // the field holds the pseudo header's sum
	return tcp
}

// parse reads a server's segment, which stands in b behind room for an IPv6 header, and says whether it answers a SYN. The checksum is not
// looked at: between virtual links it is never filled in, and the acknowledgement number has to be right anyway.
func parse(b []byte, from stack.Addr) (a answer, ok bool) {
	clear(b[:fakeHeader])
	b[0], b[6] = header.IPv6Version<<4, uint8(header.TCPProtocolNumber)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-fakeHeader))
	b[8], b[24] = 0x20, 0x20 // some addresses, which nobody reads
	var p stack.Packet
	if p.Parse(b, true) != stack.KindTCP || !p.Flags.Contains(header.TCPFlagAck) {
		return a, false
	}
	a = answer{from: servers.Key{Addr: from, Port: p.SrcPort}, ack: p.Ack}
	switch p.Flags & (header.TCPFlagSyn | header.TCPFlagRst | header.TCPFlagFin) {
	case header.TCPFlagRst:
		a.reset = true
		return a, true
	case header.TCPFlagSyn:
	default:
		return a, false
	}
	o := &p.Options
	a.what = servers.Answer{Asked: servers.All, MSS: o.MSS, WScale: o.WScale, Window: p.Window}
	for _, f := range [...]struct {
		does    bool
		feature servers.Features
	}{
		{o.WScale != stack.WScaleNone, servers.WScale},
		{o.SACKPermitted, servers.SACK},
		{o.Timestamps, servers.Timestamps},
		{p.Flags&ecnSetup == header.TCPFlagEce, servers.ECN},
	} {
		if f.does {
			a.what.Does |= f.feature
		}
	}
	return a, true
}
