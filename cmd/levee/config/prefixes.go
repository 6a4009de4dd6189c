package config

import (
	"fmt"
	"net/netip"
)

// unprotectable lists what no service can be: addresses that are never routed.
var unprotectable = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "\"this network\""},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("255.255.255.255/32"), "broadcast"},
	{netip.MustParsePrefix("::/128"), "the unspecified address"},
	{netip.MustParsePrefix("::1/128"), "loopback"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
}

// mapped holds the IPv4 addresses in IPv6 clothes (RFC 4291 §2.5.5.2), which no packet carries.
var mapped = netip.MustParsePrefix("::ffff:0:0/96")

// prefixes returns those of a service that are good.
func (c checker) prefixes(service string, list words) []netip.Prefix {
	key := join(service, "prefixes")
	if len(list) == 0 && !c.shape.concern(service) { // else they may be there by another key
		c.report(key, "missing: name the servers to protect, such as 192.0.2.0/24")
	}
	var good []netip.Prefix
	for i, t := range list {
		p, err := parsePrefix(string(t))
		if err != nil {
			c.report(index(key, i), "%s %v", shown(t), err)
			continue
		}
		for _, other := range good {
			if p.Overlaps(other) {
				c.report(index(key, i), "%v overlaps %v of the same service: keep the wider one", p, other)
				break
			}
		}
		good = append(good, p)
	}
	return good
}

func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return netip.Prefix{}, fmt.Errorf("has no length: write %v for this one address", netip.PrefixFrom(a, a.BitLen()))
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return p, fmt.Errorf("is not a prefix: write an address and a length, such as 192.0.2.0/24 or 2001:db8:1::/64")
	case p.Addr().Is4In6() && p.Bits() >= mapped.Bits():
		v4 := netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-mapped.Bits()).Masked()
		return p, fmt.Errorf("is IPv4 written as IPv6: write %v", v4)
	case p != p.Masked():
		return p, fmt.Errorf("has bits set behind its length: %v is meant, or %v for this one address", p.Masked(), netip.PrefixFrom(p.Addr(), p.Addr().BitLen()))
	case p.Bits() == 0:
		// It would catch the servers' own connections to the world, in both directions.
		return p, fmt.Errorf("is every address there is: name the prefixes of the servers")
	}
	for _, u := range unprotectable {
		if p.Overlaps(u.prefix) {
			return p, fmt.Errorf("holds addresses that are never routed (%s, %v): leave them out", u.what, u.prefix)
		}
	}
	if p.Overlaps(mapped) {
		return p, fmt.Errorf("holds IPv4 written as IPv6 (%v): leave it out", mapped)
	}
	return p, nil
}
