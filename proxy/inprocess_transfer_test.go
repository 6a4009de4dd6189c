package proxy_test

import (
	"slices"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"levee/proxy"
	"levee/proxy/proxytest"
)

const (
	syn    = header.TCPFlagSyn
	ack    = header.TCPFlagAck
	fin    = header.TCPFlagFin
	rst    = header.TCPFlagRst
	synAck = syn | ack
)

// remembered is how long a flow is remembered after its end.
const remembered = proxy.DefaultTransitoryTimeout

func TestExchange(t *testing.T) {
	forVariants(t, true, func(t *testing.T, v variant) {
		s := openSession(t, v)
		s.exchange()
		s.exchange()

		f := s.flow()
		if f.State != proxy.StateOpen || f.Client != v.clientAddr() || f.Server != v.serverAddr() || f.Service != "web" {
			t.Errorf("the flow is %+v", f)
		}
		if f.ClientBytes != 600 || f.ServerBytes != 10000 {
			t.Errorf("the flow has counted %d and %d bytes, not 600 and 10000", f.ClientBytes, f.ServerBytes)
		}
		want := proxy.ServiceSnapshot{
			Name: "web", Mode: proxy.ModeAlways, SynReceived: 1, CookieValid: 1, Opened: 1, Flows: 1,
		}
		if got := s.service(); got != want {
			t.Errorf("counters are %+v, not %+v", got, want)
		}
		wantDrops(t, s.Network, nil)
		if h := s.Proxy.Snapshot().Handshake; h.Sum != 2*time.Millisecond {
			t.Errorf("the server is said to have taken %v for the handshake, not the 2ms of its wire", h.Sum)
		}
		if h := s.Proxy.Snapshot().ClientHandshake; h.Sum != 10*time.Millisecond {
			t.Errorf("the client is said to have taken %v to return its cookie, not the 10ms of its wire", h.Sum)
		}
	})
}

// The deltas of the flow are the differences on the wire.
func TestDeltas(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		s := openSession(t, v)
		s.exchange()
		f := s.flow()
		cookie := s.Trace.At(proxytest.ToClient, isSynAck)[0].TCP
		server := s.Trace.At(proxytest.FromServer, isSynAck)[0].TCP
		if want := uint32(cookie.Seq - server.Seq); f.Delta != want {
			t.Errorf("delta is %d, on the wire %d", f.Delta, want)
		}
		if want := cookie.Options.TSVal - server.Options.TSVal; f.TSDelta != want {
			t.Errorf("timestamp delta is %d, on the wire %d", f.TSDelta, want)
		}
		checkTranslation(t, s, f.Delta, f.TSDelta)
	})
}

func isSynAck(r *proxytest.Record) bool { return r.Is(synAck) }
func isSyn(r *proxytest.Record) bool    { return r.Is(syn) }
func isRst(r *proxytest.Record) bool    { return r.TCP.Flags.Contains(rst) }

// checkTranslation compares every segment that levee has forwarded since the handshake with what came in. No
// packet may have been lost or held up.
func checkTranslation(t *testing.T, s *session, delta, tsDelta uint32) {
	t.Helper()
	payload := func(r *proxytest.Record) bool { return r.TCP.PayloadLen > 0 }
	fromClient, toServer := s.Trace.At(proxytest.FromClient, payload), s.Trace.At(proxytest.ToServer, payload)
	fromServer, toClient := s.Trace.At(proxytest.FromServer, payload), s.Trace.At(proxytest.ToClient, payload)
	if len(fromClient) != len(toServer) || len(fromServer) != len(toClient) || len(fromClient) == 0 || len(fromServer) == 0 {
		t.Fatalf("%d segments in and %d out, %d in and %d out", len(fromClient), len(toServer), len(fromServer), len(toClient))
	}
	for i := range fromClient {
		in, out := &fromClient[i].TCP, &toServer[i].TCP
		if out.Seq != in.Seq || uint32(out.Ack) != uint32(in.Ack)-delta ||
			out.Options.TSVal != in.Options.TSVal || out.Options.TSEcr != in.Options.TSEcr-tsDelta || out.Flags != in.Flags {
			t.Errorf("translated wrongly:\n%v\n%v", &fromClient[i], &toServer[i])
		}
	}
	for i := range fromServer {
		in, out := &fromServer[i].TCP, &toClient[i].TCP
		if uint32(out.Seq) != uint32(in.Seq)+delta || out.Ack != in.Ack ||
			out.Options.TSVal != in.Options.TSVal+tsDelta || out.Options.TSEcr != in.Options.TSEcr || out.Flags != in.Flags {
			t.Errorf("translated wrongly:\n%v\n%v", &fromServer[i], &toClient[i])
		}
	}
}

