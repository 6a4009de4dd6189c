package routes

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// dumpTries bounds how often a dump that the kernel calls inconsistent is read again.
	dumpTries = 8
	// netlinkTimeout bounds one exchange with the kernel.
	netlinkTimeout = 10 * time.Second
)

// kernel is a netlink socket in the namespace of the thread that opened it.
type kernel struct{ h *netlink.Handle }

func openKernel() (*kernel, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	if err := h.SetSocketTimeout(netlinkTimeout); err != nil {
		h.Close()
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	return &kernel{h}, nil
}

func (k *kernel) close() { k.h.Close() }

// Read takes from the kernel what plans for cfg depend on. It needs no privilege.
func Read(cfg Config) (Live, error) {
	k, err := openKernel()
	if err != nil {
		return Live{}, err
	}
	defer k.close()
	return k.read(&cfg)
}

func (k *kernel) read(cfg *Config) (live Live, err error) {
	if live.Sysctls, err = readSysctls(); err != nil {
		return Live{}, err
	}
	if live.Links, err = k.links(); err != nil {
		return Live{}, err
	}
	if err := readExemption(&live); err != nil {
		return Live{}, err
	}
	seen := make(map[wayKey]bool)
	for _, f := range families(&live) {
		rules, err := k.rules(f)
		if err != nil {
			return Live{}, err
		}
		for _, r := range rules {
			live.Rules = append(live.Rules, ruleOf(&r))
		}
		matters := func(r *Route) bool {
			live.noteWay(cfg, seen, r)
			return routeMatters(cfg, r)
		}
		routes, err := k.routes(f, &live, matters)
		if err != nil {
			return Live{}, err
		}
		live.Routes = append(live.Routes, routes...)
	}
	live.sortOnLink()
	return live, nil
}

// families are those that the kernel has.
func families(live *Live) []Family {
	if live.has(V6) {
		return []Family{V4, V6}
	}
	return []Family{V4}
}

// routeMatters picks what Live.Routes promises: a full Internet table must not be kept.
func routeMatters(cfg *Config, r *Route) bool {
	if r.Own() || r.Table == cfg.Table {
		return true
	}
	if r.Table != unix.RT_TABLE_MAIN && r.Type != unix.RTN_LOCAL {
		return false
	}
	for _, p := range cfg.Prefixes {
		if p.IsValid() && p.Overlaps(r.Dst) {
			return true
		}
	}
	return false
}

// wayKey is what Live.Ways has one of.
type wayKey struct {
	family    Family
	name      string
	isDefault bool
}

// noteWay adds to Live.Ways what seen has none of yet. It looks at every route of what may be a table of the whole Internet.
func (l *Live) noteWay(cfg *Config, seen map[wayKey]bool, r *Route) {
	if r.Table != unix.RT_TABLE_MAIN || r.Type != unix.RTN_UNICAST || r.Own() {
		return
	}
	for _, name := range r.Interfaces {
		key := wayKey{r.Family, name, r.Dst.Bits() == 0}
		if seen[key] || r.Dst.Addr().IsLinkLocalUnicast() || r.Dst.Addr().IsMulticast() || !key.isDefault && slices.ContainsFunc(cfg.Prefixes, r.Dst.Overlaps) {
			continue
		}
		seen[key] = true
		way := *r
		way.Interfaces = []string{name}
		l.Ways = append(l.Ways, way)
	}
}

// consistent repeats a dump until the kernel says that nothing changed underneath.
func consistent(what string, dump func() error) error {
	var err error
	for range dumpTries {
		if err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("list %s: %w", what, err)
	}
	return nil
}

func (k *kernel) links() (out []Link, err error) {
	err = consistent("links", func() error {
		out = nil
		links, err := k.h.LinkList()
		for _, l := range links {
			a := l.Attrs()
			out = append(out, Link{
				Name: a.Name, Index: a.Index, Kind: linkKind(l), Master: a.MasterIndex,
				Up: a.Flags&net.FlagUp != 0, Loopback: a.Flags&net.FlagLoopback != 0,
				Pointed: a.RawFlags&(unix.IFF_POINTOPOINT|unix.IFF_NOARP) != 0,
			})
		}
		return err
	})
	if err != nil || !slices.ContainsFunc(out, func(l Link) bool { return !l.Up }) {
		return out, err
	}
	err = consistent("addresses", func() error {
		addresses, err := k.h.AddrList(nil, netlink.FAMILY_ALL)
		for i := range out {
			out[i].Networks = nil
			for _, a := range addresses {
				if n := networkOf(&a); a.LinkIndex == out[i].Index && !out[i].Up && n.IsValid() {
					out[i].Networks = append(out[i].Networks, n)
				}
			}
		}
		return err
	})
	return out, err
}

// networkOf is what the kernel makes a route to because of an address: its network, or its peer. It isn't valid if there is neither.
func networkOf(a *netlink.Addr) netip.Prefix {
	if a.Peer != nil {
		return prefixOf(a.Peer).Masked()
	}
	if n := prefixOf(a.IPNet); n.IsValid() && !n.IsSingleIP() {
		return n.Masked()
	}
	return netip.Prefix{}
}

// linkKind is Link.Kind: the library calls TUN and TAP by one name, and the kernel by another.
func linkKind(l netlink.Link) string {
	if tun, ok := l.(*netlink.Tuntap); ok {
		if tun.Mode == netlink.TUNTAP_MODE_TUN {
			return kindTUN
		}
		return "tap"
	}
	return l.Type()
}

func (k *kernel) rules(f Family) (out []netlink.Rule, err error) {
	err = consistent(f.String()+" rules", func() (err error) {
		if out, err = k.h.RuleList(f.af()); err != nil {
			return err
		}
		return readActions(f, out)
	})
	return out, err
}

// readActions fills in what the rules do, which the library doesn't read.
func readActions(f Family, rules []netlink.Rule) error {
	request := nl.NewNetlinkRequest(unix.RTM_GETRULE, unix.NLM_F_DUMP|unix.NLM_F_REQUEST)
	request.AddData(nl.NewIfInfomsg(f.af()))
	messages, err := request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWRULE)
	if err != nil {
		return err
	}
	if len(messages) != len(rules) {
		return netlink.ErrDumpInterrupted // they have changed since
	}
	for i, m := range messages {
		rules[i].Type = nl.DeserializeRtMsg(m).Type // both headers have it in the same place
	}
	return nil
}

