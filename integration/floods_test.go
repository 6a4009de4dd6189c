package integration

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
)

// floodReasons are what the packets of a flood are dropped as; answered SYNs aren't.
var floodReasons = map[lab.FloodKind]string{
	lab.FloodACK: "cookie_invalid", lab.FloodSYNACK: "no_flow_syn_ack", lab.FloodRST: "no_flow_rst", lab.FloodFIN: "no_flow_fin",
	lab.FloodFragments: "later_fragment",
}

// floodLab is a lab with an attacker, and levee in front of a web server.
func floodLab(t *testing.T) *protected {
	t.Helper()
	p := protectYAML(t, lab.Config{Attacker: true}, config(options{}))
	if _, err := p.server.StartWeb(0, p.server.AddrPort(false, 80), p.server.AddrPort(true, 80)); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestFloods floods a server with packets of every kind, with forged sources and the attacker's own. Honest clients don't notice; levee answers a SYN at
// most once, and nothing else.
func TestFloods(t *testing.T) {
	p := floodLab(t)
	families(t, func(t *testing.T, v6 bool) {
		for _, kind := range lab.FloodKinds() {
			for _, forged := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s,forged=%t", kind, forged), func(t *testing.T) {
					cfg := lab.FloodConfig{
						Target: p.server.AddrPort(v6, 80), Kind: kind, Rate: 10_000, Count: 5000, Duration: 10 * time.Second, Options: lab.LinuxSYN,
					}
					if !forged {
						cfg.Source = p.Attacker.AddrPort(v6, 0)
					}
					r, err := p.TryFlood(t.Context(), p.levee, cfg, lab.Load{
						URLs: []string{lab.URL(p.server.AddrPort(v6, 80), "/bytes/100")}, Attempts: 15, Rate: 50, Timeout: 10 * time.Second,
					})
					if err != nil {
						t.Fatal(err)
					}
					if r.Honest.Completed != r.Honest.Tried {
						t.Errorf("%d of %d honest connections completed: %v", r.Honest.Completed, r.Honest.Tried, r.Honest.Failures)
					}
					most := 0.0
					// 100 fragments a second pass, and as many at once: they may have overtaken the first.
					const fragments = 200. / 5000
					switch kind {
					case lab.FloodSYN:
						most = 1
					case lab.FloodMixed:
						// Kinds are drawn at random: 0.02 is more than four standard deviations of the share of SYNs among thousands.
						most = 1./6 + fragments + 0.02
					case lab.FloodFragments:
						most = fragments
					}
					if got := r.PerPacket(); got > most+0.001 {
						t.Errorf("levee sends %.4f packets for one of the flood, not %.4f: dropped %v, passed %v", got, most, r.Drops, r.Passed)
					}
				})
			}
		}
	})
}

