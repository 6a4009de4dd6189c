package bench

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
)

// hosts are a client and a server with nothing in the way.
func hosts(t *testing.T) (client, server *lab.Host) {
	t.Helper()
	l := labtest.New(t, lab.Config{})
	return l.Clients[0], l.Servers[0]
}

func TestExchange(t *testing.T) {
	client, server := hosts(t)
	for name, first := range map[string]firstWord{"the client asks": clientFirst, "the server greets": serverFirst} {
		for family, v6 := range map[string]bool{"IPv4": false, "IPv6": true} {
			t.Run(name+" "+family, func(t *testing.T) {
				r, err := startResponder(server.Namespace, server.AddrPort(v6, 8000), first, 3)
				if err != nil {
					t.Fatal(err)
				}
				done, err := trips(client.Namespace, r, 50)
				if err != nil || len(done.completed) != 50 {
					t.Fatalf("%d of %d: %v", len(done.completed), done.tried, err)
				}
				for _, one := range done.completed {
					if one.connected <= 0 || one.first < one.connected || one.last < one.first || one.last > peerTimeout {
						t.Errorf("%+v", one)
					}
				}
				begin := time.Now()
				if err := r.close(); err != nil || time.Since(begin) > time.Second {
					t.Errorf("closed after %v: %v", time.Since(begin), err)
				}
			})
		}
	}
}

