package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"time"
)

// ChurnReport is what Churn found.
type ChurnReport struct {
	Machine Machine `json:"machine"`
	Commit  string  `json:"commit"`
	Date    string  `json:"date"`
	// What was asked for, and the capacity that was configured. Times are in seconds.
	Flows    int     `json:"flows"`
	Capacity int     `json:"capacity"`
	WarmUp   float64 `json:"warm_up"`
	Duration float64 `json:"duration"`
	// Most flows of all kinds that the table ever held, as far as was seen.
	Most int `json:"most"`
	// Before is the daemon without connections; Samples are all phases in order; After is it when all is over.
	Before  ChurnSample   `json:"before"`
	Samples []ChurnSample `json:"samples"`
	After   ChurnSample   `json:"after"`
	// Forgot is how long it took, in seconds, from when all were closed until then.
	Forgot float64  `json:"forgot"`
	Goals  []Target `json:"goals"`
}

// What the goals allow.
const (
	flatWithin = 0.02
	worstPause = time.Millisecond
	// evictionShare of the table, at which no part of it is full yet: it has up to 64, among which flows spread at random, of 4096 flows
	// and more. Flows that differ in number from part to part by four standard deviations are a sixteenth of the smallest part.
	evictionShare = 0.93
)

func newChurnReport(cfg ChurnConfig, m Machine, r *churnRun) *ChurnReport {
	report := &ChurnReport{
		Machine: m, Commit: cfg.Commit, Date: cfg.Date,
		Flows: cfg.Flows, Capacity: cfg.Capacity, WarmUp: cfg.WarmUp.Seconds(), Duration: cfg.Duration.Seconds(),
		Before: r.before, Samples: r.samples, After: r.after, Forgot: r.forgot,
	}
	for _, s := range r.samples {
		report.Most = max(report.Most, s.Flows())
	}
	report.Goals = report.judge(cfg.Forget)
	return report
}

// churned are the samples that count for what has to be steady.
func (r *ChurnReport) churned() (s []ChurnSample) {
	for _, v := range r.Samples {
		if v.Phase == phaseChurn {
			s = append(s, v)
		}
	}
	return s
}

// memoryWindows are the mean resident memory in the second minute and in the last, or fifths of a shorter run.
func (r *ChurnReport) memoryWindows() (early, late float64) {
	samples := r.churned()
	if len(samples) == 0 {
		return math.NaN(), math.NaN()
	}
	window := min(60, r.Duration/5)
	begin, end := samples[0].Seconds, samples[len(samples)-1].Seconds
	mean := func(from, to float64) float64 {
		sum, n := 0.0, 0
		for _, s := range samples {
			if s.Seconds >= from && s.Seconds <= to {
				sum, n = sum+float64(s.RSS), n+1
			}
		}
		return sum / float64(n)
	}
	return mean(begin+window, begin+2*window), mean(end-window, end)
}

func (r *ChurnReport) judge(forget bool) []Target {
	early, late := r.memoryWindows()
	off := late/early - 1
	pause, collections := r.pauses()
	n := r.After.Counts
	t := []Target{
		verdict("resident memory, last minute to second", fmt.Sprintf("within %.0f %%", flatWithin*100), fmt.Sprintf("%+.2f %%", off*100), math.Abs(off) <= flatWithin),
		verdict("longest pause of the garbage collector", fmt.Sprintf("≤ %v", worstPause),
			fmt.Sprintf("%.3f ms of %d", pause*1000, collections), pause <= worstPause.Seconds()),
		verdict("flows in the table, after all were closed", "0", strconv.Itoa(r.After.Open+r.After.Opening+r.After.Closing), r.After.Open+r.After.Opening+r.After.Closing == 0),
		verdict("goroutines, at the end and before", "no more", fmt.Sprintf("%d and %d", r.After.Goroutines, r.Before.Goroutines), r.After.Goroutines <= r.Before.Goroutines),
		verdict("file descriptors, at the end and before", "no more", fmt.Sprintf("%d and %d", r.After.FDs, r.Before.FDs), r.After.FDs <= r.Before.FDs),
		verdict("connections that failed", "0", fmt.Sprintf("%d of %d", n.Failures(), n.Opened+n.Unopened), n.Failures() == 0),
	}
	const remembered = "flows remembered, when their time has passed"
	if forget {
		return append(t, verdict(remembered, "0", fmt.Sprintf("%d after %.0f s", r.After.Remembered, r.Forgot), r.After.Remembered == 0))
	}
	return append(t, notMeasured(remembered, "0"))
}

