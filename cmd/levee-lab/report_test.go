package main

import (
	"strings"
	"testing"
)

func good() []result {
	return []result{
		{Phase: "server alone", Tried: 250, Completed: 250, Percent: 100, P50: 0.7, P99: 2.3, Received: 250, Answered: 250, expect: allComplete},
		{Phase: "server flooded", Tried: 250, FloodSent: 409178, Received: 410555, Answered: 1171, expect: mostFail},
		{Phase: "flooded behind levee", Tried: 250, Completed: 250, Percent: 100, P50: 1.2, P99: 17.4, FloodSent: 259280, Received: 259530, Answered: 259530, expect: allComplete},
	}
}

func TestJudge(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func([]result)
		want   string // part of the error
	}{
		{"as it should be", func([]result) {}, ""},
		{"alone, one fails", func(r []result) { r[0].Completed-- }, "server alone: 1 of 250 connections were not completed"},
		{"flooded, half survive", func(r []result) { r[1].Completed = 125 }, "server flooded: 125 of 250 connections were completed"},
		{"flooded, just less survive", func(r []result) { r[1].Completed = 124 }, ""},
		{"behind levee, one fails", func(r []result) {
			r[2].Completed, r[2].Failures, r[2].log = 249, map[string]int{"timeout": 1}, "level=WARN"
		}, "want all\n  failed: 1 × timeout\n  levee's log:\n  level=WARN"},
		{"nothing tried", func(r []result) { r[0].Tried, r[0].Completed = 0, 0 }, "no connection"},
	} {
		results := good()
		tc.change(results)
		err := judge(results)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}

func TestPrintTable(t *testing.T) {
	var b strings.Builder
	printTable(&b, good())
	want := strings.Join([]string{
		"                        connections                    connect+GET          flood SYNs      SYNs      SYNs",
		"                              tried  completed      %       p50 ms  p99 ms        sent  received  answered",
		"  server alone                  250        250  100.0          0.7     2.3           0       250       250",
		"  server flooded                250          0    0.0            -       -      409178    410555      1171",
		"  flooded behind levee          250        250  100.0          1.2    17.4      259280    259530    259530",
		"",
	}, "\n")
	if got := b.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
