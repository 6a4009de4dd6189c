package lab

import (
	"math/bits"
	"net/netip"
)

// The prefixes of the lab, all set aside for documentation (RFC 5737, RFC 3849) or for
// benchmarks (RFC 2544), so that nothing real is meant should a packet ever get out.
var (
	// ServerPrefix4 and ServerPrefix6 hold all servers: what levee protects.
	ServerPrefix4 = netip.MustParsePrefix("192.0.2.0/24")
	ServerPrefix6 = netip.MustParsePrefix("2001:db8:1::/64")
	// ClientPrefix4 and ClientPrefix6 hold all honest clients.
	ClientPrefix4 = netip.MustParsePrefix("198.51.100.0/24")
	ClientPrefix6 = netip.MustParsePrefix("2001:db8:2::/64")
	// AttackerPrefix4 and AttackerPrefix6 hold the attacker's own addresses.
	AttackerPrefix4 = netip.MustParsePrefix("203.0.113.0/24")
	AttackerPrefix6 = netip.MustParsePrefix("2001:db8:3::/64")
	// SpoofedPrefix4 and SpoofedPrefix6 are the sources of a flood. The gateway routes them to
	// the attacker.
	SpoofedPrefix4 = netip.MustParsePrefix("198.18.0.0/15")
	SpoofedPrefix6 = netip.MustParsePrefix("2001:db8:f000::/36")
)

// maxHosts is the most clients or servers of a lab: each needs room for the gateway's .1 and its own .10.
const maxHosts = 16

// Where in its subnet an address is.
const (
	gatewayHost = 1
	hostHost    = 10
)

// subnet is the i-th of n equal parts of a prefix, where n is rounded up to a power of two.
// 0 ≤ i < n ≤ maxHosts.
func subnet(p netip.Prefix, i, n int) netip.Prefix {
	more := bits.Len(uint(n - 1))
	a := p.Addr().As16()
	hostBits := p.Addr().BitLen() - p.Bits() - more
	// The part's number goes right above the host bits: at most two bytes are concerned.
	v := uint32(i) << (hostBits % 8)
	at := 15 - hostBits/8
	a[at] |= byte(v)
	a[at-1] |= byte(v >> 8)
	addr := netip.AddrFrom16(a)
	if p.Addr().Is4() {
		addr = addr.Unmap()
	}
	return netip.PrefixFrom(addr, p.Bits()+more)
}

// nth is the n-th address, below 256, of a prefix whose last byte is zero or has room for it.
func nth(p netip.Prefix, n byte) netip.Addr {
	b := p.Addr().AsSlice()
	b[len(b)-1] += n
	a, _ := netip.AddrFromSlice(b)
	return a
}
