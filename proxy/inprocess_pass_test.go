package proxy_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"levee/proxy"
	"levee/proxy/proxytest"
	"levee/stack"
)

// record keeps the frames at a hop.
func record(frames *[][]byte) proxytest.Hook {
	return func(p *proxytest.Packet) proxytest.Fate {
		*frames = append(*frames, slices.Clone(p.Frame))
		return proxytest.Fate{}
	}
}

// watchAll keeps the frames at all hops.
func watchAll(s *session) *[proxytest.NumHops][][]byte {
	frames := &[proxytest.NumHops][][]byte{}
	for hop := range frames {
		s.Hooks[hop] = append(s.Hooks[hop], record(&frames[hop]))
	}
	return frames
}

// wantUntouched checks that what came out is what came in, byte by byte, and returns how many packets that were.
func wantUntouched(t *testing.T, frames *[proxytest.NumHops][][]byte) uint64 {
	t.Helper()
	n := 0
	for in, out := range map[proxytest.Hop]proxytest.Hop{
		proxytest.FromClient: proxytest.ToServer, proxytest.FromServer: proxytest.ToClient,
	} {
		if !slices.EqualFunc(frames[in], frames[out], bytes.Equal) || len(frames[in]) == 0 {
			t.Errorf("%v: %d packets, %v: %d, not the same", in, len(frames[in]), out, len(frames[out]))
		}
		n += len(frames[in])
	}
	return uint64(n)
}

// talk sends data both ways between the hosts, closes, and waits until all is quiet.
func talk(s *session, a, b *proxytest.Conn) {
	s.t.Helper()
	up, down := data(1, 50_000), data(2, 50_000)
	a.Send(up)
	b.Send(down)
	s.received("one", b, up)
	s.received("other", a, down)
	a.Close()
	b.Close()
	s.Advance(2 * time.Minute)
}

// Connections that are none of levee's business pass as they are.
func TestPassUntouched(t *testing.T) {
	for _, test := range []struct {
		name   string
		mode   proxy.Mode
		ports  []proxy.PortRange
		server [2]netip.Addr // v4, v6
		reason proxy.PassReason
	}{
		{"mode off", proxy.ModeOff, nil, [2]netip.Addr{proxytest.Server4, proxytest.Server6}, proxy.PassModeOff},
		{"unprotected address", proxy.ModeAlways, nil, [2]netip.Addr{proxytest.Other4, proxytest.Other6}, proxy.PassNoService},
		{"unprotected port", proxy.ModeAlways, []proxy.PortRange{{First: 443, Last: 443}},
			[2]netip.Addr{proxytest.Server4, proxytest.Server6}, proxy.PassNoService},
	} {
		t.Run(test.name, func(t *testing.T) {
			forVariants(t, true, func(t *testing.T, v variant) {
				cfg := v.config()
				cfg.Proxy.Services[0].Mode, cfg.Proxy.Services[0].Ports = test.mode, test.ports
				s := &session{Network: proxytest.New(t, cfg), t: t, v: v}
				frames := watchAll(s)
				to := netip.AddrPortFrom(test.server[0], serverPort)
				if v.v6 {
					to = netip.AddrPortFrom(test.server[1], serverPort)
				}
				s.Server.Listen(to, func(c *proxytest.Conn) { s.server = c })
				s.client = s.Client.Dial(clientPort, to)
				s.Until("open", soon, func() bool { return s.server != nil && s.client.Established() })
				talk(s, s.client, s.server)
				n := wantUntouched(t, frames)
				snapshot := s.Proxy.Snapshot()
				for r := range proxy.NumPassReasons {
					if want := map[proxy.PassReason]uint64{test.reason: n}[r]; snapshot.Passed[r] != want {
						t.Errorf("%d packets passed as %v, not %d", snapshot.Passed[r], r, want)
					}
				}
				wantDrops(t, s.Network, nil)
				wantEmpty(t, s)
			})
		})
	}
}

// A protected server, all of whose ports are protected, calls somebody: levee tracks it, so that the answers are
// not taken for strays, and changes nothing.
func TestOutbound(t *testing.T) {
	forVariants(t, true, func(t *testing.T, v variant) {
		s := &session{Network: proxytest.New(t, v.config()), t: t, v: v}
		frames := watchAll(s)
		to := netip.AddrPortFrom(v.clientAddr().Addr(), 25)
		s.Client.Listen(to, func(c *proxytest.Conn) { s.client = c })
		s.server = s.Server.Dial(50000, to)
		s.Until("open", soon, func() bool { return s.client != nil && s.server.Established() })
		s.wantState(proxy.StateOpen)
		if f := s.flow(); f.Client != netip.AddrPortFrom(v.serverAddr().Addr(), 50000) || f.Server != to || f.Delta != 0 || f.TSDelta != 0 {
			t.Errorf("the flow is %+v", f)
		}
		talk(s, s.server, s.client)
		wantUntouched(t, frames)
		wantDrops(t, s.Network, nil)
		s.Advance(remembered)
		wantEmpty(t, s)
	})
}

