package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// printTable prints a line for each phase.
func printTable(w io.Writer, results []result) {
	// The names line up on the left, the numbers on the right.
	const name = "%-20s\t"
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, name+"connections\t\t\tconnect+GET\t\tflood SYNs\tSYNs\tSYNs\t\n", "")
	fmt.Fprintf(t, name+"tried\tcompleted\t%%\tp50 ms\tp99 ms\tsent\treceived\tanswered\t\n", "")
	for _, r := range results {
		p50, p99 := "-", "-"
		if r.Completed > 0 {
			p50, p99 = fmt.Sprintf("%.1f", r.P50), fmt.Sprintf("%.1f", r.P99)
		}
		fmt.Fprintf(t, name+"%d\t%d\t%.1f\t%s\t%s\t%d\t%d\t%d\t\n",
			r.Phase, r.Tried, r.Completed, r.Percent, p50, p99, r.FloodSent, r.Received, r.Answered)
	}
	t.Flush()
}

// judge compares the results with what they should be. Its error says what is not, and shows what
// helps to find out why.
func judge(results []result) error {
	var all error
	for _, r := range results {
		if problem := r.problem(); problem != "" {
			all = errors.Join(all, fmt.Errorf("%s: %s%s", r.Phase, problem, r.evidence()))
		}
	}
	return all
}

// problem is empty if a phase showed what it should.
func (r *result) problem() string {
	switch {
	case r.Tried == 0:
		return "no connection was tried"
	case r.expect == allComplete && r.Completed < r.Tried:
		return fmt.Sprintf("%d of %d connections were not completed, want all", r.Tried-r.Completed, r.Tried)
	case r.expect == mostFail && 2*r.Completed >= r.Tried:
		return fmt.Sprintf("%d of %d connections were completed, so the flood proves nothing", r.Completed, r.Tried)
	}
	return ""
}

// evidence is what helps to find out why a phase went wrong.
func (r *result) evidence() string {
	var lines []string
	for _, kind := range slices.Sorted(maps.Keys(r.Failures)) {
		lines = append(lines, fmt.Sprintf("failed: %d × %s", r.Failures[kind], kind))
	}
	for _, d := range r.drops {
		lines = append(lines, "gateway: "+d)
	}
	if r.status != nil {
		lines = append(lines, fmt.Sprintf("levee's status: %+v", *r.status))
	}
	if r.log != "" {
		lines = append(lines, "levee's log:", r.log)
	}
	if len(lines) == 0 {
		return ""
	}
	return "\n  " + strings.ReplaceAll(strings.TrimSpace(strings.Join(lines, "\n")), "\n", "\n  ")
}
