package proxy_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/proxy"
	"levee/proxy/proxytest"
	"levee/proxy/servers"
	"levee/stack"
)

const psh = header.TCPFlagPsh

// early is the variant's configuration with early data.
func early(v variant) proxytest.Config {
	cfg := v.config()
	cfg.Proxy.EarlyPool = 1 << 20
	cfg.Proxy.Services[0].EarlyData = proxy.DefaultEarlyData
	return cfg
}

// wantHeld checks how many bytes of early data are held in all; -1 is any number but none.
func wantHeld(t *testing.T, n *proxytest.Network, want int) {
	t.Helper()
	snapshot := n.Proxy.Snapshot()
	if got := snapshot.EarlyUsed; got != want && (want >= 0 || got == 0) {
		t.Errorf("%d bytes of the pool are in use, not %d", got, want)
	}
	if got, want := n.Proxy.Openings(), snapshot.Flows[proxy.StateOpening]; got != want {
		t.Errorf("%d connections are opening, %d by server", want, got)
	}
	want = 0
	for _, state := range []proxy.State{proxy.StateOpening, proxy.StateOpen, proxy.StateClientClosed, proxy.StateServerClosed} {
		want += snapshot.Flows[state]
	}
	if got := n.Proxy.SourceFlows(); got != want {
		t.Errorf("there are %d flows, %d by source", want, got)
	}
}

// A client that speaks first waits for its own round trips and one to the server, as long as its request fits.
func TestEarlyRequest(t *testing.T) {
	forVariants(t, true, func(t *testing.T, v variant) {
		for _, size := range []int{1, 300, 1448, 5000, proxy.DefaultEarlyData} {
			t.Run(fmt.Sprint(size), func(t *testing.T) {
				cfg := early(v)
				cfg.ClientLatency, cfg.ServerLatency = 20*time.Millisecond, 3*time.Millisecond
				s := newSession(t, v, cfg)
				request := data(1, size)
				s.dial()
				s.client.Send(request)
				s.Until("accepted", soon, func() bool { return s.server != nil })
				took := s.received("server", s.server, request)
				// SYN, SYN-ACK, and ACK with data: three ways; the server's handshake and the data: three more. gVisor begins with ten
				// segments, and more wait for the server's first acknowledgement.
				most := 3*cfg.ClientLatency + 3*cfg.ServerLatency
				if size > 10*1220 {
					most += 2*cfg.ClientLatency + 2*cfg.ServerLatency
				}
				if at := s.Clock.Elapsed(); at > most+time.Millisecond {
					t.Errorf("the server has the request after %v (%v after the handshake), not %v", at, took, most)
				}
				s.server.Send(data(2, 5000))
				s.received("client", s.client, data(2, 5000))
				wantHeld(t, s.Network, 0)
				if got := s.service(); got.EarlyHeld == 0 || got.Opened != 1 {
					t.Errorf("%+v", got)
				}
				if f := s.flow(); int(f.ClientBytes) != size {
					t.Errorf("%d bytes of the client are counted, not %d", f.ClientBytes, size)
				}
			})
		}
	})
}

