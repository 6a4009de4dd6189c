package control

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"levee/proxy"
)

// Killed says how many flows were found, and how many of them were ended. A flow that ended by itself meanwhile is not among the latter.
type Killed struct {
	Matched uint64 `json:"matched"`
	Killed  uint64 `json:"killed"`
}

// killers is how many flows are being ended at a time: many, because a worker without traffic comes by only four times a second.
const killers = 1024

var errKillAll = errors.New("nothing chooses the connections to kill: name a service, a state, prefixes or ports; 0.0.0.0/0 and ::/0 are prefixes too")

// serveKill ends the flows that a filter chooses, and tells once a second and at the end how many.
func serveKill(w http.ResponseWriter, r *http.Request, source Source) {
	filter, err := parseFilter(r.URL.Query(), source.Services())
	if err == nil && filter.All() {
		err = errKillAll
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	if err := kill(r.Context(), source, filter, newLines(w)); err != nil {
		panic(http.ErrAbortHandler) // the client sees that it was cut off
	}
}

func kill(ctx context.Context, source Source, filter Filter, stream *lines) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var matched, killed atomic.Uint64
	done := make(chan struct{})
	go func() {
		defer close(done)
		var waiting sync.WaitGroup
		free := make(chan struct{}, killers)
		source.Flows(func(f proxy.FlowInfo) bool {
			if !filter.match(f) || f.State == proxy.StateTimeWait || f.State == proxy.StateReset {
				return true
			}
			select {
			case free <- struct{}{}:
			case <-ctx.Done():
				return false
			}
			n := matched.Add(1)
			waiting.Go(func() {
				defer func() { <-free }()
				if ended, err := source.Kill(ctx, f.Client, f.Server); err == nil && ended {
					killed.Add(1)
				}
			})
			return filter.Limit == 0 || n < uint64(filter.Limit)
		})
		waiting.Wait()
	}()
	defer func() { <-done }()
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return errors.Join(ctx.Err(), stream.write(Killed{matched.Load(), killed.Load()}))
		case <-tick.C:
			if err := stream.write(Killed{matched.Load(), killed.Load()}); err != nil {
				cancel()
				return err
			}
		}
	}
}

// Kill ends the flows that f chooses, which may not be all, and says how many those were.
func (c *Client) Kill(ctx context.Context, f Filter) (k Killed, err error) {
	err = stream(ctx, c, http.MethodPost, "/v1/flows/kill?"+f.query().Encode(), func(next Killed) error { k = next; return nil })
	return k, err
}
