package proxy_test

import (
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/proxy"
	"levee/proxy/proxytest"
	"levee/proxy/servers"
	"levee/stack"
)

// learning is a configuration in which everything is learned, with what is known of the servers.
func learning(v variant, probes bool) (proxytest.Config, *servers.Table) {
	cfg := v.config()
	table := servers.New(servers.Config{Capacity: 4096, WScale: proxy.DefaultWScale, ClosedFor: 10 * time.Second, Probes: probes})
	svc := &cfg.Proxy.Services[0]
	svc.Options = proxy.DefaultOptions()
	svc.Options.Learn = servers.All
	svc.ClosedPorts = proxy.ClosedReset
	cfg.Proxy.Servers = table
	return cfg, table
}

// profile is what a server's TCP does.
type profile struct {
	mss                       uint16
	wscale                    uint8
	noSACK, noTimestamps, ecn bool
}

var profiles = map[string]profile{
	"wscale 0":             {mss: 1460, wscale: 0},
	"wscale 7":             {mss: 1460, wscale: 7},
	"wscale 10":            {mss: 1460, wscale: 10},
	"wscale 14":            {mss: 1460, wscale: 14},
	"no wscale":            {mss: 1460, wscale: stack.WScaleNone},
	"MSS 536":              {mss: 536, wscale: 7},
	"MSS 1220":             {mss: 1220, wscale: 7},
	"MSS 8960":             {mss: 8960, wscale: 7},
	"no MSS":               {mss: 0, wscale: 7},
	"no SACK":              {mss: 1460, wscale: 7, noSACK: true},
	"no timestamps":        {mss: 1460, wscale: 7, noTimestamps: true},
	"ECN":                  {mss: 1460, wscale: 7, ecn: true},
	"ECN, no timestamps":   {mss: 1460, wscale: 7, noTimestamps: true, ecn: true},
	"nothing at all":       {mss: 536, wscale: stack.WScaleNone, noSACK: true, noTimestamps: true},
	"a router's small MSS": {mss: 1220, wscale: 2, noTimestamps: true},
}

// answer is the server's SYN-ACK to a SYN: what both do.
func (f profile) answer(syn *stack.Packet, isn seqnum.Value) stack.Segment {
	o := &syn.Options
	a := stack.Segment{
		Src: syn.Dst, Dst: syn.Src, SrcPort: syn.DstPort, DstPort: syn.SrcPort,
		Seq: isn, Ack: syn.Seq + 1, Flags: synAck, Window: 30000, WScale: stack.WScaleNone, MSS: f.mss,
		SACKPermitted: o.SACKPermitted && !f.noSACK,
	}
	if o.Timestamps && !f.noTimestamps {
		a.Timestamps, a.TSVal, a.TSEcr = true, 7777, o.TSVal
	}
	if o.WScale != stack.WScaleNone {
		a.WScale = f.wscale
	}
	if f.ecn && syn.Flags&(ece|cwr) == ece|cwr {
		a.Flags |= ece
	}
	return a
}

// fromProbe is what a probe that asks for everything learns.
func (f profile) fromProbe() servers.Answer {
	a := servers.Answer{Asked: servers.All, MSS: f.mss, WScale: f.wscale, Window: 30000}
	if f.wscale != stack.WScaleNone {
		a.Does |= servers.WScale
	}
	if !f.noSACK {
		a.Does |= servers.SACK
	}
	if !f.noTimestamps {
		a.Does |= servers.Timestamps
	}
	if f.ecn {
		a.Does |= servers.ECN
	}
	return a
}

// shake is one handshake of a client that offers everything with a server of a profile: what the client is told, and what the
// server is asked.
func shake(t *testing.T, s *session, c *rawClient, r *proxytest.Peer, f profile) (told, asked stack.Packet) {
	t.Helper()
	c.Take()
	r.Take()
	syn := c.Segment(c.port, s.v.serverAddr(), c.isn, 0)
	syn.MSS, syn.SACKPermitted, syn.WScale = 9000, true, 7
	syn.Timestamps, syn.TSVal = true, c.tsval
	syn.Flags |= ece | cwr
	c.Send(&syn, nil)
	s.Until("SYN-ACK", soon, func() bool { return len(c.Inbox) > 0 })
	told = c.Take()[0].TCP
	c.cookie, c.tsecr = told.Seq, told.Options.TSVal
	a := c.segment(0)
	a.Timestamps = told.Options.Timestamps
	c.Send(&a, nil)
	s.Until("SYN at the server", soon, func() bool { return len(r.Inbox) > 0 })
	asked = r.Take()[0].TCP
	reply := f.answer(&asked, 5000)
	r.Send(&reply, nil)
	s.Advance(50 * time.Millisecond)
	return told, asked
}