// rawRoutes lists the routes of all tables that keep accepts.
func (k *kernel) rawRoutes(f Family, keep func(*netlink.Route) bool) (out []netlink.Route, err error) {
	err = consistent(f.String()+" routes", func() error {
		out = nil
		// The filter by table, set to none, is what makes the library show all tables.
		all := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
		return k.h.RouteListFilteredIter(f.af(), all, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
			if keep(&r) {
				out = append(out, r)
			}
			return true
		})
	})
	return out, err
}

// routes lists the routes that keep accepts, and notes those of live.OnLink.
func (k *kernel) routes(f Family, live *Live, keep func(*Route) bool) ([]Route, error) {
	raw, err := k.rawRoutes(f, func(r *netlink.Route) bool {
		live.noteOnLink(r)
		route := routeOf(f, r, live)
		return keep(&route)
	})
	var out []Route
	for i := range raw {
		out = append(out, routeOf(f, &raw[i], live))
	}
	return out, err
}

func ruleOf(n *netlink.Rule) Rule {
	r := Rule{
		Family: V4, Priority: n.Priority, Iif: n.IifName, Src: prefixOf(n.Src), Dst: prefixOf(n.Dst),
		IPProto: n.IPProto, Table: n.Table, Protocol: n.Protocol,
	}
	if n.Family == unix.AF_INET6 {
		r.Family = V6
	}
	var other []string
	add := func(set bool, format string, args ...any) {
		if set {
			other = append(other, fmt.Sprintf(format, args...))
		}
	}
	add(n.Invert, "not")
	add(n.Tos != 0, "tos %#x", n.Tos)
	if n.Mask != nil {
		add(n.Mark != 0 || *n.Mask != 0, "fwmark %#x/%#x", n.Mark, *n.Mask)
	} else {
		add(n.Mark != 0, "fwmark %#x", n.Mark)
	}
	add(n.OifName != "", "oif %s", quote(n.OifName))
	add(n.TunID != 0, "tun_id %d", n.TunID)
	if n.UIDRange != nil {
		add(true, "uidrange %d-%d", n.UIDRange.Start, n.UIDRange.End)
	}
	if n.Sport != nil {
		add(true, "sport %d-%d", n.Sport.Start, n.Sport.End)
	}
	if n.Dport != nil {
		add(true, "dport %d-%d", n.Dport.Start, n.Dport.End)
	}
	add(n.SuppressPrefixlen != -1, "suppress_prefixlength %d", n.SuppressPrefixlen)
	add(n.SuppressIfgroup != -1, "suppress_ifgroup %d", n.SuppressIfgroup)
	add(n.Flow > 0, "realms %d", n.Flow)
	switch {
	case n.Goto >= 0:
		add(true, "goto %d", n.Goto)
	case n.Type != nl.FR_ACT_TO_TBL:
		add(true, "%s", actionName(n.Type))
	case n.Table == 0:
		add(true, "l3mdev")
	}
	r.Other = strings.Join(other, " ")
	r.asks = selectorsOf(n)
	return r
}

func actionName(action uint8) string {
	switch action {
	case nl.FR_ACT_BLACKHOLE:
		return "blackhole"
	case nl.FR_ACT_UNREACHABLE:
		return "unreachable"
	case nl.FR_ACT_PROHIBIT:
		return "prohibit"
	case nl.FR_ACT_NOP:
		return "nop"
	}
	return fmt.Sprintf("action-%d", action)
}

