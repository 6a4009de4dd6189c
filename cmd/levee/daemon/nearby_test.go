package daemon

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"levee/proxy"
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
		{"few clients", prefixes("198.51.100.0/24"), true, nil, prefixes("198.51.100.255/32", "198.51.100.0/32")},
		{"many clients", prefixes("10.0.0.0/23", "2001:db8:2::/64"), true, prefixes("10.0.0.0/23", "2001:db8:2::/64"), prefixes("10.0.1.255/32", "10.0.0.0/32")},
		{"two hosts", prefixes("198.51.100.0/31", "2001:db8:2::/127"), true, nil, nil},
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
