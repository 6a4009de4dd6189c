package proxytest

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/stack"
)

// Peer is an address on the client's or the server's side without a stack: the test sends what it likes and reads
// what comes.
type Peer struct {
	net  *Network
	out  Hop
	Addr netip.Addr
	// Inbox holds what has come, the oldest first. The test empties it.
	Inbox []*Packet
}

// Send puts a segment with payload on the wire.
func (p *Peer) Send(s *stack.Segment, payload []byte) { p.net.transmit(p.out, Frame(s, payload)) }

// Take empties the inbox and returns what was in it.
func (p *Peer) Take() []*Packet {
	in := p.Inbox
	p.Inbox = nil
	return in
}

// Segment starts a segment from a port of the peer: a bare ACK with these numbers, or a SYN if ack is 0.
func (p *Peer) Segment(port uint16, to netip.AddrPort, seq, ack seqnum.Value) stack.Segment {
	s := stack.Segment{
		Src: stack.AddrFrom(p.Addr), Dst: stack.AddrFrom(to.Addr()), SrcPort: port, DstPort: to.Port(),
		Seq: seq, Ack: ack, Flags: header.TCPFlagAck, Window: 65535, WScale: stack.WScaleNone,
	}
	if ack == 0 {
		s.Flags, s.MSS, s.SACKPermitted = header.TCPFlagSyn, 1460, true
	}
	return s
}
