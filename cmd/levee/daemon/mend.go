package daemon

import (
	"context"
	"time"

	"levee/routes"
)

const (
	// mendPause lets those finish who change several things, mendAgain is after how long a failure is tried again.
	mendPause = 200 * time.Millisecond
	mendAgain = time.Second
)

// mend puts rules, routes and the TUN right when somebody else takes them away: another daemon that flushes what it doesn't know, or
// an interface that went down. A TUN that was deleted ends the workers, and with them the process: the next makes another.
func (d *daemon) mend() error {
	if d.layout.Routes == nil {
		return nil
	}
	changed := make(chan struct{}, 1)
	changed <- struct{}{} // something may have happened since the plan was applied
	for what, watch := range map[string]func(context.Context, func()) error{"rules and routes": routes.Watch, "connection tracking": routes.WatchTracking} {
		d.background("watch of "+what, func(ctx context.Context) {
			if err := watch(ctx, func() {
				select {
				case changed <- struct{}{}:
				default:
				}
			}); err != nil {
				d.log.Error("what somebody else changes goes unnoticed", "of", what, "error", err)
			}
		})
	}
	d.background("repair of rules and routes", func(ctx context.Context) {
		failing := false
		for {
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
			if !sleep(ctx, mendPause) {
				return
			}
			mended, err := d.mendOnce()
			switch {
			case err != nil:
				if !failing {
					d.log.Error("rules and routes can't be repaired, trying again", "error", err)
				}
				if !sleep(ctx, mendAgain) {
					return
				}
				select {
				case changed <- struct{}{}:
				default:
				}
			case mended:
				d.log.Warn("rules or routes were gone: repaired")
			}
			failing = err != nil
		}
	})
	return nil
}

// mendOnce applies the plan again if traffic doesn't get into the TUN.
func (d *daemon) mendOnce() (mended bool, err error) {
	d.reloads.mu.Lock() // a reload changes the plan
	defer d.reloads.mu.Unlock()
	live, err := routes.Read(routesConfig(*d.reloads.cfg.Load()))
	if err != nil {
		return false, err
	}
	if !d.layout.Routes.Diff(live).Broken() {
		return false, nil
	}
	return true, d.layout.Routes.Apply()
}

// sleep says whether the time has passed before ctx was done.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
