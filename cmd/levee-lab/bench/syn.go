package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"levee/integration/lab"
)

// floodRun is what a flood showed in one window.
type floodRun struct {
	// sent and answered SYNs a second: answers are SYN-ACKs that arrived on the attacker's link.
	sent, answered float64
	// busy CPUs.
	busy float64
	// answers in all, those before and after the window too.
	answers int
}

// flood sends SYNs to the server, at rate a second or, with 0, as fast as one core can.
func (b *bench) flood(ctx context.Context, rate int, window time.Duration) (r floodRun, err error) {
	// Plain forwarding leaves the answer to the server, which is to be stateless then, like the others.
	if err := b.server.SetSysctl(syncookies, "2"); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, b.server.SetSysctl(syncookies, "1")) }()
	_, answersBefore, err := b.answers.Read()
	if err != nil {
		return r, err
	}
	f, err := b.lab.Attacker.Link.StartFlood(ctx, floodConfig(b.floodTarget, rate, b.length.settle+window))
	if err != nil {
		return r, err
	}
	defer func() {
		_, e := f.Stop()
		err = errors.Join(err, e)
	}()
	if err := sleep(ctx, b.length.settle); err != nil {
		return r, err
	}
	before, err := b.markFlood(f)
	if err != nil {
		return r, err
	}
	if err := sleep(ctx, window); err != nil {
		return r, err
	}
	after, err := b.markFlood(f)
	if err != nil {
		return r, err
	}
	u := after.cpu.since(before.cpu)
	seconds := u.wall.Seconds()
	return floodRun{
		sent:     float64(after.sent-before.sent) / seconds,
		answered: float64(after.answers-before.answers) / seconds,
		busy:     u.busy.Seconds() / seconds,
		answers:  after.answers - answersBefore,
	}, nil
}

// syncookies at 2 has the server answer every SYN with a cookie, at 1 only those beyond its backlog.
const syncookies = "net.ipv4.tcp_syncookies"

// floodMargin is how much longer than it has to a flood may go on.
const floodMargin = 10 * time.Second

func floodConfig(target netip.AddrPort, rate int, d time.Duration) lab.FloodConfig {
	return lab.FloodConfig{
		Target: target, Rate: rate, Count: lab.MaxFloodCount, Duration: d + floodMargin, Options: lab.LinuxSYN,
	}
}

// floodMark is what a flood had done at one moment.
type floodMark struct {
	cpu           cpuMark
	sent, answers int
}

func (b *bench) markFlood(f *lab.Flood) (m floodMark, err error) {
	select {
	case <-f.Done():
		_, err := f.Wait()
		return m, fmt.Errorf("the flood ended early: %w", err)
	default:
	}
	if _, m.answers, err = b.answers.Read(); err != nil {
		return m, err
	}
	m.sent = f.Sent()
	m.cpu, err = markCPU()
	return m, err
}

const (
	// answeredShare is the least share of a flood's SYNs that a contender answers if it holds the rate.
	answeredShare = 0.98
	// searchSteps bounds the search for a rate that all hold.
	searchSteps = 8
)

// prepareSYN looks for a rate that all contenders hold: a bit more than half of what the slowest answers at its limit, or less if
// not all hold that.
func (b *bench) prepareSYN(ctx context.Context) error {
	if err := b.openFloodTarget(); err != nil {
		return err
	}
	slowest := 0.0
	for _, c := range b.all {
		b.cfg.Say("syn: how much %s answers\n", contenderNames[c.id()])
		r, err := b.probe(ctx, c, 0)
		if err != nil {
			return fmt.Errorf("%s: %w", contenderNames[c.id()], err)
		}
		if slowest == 0 || r.answered < slowest {
			slowest = r.answered
		}
	}
	rate, err := b.heldRate(ctx, 0.6*slowest)
	if err != nil {
		return err
	}
	b.synRate = rate
	b.report.SYNRate = rate
	b.cfg.Say("syn: all hold %d SYNs a second\n", rate)
	return nil
}

