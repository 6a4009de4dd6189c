package proxy

import (
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/proxy/cookie"
	"levee/proxy/servers"
	"levee/stack"
)

// oneLink hands the worker the same frames again and again, and keeps the last frame that it sends.
type oneLink struct {
	in   [][]byte
	sent int
	last []byte
}

func (l *oneLink) Recv(frames [][]byte, _ time.Duration) (int, error) {
	for i, f := range l.in {
		frames[i] = frames[i][:copy(frames[i], f)]
	}
	return len(l.in), nil
}

func (l *oneLink) Send(frames [][]byte) error {
	for _, f := range frames {
		l.sent++
		l.last = l.last[:copy(l.last[:cap(l.last)], f)]
	}
	return nil
}

// rig is a worker with one service, a clock that stands still, and a client and a server to speak for.
type rig struct {
	t      testing.TB
	proxy  *Proxy
	worker *Worker
	link   *oneLink
	now    time.Time
}

var (
	rigClient = stack.AddrFrom(netip.MustParseAddr("198.51.100.7"))
	rigServer = stack.AddrFrom(netip.MustParseAddr("192.0.2.1"))
)

func newRig(t testing.TB, o Options) *rig {
	now := time.Unix(1_700_000_000, 0)
	p, err := New(Config{
		Services: []Service{{
			Name: "web", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
			Ports: []PortRange{{80, 80}}, Mode: ModeAlways, Options: o,
		}},
		Capacity: 1000, MTU: 1500, IdleTimeout: DefaultIdleTimeout, TransitoryTimeout: DefaultTransitoryTimeout,
		Secret: cookie.Secret{1}, Replies: Replies{PerNetwork: MaxReplyRate},
	}, now)
	if err != nil {
		t.Fatal(err)
	}
	link := &oneLink{last: make([]byte, frameSize)}
	return &rig{t, p, p.NewWorker(link), link, now}
}

// change reloads with the service changed.
func (r *rig) change(edit func(*Service)) {
	cfg := r.proxy.cfg
	cfg.Services = []Service{r.proxy.policy.Load().services[0].Service}
	edit(&cfg.Services[0])
	if err := r.proxy.Reload(cfg, r.now); err != nil {
		r.t.Fatal(err)
	}
}

// step gives the worker frames and returns what it sent last.
func (r *rig) step(frames ...[]byte) stack.Packet {
	r.link.in = frames
	if _, err := r.worker.Step(r.clock, 0); err != nil {
		r.t.Fatal(err)
	}
	var p stack.Packet
	if kind := p.Parse(r.link.last[stack.VirtioLen:], true); kind != stack.KindTCP {
		r.t.Fatalf("levee sent a packet of kind %d", kind)
	}
	return p
}

func (r *rig) clock() time.Time { return r.now }

func (r *rig) segment(from side, s stack.Segment) []byte {
	s.Src, s.Dst, s.SrcPort, s.DstPort = rigClient, rigServer, 40000, 80
	if from == server {
		s.Src, s.Dst, s.SrcPort, s.DstPort = s.Dst, s.Src, s.DstPort, s.SrcPort
	}
	return s.Build(make([]byte, stack.MaxBuilt))
}

// open shakes hands and returns the cookie.
func (r *rig) open() seqnum.Value {
	synAck := r.step(r.syn())
	r.step(r.segment(client, stack.Segment{
		Seq: 1001, Ack: synAck.Seq + 1, Flags: flagACK, Window: 500, WScale: WScaleNone,
		Timestamps: synAck.Options.Timestamps, TSVal: 11, TSEcr: synAck.Options.TSVal,
	}))
	r.step(r.segment(server, stack.Segment{
		Seq: 5000, Ack: 1001, Flags: flagSYN | flagACK, Window: 65535, MSS: 1460, WScale: 9, SACKPermitted: true,
		Timestamps: synAck.Options.Timestamps, TSVal: 7777, TSEcr: 11,
	}))
	if got := r.proxy.Snapshot().Flows[StateOpen]; got != 1 {
		r.t.Fatalf("%d flows open", got)
	}
	return synAck.Seq
}

func (r *rig) syn() []byte {
	return r.segment(client, stack.Segment{
		Seq: 1000, Flags: flagSYN, Window: 64240, MSS: 1460, WScale: 7, SACKPermitted: true, Timestamps: true, TSVal: 10,
	})
}

