package routes

import (
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

const (
	// maxLookups bounds what one look asks the kernel, to about a tenth of a second.
	maxLookups = 4096
	// maxDetours bounds what is told.
	maxDetours = 8
	// maxEnds bounds the clients that stand for all.
	maxEnds = 8
	// somePort stands for any port that a client may have: the first of the dynamic ones (RFC 6335 §6).
	somePort = 49152
)

// Detour is a rule of somebody else's that takes packets of protected connections around levee, or drops them. It is an error of one line.
type Detour struct {
	Rule         Rule
	Text, Remedy string
}

func (d *Detour) Error() string { return d.Text + ": " + d.Remedy }

// Around looks for rules of somebody else's, ahead of levee's or among them, that take packets of protected connections around levee or drop them, and returns those that are
// ahead; the others are in Diff.Foreign. whole says that it is so for all samples of a protected prefix, in one of the two directions.
//
// Only the kernel knows what its rules and tables do to a packet, so it is asked about samples: connections between addresses all over each prefix and
// a neighbour, or somebody farther, by each interface toward clients; and one for which each such rule asks. A rule that matches none of these, or in whose table there is no route for
// them, takes nothing of levee's. Where levee's own rules are not there yet the first rule counts that leads to the table of the answer.
func (p *Plan) Around(live *Live) (detours []*Detour, whole bool) {
	s := sampler{plan: p, live: live, left: maxLookups, ways: make(map[netip.Addr]string)}
	for _, r := range live.Rules {
		if !r.Own() && r.Table != unix.RT_TABLE_LOCAL && r.Priority <= p.cfg.Priority+fromServers {
			s.suspects = append(s.suspects, r)
		}
	}
	for _, r := range live.Routes {
		if !r.Own() && r.Table == p.cfg.Table {
			s.routes = append(s.routes, r)
		}
	}
	if len(s.suspects)+len(s.routes) == 0 {
		return nil, false
	}
	for _, prefix := range p.cfg.Prefixes {
		ports := p.cfg.portsOf(prefix)
		if len(ports) == 0 {
			continue
		}
		whole = s.sample(prefix, ports[0][0]) || whole
		for _, r := range s.suspects {
			s.sampleRule(prefix, ports, &r)
		}
	}
	return s.detours, whole
}

// portsOf returns the ranges of ports that are protected in a prefix of Config.Prefixes.
func (c *Config) portsOf(prefix netip.Prefix) [][2]uint16 {
	if c.Ports == nil {
		return [][2]uint16{{1, 65535}}
	}
	return c.Ports[prefix]
}

// sampler asks the kernel about samples.
type sampler struct {
	plan *Plan
	live *Live
	// suspects and routes are what of somebody else's may take packets: rules, and routes in levee's table.
	suspects []Rule
	routes   []Route
	// left is how often the kernel may be asked still.
	left int
	// ways are the interfaces that lead to addresses, empty for none.
	ways    map[netip.Addr]string
	detours []*Detour
}

// end is one end of a sample, and the interface that its packets come in by.
type end struct {
	iif  string
	addr netip.Addr
}

// outcome is what becomes of a sample's packet.
type outcome uint8

const (
	unclear outcome = iota
	right
	around
)

// sample asks about connections to a prefix, and says whether all of them go around levee on one of the four parts of their way.
func (s *sampler) sample(prefix netip.Prefix, port uint16) (whole bool) {
	var asked, gone [4]int
	clients := s.clients(familyOf(prefix))
	for _, addr := range spread(prefix) {
		server := end{s.wayTo(addr), addr}
		for _, client := range clients {
			for i, o := range s.connection(prefix, client, server, somePort, port) {
				if o != unclear {
					asked[i]++
				}
				if o == around {
					gone[i]++
				}
			}
		}
	}
	for i := range asked {
		whole = whole || asked[i] > 0 && gone[i] == asked[i]
	}
	return whole
}

// connection asks about the four parts of a connection's way: into levee and out of it, in both directions.
func (s *sampler) connection(prefix netip.Prefix, client, server end, clientPort, serverPort uint16) (out [4]outcome) {
	there := Probe{Iif: client.iif, Src: netip.AddrPortFrom(client.addr, clientPort), Dst: netip.AddrPortFrom(server.addr, serverPort)}
	back := Probe{Iif: server.iif, Src: there.Dst, Dst: there.Src}
	out[0] = s.judge(prefix, there, true)
	if slices.Contains(s.plan.sides.servers, server.iif) {
		out[1] = s.judge(prefix, back, false)
	}
	there.Iif, back.Iif = s.plan.cfg.TUN, s.plan.cfg.TUN
	out[2], out[3] = s.judge(prefix, there, true), s.judge(prefix, back, false)
	return out
}

// judge asks about one packet, and notes the rule that takes it.
func (s *sampler) judge(prefix netip.Prefix, p Probe, toServer bool) outcome {
	if !slices.ContainsFunc(s.suspects, func(r Rule) bool { return r.matches(p) }) &&
		!slices.ContainsFunc(s.routes, func(r Route) bool { return r.Dst.Contains(p.Dst.Addr()) }) {
		return right
	}
	fromTUN := p.Iif == s.plan.cfg.TUN
	in, there := s.live.link(p.Iif)
	if !there && fromTUN {
		return s.foresee(prefix, p, toServer)
	}
	if !there || s.left == 0 {
		return unclear
	}
	s.left--
	way, oif, err := ask(p, in.Index)
	switch {
	case err == nil && way.Local:
		return unclear // the gateway's own address
	case err == nil && fromTUN:
		return right // the way on is the operator's
	}
	out, _ := s.live.linkByIndex(oif)
	if out.Name == s.plan.cfg.TUN {
		return right
	}
	if err == nil && way.Table == s.plan.cfg.Table {
		return around // by a route that Diff.Foreign has
	}
	rule, ok := s.live.RuleFor(p, way.Table) // no table if there is an error
	if !ok || rule.Own() || !slices.Contains(s.suspects, rule) {
		return unclear
	}
	// Who leads an interface's packets elsewhere keeps it apart: a VRF, or one for management.
	if toServer && !fromTUN && rule.Iif != "" && (err != nil || !slices.Contains(s.plan.sides.servers, out.Name)) {
		return unclear
	}
	s.note(rule, prefix, p, toServer, out.Name)
	return around
}

// foresee is judge without a TUN: nobody can ask for packets from there. What drops them is seen nevertheless.
func (s *sampler) foresee(prefix netip.Prefix, p Probe, toServer bool) outcome {
	i := slices.IndexFunc(s.suspects, func(r Rule) bool { return r.matches(p) })
	if !s.suspects[i].asks.drops {
		return unclear
	}
	s.note(s.suspects[i], prefix, p, toServer, "")
	return around
}

// note adds a rule that takes packets, to an interface or nowhere. Rules among levee's are in Diff.Foreign.
func (s *sampler) note(rule Rule, prefix netip.Prefix, p Probe, toServer bool, to string) {
	first := s.plan.cfg.Priority
	if rule.Priority >= first || len(s.detours) == maxDetours || slices.ContainsFunc(s.detours, func(d *Detour) bool { return d.Rule == rule }) {
		return
	}
	what := fmt.Sprintf("packets from %v", prefix)
	if toServer {
		what = fmt.Sprintf("packets to %v", prefix)
	}
	does := fmt.Sprintf("takes %s that come in by %s around levee, to %s", what, p.Iif, to)
	if to == "" {
		does = fmt.Sprintf("drops %s that come in by %s", what, p.Iif)
	}
	s.detours = append(s.detours, &Detour{
		Rule:   rule,
		Text:   fmt.Sprintf("the %v rule \"%v\" is ahead of levee's and %s", rule.Family, rule, does),
		Remedy: s.plan.cfg.getAhead(s.live, rule),
	})
}

// Blame says what of somebody else's the kernel can have gone by in sending a packet the way that it did, the zero Way for nowhere, and what to do about it.
func (p *Plan) Blame(live *Live, probe Probe, way Way) (cause string, ok bool) {
	if way.Table == p.cfg.Table {
		bits := -1
		for _, r := range live.Routes {
			if !r.Own() && r.Table == way.Table && r.Dst.Contains(probe.Dst.Addr()) && r.Dst.Bits() > bits {
				bits, cause = r.Dst.Bits(), fmt.Sprintf("the route \"%v\", which is not levee's: delete it, or choose another routing.table", r)
			}
		}
		return cause, bits >= 0
	}
	rule, ok := live.RuleFor(probe, way.Table)
	if !ok || rule.Own() || rule.Priority > p.cfg.Priority+fromServers {
		return "", false
	}
	return fmt.Sprintf("the rule \"%v\", which is ahead of levee's: %s", rule, p.cfg.getAhead(live, rule)), true
}

// getAhead says how a rule of somebody else's comes behind levee's.
func (c *Config) getAhead(live *Live, rule Rule) string {
	remedy := fmt.Sprintf("give it a priority above %d", c.Priority+prioritySpan-1)
	for p := rule.Priority - prioritySpan; p > 0; p-- {
		if !slices.ContainsFunc(live.Rules, func(r Rule) bool { return r.Priority >= p && r.Priority < p+prioritySpan }) {
			return fmt.Sprintf("set routing.priority to %d, or %s", p, remedy)
		}
	}
	return remedy
}

// sampleRule asks about connections of a prefix that a rule asks for, if such come to levee.
func (s *sampler) sampleRule(prefix netip.Prefix, ports [][2]uint16, r *Rule) {
	if r.Family != familyOf(prefix) || r.asks.not || r.asks.never {
		return
	}
	if server, ok := common(prefix, r.Dst); ok {
		if port, ok := commonPort(ports, r.asks.dport); ok {
			s.sampleEnds(prefix, r, r.Src, server, max(r.asks.sport[0], somePort), port, 0)
		}
	}
	if server, ok := common(prefix, r.Src); ok {
		// A port that no client has is that of a connection which the server opens.
		port, ok := commonPort(ports, r.asks.sport)
		if d := r.asks.dport; ok && (d == [2]uint16{} || d[1] >= somePort) {
			s.sampleEnds(prefix, r, r.Dst, server, max(d[0], somePort), port, 1)
		}
	}
}

// sampleEnds asks about a connection between a server and a client that is in a prefix, or anybody if that isn't valid; part is which of its ways the rule is about.
func (s *sampler) sampleEnds(prefix netip.Prefix, r *Rule, from netip.Prefix, server netip.Prefix, clientPort, serverPort uint16, part int) {
	var clients []end
	if from.IsValid() && from.Bits() > 0 {
		addr := middle(from)
		// As for explain, he comes in by the interface that leads to him. Who has an address of the gateway's own has none.
		if iif := s.wayTo(addr); slices.Contains(s.plan.sides.clients, iif) && !s.plan.protects(addr) {
			clients = []end{{iif, addr}}
		}
	} else {
		clients = s.clients(r.Family)
		if part == 0 && r.Iif != "" && slices.Contains(s.plan.sides.clients, r.Iif) {
			clients = s.behind(r.Family, r.Iif)
		}
	}
	for _, client := range clients {
		probe := Probe{Iif: client.iif, Src: netip.AddrPortFrom(client.addr, clientPort), Dst: netip.AddrPortFrom(middle(server), serverPort)}
		iif := s.wayTo(middle(server))
		if part == 1 {
			probe.Iif, probe.Src, probe.Dst = iif, probe.Dst, probe.Src
			if !slices.Contains(s.plan.sides.servers, iif) {
				continue
			}
		}
		if iif != "" {
			s.judge(prefix, probe, part == 0)
		}
	}
}

// protects says whether an address is in a protected prefix.
func (p *Plan) protects(a netip.Addr) bool {
	return slices.ContainsFunc(p.cfg.Prefixes, func(prefix netip.Prefix) bool { return prefix.Contains(a) })
}

// clients are some that stand for all, by each of the interfaces where only they are, or else by any.
func (s *sampler) clients(f Family) (out []end) {
	for _, alone := range []bool{true, false} {
		for _, name := range s.plan.sides.clients {
			if alone && slices.Contains(s.plan.sides.servers, name) {
				continue
			}
			out = append(out, s.behind(f, name)...)
		}
		if len(out) > 0 {
			break
		}
	}
	return out[:min(len(out), maxEnds)]
}

// behind are clients that come in by an interface: a neighbour, or somebody by the default route, as far as the main table leads to such.
func (s *sampler) behind(f Family, name string) (out []end) {
	for _, w := range s.live.Ways {
		if w.Family != f || w.Interfaces[0] != name {
			continue
		}
		addrs := spread(w.Dst)
		if w.Dst.Bits() == 0 {
			addrs = []netip.Addr{someone(f)}
		}
		for _, a := range addrs {
			if s.wayTo(a) != "" && !s.plan.protects(a) {
				out = append(out, end{name, a})
				break
			}
		}
	}
	return out
}

// someone is far away. Not of an example's prefix: a table may drop those.
func someone(f Family) netip.Addr {
	if f == V6 {
		return netip.MustParseAddr("2606:4700:4700::1111")
	}
	return netip.MustParseAddr("1.1.1.1")
}

// wayTo returns the interface that leads to an address, as the gateway's own packets go; empty if none does, or it is the gateway's own.
func (s *sampler) wayTo(a netip.Addr) string {
	name, known := s.ways[a]
	if !known && s.left > 0 {
		s.left--
		if way, oif, err := ask(Probe{Dst: netip.AddrPortFrom(a, somePort)}, 0); err == nil && !way.Local {
			l, _ := s.live.linkByIndex(oif)
			name = l.Name
		}
		s.ways[a] = name
	}
	return name
}

// spread returns addresses all over a prefix: from the middle, the beginning and the end, without the first and the last of all.
func spread(p netip.Prefix) []netip.Addr {
	last := lastOf(p)
	out := []netip.Addr{middle(p)}
	if last.BitLen()-p.Bits() >= 2 {
		out = append(out, p.Addr().Next(), last.Prev())
	}
	return slices.Compact(out)
}

// middle returns the first address of the second half of a prefix.
func middle(p netip.Prefix) netip.Addr {
	a := p.Masked().Addr().AsSlice()
	if i := p.Bits(); i < len(a)*8 {
		a[i/8] |= 0x80 >> (i % 8)
	}
	out, _ := netip.AddrFromSlice(a)
	return out
}

// common returns the narrower of two prefixes that overlap; one that isn't valid has all addresses.
func common(p, q netip.Prefix) (netip.Prefix, bool) {
	if !q.IsValid() {
		return p, true
	}
	if p.Bits() > q.Bits() {
		return p, p.Overlaps(q)
	}
	return q, p.Overlaps(q)
}

// commonPort returns a port of a rule's range that is in one of the others; a range of 0 has all.
func commonPort(ports [][2]uint16, r [2]uint16) (uint16, bool) {
	for _, p := range ports {
		switch {
		case r == [2]uint16{}:
			return p[0], true
		case max(p[0], r[0]) <= min(p[1], r[1]):
			return max(p[0], r[0]), true
		}
	}
	return 0, false
}
