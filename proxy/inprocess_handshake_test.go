package proxy_test

import (
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"levee/proxy"
	"levee/proxy/cookie"
	"levee/proxy/proxytest"
	"levee/stack"
)

// Nothing is stored for a SYN.
func TestSynLeavesNothing(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		cfg := v.config()
		cfg.Hooks[proxytest.FromClient] = []proxytest.Hook{func(p *proxytest.Packet) proxytest.Fate {
			return proxytest.Fate{Drop: !p.Is(syn)}
		}}
		s := newSession(t, v, cfg)
		s.dial()
		s.Advance(10 * time.Second)
		wantEmpty(t, s)
		if n := len(s.Trace.At(proxytest.ToServer, nil)); n != 0 {
			t.Errorf("%d packets to the server", n)
		}
		if got := s.service(); got.SynReceived == 0 || got.CookieValid != 0 {
			t.Errorf("counters are %+v", got)
		}
	})
}

// Every packet of the handshake, field by field, for clients and promises of all kinds.
func TestHandshakeWire(t *testing.T) {
	const (
		mss    = header.TCPOptionMSS
		wscale = header.TCPOptionWS
		sackOK = header.TCPOptionSACKPermitted
		ts     = header.TCPOptionTS
	)
	all := proxy.Options{WScale: 9, SACK: true, Timestamps: true}
	for _, test := range []struct {
		name    string
		without []uint8 // options that the client does not know
		promise proxy.Options
		mtu     uint32 // of the client's link
	}{
		{name: "all promised", promise: all},
		{name: "default promise", promise: proxy.DefaultOptions()},
		{name: "nothing promised", promise: proxy.Options{WScale: proxy.WScaleNone}},
		{name: "smaller MSS promised", promise: proxy.Options{WScale: 7, MSS: 1000}},
		{name: "larger MSS promised than fits", promise: proxy.Options{WScale: 7, MSS: 9000}},
		{name: "client without timestamps", promise: all, without: []uint8{ts}},
		{name: "client without SACK", promise: all, without: []uint8{sackOK}},
		{name: "client without window scaling", promise: all, without: []uint8{wscale}},
		{name: "client without MSS", promise: all, without: []uint8{mss}},
		{name: "client without anything", promise: all, without: []uint8{mss, wscale, sackOK, ts}},
		{name: "client with an MSS between those of the cookie", promise: all, mtu: 1430},
		{name: "client with a small MSS", promise: all, mtu: 1300},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, v := range []variant{{v6: false}, {v6: true}} {
				t.Run(v.String(), func(t *testing.T) {
					cfg := v.config()
					cfg.Proxy.Services[0].Options = test.promise
					cfg.Client.MTU = test.mtu
					for _, kind := range test.without {
						cfg.Hooks[proxytest.FromClient] = append(cfg.Hooks[proxytest.FromClient], proxytest.WithoutOption(kind))
					}
					s := newSession(t, v, cfg)
					s.open()
					s.exchange()
					checkHandshake(t, s, test.promise)
				})
			}
		})
	}
}

