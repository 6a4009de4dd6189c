package proxy

import (
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/stack"
)

// waitLink brings nothing, and keeps how long it was to wait for that.
type waitLink struct{ wait time.Duration }

func (l *waitLink) Recv(_ [][]byte, wait time.Duration) (int, error) {
	l.wait = wait
	return 0, nil
}

func (l *waitLink) Send([][]byte) error { return nil }

// TestTimeOutsDoNotWait: when more flows time out at once than one batch may take, the next batch doesn't wait for packets.
func TestTimeOutsDoNotWait(t *testing.T) {
	r := newRig(t, DefaultOptions())
	cfg := r.proxy.cfg
	cfg.Capacity = 2 * expireBudget
	p, err := New(cfg, r.now)
	if err != nil {
		t.Fatal(err)
	}
	link := &waitLink{}
	w := p.NewWorker(link)
	w.now = p.instant(r.now)
	for i := range expireBudget + 1 {
		k := key(i)
		hash := p.table.hash.of(&k)
		s := p.table.stripe(hash)
		slot, _ := s.insert(&k, hash, w.evict)
		w.enter(s, slot, evHandshake)
	}
	step := func(wait time.Duration) time.Duration {
		if _, err := w.Step(func() time.Time { return r.now.Add(time.Hour) }, wait); err != nil {
			t.Fatal(err)
		}
		return link.wait
	}
	if got := step(time.Second); got != time.Second {
		t.Errorf("the first batch waits %v", got)
	}
	if got := step(time.Second); got != 0 {
		t.Errorf("with time-outs left, the next batch waits %v", got)
	}
	if got := step(time.Second); got != time.Second {
		t.Errorf("with none left, the next batch waits %v", got)
	}
}

// TestEveryStripeTimesOut lets flows of many stripes time out, with several workers to look after them.
func TestEveryStripeTimesOut(t *testing.T) {
	r := newRig(t, DefaultOptions())
	cfg := r.proxy.cfg
	cfg.Capacity = 1 << 16
	p, err := New(cfg, r.now)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.table.stripes) < 8 {
		t.Fatalf("%d stripes", len(p.table.stripes))
	}
	r.proxy, r.worker = p, p.NewWorker(r.link)
	idle := &oneLink{last: make([]byte, frameSize)}
	workers := []*Worker{r.worker, p.NewWorker(idle), p.NewWorker(idle)}
	for i := range 500 {
		k := key(i)
		hash := p.table.hash.of(&k)
		s := p.table.stripe(hash)
		slot, ok := s.insert(&k, hash, r.worker.evict)
		if !ok {
			t.Fatal("full")
		}
		r.worker.now = p.instant(r.now)
		s.flows[slot].flags = opened
		r.worker.enter(s, slot, evHandshake)
		r.worker.enter(s, slot, evSynAck)
	}
	at := func(after time.Duration) int {
		for _, w := range workers {
			if _, err := w.Step(func() time.Time { return r.now.Add(after) }, 0); err != nil {
				t.Fatal(err)
			}
		}
		return p.Snapshot().Flows[StateOpen]
	}
	if n := at(cfg.IdleTimeout - time.Second); n != 500 {
		t.Errorf("%d of 500 flows are left before their time", n)
	}
	if n := at(cfg.IdleTimeout + time.Second); n != 0 {
		t.Errorf("%d of 500 flows have not timed out", n)
	}
	if n := p.Snapshot().Services[0].Flows; n != 0 {
		t.Errorf("the service counts %d flows", n)
	}
}

// TestFindService looks up services whose prefixes lie inside each other.
func TestFindService(t *testing.T) {
	prefix := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	cfg := Config{Services: []Service{
		{Name: "net", Prefixes: prefix("192.0.2.0/24"), Ports: []PortRange{{80, 80}}},
		{Name: "host", Prefixes: prefix("192.0.2.9/32"), Ports: []PortRange{{443, 443}, {8000, 8100}}},
		{Name: "six", Prefixes: prefix("2001:db8::/64")},
	}}
	p := newPolicy(&cfg, &policy{}, newRoster(), instant{}, 0)
	for _, tt := range []struct {
		addr string
		port uint16
		want string
	}{
		{"192.0.2.9", 80, "net"}, {"192.0.2.9", 443, "host"}, {"192.0.2.9", 8100, "host"}, {"192.0.2.9", 8101, ""},
		{"192.0.2.8", 80, "net"}, {"192.0.2.8", 443, ""}, {"192.0.3.9", 80, ""},
		{"2001:db8::1", 1, "six"}, {"2001:db8:0:1::1", 1, ""},
	} {
		addr := stack.AddrFrom(netip.MustParseAddr(tt.addr))
		got := ""
		if s := p.find(&addr, tt.port); s != nil {
			got = s.Name
		}
		if got != tt.want {
			t.Errorf("%s port %d: service %q, want %q", tt.addr, tt.port, got, tt.want)
		}
	}
}

