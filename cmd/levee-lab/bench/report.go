package bench

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Report is what a run found.
type Report struct {
	Machine Machine `json:"machine"`
	// Commit and Date are as Config has them.
	Commit string `json:"commit"`
	Date   string `json:"date"`
	Repeat int    `json:"repeat"`
	Quick  bool   `json:"quick"`
	// Only is the pattern of what was measured, empty for everything.
	Only string `json:"only,omitempty"`
	// Seconds that the run took.
	Seconds float64 `json:"seconds"`
	// Background is the share of all CPUs, 0 to 1, that was busy in the pauses between measurements.
	Background float64 `json:"background"`
	// SYNRate is the offered rate, in SYNs a second, at which CPU per answer was measured; 0 if it wasn't.
	SYNRate int `json:"syn_rate"`
	// FlowSizes are the numbers of flows at which memory was measured, rising; none if it wasn't.
	FlowSizes []int `json:"flow_sizes"`
	// Series are in the order in which they were first measured.
	Series   []*Series `json:"series"`
	Failures []Failure `json:"failures"`
	Targets  []Target  `json:"targets"`
}

// Machine is where it ran.
type Machine struct {
	CPU     string `json:"cpu"`
	CPUs    int    `json:"cpus"`
	Memory  int64  `json:"memory_bytes"`
	Kernel  string `json:"kernel"`
	Runtime string `json:"go"`
}

// Series is one figure of one contender.
type Series struct {
	Figure    string      `json:"figure"`
	Contender contenderID `json:"contender"`
	// Values are in the order of the repetitions.
	Values []float64 `json:"values"`
	Spread spread    `json:"spread"`
}

// Failure is a measure of a contender that gave no figure, and why.
type Failure struct {
	Measure   string      `json:"measure"`
	Contender contenderID `json:"contender"`
	Reason    string      `json:"reason"`
}

func newReport(cfg Config) (*Report, error) {
	m, err := describeMachine()
	if err != nil {
		return nil, err
	}
	r := &Report{
		Commit: cfg.Commit, Date: cfg.Date, Repeat: cfg.Repeat, Quick: cfg.Quick, Machine: m, Failures: []Failure{},
	}
	if cfg.Only != nil {
		r.Only = cfg.Only.String()
	}
	return r, nil
}

func describeMachine() (m Machine, err error) {
	cpus, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return m, fmt.Errorf("describe the machine: %w", err)
	}
	var info unix.Sysinfo_t
	var name unix.Utsname
	if err := unix.Sysinfo(&info); err != nil {
		return m, fmt.Errorf("describe the machine: %w", err)
	}
	if err := unix.Uname(&name); err != nil {
		return m, fmt.Errorf("describe the machine: %w", err)
	}
	return Machine{
		CPU: cpuModel(string(cpus)), CPUs: runtime.NumCPU(), Memory: int64(info.Totalram) * int64(info.Unit),
		Kernel: unix.ByteSliceToString(name.Release[:]), Runtime: runtime.Version(),
	}, nil
}

