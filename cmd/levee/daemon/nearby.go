package daemon

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"levee/proxy"
	"levee/routes"
)

// manyNeighbours is how many neighbours of a family are worth a thought, where the kernel's table has room for 1024 (gc_thresh3).
const manyNeighbours = 256

// sources are what the interfaces' addresses and the routes tell of where packets of clients can come from, see proxy.Config.
type sources struct{ Neighbours, NoSources []netip.Prefix }

func (s *sources) equal(o *sources) bool {
	return slices.Equal(s.Neighbours, o.Neighbours) && slices.Equal(s.NoSources, o.NoSources)
}

// sourcesOf looks at the addresses of the interfaces where packets of clients and of servers come in, and at what the routes say of any link.
func sourcesOf(clients, servers []string, services []proxy.Service, routed []routes.OnLink) (s sources, err error) {
	all := slices.Concat(clients, servers)
	known := map[routes.OnLink]bool{}
	for i, name := range all {
		if slices.Contains(all[:i], name) {
			continue
		}
		prefixes, err := onLink(name)
		if err != nil {
			return s, err
		}
		s.add(prefixes, slices.Contains(clients, name), services)
		for _, p := range prefixes {
			known[routes.OnLink{Interface: name, Prefix: p}] = true
		}
	}
	s.addRouted(slices.DeleteFunc(slices.Clone(routed), func(o routes.OnLink) bool { return known[o] }), services)
	s.Neighbours = slices.Concat(many(s.Neighbours, netip.Addr.Is4), many(s.Neighbours, netip.Addr.Is6))
	return s, nil
}

// many is the prefixes of a family, or nothing if all together have so few addresses that nothing need be done about them. It is the sum that counts:
// the links share the kernel's table.
func many(prefixes []netip.Prefix, family func(netip.Addr) bool) (all []netip.Prefix) {
	sum := 0
	for _, p := range prefixes {
		if family(p.Addr()) {
			all = append(all, p)
			sum += 1 << min(p.Addr().BitLen()-p.Bits(), 16)
		}
	}
	if sum <= manyNeighbours {
		return nil
	}
	return all
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

// add sorts the prefixes of an interface's addresses. No client is on the link of an interface where only servers' packets come in, but a
// server may be: the prefixes of services stay out.
func (s *sources) add(onLink []netip.Prefix, clients bool, services []proxy.Service) {
	for _, p := range onLink {
		switch {
		case clients:
			s.Neighbours = append(s.Neighbours, p)
		case !protected(p, services):
			s.NoSources = append(s.NoSources, p)
		}
		if b, ok := broadcast(p); ok {
			s.NoSources = append(s.NoSources, b, netip.PrefixFrom(p.Addr(), b.Bits()))
		}
	}
}

// addRouted adds what only routes lead to. Clients may be there, whatever the interface: a router advertises prefixes, and a provider makes a route for each
// customer.
func (s *sources) addRouted(onLink []routes.OnLink, services []proxy.Service) {
	for _, o := range onLink {
		if !protected(o.Prefix, services) && !slices.Contains(s.NoSources, o.Prefix) {
			s.Neighbours = append(s.Neighbours, o.Prefix)
		}
	}
}

// protected says whether a service has all of a prefix.
func protected(p netip.Prefix, services []proxy.Service) bool {
	return slices.ContainsFunc(services, func(s proxy.Service) bool {
		return slices.ContainsFunc(s.Prefixes, func(q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) })
	})
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
