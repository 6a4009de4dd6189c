package lab

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
)

// SYNOptions are the TCP options of a flood's SYNs and SYN-ACKs.
type SYNOptions struct {
	// MSS in bytes (RFC 9293 §3.7.1); 0 leaves the option out.
	MSS uint16
	// SACK permits selective acknowledgements (RFC 2018).
	SACK bool
	// Timestamps adds the timestamp option (RFC 7323 §3).
	Timestamps bool
	// WScale adds window scaling with Shift, 0 to 14 (RFC 7323 §2).
	WScale bool
	Shift  uint8
}

// LinuxSYN is what Linux sends by default.
var LinuxSYN = SYNOptions{MSS: 1460, SACK: true, Timestamps: true, WScale: true, Shift: 7}

// encode lays the options out as Linux does, in whole words, so that every value starts at an even offset.
func (o SYNOptions) encode() []byte {
	const nop, mss, wscale, sackPermitted, timestamps = 1, 2, 3, 4, 8
	var b []byte
	if o.MSS != 0 {
		b = append(b, mss, 4, byte(o.MSS>>8), byte(o.MSS))
	}
	switch {
	case o.SACK && o.Timestamps:
		b = append(b, sackPermitted, 2)
	case o.SACK:
		b = append(b, nop, nop, sackPermitted, 2)
	case o.Timestamps:
		b = append(b, nop, nop)
	}
	if o.Timestamps {
		b = append(b, timestamps, 10)
		b = binary.BigEndian.AppendUint32(b, rand.Uint32())
		b = binary.BigEndian.AppendUint32(b, 0)
	}
	if o.WScale {
		b = append(b, nop, wscale, 3, min(o.Shift, 14))
	}
	return b
}

// floodTemplate makes Ethernet frames with one packet each, that differ in source address, source port, sequence number and, if they have the
// ACK flag, acknowledgement number. Only these are written for each frame; the checksums follow from the sums over the rest.
type floodTemplate struct {
	// frame has zeros where a packet differs, and in its checksums.
	frame []byte
	// prefix holds the source addresses; port is that of all, or 0.
	prefix netip.Prefix
	port   uint16
	// ack: there is an acknowledgement number.
	ack bool
	// Offsets in frame of the source address and of the TCP header.
	srcAt, tcpAt int
	// ipSum and tcpSum are the unfolded sums of what the checksums cover in frame, the TCP
	// pseudo-header (RFC 9293 §3.1, RFC 8200 §8.1) included.
	ipSum, tcpSum uint32
}

const (
	ethLen  = 14
	ipv4Len = 20
	ipv6Len = 40
	tcpLen  = 20
	hops    = 64
	window  = 64240 // what Linux starts with on Ethernet, in bytes

	ethIPv4, ethIPv6 = 0x0800, 0x86dd
	protoTCP         = 6
	flagFIN          = 0x01
	flagSYN          = 0x02
	flagRST          = 0x04

	protoFragment = 44
	fragmentLen   = 8
	// fragmentOffset is where the later fragments of a flood begin, in units of 8 bytes.
	fragmentOffset = 185
)

// Offsets in the headers.
const (
	ipv4SumAt = 10
	ipv4SrcAt = 12
	ipv6SrcAt = 8
	tcpSeqAt  = 4
	tcpAckAt  = 8
	tcpSumAt  = 16
)

