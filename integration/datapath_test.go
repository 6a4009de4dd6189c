package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
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
	Takes           string
	Chosen, Dropped uint64
	Exact           bool
}

func (p *protected) tun(t *testing.T) (s tunStatus) {
	t.Helper()
	p.status(t, &s)
	return s
}

// status decodes what levee says of itself into as much of it as the test wants to know.
func (p *protected) status(t *testing.T, into any) {
	t.Helper()
	var out strings.Builder
	c := p.levee.Command(t.Context(), "status", "-o", "json")
	c.Stdout = &out
	if err := c.Run(); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(out.String()), into); err != nil {
		t.Fatal(err)
	}
}

// TestSuperpackets checks that bulk data goes through the TUN in pieces of up to 64 KB, both ways: on the wire of the TUN, and by
// how many reads a megabyte takes.
func TestSuperpackets(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		p := protect(t, options{"timestamps": "true"})
		capture := labtest.Capture(t, p.Gateway, "levee0")
		client, server := connect(t, p.client, p.server, v6, 7777)
		const size = 128 << 20 // BBR takes a while to trust in large segments
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

// The flood of TestFloodSparesOpenConnections comes in bursts, as fast as the generator goes. The workers can't keep up with one: it fills all
// rings if they share it, or the SYNs' own. In the pauses they can, so that a SYN that was lost has a fair chance when it
// comes again. A burst begins every 0.8 s, to which clients that try again after whole seconds don't keep time.
const (
	floodBurst = 40_000
	floodMean  = 50_000 // SYNs a second
	// floodQueue is levee's txqueuelen: with its default of 4096 bursts would have to be longer to fill three queues.
	floodQueue = 1024
	// floodTime is never reached: the flood ends when everything else is done.
	floodTime = time.Minute
	// probes are connections on which segments are sent that nobody sends again, probeRate a second.
	probes, probeRate, probeCount = 64, 2000, 16_000
	probePort                     = 7
	// A bulk connection sends a piece after each pause, 25 MB a second at most: without pauses eight of them would keep the
	// generator from the CPUs that all share.
	bulkPiece = 256 << 10
	bulkPause = 10 * time.Millisecond
)

// TestFloodSparesOpenConnections floods in bursts while eight bulk connections, opened before, go on, 500 new ones are made, and single
// segments are sent on others that are open. With steering no packet of the flow queues is lost to a full ring, and all new
// connections are completed. Without it, all else being the same, the flood pushes packets of open connections out.
func TestFloodSparesOpenConnections(t *testing.T) {
	for _, steering := range []string{"auto", "off"} {
		t.Run("steering "+steering, func(t *testing.T) {
			f := startFlooded(t, fmt.Sprintf("txqueuelen: %d, steering: %s", floodQueue, steering), false)
			f.openProbes(t)
			f.run(t, lab.FloodConfig{Rate: floodMean, Burst: floodBurst}, lab.Load{Attempts: 500, Rate: 60, Timeout: 30 * time.Second}, probeCount)
			t.Log(f)
			if f.probesSent < probeCount/2 {
				t.Fatalf("%d segments were sent on open connections", f.probesSent)
			}
			if steering == "off" {
				if f.probesLost() == 0 || f.status.TUN.TxDrops == 0 {
					t.Error("no packet of an open connection was lost: the flood is too weak to show what steering is for")
				}
				return
			}
			if f.honest.Completed != 500 {
				t.Errorf("%d of 500 connections completed: %v", f.honest.Completed, f.honest.Failures)
			}
			// Whatever it is that loses them on a busy machine, it isn't the rings.
			if f.probesLost() > f.probesSent/100 {
				t.Errorf("%d of %d segments on open connections were lost", f.probesLost(), f.probesSent)
			}
			f.spared(t)
			rings := f.status.TUN.Rings
			if rings[0].Takes != "first_syns" || rings[0].Dropped == 0 {
				t.Errorf("the SYN queue lost nothing: the flood is too weak to show anything: %+v", rings[0])
			}
			if rings[0].Chosen < uint64(f.flood.Sent)/2 {
				t.Errorf("the SYN queue was chosen for %d of %d SYNs: the flood did not reach the TUN", rings[0].Chosen, f.flood.Sent)
			}
		})
	}
}

// flooded is a gateway under a flood, and what came of it.
type flooded struct {
	*protected
	target netip.AddrPort // of the new connections, and of the flood
	crowd  *lab.Crowd
	// bulk are connections with much data, moved how many bytes have come out of each during the flood.
	bulk  []*bulk
	moved []int64

	flood                     lab.FloodResult
	honest                    *lab.LoadResult
	probesSent, probesArrived int
	resent                    uint64 // segments of the hosts
	status                    tunStatus
}

// bulk is a connection on which one end sends without end, bulkPiece after each bulkPause; it counts the bytes that come out.
type bulk struct {
	client, server *net.TCPConn
	arrived        atomic.Int64
}

// Write counts.
func (b *bulk) Write(p []byte) (int, error) {
	b.arrived.Add(int64(len(p)))
	return len(p), nil
}

func (b *bulk) run() {
	go func() {
		for data := lab.Pattern(); ; time.Sleep(bulkPause) {
			if _, err := io.CopyN(b.client, data, bulkPiece); err != nil {
				return
			}
		}
	}()
	go func() { _, _ = io.Copy(b, b.server) }()
}

func (f *flooded) probesLost() int { return f.probesSent - f.probesArrived }

func (f *flooded) String() string {
	bulkKB := make([]int64, len(f.moved))
	for i, bytes := range f.moved {
		bulkKB[i] = bytes >> 10
	}
	return fmt.Sprintf("flood of %.0f SYN/s; %d of %d new connections, p50 %s p90 %s p99 %s; %d of %d segments of open connections lost; "+
		"bulk moved %d kB, %d segments retransmitted; rings %+v; lost in all %d",
		f.flood.Rate(), f.honest.Completed, f.honest.Tried, f.honest.Percentile(0.5), f.honest.Percentile(0.9), f.honest.Percentile(0.99), f.probesLost(), f.probesSent,
		bulkKB, f.resent, f.status.TUN.Rings, f.status.TUN.TxDrops)
}

// startFlooded has everything but the flood: a web server, and the bulk connections. tun are keys of the configuration.
func startFlooded(t *testing.T, tun string, v6 bool) *flooded {
	t.Helper()
	l := labtest.New(t, lab.Config{Attacker: true})
	path, err := labtest.Binary()
	if err != nil {
		t.Fatal(err)
	}
	yaml := strings.Replace(config(options{"timestamps": "true"}), "name: levee0", "name: levee0, "+tun, 1)
	f := &flooded{protected: &protected{Lab: l, levee: labtest.StartLevee(t, l, path, yaml), client: l.Clients[0], server: l.Servers[0]}}
	f.target = f.server.AddrPort(v6, 80)
	if got := f.tun(t).TUN.Steering; (got == "ebpf") == strings.Contains(tun, "steering: off") {
		t.Fatalf("steering is %q", got)
	}
	if _, err := f.server.StartWeb(0, f.target); err != nil {
		t.Fatal(err)
	}
	// Answers to forged addresses go nowhere, at little cost.
	if _, err := l.Attacker.Link.Host.CountSYNs(true); err != nil {
		t.Fatal(err)
	}
	for i := range 8 {
		client, server := connect(t, f.client, f.server, v6, uint16(9000+i))
		c := &bulk{client: client, server: server}
		c.run()
		f.bulk = append(f.bulk, c)
	}
	return f
}

// openProbes opens the connections of the single segments, and waits until everything about that has arrived.
func (f *flooded) openProbes(t *testing.T) {
	t.Helper()
	var err error
	if f.crowd, err = f.StartCrowd(probePort, probes); err != nil {
		t.Fatal(err)
	}
	if err := f.crowd.Open(t.Context(), probes, 1000); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		status, err := f.levee.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		// SYN and ACK of each.
		if n := f.arrived(t); status.Flows.Open == probes+len(f.bulk) && n >= 2*probes {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("the connections that were to be open before the flood are not")
}

// arrived counts the segments on the probes' connections that have come to the server's side.
func (f *flooded) arrived(t *testing.T) int {
	t.Helper()
	if f.crowd == nil {
		return 0
	}
	n, err := f.crowd.Arrived()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// run floods as cfg says until the new connections of load are made, and segments sent on those that openProbes has opened.
func (f *flooded) run(t *testing.T, cfg lab.FloodConfig, load lab.Load, segments int) {
	t.Helper()
	cfg.Target, cfg.Count, cfg.Duration, cfg.Options, cfg.Urgent = f.target, lab.MaxFloodCount, floodTime, lab.LinuxSYN, true
	quiet, before := f.retransmitted(t), f.arrived(t)
	for _, b := range f.bulk {
		f.moved = append(f.moved, -b.arrived.Load())
	}
	flood, err := f.Attacker.Link.StartFlood(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		var err error
		if f.crowd != nil {
			f.probesSent, err = f.crowd.Send(t.Context(), probes, probeRate, segments)
		}
		sent <- err
	}()
	load.URLs = []string{lab.URL(f.target, "/bytes/100")}
	f.honest, err = load.Run(t.Context(), f.client.Namespace)
	if err := errors.Join(err, <-sent); err != nil {
		t.Fatal(err)
	}
	if f.flood, err = flood.Stop(); err != nil || f.flood.Elapsed >= floodTime {
		t.Fatalf("the flood ended after %v, before the connections did: %v", f.flood.Elapsed, err)
	}
	f.resent = f.retransmitted(t) - quiet
	for i, b := range f.bulk {
		f.moved[i] += b.arrived.Load()
		_, _ = b.client.Close(), b.server.Close()
	}
	// Exact once the queues are empty, which the closed connections' last segments put off.
	f.status = f.tun(t)
	for range 50 {
		if !slices.ContainsFunc(f.status.TUN.Rings, func(r ring) bool { return !r.Exact }) {
			break
		}
		time.Sleep(100 * time.Millisecond)
		f.status = f.tun(t)
	}
	f.probesArrived = f.arrived(t) - before
}

// bulkRate is in bytes a second, of all bulk connections.
func (f *flooded) bulkRate() float64 {
	var all int64
	for _, bytes := range f.moved {
		all += bytes
	}
	return float64(all) / f.flood.Elapsed.Seconds()
}

// spared checks that the flow queues have lost nothing.
func (f *flooded) spared(t *testing.T) {
	t.Helper()
	for q, ring := range f.status.TUN.Rings {
		if ring.Takes == "flows" && (ring.Dropped != 0 || !ring.Exact) {
			t.Errorf("flow queue %d lost %d packets (exact: %t)", q, ring.Dropped, ring.Exact)
		}
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
