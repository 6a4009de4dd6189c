package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"levee/cmd/levee/control"
	"levee/proxy"
)

// topSort is what the services are sorted by.
type topSort int

// The orders.
const (
	sortSYN topSort = iota
	sortBad
	sortOpened
	sortFails
	sortFlows
	sortName
	numTopSorts
)

// String returns the title of the column.
func (s topSort) String() string {
	return [...]string{"SYN/s", "BAD/s", "OPEN/s", "FAIL/s", "FLOWS", "name"}[s]
}

// topView is what a frame of top is made from.
type topView struct {
	history       *topHistory
	every         time.Duration
	sort          topSort
	paused        bool
	problem       string // why the latest look failed, empty if it didn't
	width, height int
	paint         painter
}

// Sizes of a screen; one that is smaller shows a part.
const (
	minTopWidth  = 40
	topHelp      = "q quit   p pause   s sort"
	topSparkHead = 29 // columns before a sparkline
)

// frame returns the lines of the screen, height of them at most, none wider than width.
func (v topView) frame() []string {
	width := max(v.width, minTopWidth)
	last := v.history.last
	if last == nil {
		return []string{"levee top: waiting for the daemon", v.problem}
	}
	s, now := &last.status, v.history.now()
	head := v.head(s, width)
	head = append(head, v.sparks(width)...)
	head = append(head, v.floods(s, width)...)
	head = append(head, "")
	services := v.services(s, &now, width)
	reasons := v.reasons(s, &now, width)
	foot := v.foot(width)
	// The services give way first, but never below three lines, then the reasons; below is the help.
	space := max(v.height-len(foot), 0)
	room := max(space-len(head)-1, 0)
	services = shorten(services, max(room-len(reasons), min(4, room)))
	reasons = shorten(reasons, max(room-len(services), 0))
	lines := slices.Concat(head, services, []string{""}, reasons)
	lines = lines[:min(len(lines), space)]
	for len(lines) < space {
		lines = append(lines, "")
	}
	return append(lines, foot...)
}

// foot is the help, or why there is nothing new.
func (v topView) foot(width int) (lines []string) {
	if v.problem == "" {
		return []string{fmt.Sprintf("%s (now by %v)", topHelp, v.sort)}
	}
	for _, line := range wrap("no answer: "+v.problem, width) {
		lines = append(lines, v.paint.paint(red, clipRunes(line, width)))
	}
	return lines[:max(min(len(lines), v.height/4), 1)]
}

// shorten leaves out rows from the end, and says how many.
func shorten(lines []string, room int) []string {
	if len(lines) <= room {
		return lines
	}
	if room < 2 {
		return lines[:room]
	}
	return append(slices.Clone(lines[:room-1]), fmt.Sprintf("... %d more", len(lines)-room+1))
}

func (v topView) head(s *control.Status, width int) []string {
	ready, colour := "ready", green
	if !s.Ready {
		ready, colour = "NOT READY", red
	}
	title := fmt.Sprintf("levee %s, up %v, ", clip(s.Version, 24), time.Duration(s.UptimeSeconds)*time.Second)
	right := fmt.Sprintf("every %v  %s", v.every, v.history.last.at.Local().Format(time.TimeOnly))
	if v.problem != "" { // all of this is of then
		ready, colour = "NO ANSWER", red
		right = "as of " + v.history.last.at.Local().Format(time.TimeOnly)
	}
	if v.paused {
		right = "PAUSED  " + v.history.last.at.Local().Format(time.TimeOnly)
	}
	if len(title)+len(ready)+1+len(right) > width {
		right = ""
	}
	title = clipRunes(title, width-len(ready))
	gap := max(width-len(title)-len(ready)-len(right), 0)
	flows := fmt.Sprintf("flows %d open, %d opening, %d closing, %d remembered of %d", s.Flows.Open, s.Flows.Opening, s.Flows.Closing, s.Flows.Remembered, s.Flows.Capacity)
	if s.Drain != nil {
		flows = strings.ToUpper(string(s.Drain.State)) + "; " + flows
	}
	return []string{title + v.paint.paint(colour, ready) + strings.Repeat(" ", gap) + clipRunes(right, width), clipRunes(flows, width)}
}

// sparks are the totals over time.
func (v topView) sparks(width int) (lines []string) {
	for _, total := range []struct {
		title string
		of    func(r *topRates) float64
		paint colour
	}{
		{"SYN/s", func(r *topRates) float64 { return r.syn }, plain},
		{"opened/s", func(r *topRates) float64 { return r.opened }, green},
		{"failed/s", func(r *topRates) float64 { return r.fails }, red},
		{"dropped/s", func(r *topRates) float64 { return r.dropped }, yellow},
		{"bit/s", func(r *topRates) float64 { return r.bits }, plain},
	} {
		values := make([]float64, len(v.history.rates))
		for i := range v.history.rates {
			values[i] = total.of(&v.history.rates[i])
		}
		now, most := 0.0, 0.0
		values = values[max(len(values)-(width-topSparkHead), 0):]
		if len(values) > 0 {
			now, most = values[len(values)-1], slices.Max(values)
		}
		line := fmt.Sprintf("%-9s %6s  max %6s ", total.title, rate(now), rate(most))
		lines = append(lines, line+v.paint.paint(total.paint, sparkline(values, most)))
	}
	return lines
}