// TestFloodReasons: each kind of flood has a reason of its own that it is dropped for.
func TestFloodReasons(t *testing.T) {
	p := floodLab(t)
	families(t, func(t *testing.T, v6 bool) {
		for kind, reason := range floodReasons {
			const sent = 1000
			before, err := p.levee.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			f, err := p.Attacker.Link.StartFlood(t.Context(), lab.FloodConfig{
				Target: p.server.AddrPort(v6, 80), Kind: kind, Rate: 20_000, Count: sent, Duration: 10 * time.Second,
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.Wait(); err != nil {
				t.Fatal(err)
			}
			least := uint64(sent)
			if kind == lab.FloodFragments {
				least -= 200 // some pass, as they may have overtaken the first
			}
			var after *lab.Status
			dropped := func() uint64 {
				if after, err = p.levee.Status(t.Context()); err != nil {
					t.Fatal(err)
				}
				return after.Drops[reason] - before.Drops[reason]
			}
			for range 50 {
				if dropped() >= least {
					break
				}
				time.Sleep(20 * time.Millisecond)
			}
			if n := dropped(); n < least || n > sent {
				t.Errorf("%v: %d dropped as %s, not %d to %d", kind, n, reason, least, sent)
			}
		}
	})
}

// TestFloodOnConnection: an attacker who knows the addresses and ports of an open connection can't end it, nor get more packets than he sends.
func TestFloodOnConnection(t *testing.T) {
	p := floodLab(t)
	families(t, func(t *testing.T, v6 bool) {
		ln, err := p.server.Listen(p.server.AddrPort(v6, 7), 0)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		conn, err := p.client.DialContext(t.Context(), "tcp", p.server.AddrPort(v6, 7).String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		peer, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close()
		source, err := netip.ParseAddrPort(conn.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		for _, kind := range lab.FloodKinds() {
			rate := 10_000
			if kind == lab.FloodSYN {
				rate = 500 // more would use up the answers that the honest client's network gets (replies.per_network)
			}
			r, err := p.TryFlood(t.Context(), p.levee, lab.FloodConfig{
				Target: p.server.AddrPort(v6, 7), Source: source, Kind: kind, Rate: rate, Count: rate / 5, Duration: 10 * time.Second, Options: lab.LinuxSYN,
			}, lab.Load{
				URLs: []string{lab.URL(p.server.AddrPort(v6, 80), "/bytes/100")}, Attempts: 10, Rate: 50, Timeout: 10 * time.Second,
			})
			if err != nil {
				t.Fatal(err)
			}
			if r.Honest.Completed != r.Honest.Tried {
				t.Errorf("%v: %d of %d honest connections completed: %v", kind, r.Honest.Completed, r.Honest.Tried, r.Honest.Failures)
			}
			echo(t, kind, conn, peer)
			echo(t, kind, peer, conn)
			if r.Emitted > r.Received {
				t.Errorf("%v: levee sends %d packets for %d", kind, r.Emitted, r.Received)
			}
		}
	})
}

// echo sees that a connection carries what one end sends.
func echo(t *testing.T, kind lab.FloodKind, from, to net.Conn) {
	t.Helper()
	want := "still here"
	got := make([]byte, len(want))
	_ = to.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := from.Write([]byte(want)); err != nil {
		t.Fatalf("after a flood of %v the connection: %v", kind, err)
	}
	if n, err := to.Read(got); err != nil || string(got[:n]) != want {
		t.Fatalf("after a flood of %v the connection gives %q, %v", kind, got[:n], err)
	}
}

// TestServersCallOut: connections that protected servers open themselves are let through as they are, whatever the mode and the ports; the client
// has their very SYN.
func TestServersCallOut(t *testing.T) {
	for _, mode := range []string{"always", "off"} {
		for _, ports := range []string{"", "ports: [80]"} {
			t.Run(fmt.Sprintf("%s,%s", mode, ports), func(t *testing.T) {
				l := labtest.New(t, lab.Config{})
				path, err := labtest.Binary()
				if err != nil {
					t.Fatal(err)
				}
				labtest.StartLevee(t, l, path, fmt.Sprintf(`
metrics: {listen: none}
flows: {grace: 0s}
services: [{name: lab, prefixes: [%s, "%s"], mode: %s, deny: [0.0.0.0/0, "::/0"], %s}]
`, lab.ServerPrefix4, lab.ServerPrefix6, mode, ports))
				client, server := l.Clients[0], l.Servers[0]
				for _, v6 := range []bool{false, true} {
					if _, err := client.StartWeb(0, client.AddrPort(v6, 80)); err != nil {
						t.Fatal(err)
					}
					r, err := lab.Load{
						URLs: []string{lab.URL(client.AddrPort(v6, 80), "/bytes/100000")}, Attempts: 20, Rate: 100, Timeout: 10 * time.Second,
					}.Run(t.Context(), server.Namespace)
					if err != nil {
						t.Fatal(err)
					}
					if r.Completed != r.Tried || r.Percentile(1) > slowest {
						t.Errorf("v6 %t: %d of %d connections of the server completed, the slowest in %v: %v", v6, r.Completed, r.Tried, r.Percentile(1), r.Failures)
					}
				}
			})
		}
	}
}
