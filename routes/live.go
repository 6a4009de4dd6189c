package routes

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Live is the part of the kernel's state that plans depend on. Read fills it; a test may write one by hand.
type Live struct {
	Links []Link
	// Rules are all policy rules of both families, in the kernel's order.
	Rules []Rule
	// Routes are those of the main table that contain a protected prefix or lie in one, local
	// addresses of the same kind, all of Config.Table, and all with levee's tag.
	Routes []Route
	// Ways are routes of the main table to others than the protected prefixes: for each family and interface the default route, if there is one, and one of the rest.
	Ways []Route
	// OnLink are the prefixes of the gateway's own links, as far as routes tell.
	OnLink []OnLink
	// Sysctls are values without the newline, by key: the path below /proc/sys, as
	// "net/ipv4/conf/eth0.100/rp_filter".
	Sysctls map[string]string
	// Tracking says that the kernel tracks connections, see the function of that name.
	Tracking bool
	// trackingSure: if not, that it doesn't is a guess.
	trackingSure bool
	// Exemption is the nftables table of levee's name in lines, in order; nil if there is none.
	Exemption []string
	// foreignExemption: there are rules in it that aren't levee's.
	foreignExemption bool
	// exemptionHidden: the caller may not look at nftables.
	exemptionHidden bool
}

const (
	kindTUN = "tun"
	kindVRF = "vrf"
)

// Link is one network interface.
type Link struct {
	Name  string
	Index int
	// Kind is the kernel's IFLA_INFO_KIND, as "veth", "bridge", "vrf"; "device" for hardware; and
	// "tun" or "tap" for the two kinds that the kernel calls "tun".
	Kind         string
	Up, Loopback bool
	// Pointed says that there is nobody to be found on it: it leads to one other end, or does without link addresses.
	Pointed bool
	// Master is the index of the bridge, bond or VRF that the link is a port of, or 0.
	Master int
	// Networks are those of its addresses, if it is down: the kernel has taken the routes to them away. IPv6 addresses have mostly gone with them.
	Networks []netip.Prefix
}

// Rule is one policy rule.
type Rule struct {
	Family   Family
	Priority int
	// Iif is the interface that the packet came in by; empty means any.
	Iif string
	// Src and Dst are not valid if the rule doesn't ask for them.
	Src, Dst netip.Prefix
	// IPProto is an IP protocol number, 0 for any.
	IPProto int
	Table   int
	// Protocol is the tag of whoever made the rule.
	Protocol uint8
	// Other are the selectors and actions that levee never uses, as `ip rule` writes them, so that
	// rules that have some never compare equal to one of ours.
	Other string
	asks  selectors
}

// selectors are what Rule.Other has in words, for packets that are forwarded without a mark. They are zero for rules of levee's.
type selectors struct {
	// not turns all selectors of the rule around; never means that one of them asks for what no such packet has.
	not, never bool
	// sport and dport are ranges, 0 to 0 for any.
	sport, dport [2]uint16
	// longer: a route counts if its prefix has so many bits at least.
	longer int
	// jump is the priority that it goes on with; drops says that no packet goes on; vrf that it's for those of a VRF alone.
	jump       int
	drops, vrf bool
}

// Own says whether the rule carries levee's tag.
func (r Rule) Own() bool { return r.Protocol == Protocol }

// String returns the rule as arguments of `ip rule add`.
func (r Rule) String() string {
	s := fmt.Sprintf("priority %d", r.Priority)
	if r.Iif != "" {
		s += " iif " + quote(r.Iif)
	}
	if r.Src.IsValid() {
		s += " from " + r.Src.String()
	}
	if r.Dst.IsValid() {
		s += " to " + r.Dst.String()
	}
	switch r.IPProto {
	case 0:
	case unix.IPPROTO_TCP:
		s += " ipproto tcp"
	default:
		s += fmt.Sprintf(" ipproto %d", r.IPProto)
	}
	if r.Other != "" {
		s += " " + r.Other
	}
	if r.Table != 0 {
		s += " lookup " + tableName(r.Table)
	}
	return s + fmt.Sprintf(" protocol %d", r.Protocol)
}

// command returns the `ip` command that does verb ("add", "del") to the rule.
func (r Rule) command(verb string) string {
	return fmt.Sprintf("ip -%d rule %s %v", r.Family, verb, r)
}

func (r Rule) netlink() *netlink.Rule {
	n := netlink.NewRule()
	n.Family = r.Family.af()
	n.Priority = r.Priority
	n.IifName = r.Iif
	if r.Src.IsValid() {
		n.Src = ipNet(r.Src)
	}
	if r.Dst.IsValid() {
		n.Dst = ipNet(r.Dst)
	}
	n.IPProto = r.IPProto
	n.Table = r.Table
	n.Protocol = r.Protocol
	return n
}