// After its first connection, and a probe, every client is told what the server itself does.
func TestClientsAreToldTheServersOwn(t *testing.T) {
	for name, f := range profiles {
		t.Run(name, func(t *testing.T) {
			for _, v6 := range []bool{false, true} {
				v := variant{v6: v6, timestamps: true}
				cfg, table := learning(v, true)
				cfg.Proxy.MTU = 9000
				var asked []servers.Key
				cfg.Proxy.Probe = func(k servers.Key, _ servers.Question) { asked = append(asked, k) }
				s := &session{Network: proxytest.New(t, cfg), t: t, v: v}
				c, r := newRawClient(s), s.Peer(v.serverAddr().Addr(), true)

				first, _ := shake(t, s, c, r, f)
				if o := first.Options; o.Timestamps || !o.SACKPermitted || o.WScale != proxy.DefaultWScale || first.Flags.Contains(ece) {
					t.Errorf("for an unknown server the client is told %+v", first)
				}
				s.wantState(proxy.StateOpen)
				want := servers.Key{Addr: stack.AddrFrom(v.serverAddr().Addr()), Port: serverPort}
				if len(asked) != 1 || asked[0] != want {
					t.Fatalf("probes asked for: %v", asked)
				}
				a := f.fromProbe()
				table.Answered(&want, s.Clock.Now().Unix(), &a, servers.Probe)

				c.port++
				told, syn := shake(t, s, c, r, f)
				direct := f.answer(&stack.Packet{Flags: ece | cwr, Options: stack.Options{
					Timestamps: true, SACKPermitted: true, WScale: 7, MSS: 9000}}, 0)
				most := uint16(8960)
				if direct.MSS == 0 {
					direct.MSS = 536
				}
				if v6 {
					most = 8940
					if f.mss == 0 {
						direct.MSS = 1220
					}
				}
				o := told.Options
				if o.MSS != min(direct.MSS, most) || o.WScale != direct.WScale || o.SACKPermitted != direct.SACKPermitted ||
					o.Timestamps != direct.Timestamps {
					t.Errorf("the client is told %+v, the server does %+v", o, direct)
				}
				// Without timestamps the cookie has no room for ECN.
				if got, want := told.Flags.Contains(ece), f.ecn && !f.noTimestamps; got != want {
					t.Errorf("ECN told: %v, not %v", got, want)
				}
				// What may change is asked for again, whatever the client was told.
				if o := syn.Options; !o.SACKPermitted || o.WScale == stack.WScaleNone || o.Timestamps != told.Options.Timestamps {
					t.Errorf("the server is asked for %+v", o)
				}
				flows := s.Flows()
				if len(flows) != 2 || flows[0].State != proxy.StateOpen || flows[1].State != proxy.StateOpen {
					t.Errorf("flows: %+v", flows)
				}
				if len(asked) != 1 {
					t.Errorf("probes asked for: %v", asked)
				}
			}
		})
	}
}