// pauses returns the longest, in seconds, and how many collections there were since the daemon was filled. A sample knows the
// latest 256; if there were more between two, the longest may have been missed, and is infinite.
func (r *ChurnReport) pauses() (longest float64, collections int) {
	before := r.Before.GCs
	for _, s := range append(r.Samples[:len(r.Samples):len(r.Samples)], r.After) {
		if s.GCs-before > 256 {
			return math.Inf(1), r.After.GCs
		}
		before, longest = s.GCs, max(longest, s.Pause)
	}
	return longest, r.After.GCs
}

// churnFigures are the rows of the table of first and last.
var churnFigures = []struct {
	name   string
	digits int
	of     func(*ChurnSample) float64
}{
	{"resident memory, MB", 1, func(s *ChurnSample) float64 { return float64(s.RSS) / 1e6 }},
	{"of it anonymous, MB", 1, func(s *ChurnSample) float64 { return float64(s.Anonymous) / 1e6 }},
	{"of that huge pages, MB", 1, func(s *ChurnSample) float64 { return float64(s.Huge) / 1e6 }},
	{"of it files, MB", 1, func(s *ChurnSample) float64 { return float64(s.File) / 1e6 }},
	{"open flows", 0, func(s *ChurnSample) float64 { return float64(s.Open) }},
	{"flows opening or half-closed", 0, func(s *ChurnSample) float64 { return float64(s.Opening + s.Closing) }},
	{"flows remembered", 0, func(s *ChurnSample) float64 { return float64(s.Remembered) }},
	{"Go heap, MB", 2, func(s *ChurnSample) float64 { return s.Heap / 1e6 }},
	{"goroutines", 0, func(s *ChurnSample) float64 { return float64(s.Goroutines) }},
	{"file descriptors", 0, func(s *ChurnSample) float64 { return float64(s.FDs) }},
	{"longest pause lately, ms", 3, func(s *ChurnSample) float64 { return s.Pause * 1000 }},
	{"longest wait for threads to stop, ms, at most", 3, func(s *ChurnSample) float64 { return s.Stopping * 1000 }},
}

// extremes has the figures before, during and after.
func (r *ChurnReport) extremes() table {
	t := table{{"", "before", "first", "last", "least", "greatest", "at the end"}}
	samples := r.churned()
	if len(samples) == 0 {
		return t
	}
	for _, f := range churnFigures {
		least, most := math.Inf(1), math.Inf(-1)
		for i := range samples {
			v := f.of(&samples[i])
			least, most = min(least, v), max(most, v)
		}
		row := []string{f.name}
		for _, v := range []float64{f.of(&r.Before), f.of(&samples[0]), f.of(&samples[len(samples)-1]), least, most, f.of(&r.After)} {
			row = append(row, strconv.FormatFloat(v, 'f', f.digits, 64))
		}
		t = append(t, row)
	}
	return t
}