// TestServerWithoutWindowScaling is told the client's windows in bytes, in levee's own acknowledgement too.
func TestServerWithoutWindowScaling(t *testing.T) {
	r := newRig(t, DefaultOptions())
	synAck := r.step(r.syn())
	r.step(r.segment(client, stack.Segment{Seq: 1001, Ack: synAck.Seq + 1, Flags: flagACK, Window: 100, WScale: WScaleNone}))
	// While the server has not answered, the client's window grows: the latest counts.
	r.step(r.segment(client, stack.Segment{Seq: 1001, Ack: synAck.Seq + 1, Flags: flagACK, Window: 200, WScale: WScaleNone}))
	answer := r.segment(server, stack.Segment{Seq: 5000, Ack: 1001, Flags: flagSYN | flagACK, Window: 40000, MSS: 1460, WScale: WScaleNone})
	update := r.step(answer)
	if update.Window != 40000>>DefaultWScale {
		t.Errorf("the client is told a window of %d", update.Window)
	}
	again := r.step(answer) // levee's acknowledgement was lost
	if again.Ack != 5001 || again.Seq != 1001 || again.Window != 200<<7 || again.Flags != flagACK {
		t.Errorf("a SYN-ACK sent again is answered with %+v", again)
	}
	sent := r.link.sent
	r.link.in = [][]byte{r.segment(server, stack.Segment{Seq: 5000, Ack: 1002, Flags: flagSYN | flagACK, Window: 40000, WScale: WScaleNone})}
	if _, err := r.worker.Step(r.clock, 0); err != nil {
		t.Fatal(err)
	}
	if got := r.proxy.Snapshot().Drops[DropBadAck]; r.link.sent != sent || got != 1 {
		t.Errorf("a SYN-ACK for something else: %d segments sent, %d dropped", r.link.sent-sent, got)
	}
}

// TestSynAckAgainLater answers with the client's latest numbers.
func TestSynAckAgainLater(t *testing.T) {
	o := DefaultOptions()
	o.Timestamps = true
	r := newRig(t, o)
	isn := r.open()
	r.step(r.segment(client, stack.Segment{
		Seq: 1001, Ack: isn + 1, Flags: flagACK, Window: 77, WScale: WScaleNone, Timestamps: true, TSVal: 500, TSEcr: 1,
	}))
	got := r.step(r.segment(server, stack.Segment{
		Seq: 5000, Ack: 1001, Flags: flagSYN | flagACK, Window: 65535, MSS: 1460, WScale: 9, Timestamps: true, TSVal: 8888, TSEcr: 11,
	}))
	if got.Window != 77 || got.Options.TSVal != 500 || got.Options.TSEcr != 8888 || got.Seq != 1001 || got.Ack != 5001 {
		t.Errorf("answered with %+v", got)
	}
}

// TestExactReset resets at what the receiver has acknowledged and at what the sender has sent, and nowhere between.
func TestExactReset(t *testing.T) {
	for _, tt := range []struct {
		name  string
		seq   seqnum.Value
		state State
	}{{"acknowledged", 1001, StateReset}, {"sent", 1011, StateReset}, {"between", 1005, StateOpen}, {"before", 1000, StateOpen}} {
		r := newRig(t, DefaultOptions())
		r.open()
		// Ten bytes of the client's that the server has not acknowledged: the frame has no payload, so say it with a larger number.
		flows := r.proxy.table.stripes[0].flows
		for i := range flows {
			if flows[i].state == StateOpen {
				flows[i].half[client].end = 1011
			}
		}
		r.step(r.segment(client, stack.Segment{Seq: tt.seq, Flags: flagRST, WScale: WScaleNone}))
		for f := range flowsOf(r) {
			if f.State != tt.state {
				t.Errorf("%s: the flow is %s, want %s", tt.name, f.State, tt.state)
			}
		}
	}
}

