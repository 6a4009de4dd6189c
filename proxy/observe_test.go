package proxy

import (
	"net/netip"
	"strings"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"levee/stack"
)

// look makes an observer that ends with the test.
func look(t testing.TB, p *Proxy, in Interest) *Observer {
	t.Helper()
	if in.Rate == 0 {
		in.Rate = MaxObserveRate
	}
	o, err := p.Observe(in)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	return o
}

// TestVerdicts sees what becomes of one connection and of what doesn't belong to any, and that the counters say the same.
func TestVerdicts(t *testing.T) {
	r := newRig(t, DefaultOptions())
	cfg := r.proxy.cfg
	cfg.EarlyPool, cfg.Services[0].EarlyData = 1<<16, 1000
	var err error
	if r.proxy, err = New(cfg, r.now); err != nil {
		t.Fatal(err)
	}
	r.worker = r.proxy.NewWorker(r.link)
	o := look(t, r.proxy, Interest{Bytes: true})
	expect := func(what string, frame []byte, verdict Verdict, reason, service string) Decision {
		t.Helper()
		want := append([]byte(nil), frame...)
		r.sentFor(frame)
		seen := o.Read(nil)
		if len(seen) != 1 {
			t.Fatalf("%s: %d decisions", what, len(seen))
		}
		d := seen[0]
		if d.Verdict != verdict || d.Reason() != reason || d.Service != service || !d.At.Equal(r.now) {
			t.Errorf("%s: %v %q of %q at %v", what, d.Verdict, d.Reason(), d.Service, d.At)
		}
		ip := want[min(stack.VirtioLen, len(want)):]
		if d.Length != len(ip) || d.Captured != min(len(ip), SnapLen) || string(d.Data[:d.Captured]) != string(ip[:d.Captured]) {
			t.Errorf("%s: %d of %d bytes: %x, want %x", what, d.Captured, d.Length, d.Data[:d.Captured], ip)
		}
		return d
	}
	d := expect("SYN", r.syn(), VerdictAnswer, "", "web")
	if d.Src != rigClient || d.Dst != rigServer || d.SrcPort != 40000 || d.DstPort != 80 || d.Flags != flagSYN || d.Seq != 1000 || d.Protocol != 6 {
		t.Errorf("%+v", d)
	}
	cookie := r.sentFor(r.syn())[0].Seq
	o.Read(nil)
	expect("cookie", r.from(client, 1001, cookie+1, flagACK, 500, 0), VerdictOpen, "", "web")
	expect("early data", r.from(client, 1001, cookie+1, flagACK|header.TCPFlagPsh, 500, 10), VerdictHold, "", "web")
	expect("the same again", r.from(client, 1001, cookie+1, flagACK|header.TCPFlagPsh, 500, 10), VerdictDrop, "opening", "web")
	expect("SYN-ACK", r.segment(server, stack.Segment{Seq: 5000, Ack: 1001, Flags: flagSYN | flagACK, Window: 65535, MSS: 1460, WScale: 9}),
		VerdictSplice, "", "web")
	d = expect("data of the client", r.from(client, 1011, cookie+1, flagACK, 500, 300), VerdictForward, "", "web")
	if d.Ack != cookie+1 || d.Payload != 300 {
		t.Errorf("translated: %+v", d)
	}
	expect("data of the server", r.from(server, 5001, 1311, flagACK, 500, 10), VerdictForward, "", "web")
	expect("SYN-ACK again", r.segment(server, stack.Segment{Seq: 5000, Ack: 1001, Flags: flagSYN | flagACK, Window: 65535, MSS: 1460, WScale: 9}),
		VerdictReply, "", "web")

	other := stack.Segment{Src: rigClient, Dst: rigServer, SrcPort: 1, DstPort: 80, Seq: 1, Ack: 2, Flags: flagACK, WScale: WScaleNone}
	expect("bad cookie", other.Build(make([]byte, stack.MaxBuilt)), VerdictDrop, "cookie_invalid", "web")
	other.DstPort = 81
	expect("no service", other.Build(make([]byte, stack.MaxBuilt)), VerdictPass, "no_service", "")
	d = expect("nonsense", []byte{15: 0x77}, VerdictDrop, "truncated", "")
	if d.Src.Netip() != netip.IPv6Unspecified() || d.Protocol != 0 {
		t.Errorf("out of nothing: %+v", d)
	}
	expect("no packet", nil, VerdictDrop, "truncated", "")
	if shown, matched := o.Counts(); shown != 13 || matched != 13 {
		t.Errorf("%d of %d", shown, matched)
	}
}

