package routes

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Finding is something about the machine that keeps levee from working, or from working well.
type Finding struct {
	// What it is about, one word for programs to go by.
	What string `json:"what"`
	// Fatal: with this the services don't work, or levee doesn't start.
	Fatal bool `json:"fatal"`
	// Text says what is wrong and what comes of it, in one line.
	Text string `json:"text"`
	// Remedy is the command that mends it, or what to write into the configuration; one line.
	Remedy string `json:"remedy"`
}

// Inspect looks for what is in the way of cfg on a machine as in live. plan is nil if the operator does the routing himself, or if there is none because of
// something that is a finding already. It changes nothing.
func Inspect(cfg Config, live Live, plan *Plan) (out []Finding) {
	add := func(f Finding) { out = append(out, f) }
	for _, f := range []Family{V4, V6} {
		if slices.ContainsFunc(cfg.Prefixes, func(p netip.Prefix) bool { return familyOf(p) == f }) {
			inspectForwarding(f, &live, plan, add)
		}
	}
	inspectReversePath(&cfg, &live, plan, add)
	inspectTracking(&cfg, &live, plan, add)
	if plan == nil {
		return out
	}
	inspectLinks(&live, plan, add)
	inspectWays(&live, plan, add)
	inspectRules(&live, plan, add)
	return out
}

// InspectConflicts are the findings that keep a plan from being made, from the error that NewPlan has returned.
func InspectConflicts(cfg Config, live Live, err error) (out []Finding) {
	// Where the error says only that another number will do, a number can be said here.
	for _, r := range live.Rules {
		if !r.Own() && r.Table == cfg.Table {
			return []Finding{tableTaken(&cfg, &live, fmt.Sprintf("the %v rule \"%v\"", r.Family, r))}
		}
		if last := cfg.Priority + prioritySpan - 1; !r.Own() && r.Priority >= cfg.Priority && r.Priority <= last {
			return []Finding{{
				What: "priority", Fatal: true,
				Text:   fmt.Sprintf("rule priorities %d-%d are taken: the %v rule \"%v\" is not levee's", cfg.Priority, last, r.Family, r),
				Remedy: fmt.Sprintf("set routing.priority to %d", freePriority(&live)),
			}}
		}
	}
	for _, r := range live.Routes {
		if r.Table == cfg.Table && !r.Own() {
			return []Finding{tableTaken(&cfg, &live, fmt.Sprintf("the %v route \"%v\"", r.Family, r))}
		}
	}
	what := "plan"
	gone, down := (*noInterfaceError)(nil), (*downError)(nil)
	if errors.As(err, &gone) || errors.As(err, &down) {
		what = "interface"
	}
	return []Finding{Refusal(what, err)}
}

// Refusal is the finding about what keeps levee from starting, from an error that ends with the remedy.
func Refusal(what string, err error) Finding {
	text, remedy := err.Error(), ""
	if i := max(strings.LastIndex(text, ": "), strings.LastIndex(text, "; ")); i > 0 {
		text, remedy = text[:i], text[i+2:]
	}
	return Finding{What: what, Fatal: true, Text: text, Remedy: remedy}
}

func tableTaken(cfg *Config, live *Live, by string) Finding {
	free := cfg.Table + 1
	for slices.ContainsFunc(live.Rules, func(r Rule) bool { return r.Table == free }) || free >= 253 && free <= 255 {
		free++
	}
	return Finding{
		What: "table", Fatal: true, Text: fmt.Sprintf("routing table %d is taken: %s is not levee's", cfg.Table, by),
		Remedy: fmt.Sprintf("set routing.table to %d", free),
	}
}

// freePriority is the lowest from 1000 on, in steps of 100, with room for levee's rules.
func freePriority(live *Live) int {
	for p := 1000; ; p += 100 {
		if !slices.ContainsFunc(live.Rules, func(r Rule) bool { return r.Priority >= p && r.Priority < p+prioritySpan }) {
			return p
		}
	}
}

