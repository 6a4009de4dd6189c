package daemon

import (
	"context"
	"net"
	"net/netip"
	"time"

	"levee/cmd/levee/control"
	"levee/cmd/levee/prober"
	"levee/proxy"
	"levee/proxy/servers"
	"levee/routes"
	"levee/tunnel"
)

// The daemon is what the control socket and the metrics ask.

// Status implements control.Source.
func (d *daemon) Status() control.Status {
	s := control.NewStatus(d.proxy.Snapshot())
	s.Version, s.Started = d.version, d.start
	s.UptimeSeconds = int64(time.Since(d.start) / time.Second)
	s.NotUpgraded = d.notUpgraded
	s.Ready = d.Ready()
	if d.drains.active() {
		progress := d.DrainProgress()
		s.Drain = &progress
	}
	s.Configuration = d.Configuration()
	s.Kernel = d.Kernel()
	s.Flows.Kept = d.kept()
	s.TUN = control.TUN{
		Name: d.device.Name(), Queues: len(d.device.Queues()), Offload: d.device.Offload().String(), Steering: "ebpf",
	}
	s.SetFloods(time.Now(), d.proxy.Floods())
	d.trend.fill(time.Now(), &s)
	if d.cfg.Routing.Manage {
		s.TUN.OnFailure = "block"
		if d.cfg.Routing.Bypass {
			s.TUN.OnFailure = "bypass"
		}
		exempt, tracking, known := d.Exemption()
		switch {
		case !known:
		case exempt:
			s.TUN.Notrack = "exempt"
		case tracking:
			s.TUN.Notrack = "tracked"
		default:
			s.TUN.Notrack = "not tracked"
		}
	}
	if err := d.device.Steering(); err != nil {
		s.TUN.Steering = "none: " + err.Error()
	}
	if rings, err := d.device.Rings(); err == nil {
		for _, r := range rings {
			s.TUN.Rings = append(s.TUN.Rings, control.Ring{Takes: r.Takes.String(), Chosen: r.Chosen, Dropped: r.Dropped, Exact: r.Exact})
		}
	}
	if stats, err := d.device.Stats(); err == nil {
		s.TUN.RxDrops, s.TUN.TxDrops = stats.RxDropped, stats.TxDropped
	}
	return s
}

// Flows implements control.Source.
func (d *daemon) Flows(yield func(proxy.FlowInfo) bool) { d.proxy.Flows(time.Now(), yield) }

// Kill implements control.Source.
func (d *daemon) Kill(ctx context.Context, a, b netip.AddrPort) (bool, error) {
	return d.proxy.Kill(ctx, a, b)
}

// Observe implements control.Source.
func (d *daemon) Observe(in proxy.Interest) (*proxy.Observer, error) { return d.proxy.Observe(in) }

// Servers implements control.Source.
func (d *daemon) Servers(yield func(servers.Info) bool) { d.servers.All(time.Now().Unix(), yield) }

// ServerCounts implements metrics.Source.
func (d *daemon) ServerCounts() [servers.NumStates]int { return d.servers.Counts(time.Now().Unix()) }

// Probes implements metrics.Source.
func (d *daemon) Probes() (n [prober.NumOutcomes]uint64) {
	if d.prober != nil {
		for o := range n {
			n[o] = d.prober.Count(prober.Outcome(o))
		}
	}
	return n
}

// Services implements control.Source.
func (d *daemon) Services() []string {
	var names []string
	for _, s := range d.reloads.cfg.Load().Services {
		names = append(names, s.Name)
	}
	return names
}

// Ready says that everything is up. Nothing new is protected while levee drains.
func (d *daemon) Ready() bool {
	return d.ready.Load() && !d.drains.active() && d.mending.protected()
}

// Exemption implements metrics.Source. An error must not keep the rest from being seen.
func (d *daemon) Exemption() (exempt, tracking, known bool) {
	if !d.cfg.Routing.Manage {
		return false, false, false
	}
	exempt, tracking, err := routes.Exempt()
	return exempt, tracking, err == nil
}

// Kernel implements metrics.Source.
func (d *daemon) Kernel() control.Kernel { return d.mending.report() }

// NotReady implements metrics.Source.
func (d *daemon) NotReady() (why []string) {
	switch {
	case !d.ready.Load():
		return []string{"levee is starting or stopping"}
	case d.drains.active():
		why = append(why, "levee drains")
	}
	if link, err := net.InterfaceByName(d.device.Name()); err != nil || link.Flags&net.FlagUp == 0 {
		why = append(why, "the TUN is down")
	}
	if !d.mending.protected() {
		why = append(why, d.mending.report().Problems...)
	}
	if missing, err := d.missingRules(); err != nil {
		why = append(why, "rules can't be read: "+err.Error())
	} else if missing > 0 {
		why = append(why, plural(missing, "rule")+" missing")
	}
	if !d.Lively() {
		why = append(why, "a worker doesn't move")
	}
	return why
}

// missingRules is 0 too if they aren't levee's business.
func (d *daemon) missingRules() (int, error) {
	plan := d.plan()
	if plan == nil {
		return 0, nil
	}
	return plan.Missing()
}

// Snapshot implements metrics.Source.
func (d *daemon) Snapshot() proxy.Snapshot { return d.proxy.Snapshot() }

// TUNStats implements metrics.Source.
func (d *daemon) TUNStats() (tunnel.Stats, error) { return d.device.Stats() }

// Rings implements metrics.Source.
func (d *daemon) Rings() ([]tunnel.RingStats, error) { return d.device.Rings() }

// QueueStats implements metrics.Source.
func (d *daemon) QueueStats() []tunnel.QueueStats {
	var all []tunnel.QueueStats
	for _, q := range d.device.Queues() {
		all = append(all, q.Stats())
	}
	return all
}