// packetPaths are the frames of each per-packet path, and whether levee sends something for them.
func packetPaths(t testing.TB) map[string]struct {
	rig    *rig
	frames [][]byte
} {
	o := DefaultOptions()
	o.Timestamps = true
	flood := newRig(t, o)
	spliced := newRig(t, o)
	isn := spliced.open()
	data := func(from side, seq, ack seqnum.Value) []byte {
		return spliced.segment(from, stack.Segment{
			Seq: seq, Ack: ack, Flags: flagACK | header.TCPFlagPsh, Window: 501, WScale: WScaleNone,
			Timestamps: true, TSVal: 12, TSEcr: 7777,
		})
	}
	bypass := newRig(t, o)
	bypass.change(func(s *Service) { s.BypassRate = MaxBypassRate })
	signedSYN := bypass.syn()
	copy(signedSYN[stack.VirtioLen+40:], []byte{19, 18, 18: 1, 19: 1}) // TCP-MD5 in place of its options
	learned := newRig(t, func() Options { o := o; o.Learn = servers.All; return o }())
	learned.open()
	closed := newRig(t, o)
	closed.change(func(s *Service) { s.ClosedPorts = ClosedReset })
	key := servers.Key{Addr: rigServer, Port: 80}
	closed.proxy.servers.Refused(&key, closed.now.Unix(), servers.Closed)
	quoted := data(server, isn+1, 1001)[stack.VirtioLen:]
	tooLong := append([]byte{0x45, 0, 0, byte(28 + len(quoted)), 0, 0, 0, 0, 64, 1, 0, 0, 203, 0, 113, 1}, quoted[12:16]...)
	tooLong = append(append(tooLong, 3, 4, 0, 0, 0, 0, 5, 0), quoted...)
	type path = struct {
		rig    *rig
		frames [][]byte
	}
	return map[string]path{
		"SYN flood":             {flood, [][]byte{flood.syn()}},
		"client to server":      {spliced, [][]byte{data(client, 1001, isn+1)}},
		"server to client":      {spliced, [][]byte{data(server, 5001, 1001)}},
		"signed SYN":            {bypass, [][]byte{signedSYN}},
		"ICMP error":            {spliced, [][]byte{append(make([]byte, stack.VirtioLen), tooLong...)}},
		"SYN, server known":     {learned, [][]byte{learned.syn()}},
		"bad ACK, server known": {learned, [][]byte{learned.segment(client, stack.Segment{Seq: 1, Ack: 2, Flags: flagACK, WScale: WScaleNone})}},
		"SYN to a closed port":  {closed, [][]byte{closed.syn()}},
		"bad ACK":               {flood, [][]byte{data(client, 1, 2)}},
	}
}

// TestNoAllocations proves that no packet costs the garbage collector anything.
func TestNoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for name, path := range packetPaths(t) {
		t.Run(name, func(t *testing.T) {
			path.rig.link.in = path.frames
			if n := testing.AllocsPerRun(1000, func() {
				if _, err := path.rig.worker.Step(path.rig.clock, 0); err != nil {
					t.Fatal(err)
				}
			}); n != 0 {
				t.Errorf("%v allocations a packet", n)
			}
		})
	}
}

func BenchmarkPacket(b *testing.B) {
	for name, path := range packetPaths(b) {
		b.Run(name, func(b *testing.B) {
			path.rig.link.in = path.frames
			b.ReportAllocs()
			for b.Loop() {
				if _, err := path.rig.worker.Step(path.rig.clock, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestSplice follows one connection's numbers through a splice.
func TestSplice(t *testing.T) {
	o := DefaultOptions()
	o.Timestamps = true
	r := newRig(t, o)
	isn := r.open()
	delta := uint32(isn - 5000)

	got := r.step(r.segment(client, stack.Segment{
		Seq: 1001, Ack: isn + 1, Flags: flagACK, Window: 300, WScale: WScaleNone, Timestamps: true, TSVal: 12, TSEcr: 99,
	}))
	if got.Seq != 1001 || got.Ack != 5001 || got.Window != 300 || got.Options.TSVal != 12 {
		t.Errorf("to the server: %+v", got)
	}
	got = r.step(r.segment(server, stack.Segment{
		Seq: 5001, Ack: 1001, Flags: flagACK, Window: 300, WScale: WScaleNone, Timestamps: true, TSVal: 7778, TSEcr: 12,
	}))
	if uint32(got.Seq) != 5001+delta || got.Ack != 1001 || got.Window != 1200 || got.Options.TSEcr != 12 {
		t.Errorf("to the client: %+v", got)
	}
	for f := range flowsOf(r) {
		if f.Delta != delta || f.State != StateOpen || f.Service != "web" ||
			f.Client != netip.MustParseAddrPort("198.51.100.7:40000") || f.Server != netip.MustParseAddrPort("192.0.2.1:80") {
			t.Errorf("flow %+v", f)
		}
	}
}

func flowsOf(r *rig) func(func(FlowInfo) bool) {
	return func(yield func(FlowInfo) bool) { r.proxy.Flows(r.now, yield) }
}
