package proxy_test

import (
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/proxy"
	"levee/proxy/cookie"
	"levee/proxy/proxytest"
	"levee/stack"
)

// TestFloodFromProtectedAddresses floods with the addresses and ports of protected servers as forged sources, toward protected
// addresses and ports of no service. From the client side, too, such SYNs reach levee: they must not take the room of real clients.
func TestFloodFromProtectedAddresses(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		cfg := v.config()
		cfg.Proxy.Capacity = 1000
		cfg.Proxy.Services[0].Ports = []proxy.PortRange{{First: 80, Last: 80}}
		s := newSession(t, v, cfg)
		target, from := netip.MustParseAddr("192.0.2.99"), netip.MustParseAddr("192.0.2.98")
		if v.v6 {
			target, from = netip.MustParseAddr("2001:db8:5::99"), netip.MustParseAddr("2001:db8:5::98")
		}
		s.Peer(target, true) // somebody who never answers
		for i := range 1000 {
			syn := stack.Segment{
				Src: stack.AddrFrom(from), Dst: stack.AddrFrom(target), SrcPort: 80, DstPort: uint16(1000 + i),
				Seq: seqnum.Value(i), Flags: header.TCPFlagSyn, Window: 65535, WScale: stack.WScaleNone,
			}
			s.Inject(proxytest.FromClient, proxytest.Frame(&syn, nil))
			if i%100 == 99 {
				s.Advance(100 * time.Millisecond)
			}
		}
		s.Advance(time.Second)
		snap := s.Proxy.Snapshot()
		t.Logf("flows by state after 1000 spoofed SYNs: %v of %d", snap.Flows, snap.Capacity)
		s.dial()
		s.Advance(10 * time.Second)
		if s.server == nil {
			t.Errorf("a real client can't get through: table_full drops %d", s.Proxy.Snapshot().Drops[proxy.DropTableFull])
		}
	})
}

// TestOutboundPortReused uses the port of an outbound connection again while levee still takes it for half-closed: the new
// connection is a new flow, and not forgotten while it is in use.
func TestOutboundPortReused(t *testing.T) {
	v := variant{timestamps: true}
	s := &session{Network: proxytest.New(t, v.config()), t: t, v: v}
	r := s.Peer(netip.MustParseAddr("192.0.2.77"), true)
	out := s.Peer(raw4, false)
	to := netip.AddrPortFrom(raw4, 25)
	send := func(p *proxytest.Peer, seg stack.Segment) { p.Send(&seg, nil); s.Advance(20 * time.Millisecond) }
	connect := func(isn seqnum.Value) {
		syn := r.Segment(50000, to, isn, 0)
		syn.WScale = 7
		send(r, syn)
		back := stack.Segment{Src: syn.Dst, Dst: syn.Src, SrcPort: 25, DstPort: 50000, Seq: isn + 77, Ack: isn + 1,
			Flags: header.TCPFlagSyn | header.TCPFlagAck, Window: 65535, MSS: 1460, WScale: 7}
		send(out, back)
		send(r, r.Segment(50000, to, isn+1, isn+78))
	}
	connect(1000)
	f := r.Segment(50000, to, 1001, 1078)
	f.Flags |= header.TCPFlagFin // the peer vanishes and never sends its own
	send(r, f)
	send(out, stack.Segment{Src: f.Dst, Dst: f.Src, SrcPort: 25, DstPort: 50000, Seq: 1078, Ack: 1002,
		Flags: header.TCPFlagAck, Window: 500, WScale: stack.WScaleNone})
	s.wantState(proxy.StateClientClosed)
	s.Advance(2 * time.Minute)
	connect(1 << 30)
	r.Take()
	for i := range 300 { // five minutes of data each second, both ways
		send(r, r.Segment(50000, to, 1<<30+1, 1<<30+78))
		p := stack.Segment{Src: stack.AddrFrom(raw4), Dst: stack.AddrFrom(r.Addr), SrcPort: 25, DstPort: 50000, Seq: 1<<30 + 78, Ack: 1<<30 + 1,
			Flags: header.TCPFlagAck, Window: 500, WScale: stack.WScaleNone}
		send(out, p)
		if len(r.Take()) == 0 {
			t.Fatalf("after %d s of steady traffic the connection is cut off: flows %+v, no_flow drops %d", i, s.Flows(), s.Proxy.Snapshot().Drops[proxy.DropNoFlow])
		}
		s.Advance(time.Second)
	}
}