func TestBulk(t *testing.T) {
	forVariants(t, true, func(t *testing.T, v variant) {
		s := openSession(t, v)
		up, down := data(1, 1<<20), data(2, 1<<20)
		// Both directions at once.
		s.client.Send(up)
		s.server.Send(down)
		s.received("server", s.server, up)
		s.received("client", s.client, down)
		wantDrops(t, s.Network, nil)
		if v.gso && len(s.Trace.At(proxytest.ToClient, func(r *proxytest.Record) bool { return r.GSO > 0 })) == 0 {
			t.Error("no superpacket has passed")
		}
		s.client.Close()
		s.server.Close()
		s.Until("closed", soon, func() bool { return s.client.Gone() || s.flow().State == proxy.StateTimeWait })
	})
}

// Two workers share the flow: each gets the packets of one side.
func TestTwoWorkers(t *testing.T) {
	v := variant{timestamps: true}
	cfg := v.config()
	cfg.Workers = 2
	s := newSession(t, v, cfg)
	s.open()
	s.exchange()
	for i, w := range s.Proxy.Snapshot().Workers {
		if w.Received == 0 || w.Sent == 0 || w.ReceivedBytes == 0 || w.SentBytes == 0 {
			t.Errorf("worker %d has moved nothing: %+v", i, w)
		}
	}
	s.client.Close()
	s.server.Close()
	s.Advance(remembered + soon)
	wantEmpty(t, s)
}

// wantEmpty checks that nothing is left of any flow.
func wantEmpty(t *testing.T, s *session) {
	t.Helper()
	snapshot := s.Proxy.Snapshot()
	if flows := s.Flows(); len(flows) != 0 || snapshot.Services[0].Flows != 0 || snapshot.Flows[proxy.StateFree] != snapshot.Capacity {
		t.Errorf("the table isn't empty: %+v, %d flows of the service, by state %v of %d",
			flows, snapshot.Services[0].Flows, snapshot.Flows, snapshot.Capacity)
	}
}

func TestClose(t *testing.T) {
	for _, test := range []struct {
		name     string
		first    func(s *session)
		halfway  proxy.State // after one FIN
		then     func(s *session)
		timeWait func(s *session) *proxytest.Conn // who has to wait
	}{
		{
			name:    "client first",
			first:   func(s *session) { s.client.CloseWrite() },
			halfway: proxy.StateClientClosed,
			then:    func(s *session) { s.server.Close() },
		},
		{
			name:    "server first",
			first:   func(s *session) { s.server.CloseWrite() },
			halfway: proxy.StateServerClosed,
			then:    func(s *session) { s.client.Close() },
		},
		{
			name:    "both at once",
			first:   func(s *session) { s.client.CloseWrite(); s.server.CloseWrite() },
			halfway: proxy.StateTimeWait,
			then:    func(*session) {},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			forVariants(t, false, func(t *testing.T, v variant) {
				s := openSession(t, v)
				s.exchange()
				s.wantState(proxy.StateOpen)
				test.first(s)
				s.Until(test.halfway.String(), soon, func() bool { return s.flow().State != proxy.StateOpen })
				if test.name == "both at once" { // the FINs arrive a few milliseconds apart
					s.Until("both FINs through", soon, func() bool { return s.flow().State.Ended() })
				}
				s.wantState(test.halfway)
				test.then(s)
				s.Until("end of both streams", soon, func() bool { return s.client.EOF() || s.server.EOF() })
				s.Until("closed", soon, func() bool { return s.flow().State == proxy.StateTimeWait })
				if n := s.service().Flows; n != 0 {
					t.Errorf("%d flows of the service are counted, though all have ended", n)
				}
				closed := s.Clock.Elapsed()
				s.Advance(remembered - 2*time.Second)
				s.wantState(proxy.StateTimeWait)
				s.Until("forgotten", soon, func() bool { return len(s.Flows()) == 0 })
				if took := s.Clock.Elapsed() - closed; took < remembered || took > remembered+time.Second {
					t.Errorf("the flow was remembered for %v after its end, not %v", took, remembered)
				}
				wantEmpty(t, s)
				wantDrops(t, s.Network, nil)
				if rsts := s.Trace.At(proxytest.ToClient, isRst); len(rsts) > 0 {
					t.Errorf("the client got a reset: %v", &rsts[0])
				}
			})
		})
	}
}

