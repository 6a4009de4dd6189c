package routes

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// OnLink is a prefix that a route of the main table leads to without a gateway, by an interface where the kernel has to find its neighbours.
// Those of the interfaces' own addresses are among them.
type OnLink struct {
	Interface string
	Prefix    netip.Prefix
}

// maxOnLink is how many are kept, the largest: where each customer has a route there may be as many as customers.
const maxOnLink = 4096

// ReadOnLink takes from the kernel what Live.OnLink has, and nothing else.
func ReadOnLink() ([]OnLink, error) {
	k, err := openKernel()
	if err != nil {
		return nil, err
	}
	defer k.close()
	var live Live
	if live.Links, err = k.links(); err != nil {
		return nil, err
	}
	if live.Sysctls, err = readSysctls(); err != nil {
		return nil, err
	}
	for _, f := range families(&live) {
		if _, err := k.rawRoutes(f, func(n *netlink.Route) bool {
			live.noteOnLink(n)
			return false
		}); err != nil {
			return nil, err
		}
	}
	live.sortOnLink()
	return live.OnLink, nil
}

// noteOnLink adds a route if it is one of OnLink's, whatever else it is. A table of the whole Internet may be among what it is called with.
func (l *Live) noteOnLink(n *netlink.Route) {
	if n.Table != unix.RT_TABLE_MAIN || n.Type != unix.RTN_UNICAST || n.Gw != nil || n.Via != nil || len(n.MultiPath) > 0 {
		return
	}
	p := prefixOf(n.Dst)
	link, ok := l.linkByIndex(n.LinkIndex)
	if !ok || link.Pointed || link.Loopback || !p.IsValid() || p.Addr().IsLinkLocalUnicast() || p.Addr().IsMulticast() {
		return
	}
	if l.OnLink = append(l.OnLink, OnLink{Interface: link.Name, Prefix: p.Masked()}); len(l.OnLink) >= 2*maxOnLink {
		l.sortOnLink()
	}
}

// sortOnLink puts the largest first, and drops what is there twice and what is too many.
func (l *Live) sortOnLink() {
	slices.SortFunc(l.OnLink, func(a, b OnLink) int {
		return cmp.Or(cmp.Compare(hostBits(b.Prefix), hostBits(a.Prefix)), a.Prefix.Compare(b.Prefix), cmp.Compare(a.Interface, b.Interface))
	})
	l.OnLink = slices.Compact(l.OnLink)
	l.OnLink = l.OnLink[:min(len(l.OnLink), maxOnLink)]
}

func hostBits(p netip.Prefix) int { return p.Addr().BitLen() - p.Bits() }