// TestCalledBack connects to a protected server from the port that the server has called before.
func TestCalledBack(t *testing.T) {
	v := variant{}
	s := newSession(t, v, v.config())
	r := s.Peer(netip.MustParseAddr("192.0.2.77"), true)
	c := s.Peer(raw4, false)
	syn := r.Segment(80, netip.AddrPortFrom(raw4, 50000), 1000, 0)
	r.Send(&syn, nil)
	s.Advance(20 * time.Millisecond)
	refused := stack.Segment{Src: syn.Dst, Dst: syn.Src, SrcPort: 50000, DstPort: 80, Ack: 1001, Flags: rst | ack, WScale: stack.WScaleNone}
	c.Send(&refused, nil)
	s.Advance(20 * time.Millisecond)
	s.wantState(proxy.StateReset)
	r.Take()
	c.Take()

	to := netip.AddrPortFrom(r.Addr, 80)
	first := c.Segment(50000, to, 7000, 0)
	c.Send(&first, nil)
	s.Advance(20 * time.Millisecond)
	k := c.Take()[0].TCP.Seq
	a := c.Segment(50000, to, 7001, k+1)
	c.Send(&a, nil)
	s.Advance(20 * time.Millisecond)
	if p := r.Take(); len(p) != 1 || !p[0].Is(header.TCPFlagSyn) {
		t.Errorf("the server gets %d packets, not a SYN", len(p))
		for _, x := range p {
			t.Logf("%+v", x.TCP)
		}
	}
}

// TestNoAnswerToBadChecksums damages segments that levee would answer of its own.
func TestNoAnswerToBadChecksums(t *testing.T) {
	v := variant{}
	t.Run("client segment after a refusal", func(t *testing.T) {
		s := &session{Network: proxytest.New(t, v.config()), t: t, v: v}
		c := newRawClient(s)
		c.connect()
		c.acknowledge()
		s.Advance(time.Second)
		c.Take()
		p := c.segment(0)
		frame := proxytest.Frame(&p, nil)
		frame[len(frame)-1] ^= 1
		s.Inject(proxytest.FromClient, frame)
		s.Advance(time.Second)
		if n := len(c.Take()); n != 0 {
			t.Errorf("%d answers to a segment with a wrong checksum", n)
		}
	})
	t.Run("second SYN-ACK", func(t *testing.T) {
		s, _, r := rawPair(t, v, v.config(), nil)
		r.accept()
		a := r.segment(synAck)
		frame := proxytest.Frame(&a, nil)
		frame[len(frame)-1] ^= 1
		s.Inject(proxytest.FromServer, frame)
		s.Advance(time.Second)
		if n := len(r.Take()); n != 0 {
			t.Errorf("%d answers to a segment with a wrong checksum", n)
		}
	})
}

// TestSharedSecret sends the ACK of a cookie that another node has issued: it opens a connection only where it is said that there are
// other nodes, as this one has issued none lately.
func TestSharedSecret(t *testing.T) {
	v := variant{}
	for _, shared := range []bool{false, true} {
		cfg := v.config()
		cfg.Proxy.SharedSecret = shared
		s := newSession(t, v, cfg)
		s.Advance(5 * time.Minute)
		c := newRawClient(s)
		var secret cookie.Secret // as proxytest makes it of seed 1
		for i := range secret {
			secret[i] = byte(uint64(1)>>(i%8*8)) ^ byte(i+1)
		}
		other := cookie.NewMaker(secret) // the other node
		tuple := cookie.Tuple{Client: stack.AddrFrom(raw4), Server: stack.AddrFrom(v.serverAddr().Addr()), ClientPort: clientPort, ServerPort: serverPort, Context: proxy.DefaultWScale}
		c.cookie = seqnum.Value(other.Issue(s.Clock.Now().Unix(), &tuple, uint32(c.isn), cookie.Options{MSS: 1460, WScale: 7, SACK: true}))
		c.acknowledge()
		s.Advance(time.Second)
		if (s.server != nil) != shared {
			d := s.Proxy.Snapshot().Drops
			t.Errorf("shared %t: accepted %t; no_flow %d, cookie_invalid %d", shared, s.server != nil, d[proxy.DropNoFlow], d[proxy.DropCookieInvalid])
		}
	}
}