// What the server gets, segment for segment, for whatever the client sends before it has answered.
func TestEarlyRelease(t *testing.T) {
	stream := data(1, 20_000)
	type sent struct {
		at, n int
		flags header.TCPFlags
	}
	type got struct {
		at, n int
		flags header.TCPFlags
	}
	for _, test := range []struct {
		name   string
		change func(cfg *proxytest.Config)
		sent   []sent
		mss    uint16
		window uint16
		want   []got
		state  proxy.State
	}{
		{"in order", nil, []sent{{0, 100, psh}, {100, 50, psh}}, 1460, 65535,
			[]got{{0, 100, psh}, {100, 50, psh}}, proxy.StateOpen},
		{"segments of one write go together", nil, []sent{{0, 1400, 0}, {1400, 1400, 0}, {2800, 10, psh}}, 1460, 65535,
			[]got{{0, 2810, psh}}, proxy.StateOpen},
		{"the wrong way round", nil, []sent{{100, 50, psh}, {0, 100, psh}}, 1460, 65535,
			[]got{{0, 100, psh}, {100, 50, psh}}, proxy.StateOpen},
		{"with a gap", nil, []sent{{0, 100, 0}, {200, 100, 0}}, 1460, 65535,
			[]got{{0, 100, 0}, {200, 100, 0}}, proxy.StateOpen},
		{"twice, and overlapping", nil, []sent{{0, 100, 0}, {0, 100, 0}, {50, 100, psh}, {0, 150, psh}}, 1460, 65535,
			[]got{{0, 150, psh}}, proxy.StateOpen},
		{"with a FIN", nil, []sent{{0, 100, fin | psh}}, 1460, 65535,
			[]got{{0, 100, fin | psh}}, proxy.StateClientClosed},
		{"then a FIN", nil, []sent{{0, 100, psh}, {100, 0, fin}}, 1460, 65535,
			[]got{{0, 100, fin | psh}}, proxy.StateClientClosed},
		{"a FIN alone", nil, []sent{{0, 0, fin}}, 1460, 65535,
			[]got{{0, 0, fin}}, proxy.StateClientClosed},
		{"a FIN that overtakes the data", nil, []sent{{100, 0, fin}, {0, 100, psh}}, 1460, 65535,
			[]got{{0, 100, psh}, {100, 0, fin}}, proxy.StateClientClosed},
		{"a probe below the window", nil, []sent{{-1, 0, 0}, {-1, 11, 0}}, 1460, 65535,
			[]got{{0, 10, 0}}, proxy.StateOpen},
		{"more than may be held", nil, []sent{{0, 16000, 0}, {16000, 1000, psh}, {17000, 100, psh}}, 1460, 65535,
			[]got{{0, 16384, 0}}, proxy.StateOpen},
		{"more than the server's window", nil, []sent{{0, 1000, 0}, {1000, 500, psh | fin}}, 1460, 1200,
			[]got{{0, 1200, 0}}, proxy.StateOpen},
		{"a FIN at the end of the server's window", nil, []sent{{0, 1000, psh | fin}}, 1460, 1000,
			[]got{{0, 1000, psh}}, proxy.StateOpen},
		{"the server's window is 0", nil, []sent{{0, 1000, fin}}, 1460, 0,
			nil, proxy.StateOpen},
		{"no pool", func(cfg *proxytest.Config) { cfg.Proxy.EarlyPool = 0 }, []sent{{0, 100, 0}}, 1460, 65535,
			nil, proxy.StateOpen},
		{"turned off", func(cfg *proxytest.Config) { cfg.Proxy.Services[0].EarlyData = 0 }, []sent{{0, 100, 0}}, 1460, 65535,
			nil, proxy.StateOpen},
	} {
		t.Run(test.name, func(t *testing.T) {
			forVariants(t, false, func(t *testing.T, v variant) {
				cfg := early(v)
				cfg.Proxy.Services[0].Options.WScale = 5
				if test.change != nil {
					test.change(&cfg)
				}
				s, c, r := rawPair(t, v, cfg, nil)
				for _, x := range test.sent {
					p := c.segment(x.at)
					p.Flags, p.Window, p.TrafficClass = ack|x.flags, 2000, 0xb8|2
					c.tsval++
					payload := stream[max(x.at, 0):][:max(x.n+min(x.at, 0), 0)]
					if x.at < 0 && x.n > 0 {
						payload = append([]byte{0xaa}, payload...)
					}
					c.Send(&p, payload)
				}
				s.Advance(20 * time.Millisecond)
				if want := len(test.want) > 0; want {
					wantHeld(t, s.Network, -1)
				}
				a := r.segment(synAck)
				a.MSS, a.WScale, a.Window = test.mss, 7, test.window
				r.Send(&a, nil)
				s.Advance(20 * time.Millisecond)
				inbox := r.Take()
				if len(inbox) == 0 || !inbox[0].Is(ack) || inbox[0].TCP.PayloadLen != 0 || inbox[0].TCP.Ack != r.isn+1 {
					t.Fatalf("the server gets %d segments, and not the ACK first", len(inbox))
				}
				var segments []got
				for _, p := range inbox[1:] {
					at := int(int32(p.TCP.Seq - r.syn.Seq - 1))
					segments = append(segments, got{at, p.TCP.PayloadLen, p.TCP.Flags &^ ack})
					payload := p.TCP.IP[p.TCP.L4+p.TCP.HeaderLen:]
					if !bytes.Equal(payload, stream[at:at+len(payload)]) {
						t.Errorf("wrong bytes at %d", at)
					}
					if p.TCP.Ack != r.isn+1 || p.TCP.Window != 2000 || p.TCP.TrafficClass() != 0xb8|2 {
						t.Errorf("ack %d window %d class %#x", p.TCP.Ack-r.isn, p.TCP.Window, p.TCP.TrafficClass())
					}
					if o := p.TCP.Options; o.Timestamps != v.timestamps || o.Timestamps && (o.TSVal != c.tsval-1 || o.TSEcr != 7777) {
						t.Errorf("options %+v, the client's last TSval was %d", o, c.tsval-1)
					}
					virtio := stack.DecodeVirtio(p.Frame)
					size := 1460
					if v.v6 {
						size = 1440
					}
					if v.timestamps {
						size -= 12
					}
					if want := p.TCP.PayloadLen > size; (virtio.GSOType != stack.GSONone) != want || want && int(virtio.GSOSize) != size {
						t.Errorf("%d bytes in segments of %d", p.TCP.PayloadLen, virtio.GSOSize)
					}
				}
				if !slices.Equal(segments, test.want) {
					t.Errorf("the server gets %v, not %v", segments, test.want)
				}
				if test.state == proxy.StateClientClosed { // once the server has the FIN
					s.wantState(proxy.StateOpen)
					last := segments[len(segments)-1]
					a := r.segment(ack)
					a.Seq, a.Ack = a.Seq+1, r.syn.Seq+1+seqnum.Value(last.at+last.n)+1
					r.Send(&a, nil)
					s.Advance(20 * time.Millisecond)
				}
				s.wantState(test.state)
				wantHeld(t, s.Network, 0)
				if n := len(test.want); n > 0 && test.state == proxy.StateOpen {
					// The record knows where the client's data ended: a RST there is exact.
					p := c.segment(test.want[n-1].at + test.want[n-1].n)
					p.Flags = rst
					c.Send(&p, nil)
					s.Advance(20 * time.Millisecond)
					s.wantState(proxy.StateReset)
				}
			})
		})
	}
}

