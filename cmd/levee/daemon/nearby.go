package daemon

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"levee/proxy"
)

// manyNeighbours is how many bits of address make more neighbours than are worth a thought: 256, where the kernel's table has room for 1024
// (gc_thresh3).
const manyNeighbours = 8

// sources are what the interfaces' addresses tell of where packets of clients can come from, see proxy.Config.
type sources struct{ Neighbours, NoSources []netip.Prefix }

func (s *sources) equal(o *sources) bool {
	return slices.Equal(s.Neighbours, o.Neighbours) && slices.Equal(s.NoSources, o.NoSources)
}

// sourcesOf looks at the addresses of the interfaces where packets of clients and of servers come in.
func sourcesOf(clients, servers []string, services []proxy.Service) (s sources, err error) {
	all := slices.Concat(clients, servers)
	for i, name := range all {
		if slices.Contains(all[:i], name) {
			continue
		}
		prefixes, err := onLink(name)
		if err != nil {
			return s, err
		}
		s.add(prefixes, slices.Contains(clients, name), services)
	}
	return s, nil
}

// onLink returns the prefixes of an interface's addresses, as far as they are forwarded.
func onLink(name string) ([]netip.Prefix, error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("read the addresses of interface %s: %w: name one that exists", name, err)
	}
	addrs, err := link.Addrs()
	if err != nil {
		return nil, fmt.Errorf("read the addresses of interface %s: %w", name, err)
	}
	var prefixes []netip.Prefix
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && !p.Addr().IsLinkLocalUnicast() {
			prefixes = append(prefixes, p.Masked())
		}
	}
	return prefixes, nil
}

// add sorts the prefixes of an interface. No client is on the link of an interface where only servers' packets come in, but a
// server may be: the prefixes of services stay out.
func (s *sources) add(onLink []netip.Prefix, clients bool, services []proxy.Service) {
	for _, p := range onLink {
		switch {
		case !clients:
			if !slices.ContainsFunc(services, func(s proxy.Service) bool {
				return slices.ContainsFunc(s.Prefixes, func(q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) })
			}) {
				s.NoSources = append(s.NoSources, p)
			}
		case p.Addr().BitLen()-p.Bits() > manyNeighbours:
			s.Neighbours = append(s.Neighbours, p)
		}
		if b, ok := broadcast(p); ok {
			s.NoSources = append(s.NoSources, b, netip.PrefixFrom(p.Addr(), b.Bits()))
		}
	}
}

// broadcast is the broadcast address of a link (RFC 919); its network's own is another, long out of use. Neither IPv6 nor a link of two hosts
// (RFC 3021) has one.
func broadcast(p netip.Prefix) (netip.Prefix, bool) {
	if !p.Addr().Is4() || p.Bits() > 30 {
		return netip.Prefix{}, false
	}
	a := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		a[i/8] |= 0x80 >> (i % 8)
	}
	return netip.PrefixFrom(netip.AddrFrom4(a), 32), true
}