// TestOutboundToModeOff lets a protected server call a server whose service is off.
func TestOutboundToModeOff(t *testing.T) {
	v := variant{}
	cfg := v.config()
	cfg.Proxy.Services = []proxy.Service{
		{Name: "web", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/25")}, Mode: proxy.ModeAlways, Options: proxy.DefaultOptions()},
		{Name: "db", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.128/25")}, Mode: proxy.ModeOff, Options: proxy.DefaultOptions()},
	}
	s := &session{Network: proxytest.New(t, cfg), t: t, v: v}
	web, db := s.Peer(netip.MustParseAddr("192.0.2.77"), true), s.Peer(netip.MustParseAddr("192.0.2.177"), true)
	syn := web.Segment(50000, netip.AddrPortFrom(db.Addr, 5432), 1000, 0)
	web.Send(&syn, nil)
	s.Advance(20 * time.Millisecond)
	if n := len(db.Take()); n != 1 {
		t.Fatalf("%d packets at the db", n)
	}
	back := stack.Segment{Src: syn.Dst, Dst: syn.Src, SrcPort: 5432, DstPort: 50000, Seq: 1, Ack: 1001,
		Flags: header.TCPFlagSyn | header.TCPFlagAck, Window: 65535, MSS: 1460, WScale: 7}
	db.Send(&back, nil)
	s.Advance(20 * time.Millisecond)
	if n := len(web.Take()); n != 1 {
		t.Errorf("%d packets come back: no_flow drops %d", n, s.Proxy.Snapshot().Drops[proxy.DropNoFlow])
	}
}

// TestFloodFromProtectedAddressesSparesClosing: nor the room of connections that have ended, but whose server has not heard of it.
func TestFloodFromProtectedAddressesSparesClosing(t *testing.T) {
	for _, flood := range []bool{false, true} {
		v := variant{timestamps: true}
		cfg := v.config()
		cfg.Proxy.Capacity = 1000
		cfg.Proxy.Services[0].Ports = []proxy.PortRange{{First: 80, Last: 80}}
		s := newSession(t, v, cfg)
		s.open()
		s.Peer(netip.MustParseAddr("192.0.2.99"), true)
		s.client.CloseWrite()
		s.Advance(50 * time.Millisecond)
		s.Hooks[proxytest.ToServer] = []proxytest.Hook{proxytest.DropFirst(2, func(*proxytest.Packet) bool { return true })}
		s.server.Close()
		s.Until("last ACK", soon, func() bool { return s.flow().State == proxy.StateTimeWait })
		if s.server.Gone() {
			t.Fatal("the last ACK was not lost")
		}
		if flood {
			for i := range 1000 {
				syn := stack.Segment{Src: stack.AddrFrom(netip.MustParseAddr("192.0.2.98")), Dst: stack.AddrFrom(netip.MustParseAddr("192.0.2.99")),
					SrcPort: 80, DstPort: uint16(1000 + i), Seq: seqnum.Value(i), Flags: header.TCPFlagSyn, Window: 65535, WScale: stack.WScaleNone}
				s.Inject(proxytest.FromClient, proxytest.Frame(&syn, nil))
			}
		}
		s.Advance(20 * time.Second)
		if !s.server.Gone() || s.server.Err() != nil {
			t.Errorf("flood %v: the server's connection is %v, error %v; no_flow drops %d",
				flood, s.server.State(), s.server.Err(), s.Proxy.Snapshot().Drops[proxy.DropNoFlow])
		}
	}
}

// TestLateSegmentOfGrandparent sends a copy of the ACK of the connection before the last on the same tuple.
func TestLateSegmentOfGrandparent(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		s := newSession(t, v, v.config())
		c := newRawClient(s)
		c.open()
		old := c.segment(0)
		for range 2 { // two more connections from the same port
			s.server.Close()
			s.Until("FIN", soon, func() bool { return c.got(fin | ack) })
			f := c.segment(0)
			f.Flags |= header.TCPFlagFin
			f.Ack++
			c.Send(&f, nil)
			s.Advance(time.Second)
			c.isn += 5_000_000
			c.tsval += 5000
			c.open()
		}
		victim := s.server
		c.send(0, data(1, 100))
		s.received("server", victim, data(1, 100))
		for range 5 { // however long the connection has been idle
			c.Send(&old, nil)
			s.Advance(10 * time.Second)
		}
		if err := victim.Err(); err != nil {
			t.Errorf("the live connection sees %v", err)
		}
		wantDrops(t, s.Network, map[proxy.DropReason]uint64{proxy.DropReplay: 5})
	})
}

// TestPlainCookieSparesStampedFlow forges an ACK without timestamps, whose cookie has far fewer bits, on the tuple of a connection
// with timestamps. (It is made with the secret, to save eight million packets.)
func TestPlainCookieSparesStampedFlow(t *testing.T) {
	v := variant{timestamps: true}
	s := newSession(t, v, v.config())
	c := newRawClient(s)
	c.open()
	victim := s.server
	var secret cookie.Secret
	for i := range secret {
		secret[i] = byte(uint64(1)>>(i%8*8)) ^ byte(i+1)
	}
	tuple := cookie.Tuple{Client: stack.AddrFrom(raw4), Server: stack.AddrFrom(v.serverAddr().Addr()), ClientPort: clientPort, ServerPort: serverPort, Context: proxy.DefaultWScale}
	k := cookie.NewMaker(secret).Issue(s.Clock.Now().Unix(), &tuple, 123456, cookie.Options{MSS: 1460, WScale: 7, SACK: true})
	forged := c.Segment(c.port, v.serverAddr(), 123457, seqnum.Value(k)+1) // no timestamps
	c.Send(&forged, nil)
	s.Advance(100 * time.Millisecond)
	if err := victim.Err(); err != nil {
		t.Errorf("the victim's connection: %v", err)
	}
}
