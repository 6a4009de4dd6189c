package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"levee/integration/lab"
)

// ChurnSample is one look at the daemon and at the connections.
type ChurnSample struct {
	// Seconds since the first look.
	Seconds float64    `json:"seconds"`
	Phase   churnPhase `json:"phase"`
	// Memory in bytes: what is resident; what of it is anonymous, huge pages included; those; and files.
	RSS       int64 `json:"rss_bytes"`
	Anonymous int64 `json:"anonymous_bytes"`
	Huge      int64 `json:"huge_page_bytes"`
	File      int64 `json:"file_bytes"`
	// Flows as levee's status counts them.
	Open       int `json:"open"`
	Opening    int `json:"opening"`
	Closing    int `json:"closing"`
	Remembered int `json:"remembered"`
	// Heap is Go's, in bytes.
	Heap       float64 `json:"heap_bytes"`
	Goroutines int     `json:"goroutines"`
	FDs        int     `json:"fds"`
	// GCs is how many collections there have been, Pause the longest of the latest 256, in seconds: all that the world stood
	// still for one.
	GCs   int     `json:"gcs"`
	Pause float64 `json:"pause_seconds"`
	// Stopping is the longest that it took to stop the world for any of them, in seconds: the upper end of a bucket, so
	// less than that.
	Stopping float64 `json:"stopping_seconds"`
	// TableFull counts connections that found no room in the flow table, TUNDrops packets that found their queue full.
	TableFull uint64 `json:"table_full"`
	TUNDrops  uint64 `json:"tun_drops"`
	// Counts of the connections' ends.
	Counts lab.ChurnCounts `json:"connections"`
}

// Flows are all in the table.
func (s *ChurnSample) Flows() int { return s.Open + s.Opening + s.Closing + s.Remembered }

// churnWatch looks.
type churnWatch struct {
	lab    *lab.Lab
	daemon *lab.Levee
	churn  *lab.Churn
	begin  time.Time
}

func (w *churnWatch) look(ctx context.Context) (s ChurnSample, err error) {
	s.Seconds, s.Counts = time.Since(w.begin).Seconds(), w.churn.Counts()
	if err := s.readMemory(w.daemon.Process().Pid()); err != nil {
		return s, err
	}
	status, err := w.daemon.Status(ctx)
	if err != nil {
		return s, err
	}
	f := status.Flows
	s.Open, s.Opening, s.Closing, s.Remembered = f.Open, f.Opening, f.Closing, f.Remembered
	s.TableFull, s.TUNDrops = status.Drops["table_full"], status.Tun.TxDrops
	series, err := scrape(ctx, w.lab)
	if err != nil {
		return s, err
	}
	return s, s.takeMetrics(series)
}

func (s *ChurnSample) takeMetrics(series map[string]float64) error {
	get := func(name string) (v float64) {
		v, ok := series[name]
		if !ok {
			v = -1 // none of them can be less than 0
		}
		return v
	}
	s.Heap, s.Pause = get("go_memstats_heap_alloc_bytes"), get(longestPauseName)
	s.Goroutines, s.FDs, s.GCs = int(get("go_goroutines")), int(get("process_open_fds")), int(get("go_gc_duration_seconds_count"))
	s.Stopping = greatest(series, "go_sched_pauses_stopping_gc_seconds")
	if min(s.Heap, s.Pause, s.Stopping) < 0 || min(s.Goroutines, s.FDs, s.GCs) < 0 {
		return errors.New("levee's metrics lack those of the Go runtime or of the process")
	}
	return nil
}

// greatest is the upper end of the highest bucket of a histogram that has anything in it; 0 if none has, and less if there is no
// such histogram. In the bucket without an upper end it is as large as can be.
func greatest(series map[string]float64, name string) float64 {
	all, ok := series[name+"_count"]
	if !ok {
		return -1
	}
	if all == 0 {
		return 0
	}
	least := math.MaxFloat64
	for key, n := range series {
		rest, ok := strings.CutPrefix(key, name+`_bucket{le="`)
		// Buckets hold those below them too.
		if bound, err := strconv.ParseFloat(strings.TrimSuffix(rest, `"}`), 64); ok && err == nil && n == all {
			least = min(least, bound)
		}
	}
	return least
}

// readMemory reads what the kernel sums up over all mappings of a process.
func (s *ChurnSample) readMemory(pid int) error {
	path := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
	text, err := os.ReadFile(path)
	if err == nil {
		err = s.parseRollup(string(text))
	}
	if err != nil {
		return fmt.Errorf("read memory of process %d: %w", pid, err)
	}
	return nil
}

// parseRollup reads lines such as "Rss: 12 kB", where kB is 1024 bytes.
func (s *ChurnSample) parseRollup(text string) error {
	found := 0
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 || f[2] != "kB" {
			continue
		}
		var into *int64
		switch f[0] {
		case "Rss:":
			into = &s.RSS
		case "Anonymous:":
			into = &s.Anonymous
		case "AnonHugePages:":
			into = &s.Huge
		default:
			continue
		}
		n, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			return err
		}
		*into = n * 1024
		found++
	}
	if found != 3 {
		return errors.New("smaps_rollup lacks Rss, Anonymous or AnonHugePages")
	}
	s.File = s.RSS - s.Anonymous
	return nil
}
