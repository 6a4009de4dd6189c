package bench

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
)

// A small churn in a real daemon, to its end but for what is remembered for minutes: nothing fails, nothing is left, and
// levee has seen every connection. levee-lab churn is the large one, which takes a quarter of an hour.
func TestChurn(t *testing.T) {
	labtest.RequireRoot(t)
	binary, err := labtest.Binary()
	if err != nil {
		t.Fatal(err)
	}
	const flows = 3000
	r, err := Churn(t.Context(), ChurnConfig{
		Levee: binary, Flows: flows, Duration: time.Second, WarmUp: 200 * time.Millisecond, Interval: 50 * time.Millisecond,
		Capacity: 500_000, Say: t.Logf,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Print(t.Output()); err != nil {
		t.Fatal(err)
	}
	n := r.After.Counts
	if n.Opened <= flows || n.Failures() != 0 || n.Closed+n.Reset != n.Opened || n.Reset == 0 {
		t.Errorf("%+v", n)
	}
	// What was closed is remembered, and nothing else is there.
	if a := r.After; a.Open+a.Opening+a.Closing != 0 || a.Remembered != n.Opened || a.TableFull != 0 {
		t.Errorf("%+v", a)
	}
	var counted int
	for _, s := range r.churned() {
		if s.Open > flows || s.RSS <= r.Before.RSS || s.Anonymous+s.File != s.RSS {
			t.Errorf("%+v", s)
		}
		counted++
	}
	if counted < 5 {
		t.Errorf("%d samples", counted)
	}
	for _, g := range r.Goals {
		// A busy machine may miss the others.
		if strings.HasPrefix(g.Name, "flows") || strings.HasPrefix(g.Name, "goroutines") || strings.HasPrefix(g.Name, "file") {
			if g.Met == metNo {
				t.Errorf("%+v", g)
			}
		}
	}
}

// A table that is too small makes room by forgetting, and the report says so.
func TestChurnInASmallTable(t *testing.T) {
	labtest.RequireRoot(t)
	binary, err := labtest.Binary()
	if err != nil {
		t.Fatal(err)
	}
	r, err := Churn(t.Context(), ChurnConfig{
		Levee: binary, Flows: 1000, Duration: 500 * time.Millisecond, Interval: 50 * time.Millisecond, Capacity: 2000, Say: t.Logf,
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := r.After.Counts; n.Opened < 2500 || n.Failures() != 0 || r.Most > 2000 {
		t.Errorf("%+v, %d held at most", n, r.Most)
	}
	if notes := strings.Join(r.notes(), "\n"); !strings.Contains(notes, "evicted early to make room") {
		t.Error(notes)
	}
}

func TestChurnRefuses(t *testing.T) {
	good := ChurnConfig{Flows: 1, Duration: time.Second, Interval: time.Second}
	for name, break_ := range map[string]func(*ChurnConfig){
		"no flows": func(c *ChurnConfig) { c.Flows = 0 }, "too many": func(c *ChurnConfig) { c.Flows = lab.MaxCrowd + 1 },
		"no duration": func(c *ChurnConfig) { c.Duration = 0 }, "no interval": func(c *ChurnConfig) { c.Interval = 0 },
	} {
		cfg := good
		break_(&cfg)
		if _, err := Churn(t.Context(), cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestParseRollup(t *testing.T) {
	const good = "00400000-7ffd000 ---p 00000000 00:00 0 [rollup]\nRss:    100 kB\nPss:   99 kB\nAnonymous:   60 kB\nAnonHugePages:   40 kB\n"
	var s ChurnSample
	want := ChurnSample{RSS: 100 << 10, Anonymous: 60 << 10, Huge: 40 << 10, File: 40 << 10}
	if err := s.parseRollup(good); err != nil || s != want {
		t.Errorf("%+v, %v", s, err)
	}
	for _, bad := range []string{"", strings.ReplaceAll(good, "Rss", "Pss"), strings.ReplaceAll(good, "60", "x")} {
		if err := new(ChurnSample).parseRollup(bad); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}

func TestGreatest(t *testing.T) {
	series, err := readMetrics(strings.NewReader(`x_bucket{le="0.001"} 1
x_bucket{le="0.01"} 3
x_bucket{le="0.1"} 3
x_bucket{le="+Inf"} 3
x_count 3
y_count 0
z_bucket{le="1"} 1
z_bucket{le="+Inf"} 2
z_count 2
`))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]float64{"x": 0.01, "y": 0, "z": math.MaxFloat64, "none": -1} {
		if got := greatest(series, name); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

// steady is a report of a churn of ten minutes without fault.
func steady() *ChurnReport {
	r := &ChurnReport{Flows: 1000, Capacity: 10_000, Duration: 600, Most: 2000, Forgot: 130}
	r.Before = ChurnSample{RSS: 1e6, Goroutines: 14, FDs: 20, GCs: 1}
	at := func(seconds float64, phase churnPhase) {
		r.Samples = append(r.Samples, ChurnSample{
			Seconds: seconds, Phase: phase, RSS: 300e6, Open: 1000, GCs: 2, Pause: 0.0005,
			Counts: lab.ChurnCounts{Opened: int(seconds) * 100},
		})
	}
	at(10, phaseFill)
	at(20, phaseWarmUp)
	for i := range 601 {
		at(20.5+float64(i), phaseChurn)
	}
	at(625, phaseDrain)
	r.After = ChurnSample{Seconds: 755, Goroutines: 14, FDs: 20, GCs: 3, Pause: 0.0005, Counts: lab.ChurnCounts{Opened: 62500}}
	return r
}

func TestChurnGoals(t *testing.T) {
	for _, tt := range []struct {
		name   string
		spoil  func(*ChurnReport)
		missed string
	}{
		{"without fault", func(*ChurnReport) {}, ""},
		{"memory grows", func(r *ChurnReport) {
			for i := range r.Samples {
				r.Samples[i].RSS += int64(r.Samples[i].Seconds * 20e3)
			}
		}, "memory"},
		{"memory grows early", func(r *ChurnReport) { r.Samples[1].RSS, r.Samples[2].RSS = 1, 2 }, ""},
		{"memory shrinks", func(r *ChurnReport) { r.Samples[len(r.Samples)-2].RSS = 0; r.Samples[len(r.Samples)-3].RSS = 0 }, "memory"},
		{"long pause", func(r *ChurnReport) { r.Samples[1].Pause = 0.0011 }, "pause"},
		{"long pause at last", func(r *ChurnReport) { r.After.Pause = 0.0011 }, "pause"},
		{"unseen pauses", func(r *ChurnReport) { r.After.GCs = 2 + 257 }, "pause"},
		{"flow left", func(r *ChurnReport) { r.After.Closing = 1 }, "flows in the table"},
		{"flow remembered", func(r *ChurnReport) { r.After.Remembered = 1 }, "flows remembered"},
		{"goroutine left", func(r *ChurnReport) { r.After.Goroutines++ }, "goroutines"},
		{"descriptor left", func(r *ChurnReport) { r.After.FDs++ }, "file descriptors"},
		{"failure", func(r *ChurnReport) { r.After.Counts.Unclosed = 1 }, "connections"},
	} {
		r := steady()
		tt.spoil(r)
		r.Goals = r.judge(true)
		err := r.Err()
		if (err == nil) != (tt.missed == "") || err != nil && (!strings.Contains(err.Error(), tt.missed) || strings.Contains(err.Error(), ";")) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	r := steady()
	r.After.Remembered = 1
	r.Goals = r.judge(false)
	if err := r.Err(); err != nil || r.Goals[len(r.Goals)-1].Met != metNotMeasured {
		t.Errorf("not waited for: %v", err)
	}
	if early, late := (&ChurnReport{Duration: 1}).memoryWindows(); !math.IsNaN(early) || !math.IsNaN(late) {
		t.Errorf("of nothing: %v, %v", early, late)
	}
}

func TestChurnReport(t *testing.T) {
	r := steady()
	r.Goals = r.judge(true)
	course := r.course()
	var names []string
	for _, row := range course {
		names = append(names, row[0])
	}
	want := []string{"", "fill", "warm-up"}
	for _, n := range strings.Fields("1 2 3 4 5 6 7 8 9 10") {
		want = append(want, "minute "+n)
	}
	if want = append(want, "drain"); !reflect.DeepEqual(names, want) {
		t.Errorf("rows %q", names)
	}
	file := filepath.Join(t.TempDir(), "churn.md")
	if err := r.Write(file); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# Churn\n", "1k flows open", "for 10m0s", "| goal | want |", "| minute 3 | 60 | 300.0 | 1000 |", "20 % of its capacity of 10000, so none"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	var out strings.Builder
	if err := r.JSON(&out); err != nil {
		t.Fatal(err)
	}
	var again ChurnReport
	if err := json.Unmarshal([]byte(out.String()), &again); err != nil || !reflect.DeepEqual(&again, r) {
		t.Errorf("read back: %v", err)
	}
}
