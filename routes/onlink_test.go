package routes

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// TestOnLink: the prefixes of the gateway's links are those of its addresses and of routes without a gateway, where there is somebody to be found; and
// whoever watches is told of them.
func TestOnLink(t *testing.T) {
	enterGateway(t)
	must(t, netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "ppp0"}, Mode: netlink.TUNTAP_MODE_TUN}))
	index := map[string]int{}
	for _, name := range []string{"cli0", "srv0", "ppp0"} {
		link, err := netlink.LinkByName(name)
		must(t, err)
		must(t, netlink.LinkSetUp(link))
		index[name] = link.Attrs().Index
	}
	ctx, cancel := context.WithCancel(t.Context())
	calls := make(chan struct{}, 1000)
	stop := inNamespaceOf(t, func() error {
		return watch(ctx, func(int, netip.Prefix) bool { return false }, func() { calls <- struct{}{} })
	})
	defer func() {
		cancel()
		must(t, stop())
	}()
	<-calls // it has begun
	told := func() bool {
		select {
		case <-calls:
			for len(calls) > 0 {
				<-calls
			}
			return true
		case <-time.After(300 * time.Millisecond):
			return false
		}
	}
	told() // of what was set up before
	before, err := ReadOnLink()
	must(t, err)
	if got, want := fmt.Sprint(before), "[{srv0 2001:db8:1::/64} {cli0 2001:db8:c::/64} {srv0 192.0.2.0/24} {cli0 203.0.113.0/24}]"; got != want {
		t.Errorf("at first\n%s, want\n%s", got, want)
	}
	for _, tt := range []struct {
		dst, dev, gateway string
		table             int
		onLink            bool
	}{
		{dst: "2001:db8:e::/64", dev: "cli0", onLink: true},
		{dst: "198.18.0.0/15", dev: "srv0", onLink: true},
		{dst: "0.0.0.0/0", dev: "cli0", onLink: true},
		{dst: "10.0.0.0/8", dev: "ppp0"},
		{dst: "10.0.0.0/8", dev: "cli0", gateway: "203.0.113.2"},
		{dst: "2001:db8:f::/48", dev: "cli0", gateway: "2001:db8:c::2"},
		{dst: "10.0.0.0/8", dev: "cli0", table: 99},
	} {
		p := netip.MustParsePrefix(tt.dst)
		r := &netlink.Route{LinkIndex: index[tt.dev], Dst: ipNet(p), Table: tt.table, Scope: netlink.SCOPE_LINK}
		if p.Addr().Is6() || tt.gateway != "" {
			r.Scope = netlink.SCOPE_UNIVERSE
		}
		if tt.gateway != "" {
			r.Gw = netip.MustParseAddr(tt.gateway).AsSlice()
		}
		must(t, netlink.RouteAdd(r))
		all, err := ReadOnLink()
		must(t, err)
		if got := slices.Contains(all, OnLink{tt.dev, p}); got != tt.onLink {
			t.Errorf("%+v: on link %v", tt, got)
		}
		live, err := Read(config(t))
		must(t, err)
		if !slices.Equal(live.OnLink, all) {
			t.Errorf("%+v: Read has %v, ReadOnLink %v", tt, live.OnLink, all)
		}
		if got := told(); got != tt.onLink {
			t.Errorf("%+v: told %v", tt, got)
		}
		must(t, netlink.RouteDel(r))
		if got := told(); got != tt.onLink {
			t.Errorf("%+v deleted: told %v", tt, got)
		}
	}
}

// TestOnLinkBounded: of very many the largest are kept, whatever their order.
func TestOnLinkBounded(t *testing.T) {
	live := Live{Links: []Link{{Name: "cli0", Index: 1}}}
	for i := range 100_000 {
		host := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
		live.noteOnLink(&netlink.Route{Table: 254, Type: 1, LinkIndex: 1, Dst: ipNet(host)})
	}
	large := netip.MustParsePrefix("2001:db8::/64")
	live.noteOnLink(&netlink.Route{Table: 254, Type: 1, LinkIndex: 1, Dst: ipNet(large)})
	live.sortOnLink()
	if len(live.OnLink) != maxOnLink || live.OnLink[0].Prefix != large {
		t.Errorf("%d, the first is %v", len(live.OnLink), live.OnLink[0])
	}
}