// Windows arrive as they were meant, also when what is promised changes between a SYN-ACK and the ACK that returns its cookie.
func TestScaleChangesUnderAHandshake(t *testing.T) {
	for _, server := range []uint8{0, 3, 7, 10, 14, stack.WScaleNone} {
		forVariants(t, false, func(t *testing.T, v variant) {
			cfg, table := learning(v, false)
			if v.timestamps {
				cfg.Proxy.Services[0].Options.Timestamps = true
			}
			s, c, r := rawPair(t, v, cfg, nil)
			// rawPair has gone as far as levee's SYN. Another connection teaches the table meanwhile, and a third begins before that.
			late := newRawClient(s)
			late.port = 50000
			late.connect()
			k := servers.Key{Addr: stack.AddrFrom(v.serverAddr().Addr()), Port: serverPort}
			a := r.segment(synAck)
			a.WScale, a.Window = server, 4000
			r.Send(&a, nil)
			s.Advance(20 * time.Millisecond)
			if got := table.Find(&k, s.Clock.Now().Unix()); got.Told != server || got.Before != proxy.DefaultWScale {
				t.Fatalf("known: %+v", got)
			}
			r.Take()
			late.acknowledge()
			r.awaitSyn()
			a = r.segment(synAck)
			a.WScale, a.Window = server, 4000
			r.Send(&a, nil)
			s.Advance(20 * time.Millisecond)
			// What a client reads last.
			window := func(c *rawClient) uint16 {
				all := s.Trace.At(proxytest.ToClient, func(r *proxytest.Record) bool { return r.TCP.DstPort == c.port })
				return all[len(all)-1].TCP.Window
			}
			for who, c := range map[string]*rawClient{"first": c, "late": late} {
				if got := window(c); got != 4000>>proxy.DefaultWScale {
					t.Errorf("server scale %d: the %s client reads a window of %d<<%d, not 4000", server, who, got, proxy.DefaultWScale)
				}
			}
			// The next is told the server's own.
			next := newRawClient(s)
			next.port = 50001
			next.connect()
			told := s.Trace.At(proxytest.ToClient, isSynAck)
			if got := told[len(told)-1].TCP.Options.WScale; got != server {
				t.Errorf("told %d, not %d", got, server)
			}
			r.Take()
			next.acknowledge()
			r.awaitSyn()
			a = r.segment(synAck)
			a.WScale, a.Window = server, 4000
			r.Send(&a, nil)
			s.Advance(20 * time.Millisecond)
			shift := server
			if server == stack.WScaleNone {
				shift = 0
			}
			if got, want := window(next), max(4000>>shift, 1); got != uint16(want) {
				t.Errorf("server scale %d: the next client reads %d, not %d", server, got, want)
			}
			// The client's window, of scale 7 unless the server does none, arrives at the server in what that expects.
			r.Take()
			segment := next.segment(0)
			segment.Window = 100
			next.Send(&segment, nil)
			s.Advance(20 * time.Millisecond)
			want, scaled := uint16(100), r.syn.Options.WScale
			if server == stack.WScaleNone {
				if scaled == stack.WScaleNone {
					t.Error("the server was not asked whether it still does no scaling")
				}
			}
			if got := r.Take()[0].TCP.Window; got != want {
				t.Errorf("server scale %d: the server reads %d, not %d", server, got, want)
			}
		})
	}
}

// What a server was wrongly believed to do costs one client its connection, and no other.
func TestWrongPromise(t *testing.T) {
	for _, test := range []struct {
		name  string
		is    profile
		wrong servers.Features
	}{
		{"timestamps", profile{mss: 1460, wscale: 7, noTimestamps: true, ecn: true}, servers.Timestamps},
		{"ECN", profile{mss: 1460, wscale: 7}, servers.ECN},
		{"SACK and scale", profile{mss: 536, wscale: stack.WScaleNone, noSACK: true, ecn: true}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := variant{timestamps: true}
			cfg, table := learning(v, true)
			cfg.Hostile = true
			s := &session{Network: proxytest.New(t, cfg), t: t, v: v}
			c, r := newRawClient(s), s.Peer(v.serverAddr().Addr(), true)
			k := servers.Key{Addr: stack.AddrFrom(v.serverAddr().Addr()), Port: serverPort}
			all := profile{mss: 1460, wscale: 7, ecn: true}.fromProbe()
			table.Answered(&k, s.Clock.Now().Unix(), &all, servers.Probe)

			told, _ := shake(t, s, c, r, test.is)
			if !told.Options.Timestamps || !told.Flags.Contains(ece) || !told.Options.SACKPermitted || told.Options.WScale != 7 {
				t.Fatalf("the client is told %+v", told)
			}
			if test.wrong == 0 {
				s.wantState(proxy.StateOpen)
			} else {
				s.wantState(proxy.StateReset)
				if !c.got(rst | ack) {
					t.Error("the client is not reset")
				}
			}
			if got, want := s.service().Mismatched, uint64(1); test.wrong != 0 && got != want {
				t.Errorf("%d promises were wrong, not %d", got, want)
			}
			// A probe that still sees it changes nothing: something on the way of the clients may differ.
			table.Answered(&k, s.Clock.Now().Unix(), &all, servers.Probe)
			c.port++
			told, _ = shake(t, s, c, r, test.is)
			if test.wrong.Has(servers.Timestamps) && told.Options.Timestamps || test.wrong.Has(servers.ECN) && told.Flags.Contains(ece) {
				t.Errorf("the next client is told %+v", told)
			}
			open := 0
			for _, f := range s.Flows() {
				if f.State == proxy.StateOpen {
					open++
				}
			}
			if test.wrong != 0 && open != 1 {
				t.Errorf("%d connections are open", open)
			}
		})
	}
}

