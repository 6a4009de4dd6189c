package proxy

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/proxy/cookie"
	"levee/proxy/flood"
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
	// client and server are the two.
	client, server stack.Addr
}

var (
	rigClient = stack.AddrFrom(netip.MustParseAddr("198.51.100.7"))
	rigServer = stack.AddrFrom(netip.MustParseAddr("192.0.2.1"))
	// rigClient6 and rigServer6 are the same over IPv6.
	rigClient6 = stack.AddrFrom(netip.MustParseAddr("2001:db8:7::7"))
	rigServer6 = stack.AddrFrom(netip.MustParseAddr("2001:db8:1::1"))
)

func newRig(t testing.TB, o Options) *rig {
	now := time.Unix(1_700_000_000, 0)
	p, err := New(Config{
		Services: []Service{{
			Name: "web", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:1::/64")},
			Ports: []PortRange{{80, 80}}, Mode: ModeAlways, Options: o,
		}},
		Capacity: 1000, MTU: 1500, IdleTimeout: DefaultIdleTimeout, TransitoryTimeout: DefaultTransitoryTimeout,
		Secret: cookie.Secret{1}, Replies: Replies{PerNetwork: MaxReplyRate},
	}, now)
	if err != nil {
		t.Fatal(err)
	}
	link := &oneLink{last: make([]byte, frameSize)}
	return &rig{t, p, p.NewWorker(link), link, now, rigClient, rigServer}
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

func (r *rig) segment(from side, s stack.Segment) []byte { return r.superpacket(from, s, 0, 0) }

// superpacket is a segment with so many bytes of payload, in segments of size if they are more.
func (r *rig) superpacket(from side, s stack.Segment, payload, size int) []byte {
	s.Src, s.Dst, s.SrcPort, s.DstPort = r.client, r.server, 40000, 80
	if from == server {
		s.Src, s.Dst, s.SrcPort, s.DstPort = s.Dst, s.Src, s.DstPort, s.SrcPort
	}
	frame, _ := s.BuildData(make([]byte, stack.MaxBuilt+payload), payload, size)
	return frame
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

// path is one per-packet path: the frames that take it, and what becomes of them the first time.
type path struct {
	rig    *rig
	frames [][]byte
	want   string
}

// packetPaths are all, by name, each with a rig of its own where they must not meet.
func packetPaths(t testing.TB) map[string]path {
	o := DefaultOptions()
	o.Timestamps = true
	flooding := newRig(t, o)
	spliced := newRig(t, o)
	isn := spliced.open()
	dataOf := func(r *rig, from side, seq, ack seqnum.Value, payload, size int) []byte {
		return r.superpacket(from, stack.Segment{
			Seq: seq, Ack: ack, Flags: flagACK | header.TCPFlagPsh, Window: 501, WScale: WScaleNone,
			Timestamps: true, TSVal: 12, TSEcr: 7777,
		}, payload, size)
	}
	data := func(from side, seq, ack seqnum.Value) []byte { return dataOf(spliced, from, seq, ack, 0, 0) }
	flooding6, spliced6 := newRig(t, o), newRig(t, o)
	for _, r := range []*rig{flooding6, spliced6} {
		r.client, r.server = rigClient6, rigServer6
	}
	isn6 := spliced6.open()
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
	with := func(edit func(*Service)) *rig {
		r := newRig(t, o)
		r.change(edit)
		return r
	}
	clients := []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	opening := newRig(t, o)
	cfg := opening.proxy.cfg
	cfg.EarlyPool, cfg.Services[0].EarlyData = 1<<16, 1000
	opening.start(cfg)
	cookie := opening.step(opening.syn())
	early := opening.ack(cookie.Seq+1, cookie.Options.TSVal, 100)
	opening.step(early)
	denied := with(func(s *Service) { s.Deny = clients })
	allowed := with(func(s *Service) { s.Allow = clients })
	verified := with(func(s *Service) { s.Verified = Verified{TTL: time.Hour, Rate: MaxVerifiedRate} })
	verified.open()
	crowded := with(func(s *Service) { s.PerSource.Flows = 1 })
	crowded.open()
	reset, passed := with(func(s *Service) { s.Unknown = UnknownReset }), with(func(s *Service) { s.Unknown = UnknownPass })
	auto := with(func(s *Service) {
		s.Mode, s.Engage = ModeAuto, flood.Limits{HalfOpen: 1000, SYNRate: flood.MaxSYNRate, Hold: time.Hour}
	})
	bounded := with(func(s *Service) {
		s.Mode, s.Engage = ModeAuto, flood.Limits{HalfOpen: 1000, SYNRate: flood.MaxSYNRate, Hold: time.Hour}
		s.PerSource = PerSource{Flows: 1, Rate: MaxPerSource}
	})
	engaged, monitor := floodedRig(t, o, ModeAuto), floodedRig(t, o, ModeMonitor)
	return map[string]path{
		"SYN flood":        {flooding, [][]byte{flooding.syn()}, "answer"},
		"client to server": {spliced, [][]byte{data(client, 1001, isn+1)}, "forward"},
		"server to client": {spliced, [][]byte{data(server, 5001, 1001)}, "forward"},
		"superpackets": {spliced, [][]byte{
			dataOf(spliced, client, 1001, isn+1, 400, 100), dataOf(spliced, server, 5001, 1001, 400, 100),
		}, "forward, forward"},
		"IPv6 flood": {flooding6, [][]byte{flooding6.syn(), dataOf(flooding6, client, 1, 2, 0, 0)}, "answer, drop cookie_invalid"},
		"IPv6, both ways": {spliced6, [][]byte{
			dataOf(spliced6, client, 1001, isn6+1, 0, 0), dataOf(spliced6, server, 5001, 1001, 0, 0),
			dataOf(spliced6, client, 1001, isn6+1, 400, 100), dataOf(spliced6, server, 5001, 1001, 400, 100),
		}, "forward, forward, forward, forward"},
		"signed SYN":            {bypass, [][]byte{signedSYN}, "pass bypass"},
		"ICMP error":            {spliced, [][]byte{append(make([]byte, stack.VirtioLen), tooLong...)}, "forward"},
		"SYN, server known":     {learned, [][]byte{learned.syn()}, "answer"},
		"bad ACK, server known": {learned, [][]byte{fromPort(learned.segment(client, stack.Segment{Seq: 1, Ack: 2, Flags: flagACK, WScale: WScaleNone}), 1)}, "drop cookie_invalid"},
		"SYN to a closed port":  {closed, [][]byte{closed.syn()}, "refuse"},
		"bad ACK":               {flooding, [][]byte{data(client, 1, 2)}, "drop cookie_invalid"},
		"data held again":       {opening, [][]byte{early}, "drop opening"},
		"fragments":             {spliced, [][]byte{fragment(data(client, 1001, isn+1), 1<<13), fragment(data(client, 1001, isn+1), 3)}, "forward, pass fragment"},
		"nobody's":              {flooding, [][]byte{elsewhere(flooding.syn()), elsewhere(data(client, 1, 2)), elsewhere(data(server, 1, 2))}, "pass no_service, pass no_service, pass no_service"},
		"broken":                {flooding, broken(flooding.syn()), "drop truncated, drop bad_ip, drop fragment, drop bad_tcp, drop bad_flags, drop bad_options, drop land, drop bad_checksum, drop truncated"},
		"denied":                {denied, [][]byte{denied.syn(), data(client, 1, 2)}, "drop denied, drop denied"},
		"allowed":               {allowed, [][]byte{allowed.syn(), data(client, 1, 2), data(server, 1, 2)}, "pass allowed, drop opening, forward"},
		"verified":              {verified, [][]byte{verified.syn()}, "pass verified"},
		"crowded":               {crowded, [][]byte{fromPort(crowded.syn(), 1)}, "drop source_flows"},
		"stray, reset":          {reset, [][]byte{data(client, 1, 2), data(server, 1, 2)}, "reply, reply"},
		"stray, passed":         {passed, [][]byte{data(client, 1, 2)}, "pass unknown"},
		"watched handshake":     {auto, [][]byte{auto.syn(), auto.synAck(1, 1001), data(client, 1001, 2), data(server, 2, 1001)}, "pass handshake, forward, forward, forward"},
		"watched, bounded":      {bounded, [][]byte{bounded.syn(), bounded.synAck(1, 1001), data(client, 1001, 2), fromPort(bounded.syn(), 1)}, "pass handshake, forward, forward, drop source_flows"},
		"monitored, broken":     {monitor, broken(monitor.syn())[:8], "pass monitored, drop bad_ip, pass monitored, pass monitored, pass handshake, pass monitored, pass handshake, pass handshake"},
		"engaged":               {engaged, [][]byte{engaged.syn(), data(client, 1, 2)}, "answer, drop cookie_invalid"},
		"monitored flood":       {monitor, [][]byte{monitor.syn(), data(client, 1, 2), monitor.synAck(1, 1001), data(server, 2, 1001)}, "pass handshake, pass unknown, forward, forward"},
	}
}

// fromPort changes the source port of an IPv4 frame, whose checksum is partial.
func fromPort(frame []byte, port uint16) []byte {
	binary.BigEndian.PutUint16(frame[stack.VirtioLen+header.IPv4MinimumSize:], port)
	return frame
}

// toPort is fromPort for the destination.
func toPort(frame []byte, port uint16) []byte {
	binary.BigEndian.PutUint16(frame[stack.VirtioLen+header.IPv4MinimumSize+2:], port)
	return frame
}

// elsewhere makes a frame one between addresses that are nobody's.
func elsewhere(frame []byte) []byte {
	for _, at := range []int{12, 16} {
		frame[stack.VirtioLen+at] = 203
	}
	return frame
}

// fragment makes a frame a fragment with this flag and offset.
func fragment(frame []byte, field uint16) []byte {
	binary.BigEndian.PutUint16(frame[stack.VirtioLen+6:], field)
	return frame
}

// broken are frames that are no sound packets, each in another way.
func broken(sound []byte) (all [][]byte) {
	for _, spoil := range []func(ip []byte) []byte{
		func(ip []byte) []byte { return ip[:30] },
		func(ip []byte) []byte { ip[0] = 0x95; return ip },
		func(ip []byte) []byte {
			return fragment(append(make([]byte, stack.VirtioLen), ip...), 1)[stack.VirtioLen:]
		},
		func(ip []byte) []byte { ip[32] = 0x10; return ip },
		func(ip []byte) []byte { ip[33] |= byte(flagRST); return ip },
		func(ip []byte) []byte { ip[41] = 0; return ip },
		func(ip []byte) []byte { copy(ip[12:16], ip[16:20]); return ip },
	} {
		ip := append([]byte(nil), sound[stack.VirtioLen:]...)
		all = append(all, append(make([]byte, stack.VirtioLen), spoil(ip)...))
	}
	wrong := append([]byte(nil), sound...)
	clear(wrong[:stack.VirtioLen]) // the checksum is not partial, and so wrong
	return append(all, wrong, sound[:stack.VirtioLen-1])
}

// ack is the client's acknowledgement of a cookie, with so many bytes of payload.
func (r *rig) ack(ack seqnum.Value, tsEcr uint32, payload int) []byte {
	s := stack.Segment{
		Src: rigClient, Dst: rigServer, SrcPort: 40000, DstPort: 80,
		Seq: 1001, Ack: ack, Flags: flagACK | flagPSH, Window: 500, WScale: WScaleNone, Timestamps: true, TSVal: 11, TSEcr: tsEcr,
	}
	frame, _ := s.BuildData(make([]byte, stack.MaxBuilt+payload), payload, payload)
	return frame
}

func (r *rig) synAck(seq, ack seqnum.Value) []byte {
	return r.segment(server, stack.Segment{
		Seq: seq, Ack: ack, Flags: flagSYN | flagACK, Window: 65535, MSS: 1460, WScale: 9, SACKPermitted: true, Timestamps: true, TSVal: 7777, TSEcr: 10,
	})
}

// floodedRig is a rig whose service is flooded, by its limits.
func floodedRig(t testing.TB, o Options, mode Mode) *rig {
	r := newRig(t, o)
	r.change(func(s *Service) { s.Mode, s.Engage = mode, flood.Limits{HalfOpen: 10, SYNRate: 10, Hold: time.Hour} })
	for port := range uint16(200) {
		r.link.in = [][]byte{fromPort(r.syn(), 1000+port)}
		r.now = r.now.Add(10 * time.Millisecond)
		if _, err := r.worker.Step(r.clock, 0); err != nil {
			t.Fatal(err)
		}
	}
	if r.proxy.Snapshot().Services[0].Engagement.Engaged == 0 {
		t.Fatal("a flood is not seen")
	}
	return r
}

// TestNoAllocations proves that no packet costs the garbage collector anything. TestObservedAllocations does while somebody looks on.
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

// TestNoAllocationsInConnections proves it of whole connections, each with a client of its own: from the SYN, with data before the server has answered,
// to the end by FINs or by a RST, and of those whose server never answers.
func TestNoAllocationsInConnections(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for name, edit := range map[string]func(*Service){
		"always":     func(*Service) {},
		"unmeasured": func(s *Service) { s.ServerAck = AckUnmeasured },
		"learned":    func(s *Service) { s.Options.Learn = servers.All },
		"sources": func(s *Service) {
			s.PerSource = PerSource{Flows: 1000, Rate: MaxPerSource}
			s.Verified = Verified{TTL: 1, Rate: 1}
		},
		"auto": func(s *Service) {
			s.Mode, s.Engage = ModeAuto, flood.Limits{HalfOpen: 1000, SYNRate: flood.MaxSYNRate, Hold: time.Hour}
		},
		"monitor": func(s *Service) {
			s.Mode, s.Engage = ModeMonitor, flood.Limits{HalfOpen: 1, SYNRate: 1, Hold: time.Hour}
		},
		"off": func(s *Service) { s.Mode = ModeOff },
	} {
		t.Run(name, func(t *testing.T) {
			o := DefaultOptions()
			o.Timestamps = true
			r := newRig(t, o)
			cfg := r.proxy.cfg
			cfg.EarlyPool, cfg.Capacity = 1<<20, 1000
			edit(&cfg.Services[0])
			cfg.Services[0].EarlyData = 10_000
			r.start(cfg)
			syn, first, synAck := r.syn(), r.ack(0, 0, 4000), r.synAck(5000, 1001)
			more, rst := r.ack(0, 0, 100), r.segment(client, stack.Segment{Seq: 5101, Flags: flagRST, WScale: WScaleNone})
			fin, fin2 := r.ack(0, 0, 0), r.segment(server, stack.Segment{
				Seq: 5001, Ack: 5102, Flags: flagACK | flagFIN, WScale: WScaleNone, Timestamps: true, TSVal: 7778, TSEcr: 11,
			})
			fin[stack.VirtioLen+33] |= byte(flagFIN)
			setSeq := func(frame []byte, at int, v seqnum.Value) {
				binary.BigEndian.PutUint32(frame[stack.VirtioLen+at:], uint32(v))
			}
			setSeq(more, 24, 5001)
			setSeq(fin, 24, 5101)
			in := make([][]byte, 1)
			give := func(frame []byte) {
				in[0] = frame
				r.link.in = in
				if _, err := r.worker.Step(r.clock, 0); err != nil {
					t.Fatal(err)
				}
			}
			var answer stack.Packet
			connections := 0
			connect := func() {
				connections++
				port := uint16(1000 + connections)
				for _, frame := range [][]byte{syn, first, more, fin, rst} {
					fromPort(frame, port)
				}
				toPort(synAck, port)
				toPort(fin2, port)
				give(syn)
				if answer.Parse(r.link.last[stack.VirtioLen:], true) == stack.KindTCP && isACK(&answer) {
					for _, frame := range [][]byte{first, more, fin} {
						setSeq(frame, 28, answer.Seq+1)
						binary.BigEndian.PutUint32(frame[stack.VirtioLen+48:], answer.Options.TSVal)
					}
				} else {
					for _, frame := range [][]byte{first, more, fin} {
						setSeq(frame, 28, 5001)
						binary.BigEndian.PutUint32(frame[stack.VirtioLen+48:], 7777)
					}
					give(synAck)
				}
				give(first)
				if connections%3 == 0 { // time-outs
					r.now = r.now.Add(time.Second)
				}
				if connections%3 == 1 {
					return
				}
				give(synAck)
				give(more)
				if connections%3 == 0 {
					give(rst)
					return
				}
				give(fin)
				give(fin2)
			}
			// One of each kind. Fewer allocations than one a run would not be seen.
			connect3 := func() { connect(); connect(); connect() }
			if n := testing.AllocsPerRun(300, connect3); n != 0 {
				t.Errorf("%v allocations in 3 connections", n)
			}
			s := r.proxy.Snapshot().Services[0]
			switch spliced := s.Opened > 300 && s.EarlyHeld > 300 && s.TimedOut > 200; name {
			case "auto", "monitor":
				if s.SynPassed < 900 || s.Flows < 300 {
					t.Errorf("the connections are not tracked: %+v", s)
				}
			case "off":
			default:
				if !spliced {
					t.Errorf("the connections are not spliced: %+v", s)
				}
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
