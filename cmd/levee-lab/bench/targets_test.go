package bench

import (
	"strings"
	"testing"
)

// reportOf has one value of each figure.
func reportOf(values map[string]map[contenderID]float64) *Report {
	r := &Report{}
	for figure, by := range values {
		for id, v := range by {
			r.add(figure, id, v)
		}
	}
	return r
}

func TestJudge(t *testing.T) {
	for _, tc := range []struct {
		name   string
		target string // its beginning
		values map[string]map[contenderID]float64
		want   string
	}{
		{"just cheap enough", "CPU per answered SYN", map[string]map[contenderID]float64{"syn-cpu": {synproxyID: 4, leveeID: 6}}, metYes},
		{"not quite", "CPU per answered SYN", map[string]map[contenderID]float64{"syn-cpu": {synproxyID: 4, leveeID: 6.01}}, metNo},
		{"nothing to compare with", "CPU per answered SYN", map[string]map[contenderID]float64{"syn-cpu": {plainID: 4, leveeID: 6}}, metNotMeasured},
		{"fast enough", "bulk throughput, to the server", map[string]map[contenderID]float64{"bulk-up-1": {synproxyID: 4, leveeID: 3}}, metYes},
		{"too slow", "bulk throughput, to the client", map[string]map[contenderID]float64{"bulk-down-1": {synproxyID: 4, leveeID: 2.9}}, metNo},
		{"request in time", "first byte, 50 ms away, client first", map[string]map[contenderID]float64{
			"ttfb-request": {plainID: 100, leveeID: 102.5}, "server-rtt": {plainID: 0.5}}, metYes},
		{"request late", "first byte, 50 ms away, client first", map[string]map[contenderID]float64{
			"ttfb-request": {plainID: 100, leveeID: 102.6}, "server-rtt": {plainID: 0.5}}, metNo},
		{"banner in time", "first byte, 50 ms away, server first", map[string]map[contenderID]float64{
			"ttfb-banner": {plainID: 100, leveeID: 101.5}, "server-rtt": {plainID: 0.5}}, metYes},
		{"banner late", "first byte, 50 ms away, server first", map[string]map[contenderID]float64{
			"ttfb-banner": {plainID: 100, leveeID: 101.6}, "server-rtt": {plainID: 0.5}}, metNo},
		{"no round-trip time", "first byte, 50 ms away, server first", map[string]map[contenderID]float64{
			"ttfb-banner": {plainID: 100, leveeID: 101}}, metNotMeasured},
		{"all completed", "connections completed", map[string]map[contenderID]float64{"flood-completed": {leveeID: 100}}, metYes},
		{"one wasn't", "connections completed", map[string]map[contenderID]float64{"flood-completed": {leveeID: 99.9}}, metNo},
		{"beats both", "connect+GET while flooded", map[string]map[contenderID]float64{
			"flood-p99": {synproxyID: 1600, synproxyNoTS: 5, leveeID: 5}}, metYes},
		{"beats the hanging one only", "connect+GET while flooded", map[string]map[contenderID]float64{
			"flood-p99": {synproxyID: 1600, synproxyNoTS: 5, leveeID: 5.1}}, metNo},
		{"small enough", "memory per open flow", map[string]map[contenderID]float64{"flow-bytes-1000000": {leveeID: 160}}, metYes},
		{"too large", "memory per open flow", map[string]map[contenderID]float64{"flow-bytes-1000000": {leveeID: 161}}, metNo},
		{"too few flows to tell", "memory per open flow", map[string]map[contenderID]float64{"flow-bytes-20000": {leveeID: 100}}, metNotMeasured},
		{"nearly no allocation", "allocations of the daemon per packet", map[string]map[contenderID]float64{"packet-allocs-1000000": {leveeID: 0.004}}, metYes},
		{"one in a hundred packets", "allocations of the daemon per packet", map[string]map[contenderID]float64{"packet-allocs-1000000": {leveeID: 0.01}}, metNo},
		{"a pause", "longest pause", map[string]map[contenderID]float64{"gc-pause-1000000": {leveeID: 1.1}}, metNo},
		{"lookups cost twice", "CPU per forwarded packet", map[string]map[contenderID]float64{
			"packet-cpu-1000": {leveeID: 2}, "packet-cpu-1000000": {leveeID: 4}}, metYes},
		{"lookups cost more", "CPU per forwarded packet", map[string]map[contenderID]float64{
			"packet-cpu-1000": {leveeID: 2}, "packet-cpu-1000000": {leveeID: 4.1}}, metNo},
	} {
		found := false
		for _, v := range reportOf(tc.values).judge(true) {
			if !strings.HasPrefix(v.Name, tc.target) {
				continue
			}
			found = true
			if v.Met != tc.want {
				t.Errorf("%s: %+v, want %s", tc.name, v, tc.want)
			}
		}
		if !found {
			t.Errorf("%s: there is no target %q", tc.name, tc.target)
		}
	}
}

// One bad repetition is enough for connections to have been lost.
func TestCompletedCountsTheWorst(t *testing.T) {
	r := &Report{}
	for _, v := range []float64{100, 100, 99.5} {
		r.add("flood-completed", leveeID, v)
	}
	if got := r.completed(); got.Met != metNo || got.Got != "99.50 %" {
		t.Errorf("%+v", got)
	}
}

func TestJudgeOfAPart(t *testing.T) {
	r := reportOf(map[string]map[contenderID]float64{"syn-cpu": {synproxyID: 4, leveeID: 6}})
	if got := r.judge(false); len(got) != 1 || got[0].Name != "CPU per answered SYN" {
		t.Errorf("%+v", got)
	}
	if got := r.judge(true); len(got) < 10 {
		t.Errorf("%d targets in all", len(got))
	}
}
