package bench

import (
	"math"
	"strings"
	"testing"
)

func TestChart(t *testing.T) {
	bars := []spread{{2, 1, 3, 5}, {}, {20, 20, 20, 1}}
	for _, tc := range []struct {
		name   string
		c      chart
		bars   int
		expect []string
	}{
		{"linear", chart{title: "Time", unit: "ms", groups: []chartGroup{{"one", bars}}}, 2, []string{"Time (ms)", ">one<", ">20<", ">2<"}},
		{"logarithmic", chart{title: "Time", unit: "ms", log: true, groups: []chartGroup{{"one", bars}}}, 2, []string{"logarithmic", ">1<", ">10<", ">100<"}},
		{"nothing", chart{title: "Time"}, 0, []string{"Time"}},
		{"zeros", chart{groups: []chartGroup{{"one", []spread{{0, 0, 0, 5}}}}}, 1, nil},
		{"zeros, logarithmic", chart{log: true, groups: []chartGroup{{"one", []spread{{0, 0, 0, 5}, {1, 1, 1, 5}}}}}, 2, nil},
		{"one power of ten", chart{log: true, groups: []chartGroup{{"one", []spread{{10, 10, 10, 5}}}}}, 1, nil},
		{"odd names", chart{title: `<a & "b">`, groups: []chartGroup{{"</svg>", bars}}}, 2, []string{"&lt;a &amp;"}},
		{"large", chart{groups: []chartGroup{{"one", []spread{{2e6, 1e6, 3e6, 5}}}}}, 1, []string{">2M<"}},
	} {
		tc.c.legend = []string{"a", "b", "c"}
		text := tc.c.svg()
		rects, paths := checkSVG(t, text)
		// The background, and one for each entry of the legend.
		if got := rects - 1 - len(tc.c.legend); got != tc.bars || paths != tc.bars {
			t.Errorf("%s: %d bars and %d whiskers, want %d", tc.name, got, paths, tc.bars)
		}
		for _, s := range tc.expect {
			if !strings.Contains(text, s) {
				t.Errorf("%s: no %q in\n%s", tc.name, s, text)
			}
		}
	}
}

// Higher values are drawn higher, within the plot.
func TestScale(t *testing.T) {
	c := chart{groups: []chartGroup{{"one", []spread{{3, 0.7, 4700, 3}}}}}
	for _, log := range []bool{false, true} {
		c.log = log
		s := c.scaleOf()
		last := float64(plotBottom) + 0.001
		for _, v := range []float64{0.7, 1, 3, 100, 4700} {
			y := s.y(v)
			if y >= last || y < plotTop {
				t.Errorf("log %t: %v is at %v, the value below at %v", log, v, y, last)
			}
			last = y
		}
		if n := len(s.ticks); n < 3 || n > 8 {
			t.Errorf("log %t: ticks %v", log, s.ticks)
		}
	}
}

func TestNiceStep(t *testing.T) {
	for v, want := range map[float64]float64{1: 1, 1.1: 2, 3: 5, 7: 10, 0.03: 0.05, 23_000: 50_000} {
		if got := niceStep(v); math.Abs(got-want) > want*1e-9 {
			t.Errorf("%v: %v, want %v", v, got, want)
		}
	}
}
