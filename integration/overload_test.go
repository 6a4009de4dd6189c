package integration

import (
	"slices"
	"testing"
	"time"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
)

// overloadTime is never reached: the flood ends when the connections are made.
const overloadTime = time.Minute

// TestOverload makes connections during a flood of more SYNs than levee can answer, as fast as the generator goes. The first SYNs of many are lost in it, but
// hardly any of those that the clients send again. How long they take is in the log: here it is the CPUs, which all share, that they wait for.
func TestOverload(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := labtest.New(t, lab.Config{Attacker: true})
		path, err := labtest.Binary()
		if err != nil {
			t.Fatal(err)
		}
		p := &protected{Lab: l, levee: labtest.StartLevee(t, l, path, config(options{"timestamps": "true"})), client: l.Clients[0], server: l.Servers[0]}
		target := p.server.AddrPort(v6, 80)
		if _, err := p.server.StartWeb(0, target); err != nil {
			t.Fatal(err)
		}
		// Answers to forged addresses go nowhere, at little cost.
		if _, err := l.Attacker.Link.Host.CountSYNs(true); err != nil {
			t.Fatal(err)
		}
		flood, err := l.Attacker.Link.StartFlood(t.Context(), lab.FloodConfig{
			Target: target, Count: lab.MaxFloodCount, Duration: overloadTime, Options: lab.LinuxSYN, Urgent: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		honest, err := lab.Load{
			URLs: []string{lab.URL(target, "/bytes/100")}, Attempts: 500, Rate: 100, Timeout: 30 * time.Second,
		}.Run(t.Context(), p.client.Namespace)
		if err != nil {
			t.Fatal(err)
		}
		flooded, err := flood.Stop()
		if err != nil || flooded.Elapsed >= overloadTime {
			t.Fatalf("the flood ended after %v, before the connections did: %v", flooded.Elapsed, err)
		}
		status := p.tun(t)
		for range 50 { // until the queues are empty
			if !slices.ContainsFunc(status.TUN.Rings, func(r ring) bool { return !r.Exact }) {
				break
			}
			time.Sleep(100 * time.Millisecond)
			status = p.tun(t)
		}
		t.Logf("flood of %.0f SYN/s; %d of %d connections, p50 %s p90 %s p99 %s; rings %+v", flooded.Rate(), honest.Completed, honest.Tried,
			honest.Percentile(0.5), honest.Percentile(0.9), honest.Percentile(0.99), status.TUN.Rings)

		first, repeated := status.TUN.Rings[0], status.TUN.Rings[1]
		if first.Takes != "first_syns" || first.Dropped < first.Chosen/20 {
			t.Errorf("of the first SYNs %+v: the flood is too weak to show anything", first)
		}
		// Some of the forged ones are taken for such, and the queue has to wait for a CPU like everybody.
		if repeated.Takes != "repeated_syns" || repeated.Chosen == 0 || repeated.Dropped*first.Chosen > first.Dropped*repeated.Chosen/4 {
			t.Errorf("as large a part as of the first SYNs, or a quarter of it, was lost of the SYNs that were sent again: %+v, %+v", first, repeated)
		}
		if honest.Completed != 500 {
			t.Errorf("%d of 500 connections completed: %v", honest.Completed, honest.Failures)
		}
	})
}
