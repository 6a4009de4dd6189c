package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// plot is a chart of some figures of all contenders.
type plot struct {
	file, title string
	log         bool
	// figures by id, with a short name for each.
	figures [][2]string
}

var plots = []plot{
	{file: "syn-cpu", title: "CPU per answered SYN", figures: [][2]string{{"syn-cpu", "whole machine"}}},
	{file: "syn-rate", title: "SYNs at the generator's limit", figures: [][2]string{{"syn-sent", "sent"}, {"syn-answered", "answered"}}},
	{file: "bulk", title: "Bulk throughput", figures: [][2]string{
		{"bulk-up-1", "to the server, 1 flow"}, {"bulk-down-1", "to the client, 1 flow"},
		{"bulk-up-8", "to the server, 8 flows"}, {"bulk-down-8", "to the client, 8 flows"}}},
	{file: "bulk-cpu", title: "CPU time per gigabyte, hosts included", figures: [][2]string{
		{"bulk-cpu-up-1", "to the server, 1 flow"}, {"bulk-cpu-down-1", "to the client, 1 flow"},
		{"bulk-cpu-up-8", "to the server, 8 flows"}, {"bulk-cpu-down-8", "to the client, 8 flows"}}},
	{file: "conn", title: "Short connections", figures: [][2]string{{"conn-rate", "connect+GET+close"}}},
	{file: "latency", title: "Connect and GET", log: true, figures: [][2]string{
		{"idle-p50", "idle, p50"}, {"idle-p99", "idle, p99"}, {"idle-p999", "idle, p99.9"},
		{"even-p50", "50k SYN/s, p50"}, {"even-p99", "p99"}, {"even-p999", "p99.9"},
		{"flood-p50", "flooded, p50"}, {"flood-p99", "flooded, p99"}, {"flood-p999", "flooded, p99.9"}}},
	{file: "ttfb", title: "First byte, client 50 ms away", figures: [][2]string{
		{"ttfb-request", "client speaks first"}, {"ttfb-banner", "server speaks first"}}},
}

// flowPlots are charts of levee by number of flows.
var flowPlots = []plot{
	{file: "memory", title: "Memory per flow, all told", log: true, figures: [][2]string{{"flow-bytes", ""}}},
	{file: "packet-cpu", title: "CPU per packet, each of another flow", figures: [][2]string{{"packet-cpu", ""}}},
}

// charts are those that have something to show, by file name.
func (r *Report) charts() (names []string, svgs map[string]string) {
	svgs = map[string]string{}
	add := func(p plot, c chart) {
		for _, g := range c.groups {
			for _, b := range g.bars {
				if b.N > 0 {
					name := "bench-" + p.file + ".svg"
					names, svgs[name] = append(names, name), c.svg()
					return
				}
			}
		}
	}
	for _, p := range plots {
		c := chart{title: p.title, unit: figureOf(p.figures[0][0]).unit, log: p.log}
		for _, id := range contenderOrder {
			c.legend = append(c.legend, contenderNames[id])
		}
		for _, f := range p.figures {
			g := chartGroup{name: f[1]}
			for _, id := range contenderOrder {
				g.bars = append(g.bars, r.spread(f[0], id))
			}
			c.groups = append(c.groups, g)
		}
		add(p, c)
	}
	for _, p := range flowPlots {
		c := chart{title: p.title, log: p.log, legend: []string{contenderNames[leveeID]}}
		for _, n := range r.FlowSizes {
			id := flowsID(p.figures[0][0], n)
			c.unit = figureOf(id).unit
			c.groups = append(c.groups, chartGroup{count(n) + " flows", []spread{r.spread(id, leveeID)}})
		}
		add(p, c)
	}
	return names, svgs
}

// spread of a figure; N is 0 if it wasn't measured.
func (r *Report) spread(figure string, id contenderID) spread {
	if s := r.find(figure, id); s != nil {
		return s.Spread
	}
	return spread{}
}

