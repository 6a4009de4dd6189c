package proxy

import (
	"encoding/binary"
	"net/netip"

	"levee/stack"
)

// flowKey names a connection whichever way a packet goes: the two ends, the smaller first.
// It has no pointers and no padding, and is comparable.
type flowKey struct {
	low, high         stack.Addr
	lowPort, highPort uint16
}

// keyOf is the key of p's connection, and whether p's source is its low end.
func keyOf(p *stack.Packet) (k flowKey, srcLow bool) {
	return keyOfEnds(&p.Src, p.SrcPort, &p.Dst, p.DstPort)
}

// keyOfEnds is the key of a connection by its ends, and whether the first is the low one.
func keyOfEnds(a *stack.Addr, aPort uint16, b *stack.Addr, bPort uint16) (k flowKey, aLow bool) {
	if lessEnd(a, aPort, b, bPort) {
		return flowKey{*a, *b, aPort, bPort}, true
	}
	return flowKey{*b, *a, bPort, aPort}, false
}

func lessEnd(a *stack.Addr, aPort uint16, b *stack.Addr, bPort uint16) bool {
	if x, y := binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(b[:8]); x != y {
		return x < y
	}
	if x, y := binary.BigEndian.Uint64(a[8:]), binary.BigEndian.Uint64(b[8:]); x != y {
		return x < y
	}
	return aPort < bPort
}

// ends returns the addresses of the client and the server.
func (f *flow) ends() (client, server netip.AddrPort) {
	low := netip.AddrPortFrom(f.key.low.Netip(), f.key.lowPort)
	high := netip.AddrPortFrom(f.key.high.Netip(), f.key.highPort)
	if f.has(clientLow) {
		return low, high
	}
	return high, low
}
