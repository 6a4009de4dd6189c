package routes

import "strings"

// String returns the plan as the `ip` and `sysctl` commands that do the same by hand, one on a line, in the
// order in which Apply does them, with comments. The same plan gives the same text.
func (p *Plan) String() string {
	var b strings.Builder
	for _, note := range p.Notes() {
		b.WriteString("# " + note + "\n")
	}
	why := ""
	for _, s := range p.Steps() {
		if s.Text != why {
			why = s.Text
			b.WriteString("# " + why + "\n")
		}
		b.WriteString(s.Command + "\n")
	}
	return b.String()
}

func (p *Plan) linkUp() string { return upCommand(p.cfg.TUN) }

// quote makes s one word for a shell. The kernel allows nearly everything in an interface's name.
func quote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/@=+,") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
