package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"levee/integration/lab"
)

// ChurnConfig is what the command line chooses for Churn.
type ChurnConfig struct {
	// Levee is the daemon's binary.
	Levee string
	// Flows is how many connections are open all the time, 1 to lab.MaxCrowd.
	Flows int
	// Duration is how long they are replaced while it counts, and WarmUp before it does: until as many flows are remembered as
	// will be.
	Duration, WarmUp time.Duration
	// Interval between two looks at the daemon.
	Interval time.Duration
	// Capacity of the flow table; 0 chooses one with room for what is remembered.
	Capacity int
	// Forget waits at the end until levee has forgotten all flows.
	Forget bool
	// Commit and Date are what the report says of itself.
	Commit, Date string
	// Say is told what goes on, as printf would be.
	Say func(format string, args ...any)
}

const (
	// Remembrance is how long levee remembers a closed flow: its transitory time-out.
	Remembrance = 4 * time.Minute
	// churnRate is more connections a second than a few cores manage.
	churnRate = 40_000
	// churnWindow is how many handshakes and farewells are under way: no more than fit into a queue of the TUN.
	churnWindow = 2048
	// churnResets: one connection in so many ends with a RST.
	churnResets = 16
	// forgetRate is the least flows a second that levee has to forget once their time has come.
	forgetRate = 2000
	// churnPatience is how long the daemon may take for what it does in its own time.
	churnPatience = 20 * time.Second
)

// phase of a churn.
type churnPhase string

const (
	phaseFill   churnPhase = "fill"
	phaseWarmUp churnPhase = "warm-up"
	phaseChurn  churnPhase = "churn"
	phaseDrain  churnPhase = "drain"
	phaseForget churnPhase = "forget"
)

// Churn opens connections through a daemon, replaces them as fast as they go, closes them all, and looks at the daemon all the while. What
// it found is in the report, goals that were missed too; the error is for a run that could not go on.
func Churn(ctx context.Context, cfg ChurnConfig) (report *ChurnReport, err error) {
	if cfg.Flows < 1 || cfg.Flows > lab.MaxCrowd || cfg.Duration <= 0 || cfg.Interval <= 0 || cfg.WarmUp < 0 {
		return nil, fmt.Errorf("a churn needs 1 to %d flows, a duration and an interval: %+v", lab.MaxCrowd, cfg)
	}
	if cfg.Capacity == 0 {
		cfg.Capacity = cfg.Flows + churnRate*int((Remembrance+2*time.Second)/time.Second)
	}
	machine, err := describeMachine()
	if err != nil {
		return nil, err
	}
	l, err := lab.New(lab.Config{Attacker: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	daemon, err := l.StartLevee(ctx, cfg.Levee, leveeConfig(cfg.Capacity))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, daemon.Stop()) }()
	c, err := l.StartChurn(lab.ChurnConfig{Port: crowdPort, Flows: cfg.Flows, Window: min(churnWindow, cfg.Flows), ResetEvery: churnResets})
	if err != nil {
		return nil, err
	}
	r := &churnRun{cfg: cfg, churn: c, watch: &churnWatch{lab: l, daemon: daemon, churn: c, begin: time.Now()}}
	if err := r.run(ctx); err != nil {
		return nil, fmt.Errorf("%w; the connections: %+v", err, c.Counts())
	}
	return newChurnReport(cfg, machine, r), nil
}

// churnRun is a churn in work.
type churnRun struct {
	cfg   ChurnConfig
	churn *lab.Churn
	watch *churnWatch
	// before and after are the daemon without connections.
	before, after ChurnSample
	// forgot is how long it took, in seconds, from when all were closed to after.
	forgot float64
	// samples are all between.
	samples []ChurnSample
}

func (r *churnRun) run(ctx context.Context) (err error) {
	// The first look makes the daemon take what it needs to answer.
	for range 2 {
		if r.before, err = r.watch.look(ctx); err != nil {
			return err
		}
	}
	for _, p := range []struct {
		phase churnPhase
		say   string
		run   func(context.Context) error
	}{
		{phaseFill, fmt.Sprintf("opening %d connections", r.cfg.Flows), r.churn.Fill},
		{phaseWarmUp, fmt.Sprintf("replacing them for %v to warm up", r.cfg.WarmUp), r.turn(r.cfg.WarmUp)},
		{phaseChurn, fmt.Sprintf("replacing them for %v", r.cfg.Duration), r.turn(r.cfg.Duration)},
		{phaseDrain, "closing them all", r.churn.Drain},
		{phaseForget, "waiting until they are forgotten", r.forget},
	} {
		r.cfg.Say("churn: %s\n", p.say)
		if err := r.watched(ctx, p.phase, p.run); err != nil {
			return fmt.Errorf("%s: %w", p.phase, err)
		}
	}
	return nil
}

func (r *churnRun) turn(d time.Duration) func(context.Context) error {
	return func(ctx context.Context) error { return r.churn.Turn(ctx, d) }
}

// watched runs a phase and looks at the daemon at intervals meanwhile, and once when the phase is over.
func (r *churnRun) watched(ctx context.Context, phase churnPhase, run func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	look := func() error {
		s, err := r.watch.look(ctx)
		if err != nil {
			return err
		}
		s.Phase = phase
		r.samples = append(r.samples, s)
		return nil
	}
	ticks := time.NewTicker(r.cfg.Interval)
	defer ticks.Stop()
	for {
		select {
		case err := <-done:
			if err != nil {
				return err
			}
			return look()
		case <-ticks.C:
			if err := look(); err != nil {
				cancel()
				<-done
				return err
			}
		}
	}
}

// forget waits until the daemon is as it was before, and notes how it is in the end. That it is not is for the report to say.
func (r *churnRun) forget(ctx context.Context) (err error) {
	patience := churnPatience
	if r.cfg.Forget {
		// levee looks after time-outs a few at a time.
		patience += Remembrance + time.Duration(r.churn.Counts().Opened)*time.Second/forgetRate
	}
	begin := time.Now()
	for deadline := begin.Add(patience); ; {
		if r.after, err = r.watch.look(ctx); err != nil {
			return err
		}
		a := &r.after
		over := a.Open+a.Opening+a.Closing == 0 && (a.Remembered == 0 || !r.cfg.Forget) &&
			a.Goroutines <= r.before.Goroutines && a.FDs <= r.before.FDs
		if over || time.Now().After(deadline) {
			r.forgot = time.Since(begin).Seconds()
			return nil
		}
		if err := sleep(ctx, min(r.cfg.Interval, time.Second)); err != nil {
			return err
		}
	}
}