// selectorsOf reads what Rule.Other has the words of.
func selectorsOf(n *netlink.Rule) selectors {
	s := selectors{not: n.Invert, longer: n.SuppressPrefixlen + 1}
	mask := uint32(1<<32 - 1)
	if n.Mask != nil {
		mask = *n.Mask
	}
	s.never = n.Mark&mask != 0 || n.Tos != 0 || n.TunID != 0 || n.OifName != "" || n.UIDRange != nil && n.UIDRange.Start > 0
	if n.Sport != nil {
		s.sport = [2]uint16{n.Sport.Start, n.Sport.End}
	}
	if n.Dport != nil {
		s.dport = [2]uint16{n.Dport.Start, n.Dport.End}
	}
	switch {
	case n.Goto >= 0:
		s.jump = n.Goto
	case n.Type == nl.FR_ACT_BLACKHOLE, n.Type == nl.FR_ACT_UNREACHABLE, n.Type == nl.FR_ACT_PROHIBIT:
		s.drops = true
	case n.Type == nl.FR_ACT_TO_TBL && n.Table == 0:
		s.vrf = true
	case n.Type != nl.FR_ACT_TO_TBL:
		s.never = true
	}
	return s
}

func routeOf(f Family, n *netlink.Route, live *Live) Route {
	r := Route{Family: f, Table: n.Table, Dst: prefixOf(n.Dst), Type: n.Type, Metric: n.Priority, Protocol: uint8(n.Protocol)}
	if gw, ok := netip.AddrFromSlice(n.Gw); ok {
		r.Gateway = gw.Unmap()
	}
	add := func(index int) {
		if l, ok := live.linkByIndex(index); ok {
			r.Interfaces = append(r.Interfaces, l.Name)
		}
	}
	if r.leadsNowhere() {
		return r // the kernel's IPv6 has them lead to lo
	}
	if len(n.MultiPath) == 0 {
		add(n.LinkIndex)
	}
	for _, hop := range n.MultiPath {
		add(hop.LinkIndex)
	}
	return r
}

func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	a, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}
	}
	bits, _ := n.Mask.Size()
	// The library's 0.0.0.0 is 16 bytes long, with a mask of 4.
	if len(n.Mask) == net.IPv4len {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, bits)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func (k *kernel) addRule(r Rule) error {
	if err := k.h.RuleAdd(r.netlink()); err != nil {
		return fmt.Errorf("%s: %w", r.command("add"), err)
	}
	return nil
}

func (k *kernel) addRoute(r Route) error {
	n := &netlink.Route{
		Family: r.Family.af(), Table: r.Table, Dst: ipNet(r.Dst), Type: r.Type, Priority: r.Metric, Protocol: netlink.RouteProtocol(r.Protocol),
	}
	if !r.leadsNowhere() {
		if len(r.Interfaces) != 1 {
			return fmt.Errorf("%s: levee's routes have one interface", r.command("add"))
		}
		link, err := k.h.LinkByName(r.Interfaces[0])
		if err != nil {
			return fmt.Errorf("%s: %w", r.command("add"), err)
		}
		n.LinkIndex = link.Attrs().Index
		if r.Family == V4 {
			// IPv4 takes a route without a gateway for on-link; IPv6 knows no scopes.
			n.Scope = netlink.SCOPE_LINK
		}
	}
	if err := k.h.RouteAdd(n); err != nil {
		return fmt.Errorf("%s: %w", r.command("add"), err)
	}
	return nil
}

// deleteOwnRules deletes the rules with levee's tag that keep doesn't accept, the last first, so that
// the loop breaker goes after all that needs it. It goes on after an error.
func (k *kernel) deleteOwnRules(fs []Family, keep func(Rule) bool) (deleted []string, errs []error) {
	for _, f := range fs {
		rules, err := k.rules(f)
		if err != nil {
			errs = append(errs, err)
		}
		for i := len(rules) - 1; i >= 0; i-- {
			r := ruleOf(&rules[i])
			if !r.Own() || keep(r) {
				continue
			}
			// As it was listed, tag and all: what a deletion doesn't name matches anything.
			switch err := k.h.RuleDel(&rules[i]); {
			case err == nil:
				deleted = append(deleted, r.command("del"))
			case !gone(err):
				errs = append(errs, fmt.Errorf("%s: %w", r.command("del"), err))
			}
		}
	}
	return deleted, errs
}

// deleteOwnRoutes deletes the routes with levee's tag, in any table, that keep doesn't accept. It goes on
// after an error.
func (k *kernel) deleteOwnRoutes(fs []Family, live *Live, keep func(Route) bool) (deleted []string, errs []error) {
	for _, f := range fs {
		raw, err := k.rawRoutes(f, func(r *netlink.Route) bool {
			return r.Protocol == Protocol && !keep(routeOf(f, r, live))
		})
		if err != nil {
			errs = append(errs, err)
		}
		for i := range raw {
			r := routeOf(f, &raw[i], live)
			// The kernel refuses the state flags (linkdown and so on) that it put into the list.
			raw[i].Flags = 0
			switch err := k.h.RouteDel(&raw[i]); {
			case err == nil:
				deleted = append(deleted, r.command("del"))
			case !gone(err):
				errs = append(errs, fmt.Errorf("%s: %w", r.command("del"), err))
			}
		}
	}
	return deleted, errs
}

// gone says whether a deletion failed because there was nothing to delete.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENODEV)
}
