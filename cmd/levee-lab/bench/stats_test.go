package bench

import (
	"math"
	"slices"
	"testing"
	"time"
)

func TestSpreadOf(t *testing.T) {
	for _, tc := range []struct {
		name   string
		values []float64
		want   spread
	}{
		{"none", nil, spread{}},
		{"one", []float64{3}, spread{3, 3, 3, 1}},
		{"odd", []float64{9, 1, 4}, spread{4, 1, 9, 3}},
		{"even", []float64{8, 1, 2, 4}, spread{3, 1, 8, 4}},
		{"negative", []float64{-1, -3, -2}, spread{-2, -3, -1, 3}},
	} {
		before := slices.Clone(tc.values)
		if got := spreadOf(tc.values); got != tc.want {
			t.Errorf("%s: %+v, want %+v", tc.name, got, tc.want)
		}
		if !slices.Equal(before, tc.values) {
			t.Errorf("%s: the values were changed to %v", tc.name, tc.values)
		}
	}
}

func TestRatios(t *testing.T) {
	for _, tc := range []struct {
		name string
		a, b []float64
		want []float64
	}{
		{name: "pairs", a: []float64{2, 9, 4}, b: []float64{1, 3, 8}, want: []float64{2, 3, 0.5}},
		{name: "unequal numbers", a: []float64{2, 4, 6}, b: []float64{2}, want: []float64{2}},
		{name: "nothing", a: nil, b: []float64{2}},
		{name: "to nothing", a: []float64{2}, b: nil},
		{name: "to zero", a: []float64{2}, b: []float64{0}},
		{name: "zero to zero", a: []float64{0}, b: []float64{0}},
	} {
		if got := ratios(tc.a, tc.b); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestPercentile(t *testing.T) {
	var thousand []time.Duration
	for i := range 1000 {
		thousand = append(thousand, time.Duration(i+1))
	}
	for _, tc := range []struct {
		sorted []time.Duration
		p      float64
		want   time.Duration
	}{
		{nil, 0.5, 0},
		{[]time.Duration{7}, 0.999, 7},
		{[]time.Duration{1, 2}, 0.5, 1},
		{[]time.Duration{1, 2, 3}, 0.5, 2},
		{thousand, 0.5, 500},
		{thousand, 0.99, 990},
		{thousand, 0.999, 999},
		{thousand, 1, 1000},
	} {
		if got := percentile(tc.sorted, tc.p); got != tc.want {
			t.Errorf("p%v of %d: %d, want %d", 100*tc.p, len(tc.sorted), got, tc.want)
		}
	}
}

func TestSYNCost(t *testing.T) {
	dropped := floodRun{sent: 100_000, busy: 0.2}
	for _, tc := range []struct {
		name    string
		run     floodRun
		dropped floodRun
		want    float64 // 0 is an error
	}{
		{"5 µs each", floodRun{sent: 100_000, answered: 100_000, busy: 0.7}, dropped, 5},
		{"some unanswered", floodRun{sent: 100_000, answered: 96_000, busy: 0.68}, dropped, 5},
		{"fewer were sent", floodRun{sent: 50_000, answered: 50_000, busy: 0.35}, dropped, 5},
		{"too many unanswered", floodRun{sent: 100_000, answered: 94_000, busy: 0.7}, dropped, 0},
		{"cheaper than dropping", floodRun{sent: 100_000, answered: 100_000, busy: 0.1}, dropped, 0},
		{"nothing sent", floodRun{}, dropped, 0},
		{"nothing dropped", floodRun{sent: 1, answered: 1, busy: 1}, floodRun{}, 0},
	} {
		got, err := synCost(tc.run, tc.dropped)
		if (err != nil) != (tc.want == 0) || math.Abs(got-tc.want) > 1e-9 {
			t.Errorf("%s: %v, %v, want %v", tc.name, got, err, tc.want)
		}
	}
}
