package routes

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// routeMetric of the routes into the TUN: a fixed one, so that routes of any other metric can stand
// behind them. It is what IPv6 gives to routes that don't say.
const routeMetric = 1024

// blockMetric of the routes behind them that drop what finds no TUN.
const blockMetric = 2 * routeMetric

// Plan is the kernel state that a Config asks for. NewPlan makes it and nothing changes it after. It is
// not safe for use by several goroutines at once.
type Plan struct {
	cfg       Config
	sides     sides
	families  []Family
	sysctls   []sysctl
	routes    []Route
	rules     []Rule
	exempt    exemption
	exempting bool // on the machine that the plan was made for
	notes     []string
	report    []string
}

// NewPlan works out the plan for cfg on a machine as in live. It changes nothing. An error is one line that
// names the thing and the remedy; something of somebody else's in the plan's way is one.
func NewPlan(cfg Config, live Live) (*Plan, error) {
	p, err := NewPlanAlongside(cfg, live)
	if err == nil {
		err = p.refused(&live)
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// NewPlanAlongside is NewPlan for what is in force already, or to be compared: what is in the plan's way is no error, but Diff shows it.
func NewPlanAlongside(cfg Config, live Live) (*Plan, error) { return planFor(cfg, live, resolve) }

// NewPlanResumed is NewPlanAlongside after a crash, where today's routes and interfaces would not do for a plan: the interfaces are those of the rules that
// an earlier levee has left, whatever has become of them since. It is an error if there are none.
func NewPlanResumed(cfg Config, live Live) (*Plan, error) {
	return planFor(cfg, live, func(cfg *Config, _ []netip.Prefix, live *Live) (sides, error) {
		s := inForce(cfg, live)
		if len(s.clients) == 0 || len(s.servers) == 0 {
			return s, errors.New("there are no rules of an earlier levee")
		}
		return s, nil
	})
}

// planFor is NewPlanAlongside with a way to find the interfaces of both sides.
func planFor(cfg Config, live Live, resolve func(*Config, []netip.Prefix, *Live) (sides, error)) (*Plan, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	prefixes := outermost(cfg.Prefixes)
	p := &Plan{cfg: cfg}
	for _, f := range []Family{V4, V6} {
		i := slices.IndexFunc(prefixes, func(p netip.Prefix) bool { return familyOf(p) == f })
		if i < 0 {
			continue
		}
		if !live.has(f) {
			return nil, fmt.Errorf("prefix %v: this kernel runs without %v: turn it on, or remove the prefix", prefixes[i], f)
		}
		p.families = append(p.families, f)
	}
	if link, ok := live.link(cfg.TUN); ok && link.Kind != kindTUN {
		return nil, fmt.Errorf("interface %s exists and is not a TUN but of kind %s: choose another tun.name", cfg.TUN, link.Kind)
	}
	var err error
	if p.sides, err = resolve(&cfg, prefixes, &live); err != nil {
		return nil, err
	}
	for _, f := range p.families {
		p.addRouting(f, prefixes)
	}
	if !cfg.Bypass {
		p.addBlackholes()
	}
	if n := len(p.rules); n > maxRules {
		return nil, fmt.Errorf("%d prefixes on %d client and %d server interfaces make %d rules, more than %d: name fewer interfaces in routing.client_interfaces and routing.server_interfaces",
			len(prefixes), len(p.sides.clients), len(p.sides.servers), n, maxRules)
	}
	p.addSysctls(&live)
	p.exempt = p.exemption(prefixes)
	p.exempting = p.wantsExemption(&live)
	return p, nil
}

// ClientInterfaces returns the interfaces that clients' packets are taken from. The caller keeps the slice.
func (p *Plan) ClientInterfaces() []string { return slices.Clone(p.sides.clients) }

// ServerInterfaces returns the interfaces that servers' packets are taken from. The caller keeps the slice.
func (p *Plan) ServerInterfaces() []string { return slices.Clone(p.sides.servers) }

// Interfaces returns those of both sides, in order.
func (p *Plan) Interfaces() []string {
	all := slices.Concat(p.sides.clients, p.sides.servers)
	slices.Sort(all)
	return slices.Compact(all)
}

// SameRouting says whether the plans have the same rules and routes.
func (p *Plan) SameRouting(o *Plan) bool {
	return slices.Equal(p.rules, o.rules) && slices.EqualFunc(p.routes, o.routes, Route.equal)
}

// Concerns says whether a route to dst has a say in the plan: it is in levee's table, or it contains a protected prefix or lies in one, in whatever table, as
// there may be a rule of somebody else's for that.
func (p *Plan) Concerns(table int, dst netip.Prefix) bool {
	return table == p.cfg.Table || slices.ContainsFunc(p.cfg.Prefixes, dst.Overlaps)
}

// Report returns what the last Apply or Remove had to leave as it was, one line for each: values that
// somebody else has changed since levee set them. None is the usual case.
func (p *Plan) Report() []string { return slices.Clone(p.report) }

func (p *Plan) addRouting(f Family, prefixes []netip.Prefix) {
	cfg := &p.cfg
	p.routes = append(p.routes, Route{
		Family: f, Table: cfg.Table, Dst: everything(f), Type: unix.RTN_UNICAST, Interfaces: []string{cfg.TUN},
		Metric: routeMetric, Protocol: Protocol,
	})
	rule := Rule{Family: f, Priority: cfg.Priority + loopBreaker, Iif: cfg.TUN, Table: unix.RT_TABLE_MAIN, Protocol: Protocol}
	p.rules = append(p.rules, rule)
	// The kernel lets many rules share a priority if they differ; among these the order doesn't matter.
	// No ports: it sees none in the fragments of a packet, and a connection must not be split.
	rule.Table = cfg.Table
	for _, side := range []struct {
		offset     int
		interfaces []string
	}{{fromClients, p.sides.clients}, {fromServers, p.sides.servers}, {fromGateway, []string{loopback}}} {
		for _, rule.Iif = range side.interfaces {
			for _, prefix := range prefixes {
				if familyOf(prefix) != f {
					continue
				}
				rule.Priority = cfg.Priority + side.offset
				rule.Src, rule.Dst = netip.Prefix{}, netip.Prefix{}
				switch {
				case prefix.Bits() == 0: // the kernel lists such a rule without it
				case side.offset != fromServers:
					rule.Dst = prefix
				default:
					rule.Src = prefix
				}
				for _, rule.IPProto = range protocolsOf(f, side.offset) {
					p.rules = append(p.rules, rule)
				}
			}
		}
	}
}

// addBlackholes: the routes into the TUN go with it, also when it is set down.
func (p *Plan) addBlackholes() {
	for _, f := range p.families {
		p.routes = append(p.routes, Route{
			Family: f, Table: p.cfg.Table, Dst: everything(f), Type: unix.RTN_BLACKHOLE, Metric: blockMetric, Protocol: Protocol,
		})
	}
}

// everything is the prefix of all addresses.
func everything(f Family) netip.Prefix {
	if f == V6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

// loopback is the interface that packets of the gateway's own come in by, as rules see it.
const loopback = "lo"

// protocolsOf returns the IP protocols whose packets may be TCP. The kernel's rules look behind some IPv6 extension headers, but not
// behind an authentication header, a fragment header or more than fifteen: what they then see is the header where they
// stopped, and TCP behind it must not get past levee. The little else that such rules catch levee passes on.
//
// ICMP toward the servers comes too, as errors quote sequence numbers that levee has translated; so do the gateway's own. ICMP from
// the servers comes because one of them may refuse levee's SYN that way, for which only levee can tell the client.
func protocolsOf(f Family, offset int) []int {
	icmp, tcp := unix.IPPROTO_ICMP, []int{unix.IPPROTO_TCP}
	if f == V6 {
		icmp = unix.IPPROTO_ICMPV6
		tcp = append(tcp, unix.IPPROTO_ROUTING, unix.IPPROTO_FRAGMENT, unix.IPPROTO_AH, unix.IPPROTO_DSTOPTS)
	}
	if offset == fromGateway {
		return []int{icmp}
	}
	return append(tcp, icmp)
}

// addSysctls: those of the TUN come first, because most of them only help before it is up.
func (p *Plan) addSysctls(live *Live) {
	tun := p.cfg.TUN
	set := func(s sysctl) { p.sysctls = append(p.sysctls, s) }
	v4, v6 := slices.Contains(p.families, V4), slices.Contains(p.families, V6)
	if v4 {
		// The kernel takes the larger of the interface's rp_filter and that of "all".
		if all := live.Sysctls[confKey(V4, "all/rp_filter")]; all == "0" {
			why := "Packets from the TUN carry addresses of either side. Without a reverse path check, accept_local spares a lookup for each."
			set(sysctl{key: confKey(V4, tun+"/rp_filter"), value: "0", why: why, ofTUN: true})
			set(sysctl{key: confKey(V4, tun+"/accept_local"), value: "1", why: why, ofTUN: true})
		} else {
			why := "Packets from the TUN carry addresses of either side: check that they are routable, not where to."
			set(sysctl{key: confKey(V4, tun+"/rp_filter"), value: "2", why: why, ofTUN: true})
			set(sysctl{key: confKey(V4, tun+"/accept_local"), value: "1", why: "The gateway's own ICMP errors come back from the TUN.", ofTUN: true})
		}
		p.notes = append(p.notes, "rp_filter of the other interfaces stays as it is: the reverse lookup goes by the rules below, so that even strict mode passes.")
	}
	if v6 {
		why := "No link-local address and no router solicitations on the TUN."
		set(sysctl{key: confKey(V6, tun+"/addr_gen_mode"), value: "1", why: why, ofTUN: true})
		set(sysctl{key: confKey(V6, tun+"/accept_ra"), value: "0", why: why, ofTUN: true})
		set(sysctl{key: confKey(V6, tun+"/disable_ipv6"), value: "0", why: "IPv6 on the TUN, whatever the default is.", ofTUN: true})
	} else if live.has(V6) {
		set(sysctl{key: confKey(V6, tun+"/disable_ipv6"), value: "1", why: "No IPv6 prefix is protected: keep the kernel's own IPv6 packets out of the TUN.",
			ofTUN: true, optional: true})
	}
	if v4 {
		set(sysctl{key: keyForward4, value: "1", why: "Forward IPv4."})
		set(sysctl{key: confKey(V4, tun+"/forwarding"), value: "1", why: "Forward IPv4.", ofTUN: true})
	}
	if v6 {
		p.keepRouterAdvertisements(live)
		set(sysctl{key: keyForward6, value: "1", why: "Forward IPv6."})
		set(sysctl{key: confKey(V6, tun+"/forwarding"), value: "1", why: "Forward IPv6.", ofTUN: true})
	}
	value, why := "0", "While levee doesn't run, its traffic is dropped (routing.on_failure: block)."
	if p.cfg.Bypass {
		value, why = "1", "While levee doesn't run, its traffic is forwarded as without it (routing.on_failure: bypass)."
	}
	for _, f := range p.families {
		set(sysctl{key: confKey(f, tun+"/"+ignoreLinkdown), value: value, why: why, ofTUN: true})
	}
	p.silenceRedirects(v4, v6)
}

// keepRouterAdvertisements: a router ignores router advertisements unless accept_ra is 2.
func (p *Plan) keepRouterAdvertisements(live *Live) {
	if live.Sysctls[keyForward6] != "0" {
		return
	}
	for _, device := range live.devices(V6) {
		if l, ok := live.link(device); device == "all" || device == p.cfg.TUN || (ok && l.Loopback) {
			continue
		}
		if live.Sysctls[confKey(V6, device+"/accept_ra")] == "1" && live.Sysctls[confKey(V6, device+"/forwarding")] == "0" {
			p.sysctls = append(p.sysctls, sysctl{key: confKey(V6, device+"/accept_ra"), value: "2",
				why: "Forwarding turns router advertisements off where accept_ra is 1: keep taking them.", optional: true})
		}
	}
}

// silenceRedirects: what levee proxies comes in by one interface and leaves by another, the TUN being one of
// them. But on an interface with both sides, a ping is enough for the gateway to tell the client of the
// server's own address, and the client's connections would go around levee from then on.
func (p *Plan) silenceRedirects(v4, v6 bool) {
	both := p.sides.onBoth()
	if len(both) == 0 {
		return
	}
	if v4 {
		// The kernel sends if either of the two is set.
		for _, device := range append([]string{"all"}, both...) {
			p.sysctls = append(p.sysctls, sysctl{key: confKey(V4, device+"/send_redirects"), value: "0",
				why: "Clients and servers share an interface: don't redirect clients past levee.", optional: true})
		}
	}
	if v6 {
		p.notes = append(p.notes, fmt.Sprintf("Clients and servers share %s, and IPv6 redirects can't be turned off: have clients ignore them, or drop them.",
			strings.Join(both, ", ")))
	}
}

// refused returns the error for anything of somebody else's that is in the way.
func (p *Plan) refused(live *Live) error {
	if errs := p.foreign(live); len(errs) > 0 {
		return errs[0]
	}
	return nil
}

// foreign returns one error for each foreign rule and route that the plan would clash with.
func (p *Plan) foreign(live *Live) []error {
	var errs []error
	cfg := &p.cfg
	if live.foreignExemption {
		errs = append(errs, fmt.Errorf("the nftables table \"inet %s\" is taken: it has rules that are not levee's: rename it", exemptTable))
	}
	last := cfg.Priority + prioritySpan - 1
	for _, r := range live.Rules {
		switch {
		case r.Own():
		case r.Table == cfg.Table:
			errs = append(errs, fmt.Errorf("routing table %d is taken: the %v rule \"%v\" is not levee's: choose another routing.table", cfg.Table, r.Family, r))
		case r.Priority >= cfg.Priority && r.Priority <= last:
			errs = append(errs, fmt.Errorf("rule priorities %d-%d are taken: the %v rule \"%v\" is not levee's: choose another routing.priority",
				cfg.Priority, last, r.Family, r))
		}
	}
	for _, r := range live.Routes {
		if r.Table == cfg.Table && !r.Own() {
			errs = append(errs, fmt.Errorf("routing table %d is taken: the %v route \"%v\" is not levee's: choose another routing.table", cfg.Table, r.Family, r))
		}
	}
	return errs
}
