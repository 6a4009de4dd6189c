package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"levee/integration/lab"
)

// flowsName is the measure that is levee's alone: it is run once for each number of flows, on one daemon, whose packets
// are measured as often as everything else.
const flowsName = "flows"

// flowsID is the name of a figure at a number of flows.
func flowsID(figure string, flows int) string { return fmt.Sprintf("%s-%d", figure, flows) }

// flows opens more and more connections through levee, and looks at its memory and at what a packet costs.
func (b *bench) flows(ctx context.Context) error {
	if !b.chosen(flowsName, leveeID) {
		return nil
	}
	err := b.measureFlows(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		b.fail(flowsName, leveeID, err)
	}
	return nil
}

func (b *bench) measureFlows(ctx context.Context) (err error) {
	sizes := b.length.flows
	b.report.FlowSizes = sizes
	most := sizes[len(sizes)-1]
	v := b.all[len(b.all)-1].(*levee)
	daemon, err := b.lab.StartLevee(ctx, v.binary, leveeConfig(max(most, defaultCapacity)))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, daemon.Stop()) }()
	c, err := b.lab.StartCrowd(crowdPort, most)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	g := &growth{bench: b, daemon: daemon, crowd: c}
	if g.empty, err = rss(daemon.Process().Pid()); err != nil {
		return err
	}
	for _, n := range sizes {
		if err := g.to(ctx, n); err != nil {
			return fmt.Errorf("at %d flows: %w", n, err)
		}
	}
	return nil
}

// crowdPort is the crowd's server.
const crowdPort = 7

// growth is a daemon whose number of flows grows.
type growth struct {
	*bench
	daemon *lab.Levee
	crowd  *lab.Crowd
	// empty is the daemon's memory without flows, in bytes.
	empty int64
}

func (g *growth) to(ctx context.Context, n int) error {
	g.cfg.Say("flows: opening %d\n", n)
	if err := g.crowd.Open(ctx, n, g.length.crowdRate); err != nil {
		return err
	}
	open, err := g.awaitOpen(ctx, n)
	if err != nil {
		return err
	}
	resident, err := rss(g.daemon.Process().Pid())
	if err != nil {
		return err
	}
	g.report.add(flowsID("rss", n), leveeID, float64(resident)/1e6)
	g.report.add(flowsID("flow-bytes", n), leveeID, float64(resident)/float64(open))
	g.report.add(flowsID("flow-growth", n), leveeID, float64(resident-g.empty)/float64(open))
	for rep := range g.cfg.Repeat {
		g.cfg.Say("%d/%d flows: packets on %d\n", rep+1, g.cfg.Repeat, n)
		if err := g.packets(ctx, n); err != nil {
			return err
		}
	}
	m, err := g.scrape(ctx)
	if err != nil {
		return err
	}
	g.report.add(flowsID("gc-pause", n), leveeID, m.longestPause*1000)
	return nil
}

// openShare is the least share of a crowd's connections that levee must have; a busy machine may lose the others' packets more often than
// levee sends them again.
const openShare = 0.999