// inspectForwarding: levee turns forwarding on, but it has to be on while levee doesn't run, too.
func inspectForwarding(f Family, live *Live, plan *Plan, add func(Finding)) {
	all := keyForward4
	if f == V6 {
		all = keyForward6
	}
	if live.Sysctls[all] == "0" {
		finding := Finding{What: "forwarding", Text: fmt.Sprintf("%v is not forwarded: levee run turns that on, and its end turns it off again", f),
			Remedy: sysctl{key: all, value: "1"}.command()}
		if plan == nil {
			finding.Fatal, finding.Text = true, fmt.Sprintf("%v is not forwarded, and routing.manage is false: nothing gets through", f)
		}
		add(finding)
		return
	}
	if plan == nil {
		return
	}
	key := func(name string) string { return confKey(f, name+"/forwarding") }
	off := slices.DeleteFunc(plan.interfaces(), func(name string) bool { return live.Sysctls[key(name)] != "0" })
	for _, name := range off {
		finding := Finding{What: "forwarding", Fatal: true, Text: fmt.Sprintf("%v that comes in by %s is not forwarded", f, name),
			Remedy: sysctl{key: key(name), value: "1"}.command()}
		if plan.Spares(name, off) {
			finding.Fatal, finding.Text, finding.Remedy = false, finding.Text+": clients behind it don't reach the services", plan.Without(off)
		}
		add(finding)
	}
}

// interfaces are those of both sides, each once.
func (p *Plan) interfaces() []string {
	all := slices.Concat(p.sides.clients, p.sides.servers)
	slices.Sort(all)
	return slices.Compact(all)
}

// inspectReversePath: the kernel checks by the larger of an interface's value and that of all; 1 is strict, 2 loose.
func inspectReversePath(cfg *Config, live *Live, plan *Plan, add func(Finding)) {
	strict := func(device string) bool {
		return max(live.Sysctls[confKey(V4, "all/rp_filter")], live.Sysctls[confKey(V4, device+"/rp_filter")]) == "1"
	}
	loose := func(device string) string { return sysctl{key: confKey(V4, device+"/rp_filter"), value: "2"}.command() }
	if plan == nil {
		device := cfg.TUN
		if _, ok := live.link(device); !ok {
			device = "default" // which the TUN will have
		}
		if strict(device) {
			add(Finding{What: "rp_filter", Fatal: true,
				Text:   fmt.Sprintf("the reverse path check of %s is strict, and routing.manage is false: packets from levee, which have addresses of either side, are dropped", cfg.TUN),
				Remedy: loose(device)})
		}
		return
	}
	if !slices.Contains(plan.families, V4) {
		return
	}
	// With one interface toward clients there is no other that an answer could take.
	var clients []string
	for _, name := range plan.sides.clients {
		if !slices.Contains(plan.sides.servers, name) {
			clients = append(clients, name)
		}
	}
	if len(clients) < 2 {
		return
	}
	for _, name := range clients {
		if strict(name) {
			add(Finding{What: "rp_filter",
				Text:   fmt.Sprintf("the reverse path check of %s is strict: packets of clients to whom the way leads by another interface are dropped", name),
				Remedy: loose(name)})
		}
	}
}

// inspectTracking: see exemption.
func inspectTracking(cfg *Config, live *Live, plan *Plan, add func(Finding)) {
	if !live.Tracking || plan != nil && plan.wantsExemption(live) {
		return
	}
	why, remedy := "routing.notrack is off", "set routing.notrack to auto"
	if plan == nil {
		why, remedy = "routing.manage is false", "exempt it in nftables, as levee plan shows with routing.manage set to true"
	}
	add(Finding{What: "conntrack",
		Text: "connections are tracked and " + why + ": rules that drop ct state invalid break proxied connections, path MTU discovery and resets, " +
			"and a flood fills the kernel's table",
		Remedy: remedy})
}

