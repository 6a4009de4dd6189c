package daemon

import (
	"context"
	"io"
	"path/filepath"
	"time"

	"levee/proxy"
	"levee/proxy/flood"
)

// maxBaselineFile bounds what is read, in bytes: more than as many services take as there may be.
const maxBaselineFile = 64 << 20

// baselineFile is where it outlives the process what is usual for services: from that the limits are learned that engage them.
func baselineFile(stateDir string) string { return filepath.Join(stateDir, "baseline.json") }

// openBaseline gives the proxy what an earlier run has learned, and keeps it.
func (d *daemon) openBaseline() {
	path := baselineFile(d.cfg.StateDir)
	if learned, err := loadBaseline(path); err != nil {
		d.log.Warn("what was usual for the services is lost, limits of floods are learned anew", "file", path, "error", err)
	} else {
		d.proxy.Relearn(learned)
	}
	d.background("what is usual for the services", func(ctx context.Context) {
		keepFile(ctx, path, func(w io.Writer) error { return flood.Save(w, d.proxy.Learned()) },
			func(err error) {
				d.log.Warn("what is usual for the services is not saved", "file", path, "error", err)
			})
	})
}

// loadBaseline reads a file; that there is none is no error.
func loadBaseline(path string) (map[string]flood.Learned, error) {
	f, err := openState(path)
	if f == nil {
		return nil, err
	}
	defer f.Close()
	return flood.Load(io.LimitReader(f, maxBaselineFile))
}

// floodsEvery is how late the log may be.
const floodsEvery = time.Second / 4

// logFloods writes into the log when floods begin and end, each once.
func (d *daemon) logFloods() error {
	d.background("log of floods", func(ctx context.Context) {
		every := time.NewTicker(floodsEvery)
		defer every.Stop()
		var seen floodNews
		for {
			select {
			case <-ctx.Done():
				return
			case <-every.C:
			}
			began, ended := seen.take(d.proxy.Floods())
			for i := range began {
				f := &began[i]
				what := "flood, SYNs are answered with cookies"
				if f.Monitored {
					what = "flood, nothing is done about it because the service is only monitored"
				}
				d.log.Warn(what, append(floodAttrs(f), "cause", f.Cause.String())...)
			}
			for i := range ended {
				f := &ended[i]
				d.log.Info("flood is over", append(floodAttrs(f), "destinations", f.Destinations, "lasted", f.End.Sub(f.Start).Round(time.Millisecond))...)
			}
		}
	})
	return nil
}

func floodAttrs(f *proxy.Flood) []any {
	attrs := []any{"flood", f.ID, "service", f.Service, "peak_syn_rate", f.PeakRate, "spread", f.Spread}
	if f.Top.IsValid() {
		attrs = append(attrs, "top", f.Top.String(), "top_syn_rate", f.TopRate)
	}
	return attrs
}

// floodNews finds what is new in the latest floods. Those that have begun and are forgotten before it looks again are missed: then there were
// more than 64 in between.
type floodNews struct {
	latest uint64
	open   map[uint64]bool
}

func (n *floodNews) take(latest []proxy.Flood) (began, ended []proxy.Flood) {
	open := make(map[uint64]bool)
	for _, f := range latest {
		known := n.open[f.ID]
		if f.ID > n.latest {
			n.latest, known = f.ID, true
			began = append(began, f)
		}
		switch {
		case f.End.IsZero():
			open[f.ID] = true
		case known:
			ended = append(ended, f)
		}
	}
	n.open = open
	return began, ended
}
