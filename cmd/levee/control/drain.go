package control

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// Drain is how far a drain is: nothing new is protected, and levee stops when the connections that it translates have ended.
type Drain struct {
	// State is one of the words below; empty if there was none.
	State DrainState `json:"state"`
	// Connections are open that need levee.
	Connections int `json:"connections"`
	// Seconds are since it began; TimeoutSeconds after how many of those it is over whatever is open, 0 if never.
	Seconds        float64 `json:"seconds"`
	TimeoutSeconds float64 `json:"timeout_seconds,omitempty"`
}

// DrainState is where a drain stands.
type DrainState string

// The states. All but the first are the last.
const (
	// Draining waits for connections to end.
	Draining DrainState = "draining"
	// Drained has seen all of them end: levee stops.
	Drained DrainState = "drained"
	// DrainTimedOut has not, and levee stops all the same: those that are left break.
	DrainTimedOut DrainState = "timed_out"
	// DrainCancelled protects again.
	DrainCancelled DrainState = "cancelled"
)

// Pauses of the server between two looks, and between two lines if nothing has changed.
const (
	drainLook = 100 * time.Millisecond
	drainTell = time.Second
)

func serveDrain(w http.ResponseWriter, r *http.Request, source Source) {
	var timeout time.Duration
	if text := r.URL.Query().Get("timeout"); text != "" {
		var err error
		if timeout, err = time.ParseDuration(text); err != nil || timeout < 0 {
			refuse(w, http.StatusBadRequest, fmt.Errorf("timeout %q is not a duration: write 30s", text))
			return
		}
	}
	if err := source.Drain(timeout); err != nil {
		refuse(w, http.StatusConflict, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	stream := newLines(w)
	look := time.NewTicker(drainLook)
	defer look.Stop()
	for told := (Drain{}); ; {
		now := source.DrainProgress()
		if now.State != told.State || now.Seconds-told.Seconds >= drainTell.Seconds() {
			if err := stream.write(now); err != nil {
				panic(http.ErrAbortHandler)
			}
			told = now
		}
		if now.State != Draining {
			return
		}
		select {
		case <-r.Context().Done(): // the drain goes on
			return
		case <-look.C:
		}
	}
}

func serveCancelDrain(w http.ResponseWriter, source Source) {
	if err := source.CancelDrain(); err != nil {
		refuse(w, http.StatusConflict, err)
		return
	}
	serveOne(w, source.DrainProgress())
}

// Drain has the daemon drain and then stop, after so long at the latest if the timeout isn't 0, and calls yield each second and with the last
// state. An error of yield, or of ctx, ends the watch and is returned: the drain goes on.
func (c *Client) Drain(ctx context.Context, timeout time.Duration, yield func(Drain) error) error {
	return stream(ctx, c, http.MethodPost, "/v1/drain?"+url.Values{"timeout": {timeout.String()}}.Encode(), yield)
}

// CancelDrain has the daemon protect again.
func (c *Client) CancelDrain(ctx context.Context) (Drain, error) {
	return decoded[Drain](ctx, c, http.MethodDelete, "/v1/drain")
}