// summary says what was run where, one thing on a line.
func (r *Report) summary() []string {
	m := r.Machine
	lines := []string{
		fmt.Sprintf("machine: %s, %d CPUs, %.1f GiB", m.CPU, m.CPUs, float64(m.Memory)/(1<<30)),
		fmt.Sprintf("kernel: Linux %s; %s", m.Kernel, m.Runtime),
		fmt.Sprintf("commit: %s; date: %s", orUnknown(r.Commit), orUnknown(r.Date)),
		fmt.Sprintf("repetitions: %d in %.0f s; shown are median (least..greatest)", r.Repeat, r.Seconds),
		fmt.Sprintf("in the pauses between measurements the machine was %.1f %% busy", 100*r.Background),
	}
	if r.SYNRate > 0 {
		lines = append(lines, fmt.Sprintf("CPU per answered SYN is at %d SYNs a second", r.SYNRate))
	}
	if r.Only != "" {
		lines = append(lines, fmt.Sprintf("a part of it, what matches %q: all else was not measured", r.Only))
	}
	if r.Quick {
		lines = append(lines, "a quick try: these figures prove nothing")
	}
	return lines
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// Print writes the report for people.
func (r *Report) Print(w io.Writer) error {
	var b strings.Builder
	for _, line := range r.summary() {
		b.WriteString(line + "\n")
	}
	for _, t := range []table{r.comparison(), r.growthTable(), targetTable(r.Targets)} {
		if len(t) > 1 {
			b.WriteString("\n" + t.text())
		}
	}
	for i, f := range r.Failures {
		if i == 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "no figure: %s, %s: %s\n", f.Measure, contenderNames[f.Contender], f.Reason)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// JSON writes everything, each repetition included.
func (r *Report) JSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// markdown is bench.md, which shows the charts with these names.
func (r *Report) markdown(charts []string) string {
	var b strings.Builder
	b.WriteString("# Benchmark\n\nPlain forwarding, the kernel's SYNPROXY and levee side by side, in one run of `make bench` in one lab.\n" +
		"What is measured and how: `go doc ./cmd/levee-lab/bench`.\n\n")
	for _, line := range r.summary() {
		b.WriteString("- " + line + "\n")
	}
	b.WriteString("\n## Targets\n\n" + targetTable(r.Targets).markdown())
	if t := r.comparison(); len(t) > 1 {
		b.WriteString("\n## Side by side\n\n" + t.markdown())
	}
	if t := r.growthTable(); t != nil {
		b.WriteString("\n## Many flows\n\n" + t.markdown())
	}
	if len(r.Failures) > 0 {
		b.WriteString("\n## No figure\n\n")
		for _, f := range r.Failures {
			fmt.Fprintf(&b, "- %s, %s: %s\n", f.Measure, contenderNames[f.Contender], strings.ReplaceAll(f.Reason, "\n", " "))
		}
	}
	if len(charts) > 0 {
		b.WriteString("\n## Plots\n\nBars are medians, whiskers go from the least to the greatest of the repetitions.\n")
		for _, name := range charts {
			fmt.Fprintf(&b, "\n![%s](%s)\n", strings.TrimSuffix(strings.TrimPrefix(name, "bench-"), ".svg"), name)
		}
	}
	return b.String()
}

// Write puts bench.md and its charts, bench-*.svg, into a folder, which is made if it isn't there. Charts of an
// earlier run that this one has nothing for go.
func (r *Report) Write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	names, svgs := r.charts()
	var all error
	for _, p := range append(append([]plot(nil), plots...), flowPlots...) {
		name := "bench-" + p.file + ".svg"
		path := filepath.Join(dir, name)
		if svg, ok := svgs[name]; ok {
			all = errors.Join(all, os.WriteFile(path, []byte(svg), 0o644))
		} else if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			all = errors.Join(all, err)
		}
	}
	all = errors.Join(all, os.WriteFile(filepath.Join(dir, "bench.md"), []byte(r.markdown(names)), 0o644))
	if all != nil {
		return fmt.Errorf("write the report: %w", all)
	}
	return nil
}

// Err is an error if something that was to be measured was not.
func (r *Report) Err() error {
	if len(r.Failures) == 0 {
		return nil
	}
	var what []string
	for _, f := range r.Failures {
		what = append(what, fmt.Sprintf("%s of %s", f.Measure, contenderNames[f.Contender]))
	}
	return fmt.Errorf("no figure for %s: see the reasons above", strings.Join(what, ", "))
}
