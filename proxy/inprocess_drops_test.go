package proxy_test

import (
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"levee/proxy"
	"levee/proxy/proxytest"
	"levee/proxy/servers"
	"levee/stack"
	"levee/stack/stacktest"
)

// synTwice sends a SYN and returns another.
func synTwice(v variant) func(s *session) []byte {
	return func(s *session) []byte {
		newRawClient(s)
		s.Inject(proxytest.FromClient, crafted{flags: syn}.frame(v))
		s.Advance(10 * time.Millisecond)
		return crafted{flags: syn}.frame(v)
	}
}

// Every reason for a drop has a test that sees it.
func TestEveryDropReason(t *testing.T) {
	v := variant{}
	silent := func(cfg *proxytest.Config) {
		cfg.Hooks[proxytest.ToServer] = []proxytest.Hook{func(*proxytest.Packet) proxytest.Fate { return proxytest.Drop }}
	}
	opening := func(s *session) *rawClient {
		c := newRawClient(s)
		c.connect()
		c.acknowledge()
		s.Advance(10 * time.Millisecond)
		return c
	}
	craft := func(c crafted) func(s *session) []byte {
		return func(*session) []byte { return c.frame(v) }
	}
	table := servers.New(servers.Config{Capacity: 8, ClosedFor: time.Minute})
	refusing := func(cfg *proxytest.Config) {
		cfg.Proxy.Servers, cfg.Proxy.Services[0].ClosedPorts = table, proxy.ClosedDrop
	}
	// known teaches the table that the server doesn't answer, and returns a SYN.
	known := func(s *session, how servers.State) []byte {
		k := servers.Key{Addr: stack.AddrFrom(v.serverAddr().Addr()), Port: serverPort}
		table.Refused(&k, s.Clock.Now().Unix(), how)
		return crafted{flags: syn}.frame(v)
	}
	seen := map[proxy.DropReason]bool{}
	for _, test := range []struct {
		reason proxy.DropReason
		config func(cfg *proxytest.Config)
		// frame sets the stage and returns the frame that is to be dropped.
		frame func(s *session) []byte
	}{
		{proxy.DropTruncated, nil, func(*session) []byte { return make([]byte, 15) }},
		{proxy.DropBadIP, nil, craft(crafted{spoil: func(ip []byte, _ int) { ip[0] = 0 }})},
		{proxy.DropBadTCP, nil, craft(crafted{spoil: func(ip []byte, tcp int) { ip[tcp+12] = 0 }})},
		{proxy.DropBadOptions, nil, craft(crafted{spoil: func(ip []byte, tcp int) { ip[tcp+21] = 0 }})},
		{proxy.DropBadFlags, nil, craft(crafted{flags: syn | fin})},
		{proxy.DropBadChecksum, nil, craft(crafted{flags: syn, spoil: func(ip []byte, tcp int) { ip[tcp+16]++ }})},
		{proxy.DropLand, nil, craft(crafted{flags: syn, again: true, spoil: func(ip []byte, tcp int) {
			copy(ip[12:16], ip[16:20])
			copy(ip[tcp:tcp+2], ip[tcp+2:tcp+4])
		}})},
		{proxy.DropFragment, nil, craft(crafted{flags: syn, again: true, spoil: func(ip []byte, _ int) { ip[6] = 0x20 }})},
		{proxy.DropCookieInvalid, nil, craft(crafted{flags: ack})},
		{proxy.DropNoFlow, nil, func(s *session) []byte {
			s.Advance(3 * time.Minute) // no cookie of an earlier process is outstanding
			return crafted{flags: ack}.frame(v)
		}},
		{proxy.DropNoFlowSYNACK, nil, craft(crafted{flags: synAck})},
		{proxy.DropNoFlowFIN, nil, craft(crafted{flags: fin | ack})},
		{proxy.DropNoFlowRST, nil, craft(crafted{flags: rst})},
		{proxy.DropLaterFragment, nil, func(s *session) []byte {
			fragment := crafted{flags: ack, payload: 100, again: true, spoil: func(ip []byte, _ int) { ip[7] = 100 }}
			for range 100 {
				s.Inject(proxytest.FromClient, fragment.frame(v))
			}
			s.Advance(6 * time.Millisecond)
			return fragment.frame(v)
		}},
		{proxy.DropDenied, func(cfg *proxytest.Config) {
			cfg.Proxy.Services[0].Deny = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
		}, craft(crafted{flags: syn})},
		{proxy.DropNoSource, nil, craft(crafted{flags: syn, again: true, spoil: func(ip []byte, _ int) { ip[12] = 127 }})},
		{proxy.DropReplyBudget, func(cfg *proxytest.Config) { cfg.Proxy.Replies.PerNetwork = 1 }, synTwice(v)},
		{proxy.DropNeighbours, func(cfg *proxytest.Config) {
			cfg.Proxy.Neighbours, cfg.Proxy.Replies.Neighbours = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}, 1
		}, func(s *session) []byte {
			frame := synTwice(v)(s)
			frame[stack.VirtioLen+15]++ // another source
			checksumAgain(frame, header.IPv4MinimumSize)
			return frame
		}},
		{proxy.DropSourceFlows, func(cfg *proxytest.Config) { cfg.Proxy.Services[0].PerSource.Flows = 1 }, func(s *session) []byte {
			newRawClient(s).open()
			return crafted{flags: syn}.frame(v)
		}},
		{proxy.DropSourceRate, func(cfg *proxytest.Config) { cfg.Proxy.Services[0].PerSource.Rate = 1 }, func(s *session) []byte {
			c := newRawClient(s)
			c.connect()
			a := c.segment(0)
			c.port++
			c.open() // takes the token of the second
			return proxytest.Frame(&a, nil)
		}},
		{proxy.DropReplay, nil, func(s *session) []byte {
			c := newRawClient(s)
			c.open()
			p := c.segment(0)
			c.isn += 1 << 28
			c.open() // another connection takes its place
			return proxytest.Frame(&p, nil)
		}},
		{proxy.DropOpening, silent, func(s *session) []byte {
			p := opening(s).segment(0)
			return proxytest.Frame(&p, []byte("early"))
		}},
		{proxy.DropEarlyFull, func(cfg *proxytest.Config) {
			silent(cfg)
			cfg.Proxy.Services[0].EarlyData = 1000 // but no pool
		}, func(s *session) []byte {
			p := opening(s).segment(0)
			return proxytest.Frame(&p, []byte("early"))
		}},
		{proxy.DropTableFull, func(cfg *proxytest.Config) { cfg.Proxy.Capacity = 1 }, func(s *session) []byte {
			s.open()
			c := newRawClient(s)
			c.connect()
			p := c.segment(0)
			return proxytest.Frame(&p, nil)
		}},
		{proxy.DropBypassRate, nil, func(*session) []byte { // the service lets none through
			return addOptions(crafted{flags: syn}.frame(v), optionMD5...)
		}},
		{proxy.DropBadAck, silent, func(s *session) []byte {
			p := opening(s).segment(0)
			p.Src, p.Dst, p.SrcPort, p.DstPort = p.Dst, p.Src, p.DstPort, p.SrcPort
			p.Ack = p.Seq
			return proxytest.Frame(&p, nil) // an ACK of the SYN that is no SYN-ACK
		}},
		{proxy.DropClosed, refusing, func(s *session) []byte { return known(s, servers.Closed) }},
		{proxy.DropSilent, refusing, func(s *session) []byte { return known(s, servers.Silent) }},
		{proxy.DropICMP, nil, func(s *session) []byte {
			// A server's segment of no flow is too long for a router.
			quoted := stacktest.Segment{Src: v.serverAddr(), Dst: netip.AddrPortFrom(raw4, 4444), Seq: 1}.Packet()
			packet := append([]byte{0x45, 0, 0, byte(28 + len(quoted)), 0, 0, 0, 0, 64, 1, 0, 0, 203, 0, 113, 1}, quoted[12:16]...)
			packet = append(append(packet, 3, 4, 0, 0, 0, 0, 5, 0), quoted...)
			return append(make([]byte, stack.VirtioLen), packet...)
		}},
	} {
		t.Run(test.reason.String(), func(t *testing.T) {
			cfg := v.config()
			if test.config != nil {
				test.config(&cfg)
			}
			s := newSession(t, v, cfg)
			wantDropped(t, s, test.frame(s), test.reason)
		})
		seen[test.reason] = true
	}
	for r := range proxy.NumDropReasons {
		if !seen[r] {
			t.Errorf("no packet of this test is dropped as %v", r)
		}
	}
}
