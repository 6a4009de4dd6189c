package bench

import (
	"strings"
	"testing"
)

func TestParseRSS(t *testing.T) {
	if n, err := parseRSS("Name:\tlevee\nVmPeak:\t  999 kB\nVmRSS:\t   1234 kB\nRssAnon:\t 1 kB\n"); err != nil || n != 1234*1024 {
		t.Errorf("%d, %v", n, err)
	}
	for _, bad := range []string{"", "VmRSS:\n", "VmRSS:\t12 MB\n", "VmRSS:\tmuch kB\n", "VmPeak:\t999 kB\n"} {
		if n, err := parseRSS(bad); err == nil {
			t.Errorf("%q: %d", bad, n)
		}
	}
	if n, err := rss(1 << 30); err == nil {
		t.Errorf("a process that isn't there has %d bytes", n)
	}
}

func TestParseMetrics(t *testing.T) {
	const good = `# HELP go_gc_duration_seconds A summary of the wall-time pause (stop-the-world) duration in garbage collection cycles.
# TYPE go_gc_duration_seconds summary
go_gc_duration_seconds{quantile="0"} 1.5e-05
go_gc_duration_seconds{quantile="1"} 0.000254
go_gc_duration_seconds_sum 0.000454
go_memstats_mallocs_total 1.2345e+06
levee_worker_received_frames_total{worker="0"} 100
levee_worker_received_frames_total{worker="1"} 23
levee_worker_sent_frames_total{worker="0"} 7
`
	parse := func(text string) (daemonMetrics, error) {
		series, err := readMetrics(strings.NewReader(text))
		if err != nil {
			return daemonMetrics{}, err
		}
		return pickMetrics(series)
	}
	m, err := parse(good)
	if want := (daemonMetrics{frames: 123, mallocs: 1234500, longestPause: 0.000254}); err != nil || m != want {
		t.Errorf("%+v, %v, want %+v", m, err, want)
	}
	for name, bad := range map[string]string{
		"nothing":   "",
		"no frames": strings.ReplaceAll(good, "received_frames", "frames_received"),
		"no number": strings.ReplaceAll(good, "0.000254", "long"),
	} {
		if m, err := parse(bad); err == nil {
			t.Errorf("%s: %+v", name, m)
		}
	}
}

// A crowd's connections are levee's flows, and its packets go through levee.
func TestCrowdThroughLevee(t *testing.T) {
	b := newBench(t)
	v := b.find(leveeID).(*levee)
	if err := v.on(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer v.off()
	const size, sent = 2000, 5000
	c, err := b.lab.StartCrowd(crowdPort, size)
	if err != nil {
		t.Fatal(err)
	}
	g := &growth{bench: b, daemon: v.daemon, crowd: c}
	if err := c.Open(t.Context(), size, 10_000); err != nil {
		t.Fatal(err)
	}
	if open, err := g.awaitOpen(t.Context(), size); err != nil || open != size {
		t.Fatalf("%d flows are open: %v", open, err)
	}
	before, err := g.scrape(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	arrived, err := c.Arrived()
	if err != nil {
		t.Fatal(err)
	}
	if n, err := c.Send(t.Context(), size, 20_000, sent); err != nil || n != sent {
		t.Fatalf("sent %d: %v", n, err)
	}
	eventually(t, "all packets have arrived", func() bool {
		n, err := c.Arrived()
		if err != nil {
			t.Fatal(err)
		}
		return n-arrived == sent
	})
	after, err := g.scrape(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := after.frames - before.frames; got < sent {
		t.Errorf("levee has read %.0f packets of %d", got, sent)
	}
	if seen, err := v.seen(t.Context()); err != nil || seen.connections < size || seen.syns < size {
		t.Errorf("levee has seen %+v: %v", seen, err)
	}
}
