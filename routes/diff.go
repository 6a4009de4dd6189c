package routes

import (
	"slices"
	"strings"
)

// Diff is what separates the kernel from a plan.
type Diff struct {
	// TUNMissing and TUNDown are about the link that all else hangs on.
	TUNMissing, TUNDown bool
	// MissingRules and MissingRoutes are the plan's, but not the kernel's.
	MissingRules  []Rule
	MissingRoutes []Route
	// StaleRules and StaleRoutes carry levee's tag, but aren't the plan's.
	StaleRules  []Rule
	StaleRoutes []Route
	// Sysctls are values that are not the plan's.
	Sysctls []SysctlDiff
	// NotrackMissing: protected traffic is not exempted from connection tracking as planned; NotrackStale: there is a table of levee's that is not, or no
	// longer, the plan's.
	NotrackMissing, NotrackStale bool
	// NotrackHidden: the caller may not look at nftables, so that neither is known.
	NotrackHidden bool
	// DownInterfaces and MissingInterfaces are the plan's interfaces where no packet comes in now.
	DownInterfaces, MissingInterfaces []string
	// Foreign are rules and routes of somebody else's that are in the way, each with the remedy.
	Foreign []error

	up     string   // the command that brings the TUN up
	exempt []string // those that make the exemption
}

// SysctlDiff is one sysctl that is not as planned.
type SysctlDiff struct {
	// Key is the path below /proc/sys. Want is what the plan says, Have what the kernel has, and
	// Missing is set if it has no such key.
	Key, Want, Have string
	Missing         bool
}

// Diff compares the plan with the kernel as in live.
func (p *Plan) Diff(live Live) Diff {
	d := Diff{Foreign: p.foreign(&live), up: p.linkUp(), exempt: p.exempt.commands()}
	wanted := p.wantsExemption(&live)
	same := wanted && slices.Equal(live.Exemption, p.exempt.contents())
	d.NotrackHidden = live.exemptionHidden
	d.NotrackMissing = wanted && !same && !d.NotrackHidden && !live.foreignExemption
	d.NotrackStale = live.Exemption != nil && !live.foreignExemption && !same
	link, ok := live.link(p.cfg.TUN)
	d.TUNMissing, d.TUNDown = !ok, ok && !link.Up
	for _, name := range p.Interfaces() {
		switch l, ok := live.link(name); {
		case !ok:
			d.MissingInterfaces = append(d.MissingInterfaces, name)
		case !l.Up:
			d.DownInterfaces = append(d.DownInterfaces, name)
		}
	}
	for _, r := range p.rules {
		if !slices.Contains(live.Rules, r) {
			d.MissingRules = append(d.MissingRules, r)
		}
	}
	for _, r := range live.Rules {
		if r.Own() && !slices.Contains(p.rules, r) {
			d.StaleRules = append(d.StaleRules, r)
		}
	}
	for _, r := range p.routes {
		if !slices.ContainsFunc(live.Routes, r.equal) {
			d.MissingRoutes = append(d.MissingRoutes, r)
		}
	}
	for _, r := range live.Routes {
		if r.Own() && !slices.ContainsFunc(p.routes, r.equal) {
			d.StaleRoutes = append(d.StaleRoutes, r)
		}
	}
	for _, s := range p.sysctls {
		have, ok := live.Sysctls[s.key]
		if (ok && have == s.value) || (!ok && s.optional) {
			continue
		}
		d.Sysctls = append(d.Sysctls, SysctlDiff{Key: s.key, Want: s.value, Have: have, Missing: !ok})
	}
	return d
}

// Empty says whether the kernel is as planned; it isn't said of what can't be looked at. That an interface is down or missing is not levee's to change.
func (d Diff) Empty() bool {
	return !d.TUNMissing && !d.TUNDown && !d.NotrackMissing && !d.NotrackStale && !d.NotrackHidden && len(d.MissingRules)+len(d.MissingRoutes)+len(d.StaleRules)+len(d.StaleRoutes)+len(d.Sysctls)+len(d.Foreign) == 0
}

// String returns one line for each difference, nothing if there is none: "!" for what is in the way, "?" for what can't be looked at, "-" for
// the command that deletes something stale, "+" for the command that adds something missing and "~" for the one
// that changes a value.
func (d Diff) String() string {
	var b strings.Builder
	for _, s := range d.Steps() {
		b.WriteString(s.String() + "\n")
	}
	return b.String()
}
