package routes

import (
	"fmt"
	"strings"
)

// String returns the plan as the `ip` and `sysctl` commands that do the same by hand, one on a line, in the
// order in which Apply does them, with comments. The same plan gives the same text.
func (p *Plan) String() string {
	var b strings.Builder
	comment := func(format string, args ...any) { fmt.Fprintf(&b, "# "+format+"\n", args...) }
	comment("Clients on %s; servers on %s; through %s.", strings.Join(p.sides.clients, ", "), strings.Join(p.sides.servers, ", "), p.cfg.TUN)
	for _, note := range append(append([]string(nil), p.sides.notes...), p.notes...) {
		comment("%s", note)
	}
	comment("First, rules and routes with protocol %d that aren't listed here are deleted: they are left over.", Protocol)
	why := ""
	for _, s := range p.sysctls {
		if s.why != why {
			why = s.why
			comment("%s", why)
		}
		b.WriteString(s.command() + "\n")
	}
	if p.exempting {
		comment("Connection tracking would take each segment for two: exempt protected traffic, in both of its passes.")
		for _, command := range p.exempt.commands() {
			b.WriteString(command + "\n")
		}
	}
	comment("Routes before rules, so that no rule leads nowhere.")
	b.WriteString(p.linkUp() + "\n")
	for _, r := range p.routes {
		b.WriteString(r.command("add") + "\n")
	}
	for _, r := range p.rules {
		if r.Priority == p.cfg.Priority+loopBreaker {
			comment("%v: what levee sends is routed as usual, never back to it. Then, what it takes.", r.Family)
		}
		b.WriteString(r.command("add") + "\n")
	}
	return b.String()
}

func (p *Plan) linkUp() string { return "ip link set dev " + quote(p.cfg.TUN) + " up" }

// quote makes s one word for a shell. The kernel allows nearly everything in an interface's name.
func quote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/@=+,") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
