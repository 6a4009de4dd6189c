package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
)

// tunStatus is what levee says of its TUN and its workers.
type tunStatus struct {
	TUN struct {
		Steering string `json:"steering"`
		TxDrops  uint64 `json:"tx_drops"`
		Rings    []ring `json:"rings"`
	} `json:"tun"`
	Workers []struct {
		Received      uint64 `json:"received"`
		ReceivedBytes uint64 `json:"received_bytes"`
	} `json:"workers"`
}

type ring struct {
	Chosen, Dropped uint64
	Exact           bool
}

func (p *protected) tun(t *testing.T) (s tunStatus) {
	t.Helper()
	var out strings.Builder
	c := p.levee.Command(t.Context(), "status", "-o", "json")
	c.Stdout = &out
	if err := c.Run(); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(out.String()), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSuperpackets checks that bulk data goes through the TUN in pieces of up to 64 KB, both ways: on the wire of the TUN, and by
// how many reads a megabyte takes.
func TestSuperpackets(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		p := protect(t, options{"timestamps": "true"})
		capture := labtest.Capture(t, p.Gateway, "levee0")
		client, server := connect(t, p.client, p.server, v6, 7777)
		const size = 32 << 20
		before := p.tun(t)
		for _, pair := range [][2]*net.TCPConn{{client, server}, {server, client}} {
			go func() { _, _ = io.CopyN(pair[0], lab.Pattern(), size) }()
			if _, err := io.CopyN(io.Discard, pair[1], size); err != nil {
				t.Fatal(err)
			}
		}
		after := p.tun(t)
		var frames uint64
		for i := range after.Workers {
			frames += after.Workers[i].Received - before.Workers[i].Received
		}
		perMB := float64(frames) / (2 * size >> 20)
		t.Logf("%.0f reads a megabyte, acknowledgements included", perMB)
		// One a segment would be 724 for the data alone.
		if perMB > 100 {
			t.Errorf("%.0f reads a megabyte", perMB)
		}
		if err := capture.Stop(); err != nil {
			t.Fatal(err)
		}
		for _, end := range []string{"src", "dst"} {
			out := run(t, p.client.Namespace, time.Minute, "tshark", "-r", capture.File, "-Y",
				fmt.Sprintf("frame.len > 60000 && tcp.%sport == 7777", end), "-T", "fields", "-e", "frame.number")
			if n := strings.Count(out, "\n"); n < 10 {
				t.Errorf("%d superpackets above 60,000 bytes with %sport 7777", n, end)
			}
		}
	})
}

// TestFloodSparesOpenConnections floods at the generator's limit while eight bulk connections, opened before, go on, and 500 new ones are
// made. With steering no packet of the flow queues is lost to a full ring. The run without it is there to compare, in the log.
func TestFloodSparesOpenConnections(t *testing.T) {
	for _, steering := range []string{"auto", "off"} {
		t.Run("steering "+steering, func(t *testing.T) {
			l := labtest.New(t, lab.Config{Attacker: true})
			path, err := binary()
			if err != nil {
				t.Fatal(err)
			}
			yaml := strings.Replace(config(options{"timestamps": "true"}), "name: levee0", "name: levee0, steering: "+steering, 1)
			p := &protected{Lab: l, levee: labtest.StartLevee(t, l, path, yaml), client: l.Clients[0], server: l.Servers[0]}
			if got := p.tun(t).TUN.Steering; (got == "ebpf") != (steering == "auto") {
				t.Fatalf("steering is %q", got)
			}
			if _, err := p.server.StartWeb(0, p.server.AddrPort(false, 80)); err != nil {
				t.Fatal(err)
			}
			// Answers to forged addresses go nowhere, at little cost.
			if _, err := l.Attacker.Link.Host.CountSYNs(true); err != nil {
				t.Fatal(err)
			}

			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var moved [8]chan int64
			for i := range moved {
				client, server := connect(t, p.client, p.server, false, uint16(9000+i))
				moved[i] = make(chan int64, 1)
				go func() {
					_, _ = io.Copy(client, lab.Pattern())
				}()
				go func() {
					n, _ := io.Copy(io.Discard, server)
					moved[i] <- n
				}()
				context.AfterFunc(ctx, func() { _, _ = client.Close(), server.Close() })
			}
			quiet := p.retransmitted(t)
			flood, err := l.Attacker.Link.StartFlood(ctx, lab.FloodConfig{
				Target: p.server.AddrPort(false, 80), Count: lab.MaxFloodCount, Duration: 12 * time.Second, Options: lab.LinuxSYN,
			})
			if err != nil {
				t.Fatal(err)
			}
			honest, err := lab.Load{
				URLs: []string{lab.URL(p.server.AddrPort(false, 80), "/bytes/100")}, Attempts: 500, Rate: 60, Timeout: 30 * time.Second,
			}.Run(ctx, p.client.Namespace)
			if err != nil {
				t.Fatal(err)
			}
			result, err := flood.Stop()
			if err != nil {
				t.Fatal(err)
			}
			retransmitted := p.retransmitted(t) - quiet
			cancel()
			var total int64
			for _, m := range moved {
				total += <-m
			}
			// Exact once the queues are empty, which the closed connections' last segments put off.
			status := p.tun(t)
			for range 50 {
				if !slices.ContainsFunc(status.TUN.Rings, func(r ring) bool { return !r.Exact }) {
					break
				}
				time.Sleep(100 * time.Millisecond)
				status = p.tun(t)
			}
			t.Logf("flood of %.0f SYN/s; %d of %d new connections, p50 %s p99 %s; bulk moved %d MB, %d segments retransmitted; rings %+v; lost in all %d",
				result.Rate(), honest.Completed, honest.Tried, honest.Percentile(0.5), honest.Percentile(0.99),
				total>>20, retransmitted, status.TUN.Rings, status.TUN.TxDrops)

			if steering == "off" {
				return // only to compare
			}
			if honest.Completed != 500 {
				t.Errorf("%d of 500 connections completed: %v", honest.Completed, honest.Failures)
			}
			for q, ring := range status.TUN.Rings[1:] {
				if ring.Dropped != 0 || !ring.Exact {
					t.Errorf("flow queue %d lost %d packets (exact: %t)", q+1, ring.Dropped, ring.Exact)
				}
			}
			if status.TUN.Rings[0].Chosen < uint64(result.Sent)/2 {
				t.Errorf("the SYN queue was chosen for %d of %d SYNs: the flood did not reach the TUN", status.TUN.Rings[0].Chosen, result.Sent)
			}
		})
	}
}

// retransmitted counts the segments that the client and the server have sent again.
func (p *protected) retransmitted(t *testing.T) (n uint64) {
	t.Helper()
	for _, h := range []*lab.Host{p.client, p.server} {
		counters, err := h.Counters()
		if err != nil {
			t.Fatal(err)
		}
		n += counters["TcpRetransSegs"]
	}
	return n
}