// checkHandshake compares the first packets of the trace with each other and with what was promised.
func checkHandshake(t *testing.T, s *session, promise proxy.Options) {
	t.Helper()
	check := func(ok bool, what string, r *proxytest.Record) {
		t.Helper()
		if !ok {
			t.Errorf("%s: %v", what, r)
		}
	}
	pure := func(r *proxytest.Record) bool { return r.Is(ack) && r.TCP.PayloadLen == 0 }
	clientSyn := s.Trace.At(proxytest.FromClient, isSyn)[0]
	reply := s.Trace.At(proxytest.ToClient, isSynAck)[0]
	clientAck := s.Trace.At(proxytest.FromClient, pure)[0]
	serverSyn := s.Trace.At(proxytest.ToServer, isSyn)[0]
	serverReply := s.Trace.At(proxytest.FromServer, isSynAck)[0]
	serverAck := s.Trace.At(proxytest.ToServer, pure)[0]
	update := s.Trace.At(proxytest.ToClient, pure)[0]
	offer, v6 := clientSyn.TCP.Options, s.v.v6

	wantMSS, largest, unsaid := uint16(0), uint16(1460), uint16(536)
	if v6 {
		largest, unsaid = 1440, 1220
	}
	if promise.MSS != 0 {
		largest = min(largest, promise.MSS)
	}
	if offer.MSS != 0 {
		wantMSS = largest
	}
	wscale := offer.WScale != stack.WScaleNone && promise.WScale != proxy.WScaleNone
	timestamps := offer.Timestamps && promise.Timestamps
	clientScale := uint8(stack.WScaleNone)
	if wscale {
		clientScale = cookie.RoundWScale(timestamps, offer.WScale)
	}

	p := &reply.TCP
	check(p.Flags == synAck && p.Window == 0 && p.Ack == clientSyn.TCP.Seq+1 && p.PayloadLen == 0, "SYN-ACK", &reply)
	check(p.Options.MSS == wantMSS, "SYN-ACK: MSS", &reply)
	check(p.Options.SACKPermitted == (offer.SACKPermitted && promise.SACK), "SYN-ACK: SACK", &reply)
	check((p.Options.WScale != stack.WScaleNone) == wscale && (!wscale || p.Options.WScale == promise.WScale), "SYN-ACK: window scale", &reply)
	check(p.Options.Timestamps == timestamps && (!timestamps || p.Options.TSEcr == offer.TSVal), "SYN-ACK: timestamps", &reply)
	check(len(p.IP) <= len(clientSyn.TCP.IP)+3, "SYN-ACK: larger than the SYN", &reply)

	p = &serverSyn.TCP
	check(p.Flags == syn && p.Seq == clientSyn.TCP.Seq && p.Ack == 0 && p.PayloadLen == 0, "SYN to the server", &serverSyn)
	if offer.MSS == 0 {
		check(p.Options.MSS == unsaid, "SYN to the server: MSS", &serverSyn)
	} else {
		check(p.Options.MSS == cookie.RoundMSS(v6, offer.MSS), "SYN to the server: MSS", &serverSyn)
	}
	check(p.Options.WScale == clientScale, "SYN to the server: window scale", &serverSyn)
	check(p.Options.SACKPermitted == reply.TCP.Options.SACKPermitted, "SYN to the server: SACK", &serverSyn)
	check(p.Options.Timestamps == timestamps, "SYN to the server: timestamps", &serverSyn)
	check(!timestamps || p.Options.TSVal == clientAck.TCP.Options.TSVal && p.Options.TSEcr == 0, "SYN to the server: timestamps", &serverSyn)
	shift := clientScale
	if shift == stack.WScaleNone {
		shift = 0
	}
	check(uint64(p.Window) == min(uint64(clientAck.TCP.Window)<<shift, 65535), "SYN to the server: window", &serverSyn)

	p = &serverAck.TCP
	check(p.Seq == clientSyn.TCP.Seq+1 && p.Ack == serverReply.TCP.Seq+1, "ACK to the server", &serverAck)
	check(p.Window == clientAck.TCP.Window, "ACK to the server: window", &serverAck)
	check(p.Options.Timestamps == timestamps, "ACK to the server: timestamps", &serverAck)
	if timestamps {
		check(p.Options.TSEcr == serverReply.TCP.Options.TSVal, "ACK to the server: TSecr is not the TSval of the SYN-ACK", &serverAck)
		check(p.Options.TSVal == clientAck.TCP.Options.TSVal, "ACK to the server: TSval", &serverAck)
	}

	p = &update.TCP
	check(p.Seq == reply.TCP.Seq+1 && p.Ack == clientSyn.TCP.Seq+1, "window update", &update)
	shift = 0
	if wscale {
		shift = promise.WScale
	}
	check(p.Window == serverReply.TCP.Window>>shift && p.Window > 0, "window update: window", &update)
	check(!timestamps || p.Options.TSEcr == clientAck.TCP.Options.TSVal, "window update: TSecr", &update)

	// To the client the server's timestamps go on from that of the cookie.
	last := reply.TCP.Options.TSVal
	for _, r := range s.Trace.At(proxytest.ToClient, nil) {
		check(r.TCP.Options.Timestamps == timestamps, "timestamps to the client", &r)
		if timestamps {
			now := r.TCP.Options.TSVal
			check(int32(now-last) >= 0 && now-last < 1e6, "timestamps to the client go backwards or jump", &r)
			last = now
		}
	}
}