// What only one segment says, an urgent pointer or a congestion mark, stays with its bytes; and so much held data as no packet has room
// for goes in more than one.
func TestEarlyReleaseKeepsApart(t *testing.T) {
	type got struct {
		at, n  int
		class  uint8
		flags  header.TCPFlags
		urgent uint16
	}
	for _, test := range []struct {
		name string
		send func(c *rawClient)
		want []got
	}{
		{"a congestion mark", func(c *rawClient) {
			for i, class := range []uint8{2, 3, 2} {
				p := c.segment(100 * i)
				p.TrafficClass = class
				c.Send(&p, data(1, 100))
			}
		}, []got{{0, 100, 2, 0, 0}, {100, 100, 3, 0, 0}, {200, 100, 2, 0, 0}}},
		{"an urgent pointer", func(c *rawClient) {
			for i, urgent := range []uint16{0, 60, 0} {
				p := c.segment(100 * i)
				if urgent != 0 {
					p.Flags |= header.TCPFlagUrg
					p.Urgent = urgent
				}
				c.Send(&p, data(1, 100))
			}
		}, []got{{0, 100, 0, 0, 0}, {100, 100, 0, header.TCPFlagUrg, 60}, {200, 100, 0, 0, 0}}},
		{"an urgent pointer of a probe below the window", func(c *rawClient) {
			p := c.segment(-1)
			p.Flags |= header.TCPFlagUrg
			p.Urgent = 5
			c.Send(&p, data(1, 11))
		}, []got{{0, 10, 0, header.TCPFlagUrg, 4}}},
		{"a keep-alive with a byte that is not new", func(c *rawClient) {
			p := c.segment(-1)
			p.Flags |= fin
			c.Send(&p, data(1, 1))
		}, []got{{0, 0, 0, fin, 0}}},
		{"more than a packet", func(c *rawClient) {
			for i := range 50 {
				p := c.segment(1000 * i)
				c.Send(&p, data(1, 1000))
			}
		}, []got{{0, 32500, 0, 0, 0}, {32500, 17500, 0, 0, 0}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := variant{}
			cfg := early(v)
			cfg.Proxy.Services[0].EarlyData = proxy.MaxEarlyData
			s, c, r := rawPair(t, v, cfg, nil)
			test.send(c)
			s.Advance(20 * time.Millisecond)
			a := r.segment(synAck)
			a.MSS, a.WScale, a.Window = 1460, stack.WScaleNone, 65535
			r.Send(&a, nil)
			s.Advance(20 * time.Millisecond)
			var released []got
			for _, p := range r.Take()[1:] {
				tcp := p.TCP.IP[p.TCP.L4:]
				released = append(released, got{
					int(int32(p.TCP.Seq - r.syn.Seq - 1)), p.TCP.PayloadLen, p.TCP.TrafficClass(), p.TCP.Flags &^ (ack | psh), uint16(tcp[18])<<8 | uint16(tcp[19]),
				})
			}
			if !slices.Equal(released, test.want) {
				t.Errorf("the server gets %v, not %v", released, test.want)
			}
		})
	}
}

