package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"time"

	"levee/integration/lab"
)

// Config is what the command line chooses.
type Config struct {
	// Levee is the daemon's binary.
	Levee string
	// Repeat is how often everything is measured, 1 to MaxRepeat.
	Repeat int
	// Only, if it isn't nil, chooses what is measured by "measure/contender", as in "bulk/levee".
	Only *regexp.Regexp
	// Quick measures once, briefly, and with fewer flows: a try, not a result.
	Quick bool
	// Commit and Date are what the report says of itself.
	Commit, Date string
	// Say is told what goes on, as printf would be.
	Say func(format string, args ...any)
}

// MaxRepeat bounds Config.Repeat.
const MaxRepeat = 50

// windows are the lengths of what is measured.
type windows struct {
	// settle is before a window begins.
	settle time.Duration
	// flood, bulk, rate, latency and packets are windows.
	flood, bulk, rate, latency, packets time.Duration
	// probe is a window of the search for a rate.
	probe time.Duration
	// trips are the connections of a far client, and downloads those of each kind, one after another.
	trips, downloads int
	// flows are the sizes of a crowd, and crowdRate how many of it connect in a second.
	flows     []int
	crowdRate int
	// packetRate is how many segments a crowd sends in a second.
	packetRate int
}

var (
	full = windows{
		settle: 300 * time.Millisecond,
		flood:  2 * time.Second, bulk: 2500 * time.Millisecond, rate: 2 * time.Second, latency: 2 * time.Second,
		packets: 1500 * time.Millisecond, probe: time.Second,
		trips: 50, downloads: 10, flows: []int{1000, 100_000, 1_000_000}, crowdRate: 25_000, packetRate: 100_000,
	}
	quick = windows{
		settle: 200 * time.Millisecond,
		flood:  500 * time.Millisecond, bulk: 500 * time.Millisecond, rate: 500 * time.Millisecond, latency: 500 * time.Millisecond,
		packets: 500 * time.Millisecond, probe: 300 * time.Millisecond,
		trips: 20, downloads: 1, flows: []int{1000, 20_000}, crowdRate: 20_000, packetRate: 50_000,
	}
)

// farDelay is one way to the far client: 50 ms there and back.
const farDelay = 25 * time.Millisecond

// bench is a run.
type bench struct {
	cfg    Config
	length windows
	lab    *lab.Lab
	report *Report
	all    []contender
	// near and far clients, and the server of all of them.
	near, far, server *lab.Host
	// answers counts the SYN-ACKs that arrive on the attacker's link, and drops them.
	answers *lab.SYNCounter
	// floodTarget is where the SYNs of a flood go that nobody else uses, and listener what is open there, if it is.
	floodTarget netip.AddrPort
	listener    net.Listener
	// dropped is the latest flood that went no further than the gateway's door.
	dropped floodRun
	// serverRTT is the latest round-trip time between gateway and server.
	serverRTT time.Duration
	// idle is the sum of all pauses.
	idle usage
	// synRate is what all contenders answer, in SYNs a second; 0 until it was looked for.
	synRate int
	// port is the last that was given to a server. Every run has one of its own, so that no connection has the addresses and
	// ports of an earlier one, which the kernel's SYN proxy remembers for minutes.
	port uint16
	// failed are the measures of contenders that gave no result; they aren't tried again.
	failed map[string]bool
}

// measure is a kind of measurement, repeated for each contender in turn.
type measure struct {
	name string
	// prepare, if there, runs before the first repetition, and before runs ahead of each; no contender is on then.
	prepare, before func(b *bench, ctx context.Context) error
	// run measures one contender, which is on, records results and says what the contender must have seen.
	run func(b *bench, ctx context.Context, id contenderID) (seen, error)
	// without is a contender that is left out, if any: it would take too long.
	without contenderID
}

var measures = []measure{
	{name: "syn", prepare: (*bench).prepareSYN, before: (*bench).beforeSYN, run: (*bench).runSYN},
	{name: "bulk", run: (*bench).runBulk},
	{name: "conn", run: (*bench).runConn},
	{name: "download", run: (*bench).runDownload, without: synproxyNoTS},
	{name: "ttfb", before: (*bench).beforeTTFB, run: (*bench).runTTFB},
}