// A server that never does what its service promises breaks connections cleanly.
func TestMismatch(t *testing.T) {
	v := variant{timestamps: true}
	cfg := v.config()
	cfg.Hooks[proxytest.FromServer] = []proxytest.Hook{proxytest.WithoutOption(header.TCPOptionTS)}
	s := newSession(t, v, cfg)
	s.dial()
	s.Until("reset", soon, func() bool { return s.client.Err() != nil })
	if got := s.service(); got.Mismatched != 1 || got.Opened != 0 || got.Flows != 0 {
		t.Errorf("counters are %+v", got)
	}
	s.wantState(proxy.StateReset)
}

// The SYN to the server is repeated after 1, 2 and 4 s; then the client is told.
func TestServerSynLost(t *testing.T) {
	gaps := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second}
	for lost, name := range []string{"none", "first", "two", "three", "all"} {
		t.Run(name, func(t *testing.T) {
			forVariants(t, false, func(t *testing.T, v variant) {
				cfg := v.config()
				cfg.Hooks[proxytest.ToServer] = []proxytest.Hook{proxytest.DropFirst(lost, func(p *proxytest.Packet) bool { return p.Is(syn) })}
				s := newSession(t, v, cfg)
				s.dial()
				s.client.Send(data(1, 100))
				s.Until("open or reset", soon, func() bool { return s.server != nil || s.client.Err() != nil })

				var syns []proxytest.Record
				for _, r := range s.Trace {
					if r.Hop == proxytest.ToServer && r.Is(syn) {
						syns = append(syns, r)
					}
				}
				if want := min(lost, 3) + 1; len(syns) != want {
					t.Fatalf("%d SYNs to the server, not %d", len(syns), want)
				}
				for i := range syns[1:] {
					if gap := syns[i+1].At - syns[i].At; gap < gaps[i] || gap > gaps[i]+500*time.Millisecond {
						t.Errorf("SYN %d came %v after the one before, not %v", i+1, gap, gaps[i])
					}
					if syns[i+1].TCP.Seq != syns[0].TCP.Seq {
						t.Errorf("SYN %d has another sequence number", i+1)
					}
				}
				counters := s.service()
				if counters.CookieRetrans != uint64(len(syns)-1) {
					t.Errorf("%d SYNs counted as repeated, not %d", counters.CookieRetrans, len(syns)-1)
				}
				if lost <= 3 {
					s.received("server", s.server, data(1, 100))
					return
				}
				if s.client.Err() != proxytest.ErrReset || counters.TimedOut != 1 || counters.Flows != 0 {
					t.Errorf("the client sees %v, counters are %+v", s.client.Err(), counters)
				}
				if waited := s.Clock.Elapsed() - syns[3].At; waited < 8*time.Second || waited > 9*time.Second {
					t.Errorf("the client was told %v after the last SYN, not 8s", waited)
				}
				s.wantState(proxy.StateReset)
				s.Advance(remembered + time.Second)
				wantEmpty(t, s)
			})
		})
	}
}

// A port that nobody listens at reaches the client as a reset.
func TestRefused(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		s := &session{Network: proxytest.New(t, v.config()), t: t, v: v}
		s.dial()
		s.Until("reset", soon, func() bool { return s.client.Err() != nil })
		if s.client.Err() != proxytest.ErrReset || !s.client.Established() {
			t.Errorf("the client sees %v", s.client.Err())
		}
		if s.Clock.Elapsed() > 100*time.Millisecond {
			t.Errorf("that took %v", s.Clock.Elapsed())
		}
		if got := s.service(); got.Refused != 1 || got.Opened != 0 || got.Flows != 0 {
			t.Errorf("counters are %+v", got)
		}
		s.wantState(proxy.StateReset)
		s.Advance(remembered + time.Second)
		wantEmpty(t, s)
	})
}

