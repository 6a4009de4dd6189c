package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"levee/cmd/levee/config"
	"levee/cmd/levee/control"
	"levee/cmd/levee/metrics"
	"levee/cmd/levee/prober"
	"levee/proxy"
	"levee/proxy/cookie"
	"levee/proxy/servers"
	"levee/routes"
	"levee/tunnel"
)

// daemon is one run. The fields up to undo belong to Run and are set before anything that reads them is started.
type daemon struct {
	cfg     config.Config // as it was at the start; reloads has the one in force
	reloads reloads
	version string
	log     *slog.Logger
	start   time.Time
	super   supervisor
	// notUpgraded is why the program before this one could not be replaced.
	notUpgraded string

	layout *Layout
	// resumed: the layout is that of the process before, as far as its rules tell.
	resumed bool
	secret  cookie.Secret
	device  *tunnel.Device
	proxy   *proxy.Proxy
	// workers are in the order of the TUN's queues.
	workers []*proxy.Worker
	// flowState is where the flows are; nil if they are in memory only, for the reason in notKept.
	flowState *proxy.FlowState
	notKept   string
	// flowFile is the file that flowState is mapped from.
	flowFile os.FileInfo
	// converted is what became of the flows in a file that had to be converted.
	converted proxy.Conversion
	// servers is what is known of the servers; prober is nil if they aren't probed.
	servers *servers.Table
	prober  *prober.Prober
	trend   trend
	mending mending
	undo    undo

	watchdog watchdog
	upgrades upgrades
	drains   drains
	// drained ends the run when a drain is over.
	drained chan struct{}

	ready atomic.Bool
	// failed takes the first error of whatever runs; later ones are only logged.
	failed chan error
}

// Run protects the services of cfg until ctx is done, and then returns nil, or until something fails. Everything that it made is undone
// before it returns; what could not be is logged and makes an error. But if something fails while there may be connections, from
// this process or one before, what they need stays for the next: the TUN, the rules and the flow file.
func Run(ctx context.Context, cfg config.Config, reloading Reloading, version string, log *slog.Logger) error {
	ctx, cancel := inheritStop(ctx)
	defer cancel()
	d := &daemon{
		cfg: cfg, version: version, log: log, start: time.Now(), failed: make(chan error, 1), drained: make(chan struct{}),
		mending: newMending(), notUpgraded: inheritFailure(),
	}
	d.super.log = log
	d.reloads.Reloading = reloading
	d.reloads.cfg.Store(&cfg)
	d.reloads.status.Store(&control.Configuration{LoadedAt: d.start, LastReloadSuccessful: true})
	err := d.run(ctx)
	stay := err != nil && (d.ready.Load() || d.device != nil && d.device.Attached())
	d.ready.Store(false)
	if stay && !errors.Is(err, errUpgrade) {
		log.Warn("the TUN, the rules and open connections stay for the next levee run: start it, or run levee cleanup")
	}
	failed := d.undo.run(log, stay)
	if errors.Is(err, errUpgrade) {
		return d.upgrade(ctx)
	}
	if !failed {
		return err
	}
	const left = "not everything could be undone, see the log: run levee cleanup"
	if err == nil {
		return errors.New(left)
	}
	return fmt.Errorf("%w (and %s)", err, left)
}

func (d *daemon) run(ctx context.Context) error {
	for _, step := range []func() error{
		checkPrivilege, d.claim, d.keepCrash, d.openLayout, d.loadSecret, d.openTUN, d.reportLeft, d.openServers, d.openFlows, d.openProxy, d.keepRemoved, d.logFloods, d.watchWorkers, d.watchTrend, d.listenControl, d.listenMetrics, d.route, d.mend, d.listenUpgrade,
		d.allowReloads, d.allowDrains,
	} {
		// Who is asked to stop meanwhile goes on until all is up: only then is there everything to take back what an earlier process has left.
		if err := step(); err != nil {
			return err
		}
	}
	d.ready.Store(true)
	d.log.Info("ready", "version", d.version, "tun", d.device.Name(), "queues", len(d.device.Queues()),
		"mtu", d.layout.TUN.MTU, "offload", d.device.Offload().String(), "services", len(d.cfg.Services), "took", time.Since(d.start))
	if d.flowState == nil {
		d.log.Warn("connections won't outlive this process", "why", d.notKept)
	}
	d.super.ready(d.summary())
	d.background("supervisor", func(ctx context.Context) { d.super.watch(ctx, d.Lively, d.summary) })
	select {
	case <-ctx.Done():
	case <-d.drained:
	case err := <-d.failed:
		if errors.Is(err, errUpgrade) {
			d.super.reloading() // until the next program says that it is ready
		}
		return err
	}
	d.log.Info("stopping")
	d.super.stopping()
	return nil
}