// What a client doesn't offer, its server can't show: its silence about that teaches nothing.
func TestPoorClientTeachesNothing(t *testing.T) {
	v := variant{}
	cfg, table := learning(v, false)
	s := &session{Network: proxytest.New(t, cfg), t: t, v: v}
	c, r := newRawClient(s), &rawServer{Peer: s.Peer(v.serverAddr().Addr(), true), s: s}
	k := servers.Key{Addr: stack.AddrFrom(v.serverAddr().Addr()), Port: serverPort}
	all := profile{mss: 1460, wscale: 10, ecn: true}.fromProbe()
	table.Answered(&k, s.Clock.Now().Unix(), &all, servers.Probe)
	before := table.Find(&k, s.Clock.Now().Unix())

	syn := c.Segment(c.port, v.serverAddr(), c.isn, 0)
	syn.SACKPermitted = false
	c.Send(&syn, nil)
	s.Until("SYN-ACK", soon, func() bool { return len(c.Inbox) > 0 })
	c.cookie = c.Take()[0].TCP.Seq
	c.acknowledge()
	r.awaitSyn()
	a := r.segment(synAck)
	a.MSS, a.WScale, a.Window, a.SACKPermitted = 1460, stack.WScaleNone, 30000, false
	r.Send(&a, nil)
	s.Advance(20 * time.Millisecond)
	s.wantState(proxy.StateOpen)
	if got := table.Find(&k, s.Clock.Now().Unix()); got != before {
		t.Errorf("known %+v, before %+v", got, before)
	}
}

// Nodes that share their secret can't know what another has learned: they promise the scale that all do.
func TestSharedSecretLearnsNoScale(t *testing.T) {
	v := variant{}
	cfg, table := learning(v, false)
	cfg.Proxy.SharedSecret = true
	s := &session{Network: proxytest.New(t, cfg), t: t, v: v}
	k := servers.Key{Addr: stack.AddrFrom(v.serverAddr().Addr()), Port: serverPort}
	a := profile{mss: 1000, wscale: 10}.fromProbe()
	table.Answered(&k, s.Clock.Now().Unix(), &a, servers.Probe)
	newRawClient(s).connect()
	if o := s.Trace.At(proxytest.ToClient, isSynAck)[0].TCP.Options; o.WScale != proxy.DefaultWScale || o.MSS != 1000 {
		t.Errorf("the client is told %+v", o)
	}
}

// The SYN-ACK to a client that shakes hands with the server itself teaches what it shows; a damaged one, or the one that a server of
// somebody else's gives to a protected host, nothing.
func TestPassedSYNACKTeaches(t *testing.T) {
	f := profile{mss: 1220, wscale: 10}
	for _, v6 := range []bool{false, true} {
		for _, damaged := range []bool{false, true} {
			v := variant{v6: v6, timestamps: true}
			cfg, table := learning(v, false)
			for _, addr := range []netip.Addr{raw4, raw6} {
				cfg.Proxy.Services[0].Allow = append(cfg.Proxy.Services[0].Allow, netip.PrefixFrom(addr, addr.BitLen()))
			}
			s := &session{Network: proxytest.New(t, cfg), t: t, v: v}
			c, r := newRawClient(s), s.Peer(v.serverAddr().Addr(), true)
			syn := c.Segment(c.port, v.serverAddr(), c.isn, 0)
			syn.MSS, syn.SACKPermitted, syn.WScale, syn.Timestamps, syn.TSVal = 1460, true, 7, true, c.tsval
			c.Send(&syn, nil)
			s.Until("SYN at the server", soon, func() bool { return len(r.Inbox) > 0 })
			passed := r.Take()[0].TCP
			reply := f.answer(&passed, 5000)
			frame := proxytest.Frame(&reply, nil)
			if damaged {
				frame[len(frame)-1] ^= 1
			}
			s.Inject(proxytest.FromServer, frame)
			s.Advance(50 * time.Millisecond)
			known := table.Find(&servers.Key{Addr: stack.AddrFrom(v.serverAddr().Addr()), Port: serverPort}, s.Clock.Now().Unix())
			want := servers.MSS | servers.WScale | servers.SACK | servers.Timestamps
			if damaged {
				want = 0
			}
			if known.Knows != want || known.Does != want || !damaged && known.MSS != f.mss {
				t.Errorf("v6 %v, damaged %v: %+v", v6, damaged, known)
			}
		}
	}
}