// Whatever doesn't answer is given up in time, with an error that says what happened.
func TestExchangeFails(t *testing.T) {
	const timeout = 200 * time.Millisecond
	client, server := hosts(t)
	silent, err := server.Listen(server.AddrPort(false, 8001), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	rude, err := server.Listen(server.AddrPort(false, 8002), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer rude.Close()
	go func() {
		for {
			c, err := rude.Accept()
			if err != nil {
				return // closed
			}
			_ = c.(*net.TCPConn).CloseWrite()
		}
	}()
	sink, err := server.Link.Host.StartSink(8003)
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Stop()
	for _, tc := range []struct {
		name string
		port uint16
		want string
	}{
		{"no answer to the request", 8001, "timed out"},
		{"the connection ends", 8002, "ended early"},
		{"no answer to the SYN", 8003, "timed out"},
		{"closed port", 8004, "refused"},
	} {
		var tally tally
		begin := time.Now()
		err := inside(client.Namespace, 1, func() { tally.add(exchange(server.AddrPort(false, tc.port), clientFirst, timeout)) })
		if err != nil {
			t.Fatal(err)
		}
		if err := tally.err(); err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "1 of 1") {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
		if took := time.Since(begin); took > timeout+time.Second {
			t.Errorf("%s: it took %v", tc.name, took)
		}
	}
	if err := (&tally{}).err(); err == nil {
		t.Error("no connection at all is fine")
	}
}

func TestRaceAndPace(t *testing.T) {
	client, server := hosts(t)
	r, err := startResponder(server.Namespace, server.AddrPort(false, 8000), clientFirst, latencyWorkers)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	fast, rate, err := race(client.Namespace, r.addr, 200*time.Millisecond)
	if err != nil || fast.err() != nil || rate <= 0 || rate > 5*float64(len(fast.completed)) {
		t.Errorf("%d connections, %.0f a second: %v, %v", len(fast.completed), rate, err, fast.err())
	}
	begin := time.Now()
	slow, err := pace(client.Namespace, r.addr, 1000, 200)
	if err != nil || slow.err() != nil || len(slow.completed) != 200 {
		t.Errorf("%d connections: %v, %v", len(slow.completed), err, slow.err())
	}
	if took := time.Since(begin); took < 199*time.Millisecond {
		t.Errorf("200 connections at 1000 a second took %v", took)
	}
	sorted := slow.sorted(func(t times) time.Duration { return t.last })
	if !slices.IsSorted(sorted) || len(sorted) != 200 {
		t.Errorf("%d sorted: %v", len(sorted), sorted)
	}
}

func TestBulk(t *testing.T) {
	client, server := hosts(t)
	for i, run := range bulkRuns {
		b, err := startBulk(client.Namespace, server.Namespace, netip.AddrPortFrom(server.Link.Host.Addr4, uint16(8000+i)), run.flows, run.up)
		if err != nil {
			t.Fatal(err)
		}
		before, err := client.Counters()
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, run.id+": every flow moves", func() bool { return b.least() > 10*bulkChunk })
		after, err := client.Counters()
		if err != nil {
			t.Fatal(err)
		}
		// The bytes go where they are to go: IpExt counts those of both directions.
		in, out := after["IpExtInOctets"]-before["IpExtInOctets"], after["IpExtOutOctets"]-before["IpExtOutOctets"]
		if up := out > in; up != run.up {
			t.Errorf("%s: the client sent %d bytes and received %d", run.id, out, in)
		}
		begin := time.Now()
		if err := b.stop(); err != nil || time.Since(begin) > time.Second {
			t.Errorf("%s: stopped after %v: %v", run.id, time.Since(begin), err)
		}
	}
	if b, err := startBulk(client.Namespace, server.Namespace, netip.MustParseAddrPort("203.0.113.99:1"), 1, true); err == nil {
		b.stop()
		t.Error("connected to nobody")
	}
}

// Every contender answers a flood that is slow enough for a busy machine, and what is dropped at the door isn't answered.
func TestFlood(t *testing.T) {
	const rate = 5000
	b := newBench(t)
	b.synRate = rate
	if err := b.openFloodTarget(); err != nil {
		t.Fatal(err)
	}
	if err := b.beforeSYN(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b.dropped.sent <= 0 || b.dropped.answers != 0 {
		t.Errorf("dropped: %+v", b.dropped)
	}
	for _, c := range b.all {
		r, err := b.probe(t.Context(), c, rate)
		if err != nil {
			t.Errorf("%s: %v", c.id(), err)
		}
		if r.answered < 0.5*r.sent || r.sent > 1.2*rate {
			t.Errorf("%s: %+v", c.id(), r)
		}
	}
	// Which rate it is depends on what else the machine does; there is one.
	if held, err := b.heldRate(t.Context(), rate); err != nil || held > rate {
		t.Errorf("%d SYNs a second are held, of %d: %v", held, rate, err)
	}
	if v, err := b.server.Sysctl(syncookies); err != nil || v != "1" {
		t.Errorf("the server is left with tcp_syncookies=%s: %v", v, err)
	}
}

// Nobody answers: no rate is found, and the run says so.
func TestFloodWithoutAnswers(t *testing.T) {
	b := newBench(t)
	b.floodTarget = b.nextPort()
	// The server doesn't listen, so that plain forwarding gets resets.
	if r, err := b.probe(t.Context(), b.find(plainID), 5000); err == nil || !strings.Contains(err.Error(), "none of") {
		t.Errorf("%+v, %v", r, err)
	}
}

// A repetition of everything but the flood's own figures, on two contenders: what comes out is complete, and in order.
func TestRepetition(t *testing.T) {
	b := newBench(t)
	b.all = []contender{b.find(plainID), b.find(leveeID)}
	for _, m := range measures {
		if m.name == "syn" {
			continue // its CPU times need a quiet machine
		}
		if err := b.repetition(t.Context(), &m, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.report.Err(); err != nil {
		t.Fatalf("%v: %+v", err, b.report.Failures)
	}
	for _, f := range figures {
		if f.measure == "syn" {
			continue
		}
		for _, id := range []contenderID{plainID, leveeID} {
			v, ok := b.report.median(f.id, id)
			if wanted := f.id != "server-rtt" || id == plainID; ok != wanted || wanted && v <= 0 {
				t.Errorf("%s of %s: %v, measured: %t", f.id, id, v, ok)
			}
		}
	}
	// A request needs two round trips of 50 ms, with or without a proxy.
	for _, id := range []contenderID{plainID, leveeID} {
		if v, _ := b.report.median("ttfb-request", id); v < 100 {
			t.Errorf("the first byte came after %v ms from 50 ms away", v)
		}
	}
}

func TestRunIsInterrupted(t *testing.T) {
	labtest.RequireRoot(t)
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, err := Run(ctx, Config{Repeat: 1, Levee: "/bin/true", Say: t.Logf})
	if err == nil || time.Since(begin) > 10*time.Second {
		t.Errorf("after %v: %v", time.Since(begin), err)
	}
	if _, err := Run(t.Context(), Config{Repeat: 0}); err == nil {
		t.Error("repeated 0 times")
	}
	if _, err := Run(t.Context(), Config{Repeat: MaxRepeat + 1}); err == nil {
		t.Error("repeated too often")
	}
}

// A daemon that doesn't start fails its measures and nobody else's.
func TestBrokenLevee(t *testing.T) {
	b := newBench(t)
	b.all = []contender{b.find(plainID), &levee{lab: b.lab, binary: "/bin/false"}}
	m := &measures[len(measures)-1]
	if m.name != "ttfb" {
		t.Fatal(m.name)
	}
	for rep := range 2 {
		if err := b.repetition(t.Context(), m, rep); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(b.report.values("ttfb-request", plainID)); n != 2 {
		t.Errorf("plain forwarding was measured %d times of 2", n)
	}
	if len(b.report.Failures) != 1 || b.report.Failures[0].Contender != leveeID || !strings.Contains(b.report.Failures[0].Reason, "levee ended") {
		t.Errorf("failures: %+v", b.report.Failures)
	}
}
