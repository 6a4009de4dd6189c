package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Load is a fixed rate of honest connections: each connects, fetches a page and closes.
type Load struct {
	// URLs are fetched in turn.
	URLs []string
	// Attempts is how many connections are tried, 1 to 100,000.
	Attempts int
	// Rate is how many start each second. They start on time no matter how the others fare.
	Rate int
	// Timeout is for one attempt from connect to the last byte of the page.
	Timeout time.Duration
}

const maxAttempts = 100_000

// LoadResult is what came of a Load.
type LoadResult struct {
	Tried, Completed int
	// Latencies from connect to the last byte, of those completed, sorted.
	Latencies []time.Duration
	// Failures counts what went wrong, by kind: "timeout", "reset", "refused", or an error's text.
	Failures map[string]int
}

// Percentile is the latency that p of the completed attempts, 0 < p ≤ 1, did not exceed; 0 if none completed.
func (r *LoadResult) Percentile(p float64) time.Duration {
	n := len(r.Latencies)
	if n == 0 {
		return 0
	}
	// The smallest rank whose share is at least p.
	rank := int(p * float64(n))
	if float64(rank) < p*float64(n) {
		rank++
	}
	return r.Latencies[min(max(rank, 1), n)-1]
}

// Run connects from inside a namespace. It returns when every attempt has ended, or with ctx's error when
// that is done; Tried counts those that were started.
func (l Load) Run(ctx context.Context, n *Namespace) (*LoadResult, error) {
	if len(l.URLs) == 0 || l.Attempts < 1 || l.Attempts > maxAttempts || l.Rate < 1 || l.Timeout <= 0 {
		return nil, fmt.Errorf("a load needs URLs, 1 to %d attempts, a rate and a timeout: %+v", maxAttempts, l)
	}
	var (
		r     = &LoadResult{Failures: map[string]int{}}
		mu    sync.Mutex // guards what attempts change in r: all but Tried
		wg    sync.WaitGroup
		begin = time.Now()
		next  = time.NewTimer(0)
	)
	defer next.Stop()
	for i := range l.Attempts {
		next.Reset(time.Until(begin.Add(time.Duration(i) * time.Second / time.Duration(l.Rate))))
		select {
		case <-next.C:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		r.Tried++
		wg.Go(func() {
			took, err := l.attempt(ctx, n, l.URLs[i%len(l.URLs)])
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				r.Failures[failureKind(err)]++
				return
			}
			r.Completed++
			r.Latencies = append(r.Latencies, took)
		})
	}
	wg.Wait()
	slices.Sort(r.Latencies)
	return r, ctx.Err()
}

func (l Load) attempt(ctx context.Context, n *Namespace, url string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, l.Timeout)
	defer cancel()
	begin := time.Now()
	_, err := n.Get(ctx, url)
	return time.Since(begin), err
}

func failureKind(err error) string {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, syscall.ECONNRESET):
		return "reset"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	}
	return err.Error()
}