// Losses and repetitions during the handshake. In each case the client speaks first, or the server does.
func TestHandshakeImpaired(t *testing.T) {
	pureAck := func(p *proxytest.Packet) bool { return p.Is(ack) && p.TCP.PayloadLen == 0 }
	isSyn := func(p *proxytest.Packet) bool { return p.Is(syn) }
	isSynAck := func(p *proxytest.Packet) bool { return p.Is(synAck) }
	for _, test := range []struct {
		name  string
		hop   proxytest.Hop
		match func(p *proxytest.Packet) bool
		fate  proxytest.Fate
		// longest that the answer may take from the dial
		clientFirst, serverFirst time.Duration
	}{
		{"nothing", proxytest.FromClient, isSyn, proxytest.Fate{}, 100 * time.Millisecond, 100 * time.Millisecond},
		{"client's SYN lost", proxytest.FromClient, isSyn, proxytest.Drop, 1500 * time.Millisecond, 1500 * time.Millisecond},
		{"client's SYN twice", proxytest.FromClient, isSyn, proxytest.Fate{Copies: 1}, 100 * time.Millisecond, 100 * time.Millisecond},
		{"cookie lost", proxytest.ToClient, isSynAck, proxytest.Drop, 1500 * time.Millisecond, 1500 * time.Millisecond},
		{"cookie twice", proxytest.ToClient, isSynAck, proxytest.Fate{Copies: 1}, 100 * time.Millisecond, 100 * time.Millisecond},
		// Only a probe by the client can help: for its data, or because nothing happens.
		{"client's ACK lost", proxytest.FromClient, pureAck, proxytest.Drop, 2 * time.Second, 31 * time.Second},
		{"client's ACK twice", proxytest.FromClient, pureAck, proxytest.Fate{Copies: 1}, 100 * time.Millisecond, 100 * time.Millisecond},
		{"client's ACK late", proxytest.FromClient, pureAck, proxytest.Fate{Delay: 3 * time.Second}, 5 * time.Second, 5 * time.Second},
		{"SYN to the server twice", proxytest.ToServer, isSyn, proxytest.Fate{Copies: 1}, 100 * time.Millisecond, 100 * time.Millisecond},
		{"server's SYN-ACK lost", proxytest.FromServer, isSynAck, proxytest.Drop, 2 * time.Second, 2 * time.Second},
		{"server's SYN-ACK twice", proxytest.FromServer, isSynAck, proxytest.Fate{Copies: 1}, 100 * time.Millisecond, 100 * time.Millisecond},
		{"server's SYN-ACK after a repeated SYN", proxytest.FromServer, isSynAck, proxytest.Fate{Delay: 1100 * time.Millisecond}, 2 * time.Second, 2 * time.Second},
		{"ACK to the server lost", proxytest.ToServer, pureAck, proxytest.Drop, 2 * time.Second, 2 * time.Second},
		{"ACK to the server twice", proxytest.ToServer, pureAck, proxytest.Fate{Copies: 1}, 100 * time.Millisecond, 100 * time.Millisecond},
		{"window update lost", proxytest.ToClient, pureAck, proxytest.Drop, 2 * time.Second, 2 * time.Second},
		{"window update twice", proxytest.ToClient, pureAck, proxytest.Fate{Copies: 1}, 100 * time.Millisecond, 100 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			forVariants(t, false, func(t *testing.T, v variant) {
				for _, order := range []string{"client first", "server first"} {
					t.Run(order, func(t *testing.T) {
						cfg := v.config()
						done := false
						cfg.Hooks[test.hop] = []proxytest.Hook{func(p *proxytest.Packet) proxytest.Fate {
							if !done && test.match(p) {
								done = true
								return test.fate
							}
							return proxytest.Fate{}
						}}
						s := newSession(t, v, cfg)
						greeting, longest := data(7, 3000), test.clientFirst
						s.dial()
						s.client.KeepAlive(30 * time.Second)
						if order == "client first" {
							s.client.Send(data(8, 300))
							s.Until("request", soon, func() bool { return s.server != nil && len(s.server.Received()) == 300 })
						} else {
							longest = test.serverFirst
							s.Until("accepted", soon, func() bool { return s.server != nil })
						}
						s.server.Send(greeting)
						s.received("client", s.client, greeting)
						if took := s.Clock.Elapsed(); took > longest {
							t.Errorf("the answer took %v, longer than %v", took, longest)
						}
						s.exchange()
						s.Advance(5 * time.Second)
						if got := s.service(); got.CookieValid != 1 || got.Opened != 1 || got.ConnReopened != 0 || got.Flows != 1 || len(s.servers) != 1 {
							t.Errorf("%d connections at the server, counters are %+v", len(s.servers), got)
						}
					})
				}
			})
		})
	}
}
