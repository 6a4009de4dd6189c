package cookie

import "encoding/binary"

// WScaleNone is the window scale of a SYN without the option (RFC 7323 §2.2).
const WScaleNone = 15

// maxWScale is the largest shift there is (RFC 7323 §2.3).
const maxWScale = 14

// Tuple names a connection. Addresses are 16 bytes in network byte order, IPv4 as IPv4-mapped IPv6
// (::ffff:a.b.c.d, RFC 4291 §2.5.5.2); ports are host integers.
type Tuple struct {
	Client, Server         [16]byte
	ClientPort, ServerPort uint16
	// Context is anything else that the SYN-ACK depends on and that a cookie has no room for: one made with another is bad.
	Context uint8
}

// isV6 says whether the connection is not IPv4, which it is if both addresses are v4-mapped.
func (t *Tuple) isV6() bool { return !isMapped(&t.Client) || !isMapped(&t.Server) }

func isMapped(a *[16]byte) bool {
	return binary.BigEndian.Uint64(a[:8]) == 0 && binary.BigEndian.Uint32(a[8:12]) == 0xffff
}

// Options is what a cookie carries of the client's SYN.
type Options struct {
	// MSS in bytes; 0 if the SYN had no such option. See the package comment for small values.
	MSS uint16
	// WScale is the window scale shift, 0 to 14, or WScaleNone. Larger shifts count as 14
	// (RFC 7323 §2.3); a caller has to do that with a 15 in a SYN itself.
	WScale uint8
	// SACK: the SYN permits selective acknowledgements (RFC 2018 §2).
	SACK bool
	// ECN: the SYN asks for explicit congestion notification (RFC 3168 §6.1.1). Only IssueTS carries it.
	ECN bool
}

// A layout is what the bits mean. Its value is bit 0 of the hashed message's first byte.
type layout uint8

const (
	plain   layout = 0
	stamped layout = 1 // with timestamps
)

// ipv6 is bit 1 of the hashed message's first byte.
const ipv6 = 2

// Bits of the ISN and the TSval, as drawn in the package comment.
const (
	keyShift      = 31
	mssShift      = 28
	plainRest     = 24 // shift of wscale and SACK in the plain ISN
	tsvalRestBits = 6  // ECN, SACK and wscale in the TSval

	// The hash bits that a cookie shows, in their place in the hash.
	plainMAC    uint64 = 1<<plainRest - 1
	stampedLow  uint64 = 1<<mssShift - 1
	highBits           = 32 - tsvalRestBits
	highShift          = 64 - highBits
	stampedHigh uint64 = (1<<highBits - 1) << highShift
)

var (
	mssTable = [2][8]uint16{
		{536, 1200, 1360, 1400, 1440, 1452, 1460, 8960},  // IPv4
		{1220, 1280, 1340, 1380, 1420, 1432, 1440, 8940}, // IPv6
	}
	// plainWScales are the shifts that the plain layout has room for: index 0, then ascending.
	plainWScales = [8]uint8{WScaleNone, 0, 2, 5, 6, 7, 8, 10}
)

func family(v6 bool) int {
	if v6 {
		return 1
	}
	return 0
}

func mssIndex(v6 bool, mss uint16) uint8 {
	table := &mssTable[family(v6)]
	for i := len(table) - 1; i > 0; i-- {
		if table[i] <= mss {
			return uint8(i)
		}
	}
	return 0
}

func plainWScaleIndex(ws uint8) uint8 {
	if ws == WScaleNone {
		return 0
	}
	for i := len(plainWScales) - 1; i > 1; i-- {
		if plainWScales[i] <= ws {
			return uint8(i)
		}
	}
	return 1
}

// RoundMSS returns the MSS that a cookie gives back for a client's, both in bytes: the next table
// entry that is not larger, or the smallest entry if all are.
func RoundMSS(v6 bool, mss uint16) uint16 { return mssTable[family(v6)][mssIndex(v6, mss)] }

// RoundWScale returns the window scale that a cookie gives back for a client's, with or without
// timestamps. It is never larger, so that a server can only think the client's window smaller than it
// is; and it is WScaleNone for WScaleNone only.
func RoundWScale(timestamps bool, ws uint8) uint8 {
	if !timestamps {
		return plainWScales[plainWScaleIndex(ws)]
	}
	if ws > WScaleNone {
		return maxWScale
	}
	return ws
}

// code is the option bits of a cookie, as they are shown and as they are hashed.
type code struct {
	mss  uint8 // bits 30..28 of the ISN
	rest uint8 // bits 27..24 of the plain ISN, or bits 5..0 of the TSval
}

func encode(l layout, v6 bool, o Options) code {
	c := code{mss: mssIndex(v6, o.MSS)}
	if l == plain {
		c.rest = plainWScaleIndex(o.WScale)<<1 | bit(o.SACK)
	} else {
		c.rest = bit(o.ECN)<<5 | bit(o.SACK)<<4 | RoundWScale(true, o.WScale)
	}
	return c
}

func decode(l layout, v6 bool, c code) Options {
	o := Options{MSS: mssTable[family(v6)][c.mss&7]}
	if l == plain {
		o.WScale = plainWScales[c.rest>>1&7]
		o.SACK = c.rest&1 != 0
	} else {
		o.WScale = c.rest & 0xf
		o.SACK = c.rest>>4&1 != 0
		o.ECN = c.rest>>5&1 != 0
	}
	return o
}

func bit(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// pack writes a cookie. Of epoch it uses the parity; the plain layout leaves tsval 0.
func pack(l layout, epoch int64, c code, hash uint64) (isn, tsval uint32) {
	isn = uint32(epoch&1)<<keyShift | uint32(c.mss)<<mssShift
	if l == plain {
		return isn | uint32(c.rest)<<plainRest | uint32(hash&plainMAC), 0
	}
	return isn | uint32(hash&stampedLow), uint32(hash>>highShift)<<tsvalRestBits | uint32(c.rest)
}

// unpack reads what pack wrote, but for the key bit. mac holds the hash bits that the cookie shows, in
// their place.
func unpack(l layout, isn, tsval uint32) (c code, mac uint64) {
	c.mss = uint8(isn >> mssShift & 7)
	if l == plain {
		c.rest = uint8(isn >> plainRest & 0xf)
		return c, uint64(isn) & plainMAC
	}
	c.rest = uint8(tsval & (1<<tsvalRestBits - 1))
	return c, uint64(tsval>>tsvalRestBits)<<highShift | uint64(isn)&stampedLow
}

// macMask has the hash bits that a cookie of the layout shows.
func (l layout) macMask() uint64 {
	if l == plain {
		return plainMAC
	}
	return stampedHigh | stampedLow
}