// A server that names an MSS with no room for payload gets small segments, and no harm comes of it.
func TestEarlyReleaseTinyMSS(t *testing.T) {
	for _, timestamps := range []bool{false, true} {
		v := variant{timestamps: timestamps}
		s, c, r := rawPair(t, v, early(v), nil)
		c.send(0, data(1, 200))
		s.Advance(20 * time.Millisecond)
		a := r.segment(synAck)
		a.MSS, a.Window = 1, 65535
		r.Send(&a, nil)
		s.Advance(20 * time.Millisecond)
		in := r.Take()
		if len(in) != 2 || in[1].TCP.PayloadLen != 200 || stack.DecodeVirtio(in[1].Frame).GSOSize != 48 {
			t.Errorf("timestamps %v: the server gets %d frames", timestamps, len(in))
		}
	}
}

// However a connection ends while its server has not answered, nothing of it stays in the pool.
func TestEarlyDataIsFreed(t *testing.T) {
	request := data(1, 3000)
	for _, test := range []struct {
		name string
		end  func(s *session, c *rawClient, r *rawServer)
	}{
		{"the client resets", func(s *session, c *rawClient, _ *rawServer) {
			p := c.segment(0)
			p.Flags = rst
			c.Send(&p, nil)
		}},
		{"the client resets behind its data", func(_ *session, c *rawClient, _ *rawServer) {
			p := c.segment(len(request))
			p.Flags = rst | ack
			c.Send(&p, nil)
		}},
		{"the client resets behind its FIN", func(s *session, c *rawClient, _ *rawServer) {
			p := c.segment(len(request))
			p.Flags = fin | ack
			c.Send(&p, nil)
			s.Advance(20 * time.Millisecond)
			p = c.segment(len(request) + 1)
			p.Flags = rst
			c.Send(&p, nil)
		}},
		{"the server refuses", func(s *session, _ *rawClient, r *rawServer) {
			p := r.segment(rst | ack)
			r.Send(&p, nil)
		}},
		{"the server is silent", func(s *session, _ *rawClient, _ *rawServer) { s.Advance(20 * time.Second) }},
		{"a new incarnation without data", func(s *session, c *rawClient, _ *rawServer) {
			c.isn += 1 << 20
			c.connect()
			c.acknowledge()
		}},
		{"the server accepts", func(s *session, _ *rawClient, r *rawServer) {
			p := r.segment(synAck)
			p.MSS = 1460
			r.Send(&p, nil)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			forVariants(t, false, func(t *testing.T, v variant) {
				s, c, r := rawPair(t, v, early(v), nil)
				c.send(0, request[:1000])
				c.send(2000, request[2000:])
				s.Advance(20 * time.Millisecond)
				wantHeld(t, s.Network, -1)
				test.end(s, c, r)
				s.Advance(50 * time.Millisecond)
				wantHeld(t, s.Network, 0)
			})
		})
	}
	t.Run("timestamps promised wrongly", func(t *testing.T) {
		v := variant{timestamps: true}
		s, c, r := rawPair(t, v, early(v), nil)
		c.send(0, request[:1000])
		s.Advance(20 * time.Millisecond)
		wantHeld(t, s.Network, -1)
		p := r.segment(synAck)
		p.Timestamps = false
		r.Send(&p, nil)
		s.Advance(20 * time.Millisecond)
		wantHeld(t, s.Network, 0)
		if s.service().Mismatched != 1 {
			t.Error("not reset")
		}
	})
}

// A reset that is neither where the client's numbers begin nor where they end may be anybody's.
func TestResetsElsewhereWhileOpening(t *testing.T) {
	v := variant{}
	s, c, _ := rawPair(t, v, early(v), nil)
	c.send(0, data(1, 1000))
	c.send(2000, data(2, 1000))
	for _, offset := range []int{-1, 1, 999, 1000, 2000, 2999, 3001, 1 << 20} {
		p := c.segment(offset)
		p.Flags = rst | ack
		c.Send(&p, nil)
	}
	s.Advance(20 * time.Millisecond)
	s.wantState(proxy.StateOpening)
	wantHeld(t, s.Network, -1)
}

