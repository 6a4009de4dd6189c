package routes

import (
	"fmt"
	"strings"
)

// Change is what a step does to the kernel's state.
type Change string

// The changes. Conflict is something of somebody else's in the way, which levee doesn't touch; Unknown is what can't be looked at.
const (
	ChangeAdd      Change = "add"
	ChangeDelete   Change = "delete"
	ChangeSet      Change = "set"
	ChangeConflict Change = "conflict"
	ChangeUnknown  Change = "unknown"
)

// What a step is about, one word for programs to go by.
const (
	AboutTUN     = "tun"
	AboutSysctl  = "sysctl"
	AboutNotrack = "notrack"
	AboutRoute   = "route"
	AboutRule    = "rule"
)

// Step is one command of a plan, or one difference between the kernel and a plan.
type Step struct {
	// About is what it is about: AboutTUN and so on; empty where several things are in the way.
	About  string `json:"about"`
	Change Change `json:"change"`
	// Command does it by hand, in one line; empty where no command of levee's would help.
	Command string `json:"command"`
	// Text says why a plan has it or, of a difference, how it is now. It may be empty.
	Text string `json:"text"`
}

// Mark returns what a line of a diff begins with: + - ~ ! or ?.
func (s Step) Mark() string {
	switch s.Change {
	case ChangeAdd:
		return "+"
	case ChangeDelete:
		return "-"
	case ChangeSet:
		return "~"
	case ChangeConflict:
		return "!"
	}
	return "?"
}

// String returns the step as a line of a diff.
func (s Step) String() string {
	switch {
	case s.Command == "":
		return s.Mark() + " " + s.Text
	case s.Text == "":
		return s.Mark() + " " + s.Command
	}
	return s.Mark() + " " + s.Command + " # " + s.Text
}

// Steps returns the commands that do what Apply does, in its order, each with why it is there.
func (p *Plan) Steps() (out []Step) {
	for _, s := range p.sysctls {
		out = append(out, Step{AboutSysctl, ChangeSet, s.command(), s.why})
	}
	if p.exempting {
		for _, command := range p.exempt.commands() {
			out = append(out, Step{AboutNotrack, ChangeAdd, command,
				"Connection tracking would take each segment for two: exempt protected traffic, in both of its passes."})
		}
	}
	const routesFirst = "Routes before rules, so that no rule leads nowhere."
	out = append(out, Step{AboutTUN, ChangeSet, p.linkUp(), routesFirst})
	for _, r := range p.routes {
		why := routesFirst
		if r.leadsNowhere() {
			why = fmt.Sprintf("While there is no %s, its traffic is dropped too (routing.on_failure: block).", p.cfg.TUN)
		}
		out = append(out, Step{AboutRoute, ChangeAdd, r.command("add"), why})
	}
	for _, r := range p.rules {
		out = append(out, Step{AboutRule, ChangeAdd, r.command("add"),
			fmt.Sprintf("%v: what levee sends is routed as usual, never back to it. Then, what it takes.", r.Family)})
	}
	return out
}

// Notes returns what there is to say about the plan besides its commands, a sentence or two each.
func (p *Plan) Notes() []string {
	notes := []string{fmt.Sprintf("Clients on %s; servers on %s; through %s.",
		strings.Join(p.sides.clients, ", "), strings.Join(p.sides.servers, ", "), p.cfg.TUN)}
	notes = append(notes, p.sides.notes...)
	notes = append(notes, p.notes...)
	return append(notes, fmt.Sprintf("First, rules and routes with protocol %d that aren't listed here are deleted: they are left over.", Protocol))
}

// Steps returns the differences, in the order in which they are put right.
func (d Diff) Steps() (out []Step) {
	for _, err := range d.Foreign {
		out = append(out, Step{"", ChangeConflict, "", err.Error()})
	}
	for _, r := range d.StaleRules {
		out = append(out, Step{AboutRule, ChangeDelete, r.command("del"), ""})
	}
	for _, r := range d.StaleRoutes {
		out = append(out, Step{AboutRoute, ChangeDelete, r.command("del"), ""})
	}
	if d.NotrackStale {
		out = append(out, Step{AboutNotrack, ChangeDelete, exemptDelete, ""})
	}
	for _, s := range d.Sysctls {
		state := "is " + s.Have
		if s.Missing {
			state = "does not exist"
		}
		out = append(out, Step{AboutSysctl, ChangeSet, sysctl{key: s.Key, value: s.Want}.command(), state})
	}
	switch {
	case d.TUNMissing:
		out = append(out, Step{AboutTUN, ChangeAdd, d.up, "does not exist"})
	case d.TUNDown:
		out = append(out, Step{AboutTUN, ChangeAdd, d.up, "is down"})
	}
	if d.NotrackMissing {
		for _, command := range d.exempt {
			out = append(out, Step{AboutNotrack, ChangeAdd, command, ""})
		}
	}
	if d.NotrackHidden {
		out = append(out, Step{AboutNotrack, ChangeUnknown, "", "the exemption from connection tracking can't be seen without CAP_NET_ADMIN: run this as root"})
	}
	for _, r := range d.MissingRoutes {
		out = append(out, Step{AboutRoute, ChangeAdd, r.command("add"), ""})
	}
	for _, r := range d.MissingRules {
		out = append(out, Step{AboutRule, ChangeAdd, r.command("add"), ""})
	}
	return out
}