// TestInterest asks for one thing at a time, out of a bad ACK, a SYN and a packet of no service.
func TestInterest(t *testing.T) {
	all := map[string]Interest{
		"ack syn other": {},
		"ack":           {Drops: []DropReason{DropCookieInvalid, DropLand}},
		"syn":           {Verdicts: []Verdict{VerdictAnswer, VerdictForward}},
		"other":         {Passes: []PassReason{PassNoService}},
		"ack other":     {Passes: []PassReason{PassNoService}, Drops: []DropReason{DropCookieInvalid}},
		"ack syn":       {Service: "web"},
		"syn ":          {Service: "web", Prefix: netip.MustParsePrefix("198.51.100.0/24")},
		"other ":        {Prefix: netip.MustParsePrefix("203.0.113.9/32")},
		"":              {Verdicts: []Verdict{VerdictAnswer}, Drops: []DropReason{DropCookieInvalid}},
		" ":             {Service: "ssh"},
	}
	for want, in := range all {
		r := newRig(t, DefaultOptions())
		o := look(t, r.proxy, in)
		far := stack.AddrFrom(netip.MustParseAddr("203.0.113.8"))
		farther := stack.AddrFrom(netip.MustParseAddr("203.0.113.9"))
		bad := stack.Segment{Src: far, Dst: rigServer, SrcPort: 1, DstPort: 80, Ack: 2, Flags: flagACK, WScale: WScaleNone}
		other := stack.Segment{Src: far, Dst: farther, SrcPort: 1, DstPort: 80, Ack: 2, Flags: flagACK, WScale: WScaleNone}
		r.sentFor(r.syn()) // cookies are outstanding
		o.Read(nil)
		r.sentFor(bad.Build(make([]byte, stack.MaxBuilt)))
		r.sentFor(r.syn())
		r.sentFor(other.Build(make([]byte, stack.MaxBuilt)))
		got := ""
		for _, d := range o.Read(nil) {
			if got != "" {
				got += " "
			}
			got += map[Verdict]string{VerdictAnswer: "syn", VerdictDrop: "ack", VerdictPass: "other"}[d.Verdict]
			if d.Captured != 0 || d.Data != [SnapLen]byte{} {
				t.Error("bytes that nobody asked for")
			}
		}
		for len(want) > 0 && want[len(want)-1] == ' ' {
			want = want[:len(want)-1]
		}
		if got != want {
			t.Errorf("%+v: %q, want %q", in, got, want)
		}
	}
}

// TestObserverFallsBehind: what there is no room for is counted and not shown, whatever holds the observer up, and no more are shown
// in a second than were asked for.
func TestObserverFallsBehind(t *testing.T) {
	r := newRig(t, DefaultOptions())
	slow, bounded := look(t, r.proxy, Interest{}), look(t, r.proxy, Interest{Rate: 10})
	r.link.in = [][]byte{r.syn()}
	flood := func(n int) {
		for range n {
			if _, err := r.worker.Step(r.clock, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	check := func(o *Observer, read int, shown, matched uint64) {
		t.Helper()
		if n := len(o.Read(nil)); n != read {
			t.Errorf("%d were read, want %d", n, read)
		}
		if s, m := o.Counts(); s != shown || m != matched {
			t.Errorf("%d of %d shown, want %d of %d", s, m, shown, matched)
		}
	}
	flood(ringSize + 100)
	check(slow, ringSize, ringSize, ringSize+100)
	check(bounded, 10, 10, ringSize+100)
	ring := &slow.rings[0]
	ring.mu.Lock() // as while it is read
	flood(5)
	ring.mu.Unlock()
	check(slow, 0, ringSize, ringSize+105)
	r.now = r.now.Add(500_000_000)
	flood(20)
	check(slow, 20, ringSize+20, ringSize+125)
	check(bounded, 5, 15, ringSize+125)
}

// TestObserversCome and go: there are at most MaxObservers, and when the last has gone workers look no further.
func TestObserversCome(t *testing.T) {
	r := newRig(t, DefaultOptions())
	var all []*Observer
	for range MaxObservers {
		o, err := r.proxy.Observe(Interest{Rate: 1})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, o)
	}
	if _, err := r.proxy.Observe(Interest{Rate: 1}); err != ErrTooManyObservers {
		t.Errorf("one more: %v", err)
	}
	for _, in := range []Interest{{}, {Rate: MaxObserveRate + 1}, {Rate: 1, Prefix: netip.MustParsePrefix("192.0.2.1/24")}} {
		if _, err := r.proxy.Observe(in); err == nil {
			t.Errorf("%+v is taken", in)
		}
	}
	for i, o := range all {
		if r.proxy.observers.Load() == nil {
			t.Errorf("nobody is left after %d", i)
		}
		o.Close()
	}
	if left := r.proxy.observers.Load(); left != nil {
		t.Errorf("%d are left", len(*left))
	}
	r.step(r.syn())
	if n := len(all[0].Read(nil)); n != 0 {
		t.Errorf("%d decisions after Close", n)
	}
}

// TestObservedAllocations: looking on costs the garbage collector nothing either.
// decided lists what became of some packets.
func decided(all []Decision) string {
	var words []string
	for _, d := range all {
		words = append(words, strings.TrimSpace(d.Verdict.String()+" "+d.Reason()))
	}
	return strings.Join(words, ", ")
}

func TestObservedAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for name, path := range packetPaths(t) {
		o := look(t, path.rig.proxy, Interest{Bytes: true})
		path.rig.link.in = path.frames
		buffer := make([]Decision, 0, 2*ringSize)
		if _, err := path.rig.worker.Step(path.rig.clock, 0); err != nil {
			t.Fatal(err)
		}
		if got := decided(o.Read(buffer)); got != path.want {
			t.Errorf("%s: %q, not %q: this is another path", name, got, path.want)
		}
		if n := testing.AllocsPerRun(1000, func() {
			if _, err := path.rig.worker.Step(path.rig.clock, 0); err != nil {
				t.Fatal(err)
			}
			buffer = o.Read(buffer[:0])
		}); n != 0 {
			t.Errorf("%s: %v allocations a packet", name, n)
		}
	}
}