// Run builds a lab, measures and takes the lab down. What could not be measured is in the report; the error is for a
// run that could not go on.
func Run(ctx context.Context, cfg Config) (report *Report, err error) {
	if cfg.Repeat < 1 || cfg.Repeat > MaxRepeat {
		return nil, fmt.Errorf("repeat %d times: use 1 to %d", cfg.Repeat, MaxRepeat)
	}
	b, err := start(cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	begin := time.Now()
	if err := b.pause(ctx, time.Second); err != nil {
		return nil, err
	}
	b.warnOfNoise()
	for rep := range b.cfg.Repeat {
		for i := range measures {
			if err := b.repetition(ctx, &measures[i], rep); err != nil {
				return nil, err
			}
		}
	}
	if err := b.flows(ctx); err != nil {
		return nil, err
	}
	b.report.Seconds = time.Since(begin).Seconds()
	b.report.Targets = b.report.judge(b.cfg.Only == nil)
	b.warnOfNoise()
	return b.report, nil
}

func (b *bench) warnOfNoise() {
	if b.report.Background > noisy {
		b.cfg.Say("warning: the machine is %.0f %% busy with something else: these figures are worth little\n", 100*b.report.Background)
	}
}

// start builds the lab. The caller closes it.
func start(cfg Config) (b *bench, err error) {
	l, err := lab.New(lab.Config{Clients: 2, Attacker: true, ClientDelays: []time.Duration{0, farDelay}})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	if err := tuneHosts(l); err != nil {
		return nil, err
	}
	b = &bench{
		cfg: cfg, length: full, lab: l, port: 10_000, failed: map[string]bool{},
		near: l.Clients[0], far: l.Clients[1], server: l.Servers[0],
		all: []contender{
			plain{l}, &synproxy{lab: l, timestamps: true}, &synproxy{lab: l}, &levee{lab: l, binary: cfg.Levee},
		},
	}
	if cfg.Quick {
		b.length, b.cfg.Repeat = quick, 1
	}
	if b.answers, err = l.Attacker.Link.Host.CountSYNs(true); err != nil {
		return nil, err
	}
	if b.report, err = newReport(b.cfg); err != nil {
		return nil, err
	}
	return b, nil
}

func (b *bench) close() (err error) {
	if b.listener != nil {
		err = b.listener.Close()
	}
	return errors.Join(err, b.lab.Close())
}

// Measures says whether anything at all is measured of what a Config.Only matches.
func Measures(only *regexp.Regexp) bool {
	for _, id := range []contenderID{plainID, synproxyID, synproxyNoTS, leveeID} {
		for _, m := range measures {
			if id != m.without && only.MatchString(m.name+"/"+string(id)) {
				return true
			}
		}
	}
	return only.MatchString(flowsName + "/" + string(leveeID))
}

// chosen says whether a measure of a contender is wanted.
func (b *bench) chosen(measure string, id contenderID) bool {
	name := measure + "/" + string(id)
	return !b.failed[name] && (b.cfg.Only == nil || b.cfg.Only.MatchString(name))
}

// repetition runs a measure once for each contender, a different one first each time.
func (b *bench) repetition(ctx context.Context, m *measure, rep int) error {
	var wanted []contender
	for i := range b.all {
		if c := b.all[(i+rep)%len(b.all)]; c.id() != m.without && b.chosen(m.name, c.id()) {
			wanted = append(wanted, c)
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	if rep == 0 && m.prepare != nil {
		if err := m.prepare(b, ctx); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	if m.before != nil {
		if err := m.before(b, ctx); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	for _, c := range wanted {
		b.cfg.Say("%d/%d %s: %s\n", rep+1, b.cfg.Repeat, m.name, contenderNames[c.id()])
		err := b.with(ctx, c, func() (seen, error) { return m.run(b, ctx, c.id()) })
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			b.fail(m.name, c.id(), err)
		}
	}
	return nil
}

// fail notes that a measure of a contender gave no result, and takes back what it gave so far.
func (b *bench) fail(measure string, id contenderID, err error) {
	b.failed[measure+"/"+string(id)] = true
	b.report.fail(measure, id, err)
	b.cfg.Say("  failed: %v\n", err)
}

// nextPort is a port of the server that no connection has used.
func (b *bench) nextPort() netip.AddrPort {
	b.port++
	return b.server.AddrPort(false, b.port)
}

// pause waits, and notes what the machine does while nothing is measured.
func (b *bench) pause(ctx context.Context, d time.Duration) error {
	before, err := markCPU()
	if err != nil {
		return err
	}
	if err := sleep(ctx, d); err != nil {
		return err
	}
	after, err := markCPU()
	if err != nil {
		return err
	}
	u := after.since(before)
	b.idle.wall += u.wall
	b.idle.busy += u.busy
	b.report.Background = b.idle.share(after.cpus)
	return nil
}

// noisy is the share of the CPUs above which the machine isn't quiet.
const noisy = 0.05
