package stack_test

import (
	"net/netip"
	"testing"

	"levee/stack"
)

func TestAddr(t *testing.T) {
	for _, c := range []struct {
		in, out string
		bytes   string
		is4     bool
	}{
		{"192.0.2.10", "192.0.2.10", "00000000 00000000 0000ffff c000020a", true},
		{"0.0.0.0", "0.0.0.0", "00000000 00000000 0000ffff 00000000", true},
		{"255.255.255.255", "255.255.255.255", "00000000 00000000 0000ffff ffffffff", true},
		{"::ffff:192.0.2.10", "192.0.2.10", "00000000 00000000 0000ffff c000020a", true},
		{"2001:db8::1", "2001:db8::1", "20010db8 00000000 00000000 00000001", false},
		{"::", "::", "00000000 00000000 00000000 00000000", false},
		{"::192.0.2.10", "::c000:20a", "00000000 00000000 00000000 c000020a", false},
		{"fe80::1%eth0", "fe80::1", "fe800000 00000000 00000000 00000001", false},
	} {
		a := stack.AddrFrom(netip.MustParseAddr(c.in))
		if want := [16]byte(fromHex(t, c.bytes)); a != want {
			t.Errorf("%s: %x, want %x", c.in, a, want)
		}
		if a.Is4() != c.is4 || a.Netip() != netip.MustParseAddr(c.out) {
			t.Errorf("%s: Is4 %v, Netip %s, want %v, %s", c.in, a.Is4(), a.Netip(), c.is4, c.out)
		}
	}
}