// Route is one route.
type Route struct {
	Family Family
	Table  int
	Dst    netip.Prefix
	// Type is the kernel's RTN_ number: unix.RTN_UNICAST, unix.RTN_LOCAL and so on.
	Type int
	// Interfaces are those of its next hops; more than one for a multipath route, none for a
	// route that leads nowhere.
	Interfaces []string
	// Gateway is not valid if the route has none or several.
	Gateway  netip.Addr
	Metric   int
	Protocol uint8
}

// Own says whether the route carries levee's tag.
func (r Route) Own() bool { return r.Protocol == Protocol }

// String returns the route as arguments of `ip route add`.
func (r Route) String() string {
	var s string
	if r.Type != unix.RTN_UNICAST {
		s = typeName(r.Type) + " "
	}
	if r.Dst.Bits() == 0 {
		s += "default"
	} else {
		s += r.Dst.String()
	}
	if r.Gateway.IsValid() {
		s += " via " + r.Gateway.String()
	}
	for _, i := range r.Interfaces {
		s += " dev " + quote(i)
	}
	return s + fmt.Sprintf(" table %s proto %d metric %d", tableName(r.Table), r.Protocol, r.Metric)
}

// command returns the `ip` command that does verb ("add", "del") to the route.
func (r Route) command(verb string) string {
	return fmt.Sprintf("ip -%d route %s %v", r.Family, verb, r)
}

// leadsNowhere says that packets which take the route are dropped.
func (r Route) leadsNowhere() bool {
	return slices.Contains([]int{unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT, unix.RTN_THROW}, r.Type)
}

func (r Route) equal(o Route) bool {
	return r.Family == o.Family && r.Table == o.Table && r.Dst == o.Dst && r.Type == o.Type && slices.Equal(r.Interfaces, o.Interfaces) &&
		r.Gateway == o.Gateway && r.Metric == o.Metric && r.Protocol == o.Protocol
}

// Blocks says whether there is a route of levee's that drops what finds no TUN.
func (l *Live) Blocks() bool {
	return slices.ContainsFunc(l.Routes, func(r Route) bool { return r.Own() && r.leadsNowhere() })
}

func (l *Live) link(name string) (Link, bool) {
	i := slices.IndexFunc(l.Links, func(k Link) bool { return k.Name == name })
	if i < 0 {
		return Link{}, false
	}
	return l.Links[i], true
}

func (l *Live) linkByIndex(index int) (Link, bool) {
	i := slices.IndexFunc(l.Links, func(k Link) bool { return k.Index == index })
	if i < 0 {
		return Link{}, false
	}
	return l.Links[i], true
}

// wouldLead says that a link would lead to one of the prefixes if it weren't down, and nothing else does in its place.
func (l *Live) wouldLead(link *Link, prefixes ...netip.Prefix) bool {
	return !link.Up && slices.ContainsFunc(link.Networks, func(n netip.Prefix) bool {
		return slices.ContainsFunc(prefixes, n.Overlaps) &&
			!slices.ContainsFunc(l.Routes, func(r Route) bool { return r.Table == unix.RT_TABLE_MAIN && r.Dst == n })
	})
}

// devices returns the names below net/<family>/conf, in order: the interfaces, "all" and "default".
func (l *Live) devices(f Family) []string {
	prefix := confKey(f, "")
	seen := map[string]bool{}
	for key := range l.Sysctls {
		if rest, ok := strings.CutPrefix(key, prefix); ok {
			name, _, _ := strings.Cut(rest, "/")
			seen[name] = true
		}
	}
	names := make([]string, 0, len(seen))
	for name := range seen {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (l *Live) has(f Family) bool {
	_, ok := l.Sysctls[confKey(f, "all/forwarding")]
	return ok
}

func tableName(t int) string {
	switch t {
	case unix.RT_TABLE_MAIN:
		return "main"
	case unix.RT_TABLE_LOCAL:
		return "local"
	case unix.RT_TABLE_DEFAULT:
		return "default"
	}
	return fmt.Sprint(t)
}

func typeName(t int) string {
	switch t {
	case unix.RTN_UNICAST:
		return "unicast"
	case unix.RTN_LOCAL:
		return "local"
	case unix.RTN_BROADCAST:
		return "broadcast"
	case unix.RTN_ANYCAST:
		return "anycast"
	case unix.RTN_MULTICAST:
		return "multicast"
	case unix.RTN_BLACKHOLE:
		return "blackhole"
	case unix.RTN_UNREACHABLE:
		return "unreachable"
	case unix.RTN_PROHIBIT:
		return "prohibit"
	case unix.RTN_THROW:
		return "throw"
	}
	return fmt.Sprintf("type-%d", t)
}