// A protected server calls a port that is shut, somebody who does not answer, and resets.
func TestOutboundEnds(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		t.Run("refused", func(t *testing.T) {
			s := &session{Network: proxytest.New(t, v.config()), t: t, v: v}
			frames := watchAll(s)
			s.server = s.Server.Dial(50000, netip.AddrPortFrom(v.clientAddr().Addr(), 25))
			s.Until("refused", soon, func() bool { return s.server.Err() != nil })
			if s.server.Err() != proxytest.ErrRefused {
				t.Errorf("the server sees %v", s.server.Err())
			}
			wantUntouched(t, frames)
			s.wantState(proxy.StateReset)
		})
		t.Run("no answer", func(t *testing.T) {
			s := &session{Network: proxytest.New(t, v.config()), t: t, v: v}
			s.Peer(raw4, false)
			s.Peer(raw6, false)
			to := raw4
			if v.v6 {
				to = raw6
			}
			s.server = s.Server.Dial(50000, netip.AddrPortFrom(to, 25))
			s.Advance(time.Second)
			s.wantState(proxy.StateOpening)
			s.Until("given up", 10*time.Minute, func() bool { return s.server.Err() != nil })
			s.Advance(proxy.DefaultTransitoryTimeout + remembered + soon)
			wantEmpty(t, s)
		})
		t.Run("port used again", func(t *testing.T) {
			s := &session{Network: proxytest.New(t, v.config()), t: t, v: v}
			to := netip.AddrPortFrom(v.clientAddr().Addr(), 25)
			s.Client.Listen(to, func(c *proxytest.Conn) { s.client = c })
			for range 3 {
				s.client = nil
				s.server = s.Server.Dial(50000, to)
				s.Until("open", soon, func() bool { return s.client != nil && s.server.Established() })
				s.exchange()
				s.server.Abort()
				s.Advance(time.Second)
				s.wantState(proxy.StateReset)
			}
			wantDrops(t, s.Network, nil)
		})
	})
}

// Fragments after the first have no TCP header and pass, as does what isn't TCP.
func TestPassOthers(t *testing.T) {
	server := netip.MustParseAddr("192.0.2.99")
	server6 := netip.MustParseAddr("2001:db8:5::99")
	frame4 := func(protocol uint8, fragment uint16) []byte {
		f := make([]byte, stack.VirtioLen+header.IPv4MinimumSize+64)
		ip := header.IPv4(f[stack.VirtioLen:])
		ip.Encode(&header.IPv4Fields{
			TotalLength: uint16(len(ip)), TTL: 64, Protocol: protocol, FragmentOffset: fragment,
			SrcAddr: address(raw4), DstAddr: address(server),
		})
		ip.SetChecksum(^ip.CalculateChecksum())
		return f
	}
	frame6 := func(next uint8, extension ...byte) []byte {
		f := make([]byte, stack.VirtioLen+header.IPv6MinimumSize, 200)
		f = append(append(f, extension...), make([]byte, 64)...)
		header.IPv6(f[stack.VirtioLen:]).Encode(&header.IPv6Fields{
			PayloadLength: uint16(len(f) - stack.VirtioLen - header.IPv6MinimumSize), HopLimit: 64,
			SrcAddr: address(raw6), DstAddr: address(server6),
		})
		f[stack.VirtioLen+6] = next
		return f
	}
	for _, test := range []struct {
		name   string
		frame  []byte
		reason proxy.PassReason
	}{
		{"later fragment, v4", frame4(6, 1480), proxy.PassFragment},
		{"later fragment behind the shortest header, v4", frame4(6, 24), proxy.PassFragment},
		{"later fragment of UDP, v4", frame4(17, 8), proxy.PassFragment},
		{"later fragment, v6", frame6(44, 6, 0, 5, 0xc8, 0, 0, 0, 1), proxy.PassFragment},
		{"UDP, v4", frame4(17, 0), proxy.PassNotTCP},
		{"UDP, v6", frame6(17), proxy.PassNotTCP},
		{"ICMP, v4", frame4(1, 0), proxy.PassNotTCP},
		{"ICMP behind destination options, v6", frame6(60, 58, 0, 1, 4, 0, 0, 0, 0), proxy.PassNotTCP},
		{"ESP, v6", frame6(50), proxy.PassNotTCP},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &session{Network: proxytest.New(t, variant{}.config()), t: t}
			peer, peer6 := s.Peer(server, true), s.Peer(server6, true)
			s.Inject(proxytest.FromClient, slices.Clone(test.frame))
			s.Advance(time.Second)
			got := append(peer.Take(), peer6.Take()...)
			if len(got) != 1 || !bytes.Equal(got[0].Frame, test.frame) {
				t.Errorf("%d packets came, or not the same", len(got))
			}
			if passed := s.Proxy.Snapshot().Passed; passed[test.reason] != 1 {
				t.Errorf("passed: %v", passed)
			}
		})
	}
}

// The first fragment of a segment of an open flow is translated like any segment; the others pass, and may come before it.
func TestFragmentsOfAFlow(t *testing.T) {
	for _, reversed := range []bool{false, true} {
		var frames [][]byte
		v := variant{timestamps: true}
		s := newSession(t, v, v.config())
		c := newRawClient(s)
		c.open()
		request := data(1, 1200)
		segment := c.segment(0)
		whole := proxytest.Frame(&segment, request)[stack.VirtioLen:]
		headers, rest := whole[:header.IPv4MinimumSize], whole[header.IPv4MinimumSize:]
		for at := 0; at < len(rest); at += 600 {
			end := min(at+600, len(rest))
			frame := slices.Concat(make([]byte, stack.VirtioLen), headers, rest[at:end])
			ip := header.IPv4(frame[stack.VirtioLen:])
			ip.SetTotalLength(uint16(len(ip)))
			binary.BigEndian.PutUint16(ip[4:], 77) // identification
			flags := uint8(0)
			if end < len(rest) {
				flags = header.IPv4FlagMoreFragments
			}
			ip.SetFlagsFragmentOffset(flags, uint16(at))
			ip.SetChecksum(0)
			ip.SetChecksum(^ip.CalculateChecksum())
			frames = append(frames, frame)
		}
		if reversed {
			slices.Reverse(frames)
		}
		for _, frame := range frames {
			s.Inject(proxytest.FromClient, frame)
		}
		s.received("server", s.server, request)
	}
}