// course has a row for each phase, and for each minute of the churn: how it was at the end of it, and what happened in it.
func (r *ChurnReport) course() table {
	t := table{{"", "seconds", "resident MB", "flows open", "remembered", "opened/s", "sent again", "failed", "collections"}}
	from := r.Before
	var begin float64
	for i, s := range r.Samples {
		last := i+1 == len(r.Samples)
		if i > 0 && r.Samples[i-1].Phase != s.Phase {
			begin = r.Samples[i-1].Seconds
		}
		// Whatever comes after the last whole minute counts as part of it.
		most := max(int(r.Duration/60)-1, 0)
		minute := min(int((s.Seconds-begin)/60), most)
		if !last && r.Samples[i+1].Phase == s.Phase && (s.Phase != phaseChurn || min(int((r.Samples[i+1].Seconds-begin)/60), most) == minute) {
			continue
		}
		name := string(s.Phase)
		if s.Phase == phaseChurn {
			name = fmt.Sprintf("minute %d", minute+1)
		}
		took := s.Seconds - from.Seconds
		t = append(t, []string{
			name, fmt.Sprintf("%.0f", took), fmt.Sprintf("%.1f", float64(s.RSS)/1e6), strconv.Itoa(s.Open), strconv.Itoa(s.Remembered),
			fmt.Sprintf("%.0f", float64(s.Counts.Opened-from.Counts.Opened)/took), strconv.Itoa(s.Counts.Retried - from.Counts.Retried),
			strconv.Itoa(s.Counts.Failures() - from.Counts.Failures()), strconv.Itoa(s.GCs - from.GCs),
		})
		from = s
	}
	return t
}

// notes say what the tables can't.
func (r *ChurnReport) notes() []string {
	n := r.After.Counts
	notes := []string{
		fmt.Sprintf("machine: %s, %d CPUs, %.1f GiB, Linux %s; %s; commit %s; date %s", r.Machine.CPU, r.Machine.CPUs,
			float64(r.Machine.Memory)/(1<<30), r.Machine.Kernel, r.Machine.Runtime, orUnknown(r.Commit), orUnknown(r.Date)),
		fmt.Sprintf("%d connections were opened, of which %d ended with two FINs and %d with a RST; %d segments were sent again; the gateway reset %d, and %d opened and %d closed in vain",
			n.Opened, n.Closed, n.Reset, n.Retried, n.Refused, n.Unopened, n.Unclosed),
		fmt.Sprintf("the client and the server run on the same CPUs as levee, which together decide how fast it goes; levee's TUN was full for %d packets", r.After.TUNDrops),
	}
	held := float64(r.Most) / float64(r.Capacity)
	fate := "so none was evicted early"
	if held > evictionShare {
		fate = "so remembered ones have been evicted early to make room"
	}
	return append(notes, fmt.Sprintf("a closed flow is remembered for %v; the table held %d flows at most, %.0f %% of its capacity of %d, %s; %d found no room",
		Remembrance, r.Most, held*100, r.Capacity, fate, r.After.TableFull))
}

// Err names the goals that were missed.
func (r *ChurnReport) Err() error {
	var missed []string
	for _, g := range r.Goals {
		if g.Met == metNo {
			missed = append(missed, fmt.Sprintf("%s: %s instead of %s", g.Name, g.Got, g.Want))
		}
	}
	if len(missed) == 0 {
		return nil
	}
	return errors.New("churn: " + strings.Join(missed, "; "))
}

// Print writes the report for people.
func (r *ChurnReport) Print(w io.Writer) error {
	_, err := io.WriteString(w, r.write(table.text, ""))
	return err
}

// Write makes a file with a section of Markdown.
func (r *ChurnReport) Write(file string) error {
	head := fmt.Sprintf("# Churn\n\n`levee-lab churn`: with %s flows open, connections are replaced for %v as fast as all on this machine together can, after %v to warm up. "+
		"Then all are closed.\n\n", count(r.Flows), time.Duration(r.Duration*float64(time.Second)), time.Duration(r.WarmUp*float64(time.Second)))
	if err := os.WriteFile(file, []byte(head+r.write(table.markdown, "- ")), 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

func (r *ChurnReport) write(as func(table) string, bullet string) string {
	goals := targetTable(r.Goals)
	goals[0][0] = "goal"
	parts := []string{""}
	for _, n := range r.notes() {
		parts[0] += bullet + n + "\n"
	}
	for _, t := range []table{goals, r.extremes(), r.course()} {
		parts = append(parts, as(t))
	}
	return strings.Join(parts, "\n")
}

// JSON writes everything, each sample included.
func (r *ChurnReport) JSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}
