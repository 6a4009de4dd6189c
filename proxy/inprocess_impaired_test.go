package proxy_test

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"
)

// Conversations over wires that lose up to a fifth of what they carry, each of the two in each direction, and double it, hold it up,
// let it overtake, corrupt it, and carry less all of a sudden. Every byte arrives, both hosts learn of every end, nothing
// stays behind, the counters add up, and levee looks like one sane TCP to either host (see proxytest.Tracker). Each
// seed also runs without levee, to see whether anybody has to wait longer for its sake.
//
// 20,000 seeds take about three minutes on two cores, and print what they found:
//
//	LEVEE_IMPAIRED_RUNS=20000 go test ./proxy -run TestImpairedNetwork -v
//
// LEVEE_IMPAIRED_FIRST is the first of them. One seed again, with every packet and all that was drawn:
//
//	LEVEE_IMPAIRED_SEED=4711 go test ./proxy -run TestImpairedNetwork -v
func TestImpairedNetwork(t *testing.T) {
	number := func(name string, otherwise uint64) uint64 {
		text := os.Getenv(name)
		if text == "" {
			return otherwise
		}
		n, err := strconv.ParseUint(text, 0, 64)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return n
	}
	const none = 1 << 63
	first, n := number("LEVEE_IMPAIRED_FIRST", 0), number("LEVEE_IMPAIRED_RUNS", 200)
	only := number("LEVEE_IMPAIRED_SEED", none)
	if only != none {
		first, n = only, 1
	}
	workers := uint64(runtime.NumCPU()) // GOMAXPROCS is 1 while a stack is being made
	sum := &summary{start: time.Now()}
	t.Run("seeds", func(t *testing.T) {
		for worker := range workers {
			t.Run(fmt.Sprint(worker), func(t *testing.T) {
				t.Parallel()
				for seed := first + worker; seed < first+n; seed += workers {
					t.Run(fmt.Sprint(seed), func(t *testing.T) { runSeed(t, seed, sum, only != none) })
				}
			})
		}
	})
	sum.report(t)
}

// runSeed runs a seed three times: without levee, with it, and without it again but with other draws. The same segment meets the same
// fate in the first two, but with levee some are other segments: cut at another MSS, sent at another time, or acknowledging
// something else. Where anything is lost, one comparison therefore says little; the distribution does, beside that of
// the third run.
func runSeed(t *testing.T, seed uint64, sum *summary, trace bool) {
	sc := newScenario(seed)
	if trace {
		t.Logf("%+v", *sc)
	}
	o := outcome{seed: seed, sc: sc, failed: true}
	began := time.Now()
	defer func() {
		o.failed = o.failed || t.Failed()
		o.cost = time.Since(began)
		sum.add(o)
	}()
	const otherDraws = 1
	for i, run := range []struct {
		direct bool
		salt   uint64
	}{{true, 0}, {false, 0}, {true, otherDraws}} {
		r := newImpairedRun(t, sc, run.direct, run.salt)
		r.goOn(run.direct)
		for _, f := range r.faults {
			t.Errorf("levee %t: %s", !run.direct, f)
		}
		o.overruns += r.tracker.Overruns
		o.runs[i] = r.talks
		if trace {
			t.Logf("levee %t:", !run.direct)
			for j := range r.Trace {
				t.Log(r.Trace[j].String())
			}
			for _, k := range r.talks {
				t.Logf("conversation %d opened after %v, took %v %s", k.number, k.opened-k.dialed, k.took(), k.broken)
			}
			if !run.direct {
				t.Logf("%+v", r.Proxy.Snapshot())
			}
		}
		if i == 1 {
			o.lostAcks, o.lingering = r.handshakes(), r.lingering
		}
		if trace || !t.Failed() {
			r.Trace = nil
		}
		r.Close()
	}
	for i, plain := range o.runs[0] {
		levee := o.runs[1][i]
		if by := levee.took() - plain.took(); sc.clean && !plain.end.aborts() && (levee.broken != "" || by > sc.bound()) {
			t.Errorf("conversation %d ended %v later with levee, though nothing was lost %s", i, by, levee.broken)
		}
	}
	o.failed = false
}

// outcome is what the three runs of a seed came to.
type outcome struct {
	seed      uint64
	sc        *scenario
	failed    bool
	cost      time.Duration
	overruns  int
	lingering int
	runs      [3][]*dialogue // without levee, with it, without it but other draws
	lostAcks  []bool
}

// The same seed gives the same packets at the same times.
func TestImpairedDeterminism(t *testing.T) {
	run := func(seed uint64) string {
		r := newImpairedRun(t, newScenario(seed), false, 0)
		r.goOn(false)
		defer r.Close()
		text := ""
		for i := range r.Trace {
			text += r.Trace[i].String() + "\n"
		}
		return text
	}
	for seed := range uint64(10) {
		if first, again := run(seed), run(seed); first != again {
			t.Errorf("seed %d gave\n%s\nand then\n%s", seed, first, again)
		}
	}
}
