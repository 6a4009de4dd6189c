package proxy_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"levee/proxy"
)

// kill ends the flow between two ends while the network runs.
func (s *session) kill(a, b netip.AddrPort) bool {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	type result struct {
		killed bool
		err    error
	}
	done := make(chan result, 1)
	go func() {
		killed, err := s.Proxy.Kill(ctx, a, b)
		done <- result{killed, err}
	}()
	for s.Proxy.KillsWaiting() == 0 {
		time.Sleep(time.Millisecond) // the network's clock stands still until then
	}
	s.Advance(time.Second) // a worker comes by, and the resets arrive
	r := <-done
	if r.err != nil {
		s.t.Fatal(r.err)
	}
	return r.killed
}

// Both hosts of a killed flow see a reset at once, whatever they were doing, and nothing of it is left but the memory.
func TestKill(t *testing.T) {
	for name, busy := range map[string]func(s *session){
		"idle": func(*session) {},
		"used": func(s *session) { s.exchange() },
		"data under way both ways": func(s *session) {
			s.exchange()
			s.client.Send(make([]byte, 1<<20))
			s.server.Send(make([]byte, 1<<20))
			s.Advance(15 * time.Millisecond)
		},
		"half closed": func(s *session) {
			s.exchange()
			s.client.CloseWrite()
			s.Advance(time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			forVariants(t, true, func(t *testing.T, v variant) {
				s := newSession(t, v, v.config())
				s.open()
				busy(s)
				if !s.kill(v.clientAddr(), v.serverAddr()) {
					t.Fatal("there was no flow to kill")
				}
				if !s.client.Gone() || !s.server.Gone() {
					t.Errorf("the client is in %s, the server in %s", s.client.State(), s.server.State())
				}
				s.wantState(proxy.StateReset)
				if s.kill(v.clientAddr(), v.serverAddr()) {
					t.Error("killed twice")
				}
			})
		})
	}
}

// A flow whose server has not answered is killed at the client; the server's answer, when it comes, gets a reset.
func TestKillOpening(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		s, c, r := rawPair(t, v, v.config(), nil)
		c.Take()
		if f := s.flow(); !s.kill(f.Server, f.Client) { // named the other way round
			t.Fatal("there was no flow to kill")
		}
		if got := c.Take(); len(got) != 1 || !got[0].Has(rst) {
			t.Errorf("the client gets %v", got)
		}
		r.Take()
		a := r.segment(synAck)
		r.Send(&a, nil)
		s.Advance(time.Second)
		if got := r.Take(); len(got) != 1 || !got[0].Has(rst) || got[0].TCP.Seq != a.Ack {
			t.Errorf("the server gets %v", got)
		}
	})
}

// Kill of nothing changes nothing, and one that nobody carries out ends with its context.
func TestKillNothing(t *testing.T) {
	v := variant{}
	s := newSession(t, v, v.config())
	if s.kill(v.clientAddr(), v.serverAddr()) {
		t.Error("killed what isn't there")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if killed, err := s.Proxy.Kill(ctx, v.clientAddr(), v.serverAddr()); killed || !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v", killed, err)
	}
}
