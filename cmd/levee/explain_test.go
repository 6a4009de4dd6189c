package main

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"levee/cmd/levee/control"
)

// maxColumns fails the test for every line that a screen would break.
func maxColumns(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if n := len(strings.TrimSuffix(line, "\n")); n > columns {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

func TestExplanationText(t *testing.T) {
	n := func(n int) *int { return &n }
	yes, no := true, false
	for _, tt := range []struct {
		name string
		x    control.Explanation
		want string
	}{
		{"answered", control.Explanation{
			Client: netip.MustParseAddrPort("203.0.113.7:40000"), Server: netip.MustParseAddrPort("192.0.2.10:443"),
			Path: []control.Hop{
				{Step: "to_levee", In: "eth-c", Out: "tun0", Table: 7332, Rule: 7301, OK: true},
				{Step: "to_server", In: "tun0", Out: "eth-s", Table: 254, Rule: 7300, Gateway: "198.51.100.1", OK: true},
			},
			Service: "web", Mode: "always", Verdict: "answer",
			Flow:    &control.Flow{State: "open", AgeSeconds: 75, IdleSeconds: 1, ClientBytes: 1 << 40, ServerBytes: 1 << 50},
			Known:   &control.Knowledge{State: "alive", MSS: n(1460), WScale: n(-1), SACK: &yes, Timestamps: &no},
			Promise: &control.Promise{MSS: 1460, Window: 16384, WScale: -1, SACK: true},
		}, `
203.0.113.7:40000 -> 192.0.2.10:443

SYN in     from eth-c to tun0, table 7332, rule 7301
to server  from tun0 to eth-s via 198.51.100.1, table main, rule 7300
service    web, mode always
flow       open for 1m15s, idle for 1.0s, 1099511627776 bytes from the client,
           1125899906842624 from the server
server     alive, mss 1460, wscale none, sack yes, timestamps no, ecn -
SYN-ACK    mss 1460, window 16384, wscale none, sack yes, timestamps no, ecn no

A SYN now is answered with a cookie; when the client returns it, levee opens the
connection to the server.
`},
		{"watched", control.Explanation{
			Client: netip.MustParseAddrPort("203.0.113.7:40000"), Server: netip.MustParseAddrPort("192.0.2.10:443"),
			Path:    []control.Hop{{Step: "to_levee", In: "eth-c", Out: "tun0", Table: 7332, Rule: 7301, OK: true}},
			Service: "web", Mode: "auto", Verdict: "pass", Reason: "handshake", Flood: &control.Alarm{HalfOpen: 128, SynRate: 1000, HoldSeconds: 60},
		}, `
203.0.113.7:40000 -> 192.0.2.10:443

SYN in     from eth-c to tun0, table 7332, rule 7301
service    web, mode auto
flood      none to 192.0.2.10:443 now: half_open 128 or syn_rate 1000 would
           engage it
flow       none between these two
server     nothing is known of it yet

A SYN now goes to the server as it is, and the connection is tracked from its
answer on.
`},
		{"monitored", control.Explanation{
			Client: netip.MustParseAddrPort("203.0.113.7:40000"), Server: netip.MustParseAddrPort("192.0.2.10:443"),
			Path:    []control.Hop{{Step: "to_levee", In: "eth-c", Out: "tun0", Table: 7332, Rule: 7301, OK: true}},
			Service: "web", Mode: "monitor", Verdict: "pass", Reason: "handshake", Flood: &control.Alarm{Engaged: true, HalfOpen: 128, SynRate: 1000, HoldSeconds: 60},
		}, `
203.0.113.7:40000 -> 192.0.2.10:443

SYN in     from eth-c to tun0, table 7332, rule 7301
service    web, mode monitor
flood      mode auto would answer SYNs to 192.0.2.10:443 with cookies now
flow       none between these two
server     nothing is known of it yet

A SYN now goes to the server as it is, and the connection is tracked from its
answer on.
`},
		{"engaged", control.Explanation{
			Client: netip.MustParseAddrPort("203.0.113.7:40000"), Server: netip.MustParseAddrPort("192.0.2.10:443"),
			Path:    []control.Hop{{Step: "to_levee", In: "eth-c", Out: "tun0", Table: 7332, Rule: 7301, OK: true}},
			Service: "web", Mode: "auto", Verdict: "answer", Flood: &control.Alarm{Engaged: true, HalfOpen: 128, SynRate: 1000, HoldSeconds: 60},
		}, `
203.0.113.7:40000 -> 192.0.2.10:443

SYN in     from eth-c to tun0, table 7332, rule 7301
service    web, mode auto
flood      192.0.2.10:443 is engaged, until half_open and syn_rate are below
           half of 128 and 1000 for 1m0s
flow       none between these two
server     nothing is known of it yet

A SYN now is answered with a cookie; when the client returns it, levee opens the
connection to the server.
`},
		{"around levee", control.Explanation{
			Client: netip.MustParseAddrPort("[2001:db8:2::7]:40000"), Server: netip.MustParseAddrPort("[2001:db8:1::10]:443"),
			Path:    []control.Hop{{Step: "to_levee", In: "eth-c", Out: "eth-s", Table: 254}},
			Service: "web", Mode: "always", Verdict: "answer", Problems: []string{"packets from 2001:db8:2::7 to 2001:db8:1::10 that come in by eth-c go to eth-s, around levee: see levee plan --diff"},
		}, `
[2001:db8:2::7]:40000 -> [2001:db8:1::10]:443

SYN in     from eth-c to eth-s, table main
service    web, mode always
flow       none between these two
server     nothing is known of it yet
PROBLEM    packets from 2001:db8:2::7 to 2001:db8:1::10 that come in by eth-c go
           to eth-s, around levee: see levee plan --diff

A SYN now does not reach levee as it should: see the problem above.
`},
		{"forged network", control.Explanation{
			Client: netip.MustParseAddrPort("203.0.113.7:40000"), Server: netip.MustParseAddrPort("192.0.2.10:443"),
			Path:    []control.Hop{{Step: "to_levee", In: "eth-c", Out: "tun0", Table: 7332, Rule: 7301, OK: true}},
			Service: "web", Mode: "always", Verdict: "drop", Reason: "reply_budget",
			Replies: &control.RepliesLeft{Network: "203.0.113.0/24", PerNetwork: 1000, NewNeighbour: true, ToNeighbours: 3, Neighbours: 256},
		}, `
203.0.113.7:40000 -> 192.0.2.10:443

SYN in     from eth-c to tun0, table 7332, rule 7301
service    web, mode always
flow       none between these two
server     nothing is known of it yet
replies    0 of 1000 answers that come to nothing left to 203.0.113.0/24 now,
           and 3 of 256 to new neighbours

A SYN now is dropped: the client's network has been answered too often for
nothing, so somebody forges its addresses: see replies.per_network and verified.
`},
		{"nobody's", control.Explanation{
			Client: netip.MustParseAddrPort("203.0.113.7:40000"), Server: netip.MustParseAddrPort("198.51.100.1:22"),
			Path:    []control.Hop{{Step: "to_levee", In: "eth-c", Out: "eth-s", Table: 254, OK: true}},
			Verdict: "pass", Reason: "no_service",
		}, `
203.0.113.7:40000 -> 198.51.100.1:22

SYN in     from eth-c to eth-s, table main
service    none protects 198.51.100.1:22
flow       none between these two

A SYN now passes unchanged: no service protects either end.
`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b bytes.Buffer
			if err := writeExplanation(&b, tt.x); err != nil {
				t.Fatal(err)
			}
			if got, want := b.String(), strings.TrimPrefix(tt.want, "\n"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			maxColumns(t, b.String())
		})
	}
}

// explain follows what happens on a real gateway: the way through levee, a port that was refused, a rule that somebody took away.
func TestExplain(t *testing.T) {
	g := newGateway(t, services)
	g.start()
	for _, v6 := range []bool{false, true} {
		client, server := g.lab.Clients[0].AddrPort(v6, 40000), g.lab.Servers[0].AddrPort(v6, 80)
		explain := func(args ...string) (x control.Explanation) {
			t.Helper()
			code, stdout, stderr := g.levee("explain", append([]string{"tcp", client.String(), "-o", "json"}, args...)...)
			if err := json.Unmarshal([]byte(stdout), &x); code != 0 || err != nil {
				t.Fatalf("%d %v %s %s", code, err, stdout, stderr)
			}
			return x
		}
		x := explain(server.String())
		in, out := g.lab.Clients[0].Link.Gateway.Name, g.lab.Servers[0].Link.Gateway.Name
		want := []control.Hop{
			{Step: "to_levee", In: in, Out: "tun0", Table: 7332, Rule: 7301, OK: true},
			{Step: "to_server", In: "tun0", Out: out, Table: 254, Rule: 7300, OK: true},
			{Step: "answer_to_levee", In: out, Out: "tun0", Table: 7332, Rule: 7302, OK: true},
			{Step: "to_client", In: "tun0", Out: in, Table: 254, Rule: 7300, OK: true},
		}
		if len(x.Path) != len(want) {
			t.Fatalf("%+v", x)
		}
		for i := range want {
			if x.Path[i] != want[i] {
				t.Errorf("%+v, want %+v", x.Path[i], want[i])
			}
		}
		if x.Verdict != "answer" || x.Service != "web" || x.Flow != nil || x.Promise == nil || len(x.Problems) != 0 {
			t.Errorf("%+v", x)
		}
		if _, err := g.lab.Clients[0].DialContext(t.Context(), "tcp", server.String()); err == nil {
			g.until("the refusal is known", func() bool { return explain(server.String()).Verdict == "refuse" })
		}
		other := netip.AddrPortFrom(server.Addr(), 8080)
		if x := explain(other.String()); x.Verdict != "pass" || x.Reason != "no_service" || len(x.Problems) != 0 {
			t.Errorf("no service: %+v", x)
		}
		if v6 {
			continue // the second service does not protect it
		}
		if x := explain(netip.AddrPortFrom(server.Addr(), 22).String()); x.Verdict != "pass" || x.Reason != "mode_off" || x.Mode != "off" {
			t.Errorf("mode off: %+v", x)
		}
	}
	client, server := g.lab.Clients[0].AddrPort(false, 40000), g.lab.Servers[0].AddrPort(false, 443)
	if code, stdout, stderr := g.levee("explain", "tcp", client.Addr().String(), server.String()); code != 0 || stderr != "" ||
		!strings.Contains(stdout, "\nA SYN now is answered with a cookie;") {
		t.Errorf("%d %s\n%s", code, stderr, stdout)
	}
	if code, _, stderr := g.levee("explain", "tcp", client.String(), server.String(), "--in", "eth9"); code != 1 ||
		stderr != "levee: there is no interface \"eth9\": name the one that the client's packets come in by\n" {
		t.Errorf("%d %s", code, stderr)
	}
	if code, _, stderr := g.levee("explain", "tcp", "[2001:db8::1]:1", server.String()); code != 2 || !strings.Contains(stderr, "different families") {
		t.Errorf("%d %s", code, stderr)
	}
	own := g.lab.Clients[0].Link.Gateway.Addr(false).String()
	for _, tt := range []struct{ client, server, want string }{
		{own, server.String(), "the client " + own + " is an address of the gateway itself, whose own connections go to the servers without levee"},
		{client.String(), "192.0.2.255:80", "192.0.2.255 is a broadcast address: no connection goes there"},
	} {
		if code, stdout, stderr := g.levee("explain", "tcp", tt.client, tt.server); code != 0 || !strings.Contains(strings.Join(strings.Fields(stdout), " "), "PROBLEM "+tt.want) {
			t.Errorf("%s to %s: %d %s\n%s\nwant %s", tt.client, tt.server, code, stderr, stdout, tt.want)
		}
	}
	if code, stdout, _ := g.run(g.lab.Gateway.Command(t.Context(), "ip", "rule", "del", "priority", "7301", "iif", g.lab.Clients[0].Link.Gateway.Name,
		"to", "192.0.2.0/24", "ipproto", "tcp")); code != 0 {
		t.Fatal(stdout)
	}
	if code, stdout, _ := g.levee("explain", "tcp", client.String(), server.String()); code != 0 || !strings.Contains(stdout, "around levee") ||
		!strings.Contains(stdout, "A SYN now does not reach levee") {
		t.Errorf("%d\n%s", code, stdout)
	}
}

// TestExplainElsewhere: a client whose interface isn't named goes around levee, and the remedy is to name it. A connection that a protected server opens, or one to a port of no service,
// passes levee too, and each part of its way is shown.
func TestExplainElsewhere(t *testing.T) {
	g := newGateway(t, "routing: {client_interfaces: [client0]}\n"+services)
	g.start()
	client, server := g.lab.Clients[0].AddrPort(false, 40000), g.lab.Servers[0].AddrPort(false, 80)
	code, stdout, _ := g.levee("explain", "tcp", client.String(), server.String(), "--in", "server0")
	if code != 0 || strings.Count(stdout, "PROBLEM") != 1 || !strings.Contains(stdout, "see\n           routing.client_interfaces\n") || strings.Contains(stdout, "plan --diff") ||
		!strings.Contains(stdout, "A SYN now does not reach levee") {
		t.Errorf("%d\n%s", code, stdout)
	}
	for _, ends := range [][2]string{{client.String(), netip.AddrPortFrom(server.Addr(), 9999).String()}, {server.Addr().String(), netip.AddrPortFrom(client.Addr(), 9000).String()}} {
		if code, stdout, _ := g.levee("explain", "tcp", ends[0], ends[1]); code != 0 || !strings.Contains(stdout, "\nto client ") || strings.Contains(stdout, "PROBLEM") {
			t.Errorf("%v: %d\n%s", ends, code, stdout)
		}
	}
}
