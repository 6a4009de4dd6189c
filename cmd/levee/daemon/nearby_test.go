package daemon

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"levee/proxy"
	"levee/routes"
)

func prefixes(list ...string) (all []netip.Prefix) {
	for _, p := range list {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}

func TestSources(t *testing.T) {
	services := []proxy.Service{{Prefixes: prefixes("192.0.2.0/24", "2001:db8:1::/64")}, {Prefixes: prefixes("10.1.0.0/17")}}
	for _, tt := range []struct {
		name       string
		onLink     []netip.Prefix
		clients    bool
		neighbours []netip.Prefix
		none       []netip.Prefix
	}{
		{"few clients", prefixes("198.51.100.0/24"), true, prefixes("198.51.100.0/24"), prefixes("198.51.100.255/32", "198.51.100.0/32")},
		{"many clients", prefixes("10.0.0.0/23", "2001:db8:2::/64"), true, prefixes("10.0.0.0/23", "2001:db8:2::/64"), prefixes("10.0.1.255/32", "10.0.0.0/32")},
		{"two hosts", prefixes("198.51.100.0/31", "2001:db8:2::/127"), true, prefixes("198.51.100.0/31", "2001:db8:2::/127"), nil},
		{"servers that are protected", prefixes("192.0.2.0/25", "2001:db8:1::/64"), false, nil, prefixes("192.0.2.127/32", "192.0.2.0/32")},
		{"servers, some protected", prefixes("10.1.0.0/16", "2001:db8::/32"), false, nil, prefixes("10.1.0.0/16", "10.1.255.255/32", "10.1.0.0/32", "2001:db8::/32")},
		{"servers and clients", prefixes("10.1.0.0/16"), true, prefixes("10.1.0.0/16"), prefixes("10.1.255.255/32", "10.1.0.0/32")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got sources
			got.add(tt.onLink, tt.clients, services)
			if diff := cmp.Diff(sources{tt.neighbours, tt.none}, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestRoutedSources: what only a route leads to is a neighbour's too, by whatever interface, unless it is a service's.
func TestRoutedSources(t *testing.T) {
	services := []proxy.Service{{Prefixes: prefixes("192.0.2.0/24")}}
	s := sources{NoSources: prefixes("10.1.0.0/16")}
	var routed []routes.OnLink
	for _, p := range prefixes("2001:db8:e::/64", "192.0.2.128/25", "10.1.0.0/16", "10.1.2.0/24", "198.51.100.7/32") {
		routed = append(routed, routes.OnLink{Interface: "eth0", Prefix: p})
	}
	s.addRouted(routed, services)
	if want := prefixes("2001:db8:e::/64", "10.1.2.0/24", "198.51.100.7/32"); !slices.Equal(s.Neighbours, want) {
		t.Errorf("neighbours %v, want %v", s.Neighbours, want)
	}
}

// TestMany: a few neighbours need no limit, and it is all links of a family together that are few or many.
func TestMany(t *testing.T) {
	for _, tt := range []struct {
		all  []netip.Prefix
		many bool
	}{
		{nil, false},
		{prefixes("198.51.100.0/24"), false},
		{prefixes("198.51.100.0/25", "203.0.113.0/26", "203.0.113.64/26"), false},
		{prefixes("198.51.100.0/25", "203.0.113.0/26", "203.0.113.64/26", "192.0.2.1/32"), true},
		{prefixes("198.51.100.0/24", "203.0.113.0/24"), true},
		{prefixes("0.0.0.0/0"), true},
	} {
		want := tt.all
		if !tt.many {
			want = nil
		}
		if got := many(append(prefixes("2001:db8::/64"), tt.all...), netip.Addr.Is4); !slices.Equal(got, want) {
			t.Errorf("of %v: %v", tt.all, got)
		}
	}
	if got, want := many(prefixes("2001:db8::/64", "10.0.0.0/8"), netip.Addr.Is6), prefixes("2001:db8::/64"); !slices.Equal(got, want) {
		t.Errorf("of IPv6: %v", got)
	}
}