// newFloodTemplate prepares the packets of one kind, any but FloodMixed.
func newFloodTemplate(l *Link, cfg *FloodConfig, kind FloodKind) *floodTemplate {
	flags, target := kind.flags(), cfg.Target
	var options []byte
	if flags&flagSYN != 0 {
		options = cfg.Options.encode()
	}
	segment := tcpLen + len(options)
	dst := target.Addr().AsSlice()

	t := &floodTemplate{ack: flags&flagACK != 0, port: cfg.Source.Port()}
	b := append([]byte(nil), l.Gateway.HardwareAddr...)
	b = append(b, l.Host.HardwareAddr...)
	if target.Addr().Is4() {
		t.prefix, t.srcAt, t.tcpAt = SpoofedPrefix4, ethLen+ipv4SrcAt, ethLen+ipv4Len
		b = binary.BigEndian.AppendUint16(b, ethIPv4)
		b = append(b, 4<<4|ipv4Len/4, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(ipv4Len+segment))
		if kind == FloodFragments {
			b = append(b, 0, 0, fragmentOffset>>8, fragmentOffset&0xff)
		} else {
			b = append(b, 0, 0, 1<<6, 0) // identification 0, don't fragment
		}
		b = append(b, hops, protoTCP, 0, 0)
	} else {
		t.prefix, t.srcAt, t.tcpAt = SpoofedPrefix6, ethLen+ipv6SrcAt, ethLen+ipv6Len
		b = binary.BigEndian.AppendUint16(b, ethIPv6)
		b = append(b, 6<<4, 0, 0, 0)
		if kind == FloodFragments {
			t.tcpAt += fragmentLen
			b = binary.BigEndian.AppendUint16(b, uint16(segment+fragmentLen))
			b = append(b, protoFragment, hops)
		} else {
			b = binary.BigEndian.AppendUint16(b, uint16(segment))
			b = append(b, protoTCP, hops)
		}
	}
	if a := cfg.Source.Addr(); a.IsValid() {
		t.prefix = netip.PrefixFrom(a, a.BitLen())
	}
	b = append(b, make([]byte, len(dst))...)
	b = append(b, dst...)
	t.ipSum = sum16(b[ethLen:])
	if kind == FloodFragments && target.Addr().Is6() {
		b = append(b, protoTCP, 0, fragmentOffset<<3>>8, fragmentOffset<<3&0xff, 0, 0, 0, 0)
	}

	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint16(b, target.Port())
	b = append(b, make([]byte, 8)...) // sequence and acknowledgement number
	b = append(b, byte(segment/4)<<4, flags)
	b = binary.BigEndian.AppendUint16(b, window)
	b = append(b, make([]byte, 4)...) // checksum and urgent pointer
	b = append(b, options...)
	t.tcpSum = sum16(b[t.tcpAt:]) + sum16(dst) + protoTCP + uint32(segment)
	t.frame = b
	return t
}

// write makes another packet out of frame, which starts as a copy of t.frame.
func (t *floodTemplate) write(frame []byte, rng *rand.Rand) {
	src := frame[t.srcAt : t.srcAt+t.prefix.Addr().BitLen()/8]
	t.writeSource(src, rng)
	srcSum := sum16(src)
	if len(src) == 4 {
		binary.BigEndian.PutUint16(frame[ethLen+ipv4SumAt:], ^fold(t.ipSum+srcSum))
	}
	r := rng.Uint64()
	// Ports below 1024 are rarely a client's, and 64512 values are enough.
	port := uint16(1024 + (r>>32)%(1<<16-1024))
	if t.port != 0 {
		port = t.port
	}
	seq := uint32(r)
	tcp := frame[t.tcpAt:]
	binary.BigEndian.PutUint16(tcp, port)
	binary.BigEndian.PutUint32(tcp[tcpSeqAt:], seq)
	sum := t.tcpSum + srcSum + uint32(port) + seq>>16 + seq&0xffff
	if t.ack {
		ack := rng.Uint32()
		binary.BigEndian.PutUint32(tcp[tcpAckAt:], ack)
		sum += ack>>16 + ack&0xffff
	}
	binary.BigEndian.PutUint16(tcp[tcpSumAt:], ^fold(sum))
}

// writeSource writes a random address of the prefix.
func (t *floodTemplate) writeSource(src []byte, rng *rand.Rand) {
	if t.prefix.IsSingleIP() {
		copy(src, t.prefix.Addr().AsSlice())
		return
	}
	if len(src) == 4 {
		base := t.prefix.Addr().As4()
		host := rng.Uint32() >> t.prefix.Bits()
		binary.BigEndian.PutUint32(src, binary.BigEndian.Uint32(base[:])|host)
		return
	}
	base := t.prefix.Addr().As16()
	host := rng.Uint64() >> t.prefix.Bits() // the prefix is at most 64 bits long
	binary.BigEndian.PutUint64(src, binary.BigEndian.Uint64(base[:])|host)
	binary.BigEndian.PutUint64(src[8:], rng.Uint64())
}

// sum16 adds up the 16-bit big-endian words of b, whose length is even and below 64 KB.
func sum16(b []byte) uint32 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	return sum
}

// fold is the one's complement sum (RFC 1071) in 16 bits.
func fold(sum uint32) uint16 {
	sum = sum>>16 + sum&0xffff
	return uint16(sum>>16 + sum&0xffff)
}
