package bench

import (
	"fmt"
	"slices"
)

// Target is one demand of the design on levee with the TUN alone, and whether this run met it.
type Target struct {
	Name string `json:"name"`
	// Want and Got are for people.
	Want string `json:"want"`
	Got  string `json:"got"`
	Met  string `json:"met"`
}

// What Target.Met may be.
const (
	metYes         = "yes"
	metNo          = "no"
	metNotMeasured = "not measured"
)

// judge compares the medians with what the design asks for. Where a limit can't be told exactly, Target.Want says so; apart from
// that nothing is rounded in anybody's favour. What was not measured is there if all was to be.
func (r *Report) judge(all bool) []Target {
	t := []Target{
		r.atMost("CPU per answered SYN", "syn-cpu", 1.5),
		r.atLeast("bulk throughput, to the server, 1 flow", "bulk-up-1", 0.75),
		r.atLeast("bulk throughput, to the client, 1 flow", "bulk-down-1", 0.75),
	}
	for _, b := range bulkRuns {
		t = append(t, r.atMost("CPU per bulk byte, "+b.name, "bulk-cpu-"+b.id, 1.5))
	}
	t = append(t,
		r.firstByte("first byte, 50 ms away, client first", "ttfb-request", 1.02),
		r.firstByte("first byte, 50 ms away, TLS 1.3", "ttfb-tls", 1.02),
		r.firstByte("first byte, 50 ms away, server first", "ttfb-banner", 1),
		r.completed(),
		r.floodLatency(),
	)
	for _, d := range downloads {
		t = append(t, r.downloadTime(d))
	}
	t = append(t, r.flowTargets()...)
	if !all {
		t = slices.DeleteFunc(t, func(v Target) bool { return v.Met == metNotMeasured })
	}
	return t
}

// verdict fills in what the figures say.
func verdict(name, want, got string, met bool) Target {
	t := Target{Name: name, Want: want, Got: got, Met: metNo}
	if met {
		t.Met = metYes
	}
	return t
}

func notMeasured(name, want string) Target { return Target{name, want, "-", metNotMeasured} }

// atMost asks for a median ratio to SYNPROXY.
func (r *Report) atMost(name, figure string, limit float64) Target {
	want := fmt.Sprintf("≤ %g × SYNPROXY", limit)
	s := spreadOf(ratios(r.values(figure, leveeID), r.values(figure, synproxyID)))
	if s.N == 0 {
		return notMeasured(name, want)
	}
	return verdict(name, want, ratioFigure.cell(s)+" ×", s.Median <= limit)
}

func (r *Report) atLeast(name, figure string, limit float64) Target {
	want := fmt.Sprintf("≥ %g × SYNPROXY", limit)
	s := spreadOf(ratios(r.values(figure, leveeID), r.values(figure, synproxyID)))
	if s.N == 0 {
		return notMeasured(name, want)
	}
	return verdict(name, want, ratioFigure.cell(s)+" ×", s.Median >= limit)
}

// delayPrecision is what the lab's delay can tell apart, in milliseconds.
const delayPrecision = 1

// firstByte asks for no more than plain forwarding needs, times a factor, and a round trip between gateway and server.
func (r *Report) firstByte(name, figure string, factor float64) Target {
	want := "≤ direct + server RTT"
	if factor != 1 {
		want = fmt.Sprintf("≤ %g × direct + server RTT", factor)
	}
	got, ok := r.median(figure, leveeID)
	direct, okDirect := r.median(figure, plainID)
	rtt, okRTT := r.median("server-rtt", plainID)
	if !ok || !okDirect || !okRTT {
		return notMeasured(name, want)
	}
	limit := factor*direct + rtt
	if factor == 1 {
		want += fmt.Sprintf(", to the delay's precision of %d ms", delayPrecision)
		limit += delayPrecision
	}
	return verdict(name, want, fmt.Sprintf("%.2f ms, direct %.2f, server RTT %.3f", got, direct, rtt), got <= limit)
}

// downloadTime asks for no more than a twentieth longer than plain forwarding takes.
func (r *Report) downloadTime(d download) Target {
	const want = "≤ 1.05 × direct"
	s := spreadOf(ratios(r.values(d.id, leveeID), r.values(d.id, plainID)))
	if s.N == 0 {
		return notMeasured(d.name, want)
	}
	return verdict(d.name, want, ratioFigure.cell(s)+" ×", s.Median <= 1.05)
}

func (r *Report) completed() Target {
	const name, want = "connections completed while flooded", "100 %"
	s := r.find("flood-completed", leveeID)
	if s == nil {
		return notMeasured(name, want)
	}
	// The worst of all repetitions counts.
	return verdict(name, want, fmt.Sprintf("%.2f %%", s.Spread.Min), s.Spread.Min == 100)
}

// floodLatency asks for no more than SYNPROXY's, and takes the better of the two: with timestamps, some connections through it hang for
// longer than a second (see the package comment).
func (r *Report) floodLatency() Target {
	const name, want = "connect+GET while flooded, p99", "≤ 1 × SYNPROXY, the better of the two"
	const id = "flood-p99"
	best := synproxyID
	if with, ok := r.median(id, synproxyID); ok {
		if without, ok := r.median(id, synproxyNoTS); ok && without < with {
			best = synproxyNoTS
		}
	}
	s := spreadOf(ratios(r.values(id, leveeID), r.values(id, best)))
	if s.N == 0 {
		return notMeasured(name, want)
	}
	return verdict(name, want, ratioFigure.cell(s)+" ×", s.Median <= 1)
}

// allocsLimit is none for the packets, and room for the rest of the daemon, which doesn't allocate evenly.
const allocsLimit = 0.005

// flowTargets are about memory and lookup at a million flows; a run that didn't go so far can't tell.
func (r *Report) flowTargets() []Target {
	const few, many = 1000, 1_000_000
	return []Target{
		r.flowLimit("memory per open flow, 1M flows", "flow-bytes", many, 160, "B"),
		r.flowLimit("allocations of the daemon per packet, above idle, 1M flows", "packet-allocs", many, allocsLimit, ""),
		r.flowLimit("longest pause of the garbage collector, 1M flows", "gc-pause", many, 1, "ms"),
		r.lookup(few, many),
	}
}

func (r *Report) flowLimit(name, id string, flows int, limit float64, unit string) Target {
	f := figureOf(flowsID(id, flows))
	if unit != "" {
		unit = " " + unit
	}
	want := fmt.Sprintf("≤ %g%s", limit, unit)
	m, ok := r.median(f.id, leveeID)
	if !ok {
		return notMeasured(name, want)
	}
	return verdict(name, want, f.number(m)+unit, m <= limit)
}

func (r *Report) lookup(few, many int) Target {
	name := fmt.Sprintf("CPU per forwarded packet, %s to %s flows", count(few), count(many))
	const want = "≤ 2 ×"
	s := spreadOf(ratios(r.values(flowsID("packet-cpu", many), leveeID), r.values(flowsID("packet-cpu", few), leveeID)))
	if s.N == 0 {
		return notMeasured(name, want)
	}
	return verdict(name, want, ratioFigure.cell(s)+" ×", s.Median <= 2)
}

// targetTable shows the targets.
func targetTable(targets []Target) table {
	t := table{{"target of levee with the TUN alone", "want", "got", "met"}}
	for _, v := range targets {
		t = append(t, []string{v.Name, v.Want, v.Got, v.Met})
	}
	return t
}