// TestModeOffTracksNothing forwards whatever comes, either way, and keeps no record of it.
func TestModeOffTracksNothing(t *testing.T) {
	r := newRig(t, DefaultOptions())
	r.change(func(s *Service) { s.Mode = ModeOff })
	for i, frame := range [][]byte{
		r.syn(),
		r.segment(server, stack.Segment{Seq: 1, Ack: 1001, Flags: flagSYN | flagACK, WScale: WScaleNone}),
		r.segment(client, stack.Segment{Seq: 1001, Ack: 2, Flags: flagACK, WScale: WScaleNone}),
		r.segment(server, stack.Segment{Seq: 9, Flags: flagSYN, WScale: WScaleNone}), // outbound
	} {
		r.step(frame)
		if got := r.link.last; string(got) != string(frame) {
			t.Errorf("frame %d has changed", i)
		}
	}
	if got := r.proxy.Snapshot(); got.Passed[PassModeOff]+got.Passed[PassNoService] != 4 || got.Flows[StateFree] != got.Capacity {
		t.Errorf("passed %v, flows by state %v", got.Passed, got.Flows)
	}
}

// TestICMP sends errors that quote segments of a flow toward the server.
func TestICMP(t *testing.T) {
	for _, tt := range []struct {
		name string
		from side
		seq  seqnum.Value // as the quoted segment had it when it passed the router, the server's from its first byte on
		want seqnum.Value // as the server sees it; 0 if the error is dropped
	}{
		{name: "in flight", from: server, seq: 0, want: 5001},
		{name: "the last byte sent", from: server, seq: 999, want: 6000},
		{name: "an acknowledgement", from: server, seq: 1000, want: 6001},
		{name: "beyond what was sent", from: server, seq: 1001},
		{name: "long ago", from: server, seq: 0xfffeef00},
		{name: "the client's", from: client, seq: 1001, want: 1001},
		{name: "beyond what the client sent", from: client, seq: 1002},
	} {
		r := newRig(t, DefaultOptions())
		isn := r.open()
		flows := r.proxy.table.stripes[0].flows
		for i := range flows {
			if flows[i].state == StateOpen {
				flows[i].half[server].end = 6001 // a thousand bytes sent
			}
		}
		seq := tt.seq
		if tt.from == server {
			seq += isn + 1 // the router is on the client's side
		}
		quoted := r.segment(tt.from, stack.Segment{Seq: seq, Flags: flagACK, WScale: WScaleNone})[stack.VirtioLen:]
		packet := append([]byte{0x45, 0, 0, byte(28 + len(quoted)), 0, 0, 0, 0, 64, 1, 0, 0, 203, 0, 113, 1}, quoted[12:16]...)
		packet = append(append(packet, 3, 4, 0, 0, 0, 0, 5, 0), quoted...)
		r.link.in, r.link.sent = [][]byte{append(make([]byte, stack.VirtioLen), packet...)}, 0
		if _, err := r.worker.Step(r.clock, 0); err != nil {
			t.Fatal(err)
		}
		dropped := r.proxy.Snapshot().Drops[DropICMP]
		if tt.want == 0 {
			if r.link.sent != 0 || dropped != 1 {
				t.Errorf("%s: %d packets sent, %d dropped", tt.name, r.link.sent, dropped)
			}
			continue
		}
		var p stack.Packet
		var q stack.Quote
		if r.link.sent != 1 || dropped != 0 || p.Parse(r.link.last[stack.VirtioLen:], false) != stack.KindOther || !q.Parse(&p) || q.Seq != tt.want {
			t.Errorf("%s: %d packets sent, %d dropped, quoting %d, want %d", tt.name, r.link.sent, dropped, q.Seq, tt.want)
		}
	}
}

// TestTouchKeepsOrder uses one of two flows that have ended again: it is then the other that goes first.
func TestTouchKeepsOrder(t *testing.T) {
	r := newRig(t, DefaultOptions())
	var slots [2]uint32
	s := &r.proxy.table.stripes[0]
	for i := range slots {
		k := key(i)
		slots[i], _ = s.insert(&k, r.proxy.table.hash.of(&k), r.worker.evict)
		r.worker.now.tick++
		r.worker.enter(s, slots[i], evHandshake)
		r.worker.enter(s, slots[i], evRST)
	}
	r.worker.now.tick += 5
	r.worker.touch(s, slots[0])
	if first := s.links.first(s.ended); first != slots[1] {
		t.Errorf("flow %d goes first, not %d", first, slots[1])
	}
	if at := s.flows[slots[0]].lastSeen; at != r.worker.now.tick {
		t.Errorf("last seen at %d, not %d", at, r.worker.now.tick)
	}
}