// awaitOpen waits until the daemon has n open flows, or nearly, and returns how many it has.
func (g *growth) awaitOpen(ctx context.Context, n int) (open int, err error) {
	const patience = 20 * time.Second // SYNs to the server that got lost are sent again after 1, 2 and 4 s
	for deadline := time.Now().Add(patience); ; {
		status, err := g.daemon.Status(ctx)
		if err != nil {
			return 0, err
		}
		f := status.Flows
		late := time.Now().After(deadline)
		if f.Open == n || late && f.Open < n && float64(f.Open) >= openShare*float64(n) {
			return f.Open, nil
		}
		if late {
			return 0, fmt.Errorf("levee counts %d open flows and %d opening, but %d were opened; it dropped %v", f.Open, f.Opening, n, status.Drops)
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

// packets measures what forwarding one packet costs, when every packet is of another of n flows: all that the machine does, without
// making the packets and dropping them at the gateway's door.
func (g *growth) packets(ctx context.Context, n int) error {
	// What the daemon allocates while nothing reaches it is not the packets'.
	idle, err := g.scrape(ctx)
	if err != nil {
		return err
	}
	sink, err := g.lab.Attacker.Link.Gateway.StartSink(0)
	if err != nil {
		return err
	}
	dropped, err := g.send(ctx, n)
	if err := errors.Join(err, sink.Stop()); err != nil {
		return err
	}
	if dropped.arrived > 0 {
		return fmt.Errorf("%d packets arrived in spite of being dropped", dropped.arrived)
	}
	before, err := g.scrape(ctx)
	if err != nil {
		return err
	}
	run, err := g.send(ctx, n)
	if err != nil {
		return err
	}
	after, err := g.scrape(ctx)
	if err != nil {
		return err
	}
	if float64(run.arrived) < heldShare*float64(run.sent) {
		return fmt.Errorf("only %d of %d packets arrived", run.arrived, run.sent)
	}
	if went := after.frames - before.frames; went < float64(run.arrived) {
		return fmt.Errorf("levee counts %.0f packets, but %d arrived: they went past it", went, run.arrived)
	}
	busy := run.cpu.busy.Seconds() - dropped.cpu.busy.Seconds()*float64(run.sent)/float64(dropped.sent)
	if busy <= 0 {
		return errors.New("forwarding packets took no CPU more than dropping them: the machine is too busy with something else")
	}
	g.report.add(flowsID("packet-cpu", n), leveeID, busy/float64(run.arrived)*1e6)
	mallocs := (after.mallocs - before.mallocs) - (before.mallocs - idle.mallocs)
	g.report.add(flowsID("packet-allocs", n), leveeID, max(mallocs, 0)/float64(run.arrived))
	return nil
}

// packetRun is what became of the packets of one run.
type packetRun struct {
	sent, arrived int
	cpu           usage
}

func (g *growth) send(ctx context.Context, n int) (r packetRun, err error) {
	arrived, err := g.crowd.Arrived()
	if err != nil {
		return r, err
	}
	before, err := markCPU()
	if err != nil {
		return r, err
	}
	count := int(float64(g.length.packetRate) * g.length.packets.Seconds())
	if r.sent, err = g.crowd.Send(ctx, n, g.length.packetRate, count); err != nil {
		return r, err
	}
	// The last of them are on their way.
	if err := sleep(ctx, 20*time.Millisecond); err != nil {
		return r, err
	}
	after, err := markCPU()
	if err != nil {
		return r, err
	}
	r.cpu = after.since(before)
	r.arrived, err = g.crowd.Arrived()
	r.arrived -= arrived
	return r, err
}

// rss is the resident memory of a process in bytes.
func rss(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("read memory of process %d: %w", pid, err)
	}
	n, err := parseRSS(string(text))
	if err != nil {
		return 0, fmt.Errorf("read memory of process %d: %w", pid, err)
	}
	return n, nil
}

// parseRSS reads the VmRSS line of /proc/PID/status, which is in KiB.
func parseRSS(text string) (int64, error) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == "VmRSS:" && f[2] == "kB" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			return n * 1024, err
		}
	}
	return 0, errors.New("no VmRSS in it")
}

// daemonMetrics are what the daemon's Prometheus metrics say.
type daemonMetrics struct {
	// frames that the workers have read, and heap objects that the whole daemon has allocated.
	frames, mallocs float64
	// longestPause of the garbage collector, in seconds, of the latest few hundred.
	longestPause float64
}

func (g *growth) scrape(ctx context.Context) (m daemonMetrics, err error) {
	series, err := scrape(ctx, g.lab)
	if err != nil {
		return m, err
	}
	return pickMetrics(series)
}

// pickMetrics takes what flows wants to know.
func pickMetrics(series map[string]float64) (m daemonMetrics, err error) {
	found := 0
	for name, value := range series {
		var into *float64
		switch {
		case strings.HasPrefix(name, "levee_worker_received_frames_total{"):
			into = &m.frames
		case name == "go_memstats_mallocs_total":
			into = &m.mallocs
		case name == longestPauseName:
			into = &m.longestPause
		default:
			continue
		}
		*into += value // one series for each worker
		found++
	}
	if found < 3 {
		return m, errors.New("levee's metrics lack frames, allocations or pauses")
	}
	return m, nil
}
