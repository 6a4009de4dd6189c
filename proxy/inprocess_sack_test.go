package proxy_test

import (
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/proxy/proxytest"
)

// A lost segment is reported by SACK blocks in the numbers of whoever sent it, and repeated without a time-out.
func TestSACK(t *testing.T) {
	forVariants(t, true, func(t *testing.T, v variant) {
		for _, test := range []struct {
			name string
			lost proxytest.Hop
			// sent and reported are where the sender's data and the receiver's ACKs are seen next to their own host,
			// read where the ACKs are seen next to the sender's.
			sent, reported, read proxytest.Hop
			upload               bool
		}{
			{"upload", proxytest.ToServer, proxytest.FromClient, proxytest.FromServer, proxytest.ToClient, true},
			{"download", proxytest.ToClient, proxytest.FromServer, proxytest.FromClient, proxytest.ToServer, false},
		} {
			t.Run(test.name, func(t *testing.T) {
				s := openSession(t, v)
				s.Hooks[test.lost] = []proxytest.Hook{loseOne(60_000)}
				stream := data(1, 400<<10)
				from, to, host := s.server, s.client, s.Server
				if test.upload {
					from, to, host = s.client, s.server, s.Client
				}
				from.Send(stream)
				s.received("receiver", to, stream)
				s.Advance(50 * time.Millisecond)

				delta := seqnum.Value(s.flow().Delta)
				if test.upload {
					delta = 0
				}
				checkSACK(t, s, test.sent, test.reported, test.read, delta)
				if n := host.Stats().TCP.Timeouts.Value(); n != 0 {
					t.Errorf("the sender had %d time-outs", n)
				}
				if host.Stats().TCP.SACKRecovery.Value() == 0 && host.Stats().TCP.FastRecovery.Value() == 0 {
					t.Error("the sender did not recover from a loss")
				}
			})
		}
	})
}

// loseOne drops one segment, the first that carries new data after so many bytes.
func loseOne(after int) proxytest.Hook {
	var highest seqnum.Value
	return func(p *proxytest.Packet) proxytest.Fate {
		end := p.TCP.End()
		if after < 0 || p.TCP.PayloadLen == 0 || end.LessThanEq(highest) && highest != 0 {
			return proxytest.Fate{}
		}
		highest = end
		after -= p.TCP.PayloadLen
		return proxytest.Fate{Drop: after < 0}
	}
}

// checkSACK compares the SACK blocks that a receiver writes with those that the sender reads, which must be delta less,
// and with what the sender has sent.
func checkSACK(t *testing.T, s *session, sent, reported, read proxytest.Hop, delta seqnum.Value) {
	t.Helper()
	edges := map[seqnum.Value]bool{}
	for _, r := range s.Trace.At(sent, nil) {
		p := r.TCP
		edges[p.Seq], edges[p.End()] = true, true
		for at := int(r.GSO); r.GSO > 0 && at < p.PayloadLen; at += int(r.GSO) { // where a superpacket is cut
			edges[p.Seq.Add(seqnum.Size(at))] = true
		}
	}
	withSACK := func(r *proxytest.Record) bool { return len(r.SACK) > 0 }
	in, out := s.Trace.At(reported, withSACK), s.Trace.At(read, withSACK)
	if len(in) == 0 || len(in) != len(out) {
		t.Fatalf("%d ACKs with SACK blocks in, %d out", len(in), len(out))
	}
	for i := range in {
		if len(in[i].SACK) != len(out[i].SACK) {
			t.Fatalf("not the same blocks:\n%v\n%v", &in[i], &out[i])
		}
		for j, block := range out[i].SACK {
			if block.Start != in[i].SACK[j].Start-delta || block.End != in[i].SACK[j].End-delta {
				t.Errorf("not translated by %d:\n%v\n%v", uint32(delta), &in[i], &out[i])
			}
			if !edges[block.Start] || !edges[block.End] {
				t.Errorf("no segment of the sender has this edge: %v", &out[i])
			}
		}
	}
}

// Without SACK on one side there is none on the other.
func TestNoSACK(t *testing.T) {
	for _, who := range []string{"client", "server", "promise"} {
		t.Run(who, func(t *testing.T) {
			v := variant{timestamps: true}
			cfg := v.config()
			switch who {
			case "client":
				cfg.Client.NoSACK = true
			case "server":
				cfg.Server.NoSACK = true
			case "promise":
				cfg.Proxy.Services[0].Options.SACK = false
			}
			cfg.Hooks[proxytest.ToServer] = []proxytest.Hook{loseOne(30_000)}
			s := newSession(t, v, cfg)
			s.open()
			stream := data(1, 100<<10)
			s.client.Send(stream)
			s.received("server", s.server, stream)
			if r := s.Trace.At(proxytest.FromServer, func(r *proxytest.Record) bool { return len(r.SACK) > 0 }); len(r) > 0 {
				t.Errorf("the server sends SACK blocks: %v", &r[0])
			}
		})
	}
}
