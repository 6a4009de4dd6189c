package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"levee/cmd/levee/config"
	"levee/routes"
)

const (
	// mendPause lets those finish who change several things, mendAgain is after how long a failure is tried again, and how often
	// levee looks at what no message of the kernel's tells of: the TUN's own settings, and sysctls.
	mendPause = 200 * time.Millisecond
	mendAgain = time.Second
	// mendShare bounds the repairs' share of a processor: after each look there is a pause of so many times what it took. It takes long where there
	// is a routing table of the whole Internet.
	mendShare = 4
	// lookAround is how often levee looks whether a rule of somebody else's takes packets still: which of its table's routes matter isn't known.
	lookAround = 10 * time.Second
)

// mend puts right what others do to what levee has set up in the kernel, and follows the interfaces that come, go and change:
//
//	the TUN deleted, renamed, set down, or set otherwise ─▶ made again or put right, with the same workers and flows
//	rules, routes, sysctls taken away or changed        ─▶ put back
//	the exemption from connection tracking flushed, or needed for the first time ─▶ made
//	interfaces and addresses that appear and disappear  ─▶ the rules follow, where the configuration says auto
//	rules that take packets around levee's, and anything else that is in the way ─▶ a problem in status
//	the flow file removed or replaced                   ─▶ the same: the flows in memory have no name to be found by
func (d *daemon) mend() error {
	managed := d.layout.Routes != nil
	if managed {
		d.background("watch of rules and routes", func(ctx context.Context) {
			routes.Watch(ctx, d.concerns, d.notice, func(err error) {
				d.log.Error("what somebody else does to levee's rules goes unnoticed for now", "error", err)
			})
		})
		d.background("watch of connection tracking", func(ctx context.Context) {
			if err := routes.WatchTracking(ctx, d.notice); err != nil {
				d.log.Error("what somebody else does to connection tracking goes unnoticed", "error", err)
			}
		})
	}
	d.background("repairs", func(ctx context.Context) {
		poll := time.NewTicker(mendAgain)
		defer poll.Stop()
		m := mender{managed: managed, failed: d.resumed}
		for {
			changed := false
			select {
			case <-ctx.Done():
				return
			case <-d.mending.changed:
				changed = true
			case now := <-poll.C:
				changed = m.failed || d.mending.due(now) || !m.around.IsZero() && now.Sub(m.around) >= lookAround || managed && d.sysctlsChanged()
			}
			if !m.run(ctx, d, changed) {
				return
			}
		}
	})
	return nil
}

// mender is what the repairs remember from one look to the next.
type mender struct {
	// managed: the routing is levee's.
	managed      bool
	tun, routing []string // problems
	// failed: the latest look at the routing has ended in an error, so that there must be another.
	failed      bool
	unprotected bool
	// around is when the latest look found that packets go around levee; zero if it didn't.
	around time.Time
}

// run looks once, at the routing too if something has changed. It returns false when ctx is done.
func (m *mender) run(ctx context.Context, d *daemon, changed bool) bool {
	done, err := d.device.Repair()
	if changed && len(done) == 0 && err == nil {
		if !sleep(ctx, mendPause) {
			return false
		}
		done, err = d.device.Repair()
	}
	began := time.Now()
	m.tun = nil
	repaired := len(done) > 0
	if repaired {
		d.proxy.WentAround(time.Now())
	}
	switch {
	case err != nil: // what has its name isn't levee's
		m.tun, m.failed = []string{oneLine(err)}, true
	case m.managed && (changed || repaired):
		var around bool
		if m.routing, m.failed, m.unprotected, around = d.mendRouting(repaired); around {
			m.around = time.Now()
		} else if !m.around.IsZero() && !m.failed {
			m.around = time.Time{}
			d.proxy.WentAround(time.Now())
		}
	case repaired:
		if err := linkUp(d.device.Name()); err != nil {
			m.tun = append(m.tun, oneLine(err))
		}
	}
	if repaired { // told once what leads into the TUN, and went with it, is back as well
		d.repaired(repairTUN, "the TUN was changed by somebody else: repaired", "what", strings.Join(done, "; "))
	}
	problems := slices.Concat(m.tun, m.routing)
	if err := d.checkFlowFile(); err != nil {
		problems = append(problems, err.Error())
	}
	added, over := d.mending.set(problems, err != nil || m.unprotected)
	for _, p := range added {
		d.log.Warn("a problem that levee can't put right", "problem", p)
	}
	for _, p := range over {
		d.log.Info("a problem is over", "problem", p)
	}
	return !changed && !repaired || sleep(ctx, mendShare*time.Since(began))
}

// oneLine is an error's text for a list of problems.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// repaired counts and logs a repair.
func (d *daemon) repaired(r repair, message string, args ...any) {
	say, last := d.mending.count(r, time.Now())
	if !say {
		return
	}
	if last {
		args = append(args, "note", "somebody does this again and again: more is counted, but not logged for a minute")
	}
	level := slog.LevelWarn
	if r == repairInterfaces {
		level = slog.LevelInfo
	}
	d.log.Log(context.Background(), level, message, args...)
}

