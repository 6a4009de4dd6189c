package stack

import (
	"encoding/binary"
	"math/bits"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
)

// Offsets in bytes of fields in the TCP header (RFC 9293 §3.1).
const (
	offSeq      = 4
	offAck      = 8
	offWindow   = 14
	offChecksum = 16
)

// Edit says how to translate a segment. The zero value changes nothing.
type Edit struct {
	// Seq, Ack, TSVal and TSEcr are added, modulo 2^32, to the fields they name. Ack and
	// TSEcr mean something only on segments with ACK set (RFC 9293 §3.1, RFC 7323 §3.2) and
	// are left alone on others; SACK edges move with Ack.
	Seq, Ack     uint32
	TSVal, TSEcr uint32
	// Window replaces the window field if SetWindow.
	Window    uint16
	SetWindow bool
}

// Apply edits the segment's bytes in place and the fields of p with them, and keeps the checksum as right or wrong as it
// was: a complete one by RFC 1624 eqn. 3, a partial one by leaving it alone. One Apply serves a
// whole superpacket. It does not change lengths.
func (p *Packet) Apply(e *Edit) {
	tcp := p.IP[p.L4 : p.L4+p.HeaderLen]
	edit := *e
	if !p.Flags.Contains(header.TCPFlagAck) {
		edit.Ack, edit.TSEcr = 0, 0
	}
	var sum sum16
	if edit.Seq != 0 {
		p.Seq += seqnum.Value(edit.Seq)
		sum.put32(tcp, offSeq, uint32(p.Seq))
	}
	if edit.Ack != 0 {
		p.Ack += seqnum.Value(edit.Ack)
		sum.put32(tcp, offAck, uint32(p.Ack))
	}
	if edit.SetWindow && edit.Window != p.Window {
		p.Window = edit.Window
		sum.put16(tcp, offWindow, edit.Window)
	}
	if (p.Options.Timestamps && edit.TSVal|edit.TSEcr != 0) || (p.Options.SACKBlocks > 0 && edit.Ack != 0) {
		p.applyOptions(tcp, &edit, &sum)
	}
	if !p.Partial && sum != 0 {
		sum.apply(tcp, offChecksum)
	}
}

// applyOptions edits every timestamp and SACK option, also duplicates: whichever of them the receiver
// heeds must be right.
func (p *Packet) applyOptions(tcp []byte, e *Edit, sum *sum16) {
	for at := header.TCPMinimumSize; at < len(tcp); {
		b := tcp[at:]
		n, ok := optionLen(b)
		if !ok || b[0] == header.TCPOptionEOL {
			return // Parse has refused the first; nothing counts after the second
		}
		switch {
		case b[0] == header.TCPOptionTS && n == lenTimestamp:
			p.Options.TSVal = binary.BigEndian.Uint32(b[2:]) + e.TSVal
			p.Options.TSEcr = binary.BigEndian.Uint32(b[6:]) + e.TSEcr
			sum.put32(tcp, at+2, p.Options.TSVal)
			sum.put32(tcp, at+6, p.Options.TSEcr)
		case b[0] == header.TCPOptionSACK && isSACK(n) && e.Ack != 0:
			for edge := at + 2; edge < at+n; edge += 4 {
				sum.put32(tcp, edge, binary.BigEndian.Uint32(tcp[edge:])+e.Ack)
			}
		}
		at += n
	}
}

// sum16 collects, in one's complement, what a checksum must change by: every new 16-bit
// word plus the complement of the one it replaces. 64 bits can't overflow in one header.
type sum16 uint64

// put32 writes v at b[at:], which holds the old value. b starts at an even offset of what the checksum covers;
// at may be odd, as options need no padding: the bytes then stand in the other half of their words.
func (s *sum16) put32(b []byte, at int, v uint32) {
	old := ^binary.BigEndian.Uint32(b[at:])
	binary.BigEndian.PutUint32(b[at:], v)
	d := uint64(old>>16) + uint64(old&0xffff) + uint64(v>>16) + uint64(v&0xffff)
	if at&1 != 0 {
		d = uint64(bits.ReverseBytes16(fold(d)))
	}
	*s += sum16(d)
}

// put16 writes v at b[at:]; at is even.
func (s *sum16) put16(b []byte, at int, v uint16) {
	old := ^binary.BigEndian.Uint16(b[at:])
	binary.BigEndian.PutUint16(b[at:], v)
	*s += sum16(old) + sum16(v)
}

// apply updates the checksum at b[at:] (RFC 1624 eqn. 3).
func (s sum16) apply(b []byte, at int) {
	old := ^binary.BigEndian.Uint16(b[at:])
	binary.BigEndian.PutUint16(b[at:], ^fold(uint64(s)+uint64(old)))
}

// fold adds the carries back in until 16 bits are left.
func fold(v uint64) uint16 {
	for v > 0xffff {
		v = v>>16 + v&0xffff
	}
	return uint16(v)
}