// A client resets behind what it has sent, also where there was no room for that.
func TestResetBehindWhatWasNotHeld(t *testing.T) {
	for name, first := range map[string]bool{"the handshake's ACK brings it": true, "it comes later": false} {
		t.Run(name, func(t *testing.T) {
			v := variant{}
			cfg := early(v)
			cfg.Proxy.EarlyPool = 0
			s := &session{Network: proxytest.New(t, cfg), t: t, v: v}
			c := newRawClient(s)
			s.Peer(v.serverAddr().Addr(), true)
			c.connect()
			if !first {
				c.acknowledge()
			}
			c.send(0, data(1, 1000))
			p := c.segment(1000)
			p.Flags = rst | ack
			c.Send(&p, nil)
			s.Advance(20 * time.Millisecond)
			s.wantState(proxy.StateReset)
		})
	}
}

// Segments that show that they are not the client's, or that the server would not take, are not held.
func TestEarlyDataOfStrangers(t *testing.T) {
	v := variant{timestamps: true}
	for _, test := range []struct {
		name   string
		change func(p *stack.Segment)
		spoil  func(frame []byte)
		reason proxy.DropReason
	}{
		{"another acknowledgement", func(p *stack.Segment) { p.Ack++ }, nil, proxy.DropOpening},
		{"a wrong checksum", nil, func(f []byte) { f[len(f)-1] ^= 1 }, proxy.DropOpening},
		{"without timestamps", func(p *stack.Segment) { p.Timestamps = false }, nil, proxy.DropOpening},
		{"beyond the window", func(p *stack.Segment) { p.Seq += 16384 }, nil, proxy.DropEarlyFull},
		{"far below it", func(p *stack.Segment) { p.Seq -= 5000 }, nil, proxy.DropOpening},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, c, _ := rawPair(t, v, early(v), nil)
			p := c.segment(0)
			if test.change != nil {
				test.change(&p)
			}
			frame := proxytest.Frame(&p, data(1, 200))
			if test.spoil != nil {
				test.spoil(frame)
			}
			s.Inject(proxytest.FromClient, frame)
			s.Advance(20 * time.Millisecond)
			wantHeld(t, s.Network, 0)
			wantDrops(t, s.Network, map[proxy.DropReason]uint64{test.reason: 1})
		})
	}
}

// firstWindow is the window of the answer to a SYN from another port.
func firstWindow(s *session, port uint16) uint16 {
	s.t.Helper()
	c := newRawClient(s)
	c.port = port
	p := c.Segment(port, s.v.serverAddr(), c.isn, 0)
	p.WScale = 7
	c.Send(&p, nil)
	s.Until("SYN-ACK", soon, func() bool { return len(c.Inbox) > 0 })
	return c.Take()[0].TCP.Window
}

// Clients are told a window as long as there is room, and none beyond what the servers begin with.
func TestFirstWindow(t *testing.T) {
	v := variant{}
	t.Run("off", func(t *testing.T) {
		s := newSession(t, v, v.config())
		if got := firstWindow(s, 1); got != 0 {
			t.Errorf("window %d", got)
		}
	})
	t.Run("pool", func(t *testing.T) {
		cfg := early(v)
		cfg.Proxy.EarlyPool = 8 * 512
		s, c, r := rawPair(t, v, cfg, nil)
		if got := firstWindow(s, 1); got != proxy.DefaultEarlyData {
			t.Errorf("window %d while there is room", got)
		}
		c.send(0, data(1, 2000))
		s.Advance(20 * time.Millisecond)
		if got := firstWindow(s, 2); got != 0 {
			t.Errorf("window %d with half of the pool in use", got)
		}
		p := r.segment(synAck)
		p.Window = 65160
		r.Send(&p, nil)
		s.Advance(20 * time.Millisecond)
		if got := firstWindow(s, 3); got != proxy.DefaultEarlyData {
			t.Errorf("window %d when the pool is empty again", got)
		}
	})
	t.Run("servers", func(t *testing.T) {
		cfg := early(v)
		cfg.Proxy.Services[0].EarlyData = proxy.MaxEarlyData
		s := &session{Network: proxytest.New(t, cfg), t: t, v: v}
		r := &rawServer{Peer: s.Peer(v.serverAddr().Addr(), true), s: s}
		for i, step := range []struct{ server, least, most uint16 }{
			{65160, 16384, 16384}, {65160, 65160, 65160}, {4000, 65160, 65160}, {0, 4000, 4000}, {60000, 0, 0}, {60000, 3750, 3750},
		} {
			if got := firstWindow(s, uint16(100+i)); got < step.least || got > step.most {
				t.Errorf("step %d: window %d, not %d to %d", i, got, step.least, step.most)
			}
			c := newRawClient(s)
			c.port += uint16(i)
			c.connect()
			c.acknowledge()
			r.awaitSyn()
			p := r.segment(synAck)
			p.Window = step.server
			r.Send(&p, nil)
			s.Advance(20 * time.Millisecond)
			r.Take()
		}
	})
	t.Run("each its own", func(t *testing.T) {
		cfg := early(v)
		cfg.Proxy.Services[0].EarlyData = proxy.MaxEarlyData
		cfg.Proxy.Servers = servers.New(servers.Config{Capacity: 64, WScale: proxy.DefaultWScale})
		s := newSession(t, v, cfg)
		teach := func(port, window uint16) {
			k := servers.Key{Addr: stack.AddrFrom(v.serverAddr().Addr()), Port: port}
			a := servers.Answer{Asked: servers.All, MSS: 1460, WScale: 7, Window: window}
			cfg.Proxy.Servers.Answered(&k, s.Clock.Now().Unix(), &a, servers.Probe)
		}
		teach(serverPort, 30000)
		teach(serverPort+1, 60000) // another one's is nobody's business
		if got := firstWindow(s, 1); got != 30000 {
			t.Errorf("window %d, not the server's", got)
		}
		s.Advance(25 * time.Hour) // nothing is known any more
		if got := firstWindow(s, 2); got != proxy.DefaultEarlyData {
			t.Errorf("window %d when it is forgotten", got)
		}
	})
}