// concerns says whether a route may matter to the plan.
func (d *daemon) concerns(table int, dst netip.Prefix) bool {
	d.reloads.mu.Lock()
	defer d.reloads.mu.Unlock()
	return d.layout.Routes.Concerns(table, dst)
}

func (d *daemon) sysctlsChanged() bool {
	d.reloads.mu.Lock()
	defer d.reloads.mu.Unlock()
	return d.layout.Routes.SysctlsChanged()
}

// mendRouting plans anew for the interfaces and routes that there are now, and makes the kernel as planned. What can't be
// planned leaves the plan in force, which is repaired all the same, and next to what is in its way. What is missing because the TUN was is not told again.
// around says that rules of somebody else's take packets around levee all the same.
func (d *daemon) mendRouting(told bool) (problems []string, failed, unprotected, around bool) {
	r := &d.reloads
	r.mu.Lock() // a reload changes the plan
	defer r.mu.Unlock()
	fail := func(err error) {
		if failed = true; !slices.Contains(problems, oneLine(err)) {
			problems = append(problems, oneLine(err))
		}
	}
	cfg := *r.cfg.Load()
	next, err := newLayout(cfg, d.former(r.leaving), routes.NewPlanAlongside)
	if err != nil {
		problems = append(problems, oneLine(err))
		next = d.layout
		if next.live, err = routes.Read(routesConfig(cfg)); err != nil {
			fail(err)
			return problems, failed, d.mending.unprotected, false
		}
	}
	live := next.live
	next.live = routes.Live{}
	was, diff := d.layout.Routes.Diff(live), next.Routes.Diff(live)
	for _, foreign := range diff.Foreign {
		fail(foreign)
	}
	if diff.Repairable() {
		if err := next.Routes.Update(); err != nil {
			fail(err)
			return problems, failed, was.Broken(), false
		}
		d.proxy.WentAround(time.Now())
		if !told {
			d.tellRepaired(was)
		}
		if changed := changedSysctls(was); len(changed) > 0 && !told {
			d.repaired(repairSysctls, "sysctls were changed by somebody else: repaired", "sysctls", changed)
		}
	}
	if next != d.layout {
		if err := d.follow(cfg, next); err != nil {
			fail(err)
		}
	}
	diff = d.layout.Routes.Diff(live)
	d.mending.miss(slices.Concat(diff.DownInterfaces, diff.MissingInterfaces), time.Now())
	for _, name := range diff.DownInterfaces {
		problems = append(problems, fmt.Sprintf("interface %s is down", name))
	}
	for _, name := range diff.MissingInterfaces {
		problems = append(problems, fmt.Sprintf("interface %s does not exist any more", name))
	}
	problems = append(problems, next.warnings...)
	detours, whole := d.layout.Routes.Around(&live)
	for _, detour := range detours {
		problems = append(problems, oneLine(detour))
	}
	return problems, failed, whole, whole || len(detours) > 0
}

// tellRepaired counts and logs what was not as planned of the ways into the TUN and of connection tracking.
func (d *daemon) tellRepaired(was routes.Diff) {
	switch {
	case was.NotrackMissing:
		d.repaired(repairNotrack, "protected traffic was not exempt from connection tracking: repaired")
	case was.NotrackStale:
		d.repaired(repairNotrack, "protected traffic was exempt from connection tracking without need: repaired")
	}
	was.NotrackMissing, was.NotrackStale = false, false
	if was.Broken() {
		d.repaired(repairRouting, "rules or routes were gone: repaired")
	}
}

// changedSysctls are the values that are not the plan's, each as key=value.
func changedSysctls(d routes.Diff) (changed []string) {
	for _, s := range d.Sysctls {
		if !s.Missing {
			changed = append(changed, s.Key+"="+s.Have)
		}
	}
	return changed
}

// follow makes a layout the one in force, whose rules are the kernel's already. reloads.mu is held.
func (d *daemon) follow(cfg config.Config, next *Layout) error {
	same := next.Routes.SameRouting(d.layout.Routes)
	err := d.keepTUN(next)
	if !next.sources.equal(&d.layout.sources) || next.MTU != d.layout.MTU {
		policy := proxyConfig(cfg, next, d.secret)
		if d.drains.active() {
			policy = drainConfig(policy)
		}
		err = errors.Join(err, d.proxy.Reload(policy, time.Now()))
	}
	if err != nil {
		return err
	}
	d.layout = next
	if !same {
		d.repaired(repairInterfaces, "interfaces have changed: the rules follow",
			"clients", next.Routes.ClientInterfaces(), "servers", next.Routes.ServerInterfaces())
	}
	return nil
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
