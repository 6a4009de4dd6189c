package integration

import (
	"fmt"
	"net"
	"testing"
	"time"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
)

const (
	// bulkRate is that of every host's way out, as tc writes it: less than a small and busy machine forwards in any way, so that it, the round
	// trip and what the hosts have agreed on bound a transfer, and not the gateway's processor. 10 ms away, an unscaled window allows half of it.
	bulkRate = "100mbit"
	// bulkRatio is the least share of plain forwarding's rate, and bulkTurns how often a busy machine may try.
	bulkRatio, bulkTurns = 0.9, 10
)

// TestBulkLikePlainForwarding moves data to and from a server of each kind, of which nothing is configured, through levee and in turn through a
// gateway that only forwards: what levee has promised the client, and how it translates windows, costs neither side a tenth of its rate.
func TestBulkLikePlainForwarding(t *testing.T) {
	for _, test := range []struct {
		name string
		away time.Duration
		size int
	}{
		{"near", 0, 4 << 20},
		{"10 ms away", 5 * time.Millisecond, 4 << 20},
	} {
		t.Run(test.name, func(t *testing.T) {
			plain, levee := mixedLab(t, test.away), mixedLab(t, test.away)
			boundRate(t, plain)
			boundRate(t, levee)
			path, err := labtest.Binary()
			if err != nil {
				t.Fatal(err)
			}
			lv := labtest.StartLevee(t, levee, path, config(nil))
			for i, k := range kinds {
				for _, v6 := range []bool{false, true} {
					addr := levee.Servers[i].AddrPort(v6, 7777)
					listeners := [2]*net.TCPListener{k.listen(t, plain.Servers[i], addr), k.listen(t, levee.Servers[i], addr)}
					_, _ = meet(t, levee.Clients[0], listeners[1])
					awaitLearned(t, lv, addr)
					for _, toServer := range []bool{false, true} {
						compareBulk(t, fmt.Sprintf("%s, IPv6 %v, to the server %v", k.name, v6, toServer), [2]*lab.Lab{plain, levee}, listeners, toServer, test.size)
					}
				}
			}
			status, err := lv.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if n := status.Services[0].CookieValid; n < uint64(6*len(kinds)) {
				t.Errorf("levee spliced %d connections", n)
			}
		})
	}
}

// boundRate bounds that of every host's way out. Nothing that one transfer has taught a host counts in the next.
func boundRate(t *testing.T, l *lab.Lab) {
	t.Helper()
	for _, h := range append(l.Clients, l.Servers...) {
		run(t, h.Namespace, 10*time.Second, "tc", "qdisc", "replace", "dev", h.Link.Host.Name, "root", "tbf", "rate", bulkRate, "burst", "256k", "limit", "16m")
		if err := h.SetSysctl("net.ipv4.tcp_no_metrics_save", "1"); err != nil {
			t.Fatal(err)
		}
	}
}

// compareBulk moves size bytes over a new connection through each of the labs, the first of which only forwards, in turn until the second's best is as
// good as it must be.
func compareBulk(t *testing.T, name string, labs [2]*lab.Lab, listeners [2]*net.TCPListener, toServer bool, size int) {
	t.Helper()
	best := [2]time.Duration{time.Hour, time.Hour}
	ratio := 0.0
	for turn := 0; turn < bulkTurns && ratio < bulkRatio; turn++ {
		for i, l := range labs {
			from, to := meet(t, l.Clients[0], listeners[i])
			if !toServer {
				from, to = to, from
			}
			took, err := transfer(from, to, size, time.Minute)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			_ = from.Close()
			_ = to.Close()
			best[i] = min(best[i], took)
		}
		ratio = best[0].Seconds() / best[1].Seconds()
	}
	mbps := func(d time.Duration) float64 { return float64(size) * 8 / d.Seconds() / 1e6 }
	t.Logf("%-44s %4.0f Mb/s, plain forwarding %4.0f, ratio %.2f", name, mbps(best[1]), mbps(best[0]), ratio)
	if ratio < bulkRatio {
		t.Errorf("%s: %.2f of plain forwarding's rate, want %.2f", name, ratio, bulkRatio)
	}
}
