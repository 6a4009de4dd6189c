package stack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// WScaleNone stands for the absence of the window scale option, whose shift is 0 to 14.
const WScaleNone = 15

// maxWScale is the largest shift (RFC 7323 §2.3): larger offers count as 14.
const maxWScale = 14

// TCP option kinds (IANA) that gVisor has no name for.
const (
	optMD5   = 19 // RFC 2385
	optAO    = 29 // RFC 5925
	optMPTCP = 30 // RFC 8684
)

// Lengths in bytes of options with their kind and length bytes.
const (
	lenMSS       = 4
	lenWScale    = 3
	lenSACKOK    = 2
	lenTimestamp = 10
	lenSACKBlock = 8
)

// mptcpJoin is the subtype of MP_JOIN, in the high nibble of the byte after the length (RFC 8684 §3.2).
const mptcpJoin = 1

// Options is what a segment's TCP options say. An option of the wrong length is skipped, and
// of two of the same kind the last counts, as in Linux's tcp_parse_options().
type Options struct {
	// MSS in bytes (RFC 9293 §3.7.1), 0 if absent.
	MSS uint16
	// WScale is the window scale shift 0 to 14 (RFC 7323 §2.2), or WScaleNone.
	WScale uint8
	// SACKPermitted (RFC 2018 §2).
	SACKPermitted bool
	// SACKBlocks is how many SACK blocks the segment carries (RFC 2018 §3).
	SACKBlocks uint8
	// Timestamps says that TSVal and TSEcr (RFC 7323 §3.2) are there.
	Timestamps   bool
	TSVal, TSEcr uint32
	// Signed says that the segment carries a TCP-MD5 or TCP-AO option of any length, whose signature no
	// translation survives.
	Signed bool
	// Join says that the SYN joins an MPTCP connection, which only the host that holds it can answer.
	Join bool
}

// parse reads the options in b and says whether they are well formed: every one of at least
// 2 bytes and inside b, up to the end of the list.
func (o *Options) parse(b []byte) bool {
	*o = Options{WScale: WScaleNone}
	// The layout of nearly every segment of a connection with timestamps (RFC 7323 appendix A).
	if len(b) == 12 && binary.BigEndian.Uint32(b) == 0x0101080a {
		o.Timestamps = true
		o.TSVal, o.TSEcr = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
		return true
	}
	for len(b) > 0 {
		n, ok := optionLen(b)
		if !ok {
			return false
		}
		switch {
		case b[0] == header.TCPOptionEOL:
			return true
		case b[0] == header.TCPOptionMSS && n == lenMSS:
			o.MSS = binary.BigEndian.Uint16(b[2:])
		case b[0] == header.TCPOptionWS && n == lenWScale:
			o.WScale = min(b[2], maxWScale)
		case b[0] == header.TCPOptionSACKPermitted && n == lenSACKOK:
			o.SACKPermitted = true
		case b[0] == header.TCPOptionTS && n == lenTimestamp:
			o.Timestamps = true
			o.TSVal, o.TSEcr = binary.BigEndian.Uint32(b[2:]), binary.BigEndian.Uint32(b[6:])
		case b[0] == header.TCPOptionSACK && isSACK(n):
			o.SACKBlocks = uint8((n - 2) / lenSACKBlock)
		case b[0] == optMD5 || b[0] == optAO:
			o.Signed = true
		case b[0] == optMPTCP && n >= 3 && b[2]>>4 == mptcpJoin:
			o.Join = true
		}
		b = b[n:]
	}
	return true
}

// optionLen is the length of the option at the start of b, which is not empty, and whether it is possible.
func optionLen(b []byte) (int, bool) {
	if b[0] == header.TCPOptionEOL || b[0] == header.TCPOptionNOP {
		return 1, true
	}
	if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
		return 0, false
	}
	return int(b[1]), true
}

// isSACK says whether n is the length of a SACK option with at least one block.
func isSACK(n int) bool { return n >= 2+lenSACKBlock && (n-2)%lenSACKBlock == 0 }
