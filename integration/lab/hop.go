package lab

import (
	"errors"
	"fmt"
	"net/netip"
)

// Hop is a narrow place on the way between a host and the gateway: two routers with a link of a small MTU between them,
// of which neither the host nor the gateway knows. What doesn't fit is told by the router that it can't pass:
//
//	host eth0 ── host [near] hop ── hop [far] gateway ── gateway
//
// The host and the near router share the host's subnet as if that were the gateway; the other two links have small
// subnets of the same.
type Hop struct {
	Near, Far *Namespace

	// outer, narrow and inner are the links from the host on.
	outer, narrow, inner *Link
}

// maxHopped is the most clients or servers of a lab where they are behind a Hop: three subnets of a part must fit.
const maxHopped = 4

// narrowedLink connects a host to the gateway through two routers.
func (l *Lab) narrowedLink(host *Namespace, name string, mtu int, subnet4, subnet6 netip.Prefix) (*Link, error) {
	near, err := l.router(name + "-near")
	if err != nil {
		return nil, err
	}
	far, err := l.router(name + "-far")
	if err != nil {
		return nil, err
	}
	// Each router is the gateway of the link before it.
	h := &Hop{
		Near: near, Far: far,
		outer:  &Link{Host: End{Namespace: host, Name: hostIf}, Gateway: End{Namespace: near, Name: "host"}},
		narrow: &Link{Host: End{Namespace: near, Name: "hop"}, Gateway: End{Namespace: far, Name: "hop"}},
		inner:  &Link{Host: End{Namespace: far, Name: "gateway"}, Gateway: End{Namespace: l.Gateway, Name: name}},
	}
	for i, link := range []*Link{h.outer, h.narrow, h.inner} {
		four, six := hopSubnet(subnet4, i), hopSubnet(subnet6, i)
		if err := pair(&link.Host, &link.Gateway); err != nil {
			return nil, fmt.Errorf("connect %s to %s: %w", link.Host.Namespace.Name, link.Gateway.Namespace.Name, err)
		}
		if err := link.connect(four, six); err != nil {
			return nil, err
		}
		// The way back.
		if i > 0 {
			gateway := link.Gateway.Namespace
			if err := errors.Join(link.route(gateway, subnet4), link.route(gateway, subnet6)); err != nil {
				return nil, err
			}
		}
		l.links = append(l.links, link)
	}
	if err := h.narrow.SetMTU(mtu); err != nil {
		return nil, err
	}
	return &Link{Host: h.outer.Host, Gateway: h.inner.Gateway, Hop: h}, nil
}

// router makes a namespace that forwards both families.
func (l *Lab) router(name string) (*Namespace, error) {
	n, err := l.namespace(name)
	if err != nil {
		return nil, err
	}
	for _, s := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		if err := n.SetSysctl(s, "1"); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// hopSubnet is the subnet of the i-th link from the host on: all of the host's for the first, of which the others have a /28 or a
// /124 each.
func hopSubnet(p netip.Prefix, i int) netip.Prefix {
	if i == 0 {
		return p
	}
	const size = 16
	return netip.PrefixFrom(nth(p, byte(i*size)), p.Addr().BitLen()-4)
}
