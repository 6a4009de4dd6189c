package proxytest_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	"levee/proxy/proxytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run lets three connections exchange data over bad wires, and returns what was on them.
func run(t *testing.T, seed uint64, gso bool) string {
	t.Helper()
	cfg := proxytest.Config{
		Seed:   seed,
		Client: proxytest.HostConfig{GSO: gso},
		Server: proxytest.HostConfig{GSO: gso},
	}
	r := rand.New(rand.NewPCG(seed, 1))
	for hop := range cfg.Hooks {
		cfg.Hooks[hop] = []proxytest.Hook{func(*proxytest.Packet) proxytest.Fate {
			return proxytest.Fate{Drop: r.IntN(50) == 0, Copies: r.IntN(20) / 19, Delay: time.Duration(r.IntN(3)) * time.Millisecond}
		}}
	}
	n := proxytest.New(t, cfg)
	at := netip.AddrPortFrom(proxytest.Server4, 80)
	done := 0
	n.Server.Listen(at, func(c *proxytest.Conn) {
		c.Send(make([]byte, 20_000))
		c.Close()
	})
	var clients []*proxytest.Conn
	for range 3 {
		c := n.Client.Dial(0, at)
		c.Send(make([]byte, 3))
		clients = append(clients, c)
	}
	n.Until("all answered", time.Hour, func() bool {
		done = 0
		for _, c := range clients {
			if c.EOF() || c.Err() != nil {
				done++
			}
		}
		return done == len(clients)
	})
	text := ""
	for i := range n.Trace {
		text += n.Trace[i].String() + "\n"
	}
	return text
}

// The same seed gives the same packets at the same times; another seed does not.
func TestDeterminism(t *testing.T) {
	for _, gso := range []bool{false, true} {
		first := run(t, 5, gso)
		for range 5 {
			if again := run(t, 5, gso); again != first {
				t.Fatalf("the same seed gave\n%s\nand then\n%s", first, again)
			}
		}
		if run(t, 6, gso) == first {
			t.Error("another seed gave the same")
		}
	}
}

// Timers fire in the order of their times, those of one time in the order in which they were set.
func TestClock(t *testing.T) {
	n := proxytest.New(t, proxytest.Config{})
	var fired []int
	at := func(d time.Duration, what int) interface{ Stop() bool } {
		return n.Clock.AfterFunc(d, func() { fired = append(fired, what) })
	}
	at(2*time.Second, 4)
	at(time.Second, 1)
	at(time.Second, 2)
	stopped := at(time.Second, 99)
	moved := n.Clock.AfterFunc(time.Second, func() { fired = append(fired, 3) })
	moved.Reset(1500 * time.Millisecond)
	n.Clock.AfterFunc(0, func() {
		fired = append(fired, 0)
		n.Clock.AfterFunc(time.Hour, func() { fired = append(fired, 5) })
	})
	if !stopped.Stop() || stopped.Stop() {
		t.Error("a timer must stop once")
	}
	n.Advance(2 * time.Second)
	if want := []int{0, 1, 2, 3, 4}; !slices.Equal(fired, want) {
		t.Errorf("fired %v, not %v", fired, want)
	}
	if n.Clock.Elapsed() != 2*time.Second {
		t.Errorf("the clock shows %v", n.Clock.Elapsed())
	}
	if took := n.Until("the last", 2*time.Hour, func() bool { return len(fired) == 6 }); took != time.Hour-2*time.Second {
		t.Errorf("the last came after %v", took)
	}
}

// A wire keeps its latency; a hook sees every packet once.
func TestWires(t *testing.T) {
	seen := [proxytest.NumHops]int{}
	cfg := proxytest.Config{ClientLatency: 30 * time.Millisecond, ServerLatency: 7 * time.Millisecond}
	for hop := range cfg.Hooks {
		cfg.Hooks[hop] = []proxytest.Hook{func(p *proxytest.Packet) proxytest.Fate {
			if int(p.Hop) != hop {
				t.Errorf("a packet of %v at %v", p.Hop, proxytest.Hop(hop))
			}
			seen[hop]++
			return proxytest.Fate{}
		}}
	}
	n := proxytest.New(t, cfg)
	at := netip.AddrPortFrom(proxytest.Other6, 80)
	accepted := false
	n.Server.Listen(at, func(*proxytest.Conn) { accepted = true })
	c := n.Client.Dial(0, at)
	// SYN, SYN-ACK and ACK cross both wires.
	if took := n.Until("accepted", time.Minute, func() bool { return accepted }); took != 3*37*time.Millisecond {
		t.Errorf("the handshake took %v", took)
	}
	if seen != [proxytest.NumHops]int{2, 2, 1, 1} || !c.Established() {
		t.Errorf("packets at the hops: %v", seen)
	}
}
