package prober

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
	"levee/proxy/servers"
	"levee/stack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// results is a table that remembers what it was told.
type results struct {
	mu       sync.Mutex
	answered map[servers.Key]servers.Answer
	failed   map[servers.Key]servers.State
}

func (r *results) Answered(k *servers.Key, _ int64, a *servers.Answer, from servers.Source) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if from == servers.Probe {
		r.answered[*k] = *a
	}
	return false
}

func (r *results) ProbeFailed(k *servers.Key, _ int64, how servers.State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed[*k] = how
}

func (r *results) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.answered) + len(r.failed)
}

func keyOf(a netip.AddrPort) servers.Key {
	return servers.Key{Addr: stack.AddrFrom(a.Addr()), Port: a.Port()}
}

func sysctl(t *testing.T, n *lab.Namespace, key, value string) {
	t.Helper()
	if err := n.SetSysctl("net.ipv4."+key, value); err != nil {
		t.Fatal(err)
	}
}

// A probe from a gateway finds out what a real server does, which no program there notices.
func TestProbe(t *testing.T) {
	for _, test := range []struct {
		name    string
		sysctls map[string]string
		does    servers.Features
	}{
		{"ordinary", nil, servers.All},
		{"no SACK", map[string]string{"tcp_sack": "0"}, servers.All &^ servers.SACK},
		{"no timestamps", map[string]string{"tcp_timestamps": "0"}, servers.All &^ servers.Timestamps},
		{"no ECN", map[string]string{"tcp_ecn": "0"}, servers.All &^ servers.ECN},
		{"no window scale", map[string]string{"tcp_window_scaling": "0"}, servers.All &^ servers.WScale},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := labtest.New(t, lab.Config{})
			host := l.Servers[0]
			sysctl(t, host.Namespace, "tcp_ecn", "2")
			for k, v := range test.sysctls {
				sysctl(t, host.Namespace, k, v)
			}
			// What the gateway itself does is another matter.
			sysctl(t, l.Gateway, "tcp_sack", "0")
			sysctl(t, l.Gateway, "tcp_timestamps", "0")
			accepted := make(chan struct{}, 8)
			for _, v6 := range []bool{false, true} {
				listener, err := host.Listen(host.AddrPort(v6, 80), 8)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = listener.Close() })
				go func() {
					for {
						c, err := listener.Accept()
						if err != nil {
							return
						}
						_ = c.Close()
						accepted <- struct{}{}
					}
				}()
			}
			// Silence takes its time: once is enough.
			silent, want := test.sysctls == nil, 4
			if silent {
				want++
			}
			var p *Prober
			// New binds in the namespace of its thread; the sockets stay there. Sending asks the kernel for a route in it too.
			got := &results{answered: map[servers.Key]servers.Answer{}, failed: map[servers.Key]servers.State{}}
			runInGateway(t, l, 100, &p, got, func() bool { return got.count() == want }, func() {
				for _, v6 := range []bool{false, true} {
					p.Ask(keyOf(host.AddrPort(v6, 80)), servers.WhatItDoes)
					p.Ask(keyOf(host.AddrPort(v6, 81)), servers.WhatItDoes)
				}
				if silent {
					nobody := host.AddrPort(false, 80)
					p.Ask(keyOf(netip.AddrPortFrom(nobody.Addr().Next(), 80)), servers.WhatItDoes)
				}
			})
			for _, v6 := range []bool{false, true} {
				a, ok := got.answered[keyOf(host.AddrPort(v6, 80))]
				want := uint16(1460)
				if v6 {
					want = 1440
				}
				if !ok || a.Asked != servers.All || a.Does|servers.MSS != test.does || a.MSS != want || a.Window == 0 {
					t.Errorf("v6 %v: %v, %+v, does %v", v6, ok, a, a.Does)
				}
				if how, ok := got.failed[keyOf(host.AddrPort(v6, 81))]; !ok || how != servers.Closed {
					t.Errorf("v6 %v: the closed port is %v", v6, how)
				}
			}
			if n := len(accepted); n != 0 {
				t.Errorf("the server's program has seen %d connections", n)
			}
			if a, r, s := p.Count(Answered), p.Count(Refused), p.Count(Silent); a != 2 || r != 2 || int(s) != want-4 {
				t.Errorf("%d answered, %d refused, %d silent", a, r, s)
			}
			counters, err := host.Counters()
			if err != nil {
				t.Fatal(err)
			}
			if n := counters["TcpInCsumErrors"]; n != 0 {
				t.Errorf("%d wrong checksums", n)
			}
			if n := counters["TcpPassiveOpens"]; n != 0 {
				t.Errorf("%d connections came of the probes", n)
			}
		})
	}
}

// However many are asked for, so many a second are sent.
func TestRate(t *testing.T) {
	const rate, n = 20, 20
	l := labtest.New(t, lab.Config{})
	var p *Prober
	got := &results{answered: map[servers.Key]servers.Answer{}, failed: map[servers.Key]servers.State{}}
	began := time.Now()
	runInGateway(t, l, rate, &p, got, func() bool { return got.count() == n }, func() {
		for i := range n {
			p.Ask(keyOf(l.Servers[0].AddrPort(false, uint16(100+i))), servers.WhatItDoes)
		}
	})
	if took, least := time.Since(began), (n-1)*time.Second/rate; took < least {
		t.Errorf("%d probes took %v, not %v", n, took, least)
	}
}