// Clients that send at once, over wires that lose, double and reorder, to a server that takes its time, with a pool that is too small for all of
// them: every stream arrives whole, and the pool is empty in the end.
func TestEarlyDataImpaired(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			v := variant{v6: r.IntN(2) == 0, timestamps: r.IntN(2) == 0, gso: r.IntN(2) == 0}
			cfg := randomConfig(seed, r, v)
			cfg.Proxy.EarlyPool = r.IntN(100_000)
			cfg.Proxy.Services[0].EarlyData = r.IntN(proxy.MaxEarlyData)
			cfg.Proxy.Services[0].ServerAck = proxy.ServerAck(r.IntN(2))
			cfg.ServerLatency = time.Duration(r.IntN(400)) * time.Millisecond
			s := &session{Network: proxytest.New(t, cfg), t: t, v: v}
			type stream struct {
				up             []byte
				client, server *proxytest.Conn
			}
			var streams []*stream
			var servers []*proxytest.Conn
			s.Server.Listen(v.serverAddr(), func(c *proxytest.Conn) { servers = append(servers, c) })
			const clients = 8
			for i := range clients {
				x := &stream{up: data(seed<<8+uint64(i), 4+r.IntN(60_000)), client: s.Client.Dial(uint16(clientPort+i), v.serverAddr())}
				x.up[0] = byte(i) // tells the server whose it is
				x.client.KeepAlive(5 * time.Second)
				x.client.Send(x.up)
				x.client.CloseWrite()
				streams = append(streams, x)
			}
			s.Until("all there", time.Hour, func() bool {
				for _, c := range servers {
					if got := c.Received(); len(got) > 0 && streams[got[0]].server == nil {
						streams[got[0]].server = c
					}
				}
				for _, x := range streams {
					if x.client.Err() == nil && (x.server == nil || !x.server.EOF() && x.server.Err() == nil) {
						return false
					}
				}
				return true
			})
			for i, x := range streams {
				switch {
				case x.client.Err() != nil: // too much was lost
				case x.server.Err() != nil || !bytes.Equal(x.server.Received(), x.up):
					t.Errorf("stream %d: %d of %d bytes, error %v", i, len(x.server.Received()), len(x.up), x.server.Err())
				default:
					x.server.Close()
				}
			}
			wantHeld(t, s.Network, 0)
		})
	}
}

// Nobody who has not returned a cookie has anything held.
func TestNothingHeldForStrangers(t *testing.T) {
	v := variant{}
	s := newSession(t, v, early(v))
	c := newRawClient(s)
	c.connect()
	c.cookie += seqnum.Value(1 << 8)
	c.send(0, data(1, 1000))
	s.Advance(20 * time.Millisecond)
	wantHeld(t, s.Network, 0)
	if s.Proxy.Snapshot().Services[0].CookieInvalid != 1 {
		t.Error("the cookie was not refused")
	}
}