// inspectLinks: what is down carries nothing. Where servers are behind it, it may be in no plan, because their prefix has another route, as the default one.
func inspectLinks(live *Live, plan *Plan, add func(Finding)) {
	planned := plan.interfaces()
	for _, l := range live.Links {
		if !l.Up && slices.Contains(planned, l.Name) || live.wouldLead(&l, plan.exempt.prefixes...) {
			add(Finding{What: "interface", Text: fmt.Sprintf("interface %s is down", l.Name), Remedy: upCommand(l.Name)})
		}
	}
}

// inspectWays: both directions of a connection have to pass levee, so the ways to either side must lead by interfaces that it takes packets from.
func inspectWays(live *Live, plan *Plan, add func(Finding)) {
	var toServers, toClients []Route
	for _, p := range plan.exempt.prefixes {
		toServers = append(toServers, routesTo(p, live)...)
	}
	for _, r := range live.Routes {
		if r.Table == unix.RT_TABLE_MAIN && !r.Own() && r.Dst.Bits() == 0 && slices.Contains(plan.families, r.Family) && !slices.ContainsFunc(toServers, r.equal) {
			toClients = append(toClients, r)
		}
	}
	for _, side := range []struct {
		key, of    string
		interfaces []string
		ways       []Route
	}{
		{"routing.server_interfaces", "servers", plan.sides.servers, toServers},
		{"routing.client_interfaces", "clients", plan.sides.clients, toClients},
	} {
		var missing []string
		for _, r := range side.ways {
			for _, name := range r.Interfaces {
				if l, ok := live.link(name); ok && !l.Loopback && !slices.Contains(side.interfaces, name) && !slices.Contains(missing, name) {
					missing = append(missing, name)
				}
			}
		}
		slices.Sort(missing)
		for _, name := range missing {
			add(Finding{What: "asymmetry",
				Text: fmt.Sprintf("a way to %s leads by %s, which is not in %s: what comes in there goes around levee, and breaks connections of which levee sees the other direction",
					side.of, name, side.key),
				Remedy: fmt.Sprintf("set %s to [%s], or to auto", side.key, strings.Join(append(slices.Clone(side.interfaces), name), ", "))})
		}
	}
	inspectNeighbours(live, plan, toClients, add)
}

// inspectNeighbours looks for networks next to the gateway, or behind routes of their own, whose hosts are no clients because their interface isn't named. That may well
// be meant, but they can't use the services, so it is one warning for all of them.
func inspectNeighbours(live *Live, plan *Plan, toClients []Route, add func(Finding)) {
	if len(plan.cfg.ClientInterfaces) == 0 {
		return // auto has its reasons
	}
	var names, networks []string
	for _, w := range live.Ways {
		name := w.Interfaces[0]
		if l, ok := live.link(name); !ok || l.Loopback || name == plan.cfg.TUN || w.Dst.Bits() == 0 || !slices.Contains(plan.families, w.Family) ||
			slices.Contains(plan.Interfaces(), name) || slices.Contains(names, name) ||
			slices.ContainsFunc(toClients, func(r Route) bool { return slices.Contains(r.Interfaces, name) }) {
			continue
		}
		names, networks = append(names, name), append(networks, fmt.Sprintf("%s (%v)", name, w.Dst))
	}
	if len(names) == 0 {
		return
	}
	slices.Sort(names)
	slices.Sort(networks)
	add(Finding{What: "asymmetry",
		Text: fmt.Sprintf("hosts behind %s can't use the services: routing.client_interfaces doesn't name the interface, so what they send goes around levee, but the answers don't",
			listed(networks)),
		Remedy: fmt.Sprintf("if they are to, set routing.client_interfaces to [%s], or to auto", strings.Join(append(plan.ClientInterfaces(), names...), ", "))})
}

// inspectRules: what rules ahead of levee's take doesn't come to it, and connections break of which only one direction does.
func inspectRules(live *Live, plan *Plan, add func(Finding)) {
	detours, whole := plan.Around(live)
	for _, d := range detours {
		add(Finding{What: "rule", Fatal: whole, Text: d.Text, Remedy: d.Remedy})
	}
}