// runInGateway runs a prober of so many probes a second in the gateway's namespace until done says so.
func runInGateway(t *testing.T, l *lab.Lab, rate int, p **Prober, table Table, done func() bool, ask func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := l.Gateway.Do(func() (err error) {
		if *p, err = New(rate); err != nil {
			return err
		}
		ask()
		// The loop stays on this thread: it opens sockets to find out source addresses.
		go func() {
			for !done() && ctx.Err() == nil {
				time.Sleep(10 * time.Millisecond)
			}
			cancel()
		}()
		return (*p).Run(ctx, table)
	})
	if err != nil {
		t.Fatal(err)
	}
	if !done() {
		t.Error("not all was found out")
	}
}

// What refused a client is asked about ten times as fast as the rest.
func TestChecksAreFaster(t *testing.T) {
	l := labtest.New(t, lab.Config{})
	const n = 40
	var p *Prober
	got := &results{answered: map[servers.Key]servers.Answer{}, failed: map[servers.Key]servers.State{}}
	began := time.Now()
	// At one a second the prober's loop would not live to see it.
	runInGateway(t, l, 1, &p, got, func() bool { return got.count() == n }, func() {
		for i := range n {
			p.Ask(keyOf(l.Servers[0].AddrPort(false, uint16(100+i))), servers.WhetherClosed)
		}
	})
	if took, least := time.Since(began), (n-1)*time.Second/checks; took < least {
		t.Errorf("%d probes took %v, not %v", n, took, least)
	}
}

// Whoever doesn't know a probe's sequence number answers nothing in a server's name.
func TestForgedAnswers(t *testing.T) {
	k := keyOf(netip.MustParseAddrPort("192.0.2.1:80"))
	got := &results{answered: map[servers.Key]servers.Answer{}, failed: map[servers.Key]servers.State{}}
	p := &Prober{pending: map[servers.Key]*probe{k: {isn: 1000}}}
	for _, a := range []answer{{from: k, ack: 1000}, {from: k, ack: 1002, reset: true}, {from: servers.Key{Addr: k.Addr, Port: 81}, ack: 1001}} {
		p.answered(got, &a)
	}
	if got.count() != 0 {
		t.Errorf("believed: %+v", got)
	}
	p.answered(got, &answer{from: k, ack: 1001, reset: true})
	p.answered(got, &answer{from: k, ack: 1001})
	if got.failed[k] != servers.Closed || got.count() != 1 {
		t.Errorf("got %+v", got)
	}
}

func TestAskNeverBlocks(t *testing.T) {
	p := unsent(2)
	if n := testing.AllocsPerRun(100, func() { p.Ask(servers.Key{Port: 1}, servers.WhatItDoes) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if n := p.Count(Skipped); n != 99 {
		t.Errorf("%d skipped", n)
	}
	// Whoever scans ports pushes out nobody else's requests.
	for range 100 {
		p.Ask(servers.Key{Port: 2}, servers.WhetherClosed)
	}
	for q, port := range []uint16{1, 2} {
		if n := len(p.queues[q].requests); n != 2 {
			t.Errorf("%d wait", n)
		} else if k := <-p.queues[q].requests; k.Port != port {
			t.Errorf("%v waits", k)
		}
	}
}

// unsent is a Prober without sockets, in which so many requests may wait.
func unsent(waiting int) *Prober {
	p := &Prober{pending: map[servers.Key]*probe{}}
	for q := range p.queues {
		p.queues[q].requests = make(chan servers.Key, waiting)
	}
	return p
}

// Bytes from the network never break anything, and only answers to SYNs come through.
func FuzzParse(f *testing.F) {
	src := stack.AddrFrom(netip.MustParseAddr("192.0.2.1"))
	k := keyOf(netip.MustParseAddrPort("198.51.100.1:443"))
	segment := syn(src, 40000, &k, 7)
	f.Add(segment)
	f.Add(segment[:19])
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > maxSegment {
			return
		}
		a, ok := parse(append(make([]byte, fakeHeader), b...), src)
		if ok && (b[13]&0x10 == 0 || a.from.Addr != src) {
			t.Errorf("%x: %+v", b, a)
		}
	})
}

// The SYN's checksum is right by a second opinion: the kernel's of a listening host in TestProbe; here only its place.
func TestSYNIsWhole(t *testing.T) {
	for _, server := range []string{"192.0.2.1:80", "[2001:db8::1]:80"} {
		k := keyOf(netip.MustParseAddrPort(server))
		src := stack.AddrFrom(netip.MustParseAddr("198.51.100.1"))
		if k.Addr.Netip().Is6() {
			src = stack.AddrFrom(netip.MustParseAddr("2001:db8::2"))
		}
		s := syn(src, 40000, &k, 7)
		if len(s) != 40 || s[16] == 0 && s[17] == 0 {
			t.Errorf("%s: % x", server, s)
		}
	}
}
