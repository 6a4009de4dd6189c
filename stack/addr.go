package stack

import (
	"net/netip"
)

// Addr is an IP address in network byte order, IPv4 as IPv4-mapped IPv6 (RFC 4291 §2.5.5.2),
// so that one key, one hash and one piece of code serve both families.
type Addr [16]byte

var v4Prefix = [12]byte{10: 0xff, 11: 0xff}

// AddrFrom returns a as an Addr. The zone is dropped.
func AddrFrom(a netip.Addr) Addr { return a.As16() }

// addr4 makes an Addr of the 4 bytes at b.
func addr4(b []byte) (a Addr) {
	copy(a[:12], v4Prefix[:])
	copy(a[12:], b[:4])
	return a
}

// Is4 says whether a is an IPv4 address.
func (a *Addr) Is4() bool { return [12]byte(a[:12]) == v4Prefix }

// Netip returns a for people and for prefix matching.
func (a Addr) Netip() netip.Addr { return netip.AddrFrom16(a).Unmap() }

// bytes returns the address as its family writes it, borrowed from a.
func (a *Addr) bytes() []byte {
	if a.Is4() {
		return a[12:]
	}
	return a[:]
}
