package lab

import (
	"net/netip"
	"testing"
)

func TestSubnet(t *testing.T) {
	for _, tc := range []struct {
		prefix string
		i, n   int
		want   string
	}{
		{"192.0.2.0/24", 0, 1, "192.0.2.0/24"},
		{"192.0.2.0/24", 0, 2, "192.0.2.0/25"},
		{"192.0.2.0/24", 1, 2, "192.0.2.128/25"},
		{"192.0.2.0/24", 2, 3, "192.0.2.128/26"},
		{"192.0.2.0/24", 15, 16, "192.0.2.240/28"},
		{"2001:db8:1::/64", 0, 1, "2001:db8:1::/64"},
		{"2001:db8:1::/64", 1, 2, "2001:db8:1:0:8000::/65"},
		{"2001:db8:1::/64", 15, 16, "2001:db8:1:0:f000::/68"},
	} {
		got := subnet(netip.MustParsePrefix(tc.prefix), tc.i, tc.n)
		if got.String() != tc.want || got.Masked() != got {
			t.Errorf("part %d of %d of %s is %s, want %s", tc.i, tc.n, tc.prefix, got, tc.want)
		}
	}
}

func TestSubnetsHaveRoomForTheHosts(t *testing.T) {
	for i := range maxHosts {
		for _, p := range []netip.Prefix{ServerPrefix4, ServerPrefix6} {
			part := subnet(p, i, maxHosts)
			for _, n := range []byte{gatewayHost, hostHost} {
				if a := nth(part, n); !part.Contains(a) {
					t.Errorf("%s is not in %s", a, part)
				}
			}
		}
	}
}