// heldRate is the first of a falling row of rates in SYNs a second, from rate on, that all contenders hold.
func (b *bench) heldRate(ctx context.Context, rate float64) (int, error) {
	for range searchSteps {
		if holds, err := b.allHold(ctx, roundRate(rate)); err != nil {
			return 0, err
		} else if holds {
			return roundRate(rate), nil
		}
		rate *= 0.8
	}
	return 0, fmt.Errorf("not all contenders hold even %.0f SYNs a second", rate)
}

// openFloodTarget opens a port that accepts nobody: what matters is who answers SYNs to it.
func (b *bench) openFloodTarget() (err error) {
	b.floodTarget = b.nextPort()
	b.listener, err = b.server.Listen(b.floodTarget, 0)
	return err
}

// roundRate makes a rate one that is easy to read.
func roundRate(rate float64) int {
	const step = 1000
	return max(int(rate)/step*step, step)
}

// probe floods a contender briefly.
func (b *bench) probe(ctx context.Context, c contender, rate int) (r floodRun, err error) {
	err = b.with(ctx, c, func() (seen, error) {
		r, err = b.flood(ctx, rate, b.length.probe)
		return seen{syns: uint64(r.answers)}, err
	})
	if err == nil && r.answered == 0 {
		err = fmt.Errorf("none of %.0f SYNs a second was answered", r.sent)
	}
	return r, err
}

func (b *bench) allHold(ctx context.Context, rate int) (bool, error) {
	for _, c := range b.all {
		r, err := b.probe(ctx, c, rate)
		if err != nil {
			return false, fmt.Errorf("%s: %w", contenderNames[c.id()], err)
		}
		if r.answered < answeredShare*r.sent {
			return false, nil
		}
	}
	return true, nil
}

// beforeSYN measures what the generator costs, at the rate of all: the SYNs go no further than the gateway's door.
func (b *bench) beforeSYN(ctx context.Context) error {
	sink, err := b.lab.Attacker.Link.Gateway.StartSink(0)
	if err != nil {
		return err
	}
	b.dropped, err = b.flood(ctx, b.synRate, b.length.flood)
	err = errors.Join(err, sink.Stop())
	if err == nil && b.dropped.answers > 0 {
		err = fmt.Errorf("%d SYNs were answered in spite of being dropped", b.dropped.answers)
	}
	return err
}

// runSYN measures CPU per answered SYN at the rate of all, then how many are answered at the generator's limit.
func (b *bench) runSYN(ctx context.Context, id contenderID) (seen, error) {
	fixed, err := b.flood(ctx, b.synRate, b.length.flood)
	if err != nil {
		return seen{}, err
	}
	cost, err := synCost(fixed, b.dropped)
	if err != nil {
		return seen{}, err
	}
	limit, err := b.flood(ctx, 0, b.length.flood)
	if err != nil {
		return seen{}, err
	}
	b.report.add("syn-cpu", id, cost)
	b.report.add("syn-answered", id, limit.answered)
	b.report.add("syn-sent", id, limit.sent)
	return seen{syns: uint64(fixed.answers + limit.answers)}, nil
}

// heldShare is the least share of SYNs that is answered in a measurement at the rate of all: below, CPU per answer would be
// another thing than it is called.
const heldShare = 0.95

// synCost is the CPU time of one answered SYN in microseconds: all that the machine did, without what making as many
// SYNs and dropping them takes.
func synCost(run, dropped floodRun) (float64, error) {
	if dropped.sent == 0 || run.sent == 0 {
		return 0, errors.New("no SYN was sent")
	}
	if run.answered < heldShare*run.sent {
		return 0, fmt.Errorf("only %.0f of %.0f SYNs a second were answered, at a rate that it held before", run.answered, run.sent)
	}
	busy := run.busy - dropped.busy*run.sent/dropped.sent
	if busy <= 0 {
		return 0, errors.New("answering SYNs took no CPU more than dropping them: the machine is too busy with something else")
	}
	return busy / run.answered * 1e6, nil
}