// The last ACK of a closed connection is lost: the FIN comes again, and again is answered, through a flow that has ended.
func TestLastAckLost(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		for _, test := range []struct {
			name string
			// fin is where the second FIN enters levee, lost where its ACK leaves it.
			fin, lost proxytest.Hop
		}{
			{"client's", proxytest.FromServer, proxytest.ToServer},
			{"server's", proxytest.FromClient, proxytest.ToClient},
		} {
			t.Run(test.name, func(t *testing.T) {
				s := openSession(t, v)
				s.exchange()
				first, second := s.client, s.server
				if test.fin == proxytest.FromClient {
					first, second = s.server, s.client
				}
				first.CloseWrite()
				s.Until("end of stream", soon, second.EOF)
				second.CloseWrite()
				fins := func() []proxytest.Record {
					return s.Trace.At(test.fin, func(r *proxytest.Record) bool { return r.TCP.Flags.Contains(fin) })
				}
				s.Until("second FIN", soon, func() bool { return len(fins()) == 1 })
				end := fins()[0].TCP.End()
				s.Hooks[test.lost] = []proxytest.Hook{proxytest.DropFirst(1, func(p *proxytest.Packet) bool { return p.TCP.Ack == end })}
				s.Until("closed", soon, second.Gone)
				if n := len(fins()); n < 2 {
					t.Errorf("%d FINs, no loss", n)
				}
				s.wantState(proxy.StateTimeWait)
			})
		}
	})
}

func TestHalfClose(t *testing.T) {
	forVariants(t, true, func(t *testing.T, v variant) {
		more := data(5, 256<<10)
		t.Run("client closes, server goes on", func(t *testing.T) {
			s := openSession(t, v)
			s.client.Send(data(1, 100))
			s.client.CloseWrite()
			s.Until("end of the request", soon, func() bool { return s.server.EOF() })
			s.server.Send(more)
			s.server.Close()
			s.received("client", s.client, more)
			s.Until("end of the answer", soon, func() bool { return s.client.EOF() })
			s.Advance(20 * time.Millisecond) // the ACK of the FIN
			s.wantState(proxy.StateTimeWait)
		})
		t.Run("server closes, client goes on", func(t *testing.T) {
			s := openSession(t, v)
			s.server.Send(data(1, 100))
			s.server.CloseWrite()
			s.Until("end of the greeting", soon, func() bool { return s.client.EOF() })
			s.client.Send(more)
			s.client.Close()
			s.received("server", s.server, more)
			s.Until("end of the upload", soon, func() bool { return s.server.EOF() })
			s.Advance(20 * time.Millisecond) // the ACK of the FIN
			s.wantState(proxy.StateTimeWait)
		})
	})
}

// A reset by one side reaches the other and ends the flow.
func TestAbort(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		for _, who := range []string{"client", "server"} {
			t.Run(who, func(t *testing.T) {
				s := openSession(t, v)
				s.exchange()
				quitter, other := s.client, s.server
				if who == "server" {
					quitter, other = s.server, s.client
				}
				quitter.Abort()
				s.Until("reset", soon, func() bool { return other.Err() != nil })
				if other.Err() != proxytest.ErrReset {
					t.Errorf("the other side sees %v", other.Err())
				}
				s.wantState(proxy.StateReset)
				s.Advance(remembered + time.Second)
				wantEmpty(t, s)
			})
		}
	})
}

// A thousand clients at once.
func TestManyConnections(t *testing.T) {
	v := variant{timestamps: true}
	cfg := v.config()
	const n = 1000
	cfg.Proxy.Capacity = n
	s := newSession(t, v, cfg)
	request, answer := data(1, 200), data(2, 2000)
	var clients []*proxytest.Conn
	for i := range n {
		c := s.Client.Dial(uint16(10000+i), v.serverAddr())
		c.Send(request)
		clients = append(clients, c)
	}
	served := map[*proxytest.Conn]bool{}
	s.Until("all served", soon, func() bool {
		for _, c := range s.servers {
			if !served[c] && len(c.Received()) == len(request) {
				served[c] = true
				c.Send(answer)
				c.Close()
			}
		}
		return len(served) == n
	})
	s.Until("all answered", soon, func() bool {
		return !slices.ContainsFunc(clients, func(c *proxytest.Conn) bool { return !c.EOF() })
	})
	for i, c := range clients {
		if !slices.Equal(c.Received(), answer) {
			t.Fatalf("client %d has received %d bytes", i, len(c.Received()))
		}
		c.Close()
	}
	s.Until("all closed", soon, func() bool { return s.Proxy.Snapshot().Flows[proxy.StateTimeWait] == n })
	if got := s.service(); got.Opened != n || got.CookieValid != n || got.Flows != 0 {
		t.Errorf("counters are %+v", got)
	}
	wantDrops(t, s.Network, nil)
	s.Advance(remembered + time.Second)
	wantEmpty(t, s)
}
