package bench

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares text with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs: run go test -update and look at the change. Got\n%s", name, got)
	}
}

// sample is a report of three repetitions in which levee is twice as slow as SYNPROXY at everything, and something went wrong.
func sample() *Report {
	r := &Report{
		Machine: Machine{CPU: "Abacus 3000", CPUs: 2, Memory: 24 << 30, Kernel: "6.18.0", Runtime: "go1.26"},
		Commit:  "v0-1-gabc", Date: "2026-11-23", Repeat: 3, Seconds: 812.4, Background: 0.012,
		SYNRate: 79_000, FlowSizes: []int{1000, 1_000_000}, Failures: []Failure{},
	}
	for i, f := range figures {
		for _, id := range contenderOrder {
			for _, rep := range []float64{1, 0.9, 1.2} {
				r.add(f.id, id, rep*float64(i+1)*map[contenderID]float64{plainID: 0.5, synproxyID: 1, synproxyNoTS: 1.1, leveeID: 2}[id])
			}
		}
	}
	for _, f := range flowFigures {
		for _, n := range r.FlowSizes {
			r.add(flowsID(f.id, n), leveeID, 100+float64(n)/1e5)
		}
	}
	r.fail("ttfb", synproxyNoTS, errors.New("the delay lost 3 frames"))
	r.Targets = r.judge(true)
	return r
}

func TestPrint(t *testing.T) {
	var b strings.Builder
	if err := sample().Print(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "report.txt", b.String())
}

func TestMarkdown(t *testing.T) {
	r := sample()
	names, _ := r.charts()
	golden(t, "bench.md", r.markdown(names))
}

// A run of one thing shows that thing.
func TestPrintOfAPart(t *testing.T) {
	r := &Report{Repeat: 1, Quick: true, Only: "conn/plain"}
	r.add("conn-rate", plainID, 12345.6)
	r.Targets = r.judge(false)
	var b strings.Builder
	if err := r.Print(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "part.txt", b.String())
}

func TestJSON(t *testing.T) {
	var b strings.Builder
	want := sample()
	if err := want.JSON(&b); err != nil {
		t.Fatal(err)
	}
	var got Report
	d := json.NewDecoder(strings.NewReader(b.String()))
	d.DisallowUnknownFields()
	if err := d.Decode(&got); err != nil {
		t.Fatal(err)
	}
	if len(got.Series) != len(want.Series) || !slices.Equal(got.values("syn-cpu", leveeID), want.values("syn-cpu", leveeID)) || len(got.Failures) != 1 {
		t.Errorf("%+v", got)
	}
}

// A measure that failed has no figures, not even of earlier repetitions, and the run fails.
func TestFail(t *testing.T) {
	r := &Report{}
	for _, id := range contenderOrder {
		r.add("bulk-up-1", id, 1)
		r.add("conn-rate", id, 1)
	}
	r.add("packet-cpu-1000", leveeID, 1)
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	r.fail("bulk", leveeID, errors.New("it went past it"))
	r.fail(flowsName, leveeID, errors.New("too many"))
	for _, tc := range []struct {
		figure string
		id     contenderID
		there  bool
	}{
		{"bulk-up-1", leveeID, false}, {"bulk-up-1", plainID, true}, {"conn-rate", leveeID, true}, {"packet-cpu-1000", leveeID, false},
	} {
		if got := r.find(tc.figure, tc.id) != nil; got != tc.there {
			t.Errorf("%s of %s is there: %t", tc.figure, tc.id, got)
		}
	}
	if err := r.Err(); err == nil || !strings.Contains(err.Error(), "bulk of levee, flows of levee") {
		t.Errorf("the run's error is %v", err)
	}
}

func TestFiguresAreKnown(t *testing.T) {
	ids := map[string]bool{}
	for _, f := range append(append([]figure(nil), figures...), flowFigures...) {
		if ids[f.id] {
			t.Errorf("%s is there twice", f.id)
		}
		ids[f.id] = true
	}
	for _, p := range append(append([]plot(nil), plots...), flowPlots...) {
		for _, f := range p.figures {
			if !ids[f[0]] {
				t.Errorf("%s shows %s, which is no figure", p.file, f[0])
			}
		}
	}
	if got := figureOf("flow-bytes-1000000"); got.measure != flowsName || got.unit != "B" || got.id != "flow-bytes-1000000" {
		t.Errorf("%+v", got)
	}
}

func TestCount(t *testing.T) {
	for n, want := range map[int]string{7: "7", 1000: "1k", 1500: "1500", 100_000: "100k", 1_000_000: "1M", 1_500_000: "1500k"} {
		if got := count(n); got != want {
			t.Errorf("%d is %s, want %s", n, got, want)
		}
	}
}

func TestCPUModel(t *testing.T) {
	if got := cpuModel("processor\t: 0\nmodel name\t: Abacus: 3000 \nmodel name\t: Other\n"); got != "Abacus: 3000" {
		t.Errorf("%q", got)
	}
	if got := cpuModel("processor\t: 0\n"); got == "" {
		t.Error("a CPU without a name has nothing to be called by")
	}
}

// What is written is complete, and what an earlier run wrote and this one hasn't measured goes.
func TestWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "docs")
	r := sample()
	if err := r.Write(dir); err != nil {
		t.Fatal(err)
	}
	md, err := os.ReadFile(filepath.Join(dir, "bench.md"))
	if err != nil {
		t.Fatal(err)
	}
	svgs, err := filepath.Glob(filepath.Join(dir, "*.svg"))
	if err != nil || len(svgs) != len(plots)+len(flowPlots) {
		t.Errorf("%d plots: %v", len(svgs), err)
	}
	for _, path := range svgs {
		if !strings.Contains(string(md), "("+filepath.Base(path)+")") {
			t.Errorf("bench.md doesn't show %s", filepath.Base(path))
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		checkSVG(t, string(text))
	}
	mine := filepath.Join(dir, "mine.svg")
	if err := os.WriteFile(mine, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	part := &Report{}
	part.add("conn-rate", plainID, 1)
	if err := part.Write(dir); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*.svg"))
	if want := []string{filepath.Join(dir, "bench-conn.svg"), mine}; err != nil || !slices.Equal(left, want) {
		t.Errorf("plots left are %v, want %v: %v", left, want, err)
	}
}

// checkSVG checks that a drawing is well-formed XML and that all of it is inside.
func checkSVG(t *testing.T, text string) (rects, paths int) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(text))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return rects, paths
		}
		if err != nil {
			t.Fatalf("not well-formed: %v\n%s", err, text)
		}
		e, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		at := map[string]string{}
		for _, a := range e.Attr {
			at[a.Name.Local] = a.Value
			if strings.Contains(a.Value, "NaN") || strings.Contains(a.Value, "Inf") {
				t.Errorf("%s has %s=%q", e.Name.Local, a.Name.Local, a.Value)
			}
		}
		switch e.Name.Local {
		case "rect":
			rects++
			if strings.HasPrefix(at["y"], "-") || strings.HasPrefix(at["height"], "-") || strings.HasPrefix(at["width"], "-") {
				t.Errorf("a bar is outside: %v", at)
			}
		case "path":
			paths++
		}
	}
}