// sparkline draws one character a value, the highest for most.
func sparkline(values []float64, most float64) string {
	bars := []rune("▁▂▃▄▅▆▇█")
	var b strings.Builder
	for _, x := range values {
		switch {
		case x <= 0 || most <= 0:
			b.WriteByte(' ')
		default:
			b.WriteRune(bars[min(int(x/most*float64(len(bars))), len(bars)-1)])
		}
	}
	return b.String()
}

// floods says which services are flooded, in a line for each.
func (v topView) floods(s *control.Status, width int) (lines []string) {
	for _, service := range s.Services {
		if service.FloodSeconds == 0 {
			continue
		}
		text := fmt.Sprintf("FLOOD  %s for %s", clip(service.Name, 20), age(service.FloodSeconds))
		switch e := service.Engagement; {
		case e == nil:
		case !e.Engaged || service.Mode == proxy.ModeMonitor.String():
			text += ", only watched"
		case e.Spread:
			text += ", all of it answered with cookies"
		default:
			text += fmt.Sprintf(", %s answered with cookies", count(e.Destinations, "destination"))
		}
		if e := service.Engagement; e != nil {
			text += fmt.Sprintf(", %s SYN/s at most", rate(float64(e.PeakSynRate)))
		}
		lines = append(lines, v.paint.paint(red, clipRunes(text, width)))
	}
	if len(lines) == 0 {
		return []string{"no flood"}
	}
	return shorten(lines, 4)
}

// services is a table of them.
func (v topView) services(s *control.Status, now *topRates, width int) []string {
	const row = "%-20s %-9s %7s %7s %7s %7s %7s %9s"
	lines := []string{clipRunes(fmt.Sprintf(row, "SERVICE", "MODE", "SYN/s", "GOOD/s", "BAD/s", "OPEN/s", "FAIL/s", "FLOWS"), width)}
	sorted := slices.Clone(s.Services)
	key := func(x *control.Service) float64 {
		r := now.services[x.Name]
		switch v.sort {
		case sortSYN:
			return r.syn
		case sortBad:
			return r.bad
		case sortOpened:
			return r.opened
		case sortFails:
			return r.fails
		case sortFlows:
			return float64(x.Flows)
		}
		return 0
	}
	slices.SortStableFunc(sorted, func(a, b control.Service) int {
		return cmp.Or(cmp.Compare(key(&b), key(&a)), strings.Compare(a.Name, b.Name))
	})
	for _, service := range sorted {
		r := now.services[service.Name]
		mode := service.Mode
		if service.Engagement != nil && service.Engagement.Engaged {
			mode += "*"
		}
		line := fmt.Sprintf(row, clip(service.Name, 20), mode, rate(r.syn), rate(r.valid), rate(r.bad), rate(r.opened), rate(r.fails), rate(float64(service.Flows)))
		line = clipRunes(line, width)
		if service.FloodSeconds > 0 {
			line = v.paint.paint(red, line)
		}
		lines = append(lines, line)
	}
	return lines
}

// reasons lists what is dropped on the left and what is passed on the right: what happens now first, then what has happened.
func (v topView) reasons(s *control.Status, now *topRates, width int) []string {
	half := width / 2
	drops := maps.Clone(s.Drops)
	drops[queuesFull] = s.TUN.TxDrops
	left, right := reasonRows("DROPPED", drops, now.drops), reasonRows("PASSED", s.Passed, now.passed)
	lines := make([]string, max(len(left), len(right)))
	for i := range lines {
		line := ""
		if i < len(left) {
			line = left[i]
		}
		if i < len(right) {
			line = fmt.Sprintf("%-*s%s", half, clipRunes(line, half-1), right[i])
		}
		lines[i] = strings.TrimRight(clipRunes(line, width), " ")
	}
	return lines
}

func reasonRows(title string, totals map[string]uint64, rates map[string]float64) []string {
	const row = "%-18s %7s %11s"
	lines := []string{fmt.Sprintf(row, title, "/s", "in all")}
	reasons := slices.SortedFunc(maps.Keys(totals), func(a, b string) int {
		return cmp.Or(cmp.Compare(rates[b], rates[a]), cmp.Compare(totals[b], totals[a]), strings.Compare(a, b))
	})
	for _, reason := range reasons {
		if totals[reason] > 0 {
			lines = append(lines, fmt.Sprintf(row, clip(reason, 18), rate(rates[reason]), number(totals[reason])))
		}
	}
	if len(lines) == 1 {
		lines = append(lines, "none")
	}
	return lines
}

// rate writes a number in 6 characters at most: 0, 0.3, 12, 12345, 123k, 12.3M.
func rate(x float64) string {
	switch {
	case x <= 0:
		return "0"
	case x < 9.95:
		return fmt.Sprintf("%.1f", x)
	case x < 99999.5:
		return fmt.Sprintf("%.0f", x)
	}
	unit := "kMGTPE"
	for x /= 1000; x >= 999.5 && len(unit) > 1; x /= 1000 {
		unit = unit[1:]
	}
	if x < 99.95 {
		return fmt.Sprintf("%.1f%c", x, unit[0])
	}
	return fmt.Sprintf("%.0f%c", x, unit[0])
}

// clipRunes is clip for text of any characters.
func clipRunes(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:width-1]) + "~"
}