func (d *daemon) summary() string { return summary(d.Status()) }

// fail ends the run with err. It may be called from anywhere.
func (d *daemon) fail(err error) {
	select {
	case d.failed <- err:
	default:
		d.log.Error("failed too", "error", err)
	}
}

// claim makes sure that no other levee is at work with the same files or rules.
func (d *daemon) claim() error {
	explain := func(err error, remedy string) error {
		var held *heldError
		if errors.As(err, &held) {
			return fmt.Errorf("%w: %s", err, remedy)
		}
		return err
	}
	folder, err := claimFolder(d.cfg.StateDir, true)
	if err != nil {
		return explain(err, "stop it first, or set another state_dir")
	}
	d.undo.add("lock of "+d.cfg.StateDir, folder.Close)
	if !d.cfg.Routing.Manage {
		return nil
	}
	namespace, err := claimNamespace()
	if err != nil {
		return explain(err, "stop it first, or set routing.manage to false in one of them")
	}
	d.undo.add("claim of the network namespace", namespace.Close)
	return nil
}

// openLayout finds where everything goes. After a crash this machine may be one on which levee would not begin, as a link is down: what the process before
// went on with is good enough to go on with, and its rules say what that is.
func (d *daemon) openLayout() (err error) {
	if d.layout, err = NewLayout(d.cfg); err == nil {
		return nil
	}
	resumed, none := d.resume(nil)
	if none != nil {
		return err
	}
	d.log.Warn("going on with the rules of the process before, as others can't be planned", "error", err)
	d.layout, d.resumed = resumed, true
	return nil
}

// resume lays everything out by the rules that the process before has left, with some for prefixes that no service has any longer.
func (d *daemon) resume(leaving map[netip.Prefix]time.Time) (*Layout, error) {
	was := former{resumed: true, prefixes: slices.SortedFunc(maps.Keys(leaving), netip.Prefix.Compare)}
	return newLayout(d.cfg, was, routes.NewPlanResumed)
}

func (d *daemon) loadSecret() (err error) {
	d.secret, err = cookie.LoadSecret(d.cfg.SecretFile)
	return err
}

func (d *daemon) openTUN() (err error) {
	cfg := d.layout.TUN
	cfg.Descriptors = inherited()
	if d.device, err = tunnel.Open(cfg); err != nil {
		return err
	}
	d.undo.addLasting("TUN "+d.device.Name(), d.device.Close, d.leaveTUN)
	if err := d.device.Steering(); err != nil && d.cfg.TUN.Steering {
		d.log.Warn("SYNs share queues with other packets, which a flood can push out", "error", err)
	}
	return nil
}

func (d *daemon) openProxy() (err error) {
	cfg := proxyConfig(d.cfg, d.layout, d.secret)
	cfg.Servers, cfg.State = d.servers, d.flowState
	if d.prober != nil {
		cfg.Probe = d.prober.Ask
	}
	if d.proxy, err = proxy.New(cfg, time.Now()); err != nil {
		return err
	}
	d.openBaseline()
	d.reportRestored()
	d.undo.add("workers", d.startWorkers())
	return nil
}

func (d *daemon) listenControl() error {
	s, err := control.Listen(d.cfg.SocketPath(), d, d.log)
	if err != nil {
		return err
	}
	d.serve("control socket", s)
	return nil
}

func (d *daemon) listenMetrics() error {
	if !d.cfg.Metrics.IsValid() {
		return nil
	}
	s, err := metrics.Listen(d.cfg.Metrics, d.version, d, d.log)
	if err != nil {
		return err
	}
	d.serve("metrics", s)
	return nil
}

// serve runs a server until it is undone.
func (d *daemon) serve(what string, s interface {
	Serve() error
	Close() error
}) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(); err != nil {
			d.fail(err)
		}
	}()
	d.undo.add(what, func() error {
		err := s.Close()
		<-done
		return err
	})
}

// route lets the traffic in.
func (d *daemon) route() error {
	plan := d.layout.Routes
	if plan == nil {
		return linkUp(d.device.Name())
	}
	report := func() {
		for _, line := range plan.Report() {
			d.log.Warn("left as it is", "what", line)
		}
	}
	apply := plan.Apply
	if d.resumed {
		apply = plan.Update // next to what may be in its way
	}
	err := apply()
	report()
	if err != nil && d.resumed {
		d.log.Error("the rules and routes of the process before could not be repaired: trying on", "error", err)
		err = nil
	}
	if err != nil {
		return err
	}
	d.undo.addLasting("rules and routes", func() error {
		plan = d.layout.Routes // which a reload may have changed
		err := plan.Remove()
		report()
		d.drain()
		return err
	}, nil)
	return nil
}