// cpuModel is the name in /proc/cpuinfo. Not every architecture has one.
func cpuModel(text string) string {
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// add records one value of a figure.
func (r *Report) add(figure string, id contenderID, value float64) {
	s := r.find(figure, id)
	if s == nil {
		s = &Series{Figure: figure, Contender: id}
		r.Series = append(r.Series, s)
	}
	s.Values = append(s.Values, value)
	s.Spread = spreadOf(s.Values)
}

// find returns nil for what wasn't measured.
func (r *Report) find(figure string, id contenderID) *Series {
	for _, s := range r.Series {
		if s.Figure == figure && s.Contender == id {
			return s
		}
	}
	return nil
}

// values are those of a figure, none if it wasn't measured.
func (r *Report) values(figure string, id contenderID) []float64 {
	if s := r.find(figure, id); s != nil {
		return s.Values
	}
	return nil
}

// median is that of a figure; ok is false if it wasn't measured.
func (r *Report) median(figure string, id contenderID) (m float64, ok bool) {
	if s := r.find(figure, id); s != nil {
		return s.Spread.Median, true
	}
	return 0, false
}

// fail records a failure, and removes what the measure found out about the contender so far.
func (r *Report) fail(measure string, id contenderID, err error) {
	r.Failures = append(r.Failures, Failure{measure, id, err.Error()})
	r.Series = slices.DeleteFunc(r.Series, func(s *Series) bool {
		return s.Contender == id && figureOf(s.Figure).measure == measure
	})
}

// figure is something that is measured.
type figure struct {
	id, measure string
	// name and unit are for people.
	name, unit string
	// digits after the point.
	digits int
	// moreIsBetter, or less is.
	moreIsBetter bool
}

// figures are all but those of flows, in the order in which they are shown.
var figures = append([]figure{
	{"syn-cpu", "syn", "CPU per answered SYN", "µs", 2, false},
	{"syn-answered", "syn", "answered at the generator's limit", "SYN/s", 0, true},
	{"syn-sent", "syn", "sent at the generator's limit", "SYN/s", 0, true},
	{"bulk-up-1", "bulk", "bulk, to the server, 1 flow", "Gb/s", 2, true},
	{"bulk-down-1", "bulk", "bulk, to the client, 1 flow", "Gb/s", 2, true},
	{"bulk-up-8", "bulk", "bulk, to the server, 8 flows", "Gb/s", 2, true},
	{"bulk-down-8", "bulk", "bulk, to the client, 8 flows", "Gb/s", 2, true},
	{"bulk-cpu-up-1", "bulk", "CPU per GB, to the server, 1 flow", "s", 2, false},
	{"bulk-cpu-down-1", "bulk", "CPU per GB, to the client, 1 flow", "s", 2, false},
	{"bulk-cpu-up-8", "bulk", "CPU per GB, to the server, 8 flows", "s", 2, false},
	{"bulk-cpu-down-8", "bulk", "CPU per GB, to the client, 8 flows", "s", 2, false},
	{"conn-rate", "conn", "connect+GET+close", "conn/s", 0, true},
	{"idle-p50", "conn", "connect+GET, idle, p50", "ms", 2, false},
	{"idle-p99", "conn", "connect+GET, idle, p99", "ms", 2, false},
	{"idle-p999", "conn", "connect+GET, idle, p99.9", "ms", 2, false},
	{"even-p50", "conn", "connect+GET, 50,000 SYN/s, p50", "ms", 2, false},
	{"even-p99", "conn", "connect+GET, 50,000 SYN/s, p99", "ms", 2, false},
	{"even-p999", "conn", "connect+GET, 50,000 SYN/s, p99.9", "ms", 2, false},
	{"even-completed", "conn", "completed, 50,000 SYN/s", "%", 2, true},
	{"flood-p50", "conn", "connect+GET, flooded, p50", "ms", 2, false},
	{"flood-p99", "conn", "connect+GET, flooded, p99", "ms", 2, false},
	{"flood-p999", "conn", "connect+GET, flooded, p99.9", "ms", 2, false},
	{"flood-completed", "conn", "completed, flooded", "%", 2, true},
	{"ttfb-request", "ttfb", "first byte, 50 ms away, client first", "ms", 2, false},
	{"ttfb-tls", "ttfb", "first byte, 50 ms away, TLS 1.3", "ms", 2, false},
	{"ttfb-banner", "ttfb", "first byte, 50 ms away, server first", "ms", 2, false},
	{"ttfb-completed", "ttfb", "completed, 50 ms away", "%", 2, false},
	{"server-rtt", "ttfb", "round trip, gateway to server", "ms", 3, false},
}, downloadFigures()...)

// flowFigures are those measured at each number of flows; their ids get the number appended.
var flowFigures = []figure{
	{"rss", flowsName, "resident memory", "MB", 1, false},
	{"flow-bytes", flowsName, "memory per flow, all told", "B", 0, false},
	{"flow-growth", flowsName, "memory per flow, above none", "B", 0, false},
	{"packet-cpu", flowsName, "CPU per packet, each of another flow", "µs", 2, false},
	{"packet-allocs", flowsName, "allocations of the daemon per packet, above idle", "", 3, false},
	{"gc-pause", flowsName, "longest pause of the garbage collector", "ms", 3, false},
}

// figureOf finds a figure by its id.
func figureOf(id string) figure {
	for _, f := range figures {
		if f.id == id {
			return f
		}
	}
	for _, f := range flowFigures {
		if strings.HasPrefix(id, f.id+"-") {
			f.id = id
			return f
		}
	}
	return figure{id: id}
}

// number writes a value with the figure's digits.
func (f figure) number(v float64) string { return strconv.FormatFloat(v, 'f', f.digits, 64) }

// cell is the median of a spread and, in brackets, how far it went.
func (f figure) cell(s spread) string {
	switch {
	case s.N == 0:
		return "-"
	case s.N == 1:
		return f.number(s.Median)
	}
	return fmt.Sprintf("%s (%s..%s)", f.number(s.Median), f.number(s.Min), f.number(s.Max))
}

// count writes a number of flows: 1k, 100k, 1M.
func count(n int) string {
	switch {
	case n >= 1_000_000 && n%1_000_000 == 0:
		return fmt.Sprintf("%dM", n/1_000_000)
	case n >= 1000 && n%1000 == 0:
		return fmt.Sprintf("%dk", n/1000)
	}
	return strconv.Itoa(n)
}

// table is text in rows and columns, the first row its heading.
type table [][]string

// ratioFigure is how ratios are written.
var ratioFigure = figure{digits: 2}

// contenderOrder is that of the columns.
var contenderOrder = []contenderID{plainID, synproxyID, synproxyNoTS, leveeID}

// comparison has a row for each figure that was measured, a column for each contender, and levee's ratio to SYNPROXY with timestamps.
func (r *Report) comparison() table {
	head := []string{"", "unit"}
	for _, id := range contenderOrder {
		head = append(head, contenderNames[id])
	}
	t := table{append(head, "levee / SYNPROXY")}
	for _, f := range figures {
		row, any := []string{f.name, f.unit}, false
		for _, id := range contenderOrder {
			s := r.find(f.id, id)
			if s == nil {
				row = append(row, "-")
				continue
			}
			any = true
			row = append(row, f.cell(s.Spread))
		}
		if any {
			ratio := spreadOf(ratios(r.values(f.id, leveeID), r.values(f.id, synproxyID)))
			t = append(t, append(row, ratioFigure.cell(ratio)))
		}
	}
	return t
}

// growthTable has levee's figures by number of flows; nil if there are none.
func (r *Report) growthTable() table {
	head := []string{"levee", "unit"}
	for _, n := range r.FlowSizes {
		head = append(head, count(n)+" flows")
	}
	t := table{head}
	for _, f := range flowFigures {
		row, any := []string{f.name, f.unit}, false
		for _, n := range r.FlowSizes {
			s := r.find(flowsID(f.id, n), leveeID)
			if s == nil {
				row = append(row, "-")
				continue
			}
			any = true
			row = append(row, f.cell(s.Spread))
		}
		if any {
			t = append(t, row)
		}
	}
	if len(t) == 1 {
		return nil
	}
	return t
}

// text writes a table with its columns lined up: the first on the left, the others on the right.
func (t table) text() string {
	widths := make([]int, len(t[0]))
	for _, row := range t {
		for i, c := range row {
			widths[i] = max(widths[i], len([]rune(c)))
		}
	}
	var b bytes.Buffer
	for _, row := range t {
		var line strings.Builder
		for i, c := range row {
			space := strings.Repeat(" ", widths[i]-len([]rune(c)))
			if i == 0 {
				line.WriteString(c + space)
			} else {
				line.WriteString("  " + space + c)
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}

// markdown writes a table as GitHub's.
func (t table) markdown() string {
	var b strings.Builder
	for i, row := range t {
		b.WriteString("| " + strings.Join(row, " | ") + " |\n")
		if i == 0 {
			b.WriteString("|---" + strings.Repeat("|---:", len(row)-1) + "|\n")
		}
	}
	return b.String()
}
