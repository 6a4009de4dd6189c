package proxy_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"levee/proxy"
	"levee/proxy/proxytest"
)

// Several connections in a row from one client port, over wires that lose, double, overtake and corrupt at random. They end in
// different ways, some by a reset in the middle. What arrives is what was sent, both hosts learn of every end, and
// nothing stays behind. A failure names its seed.
func TestRandomImpairments(t *testing.T) {
	const seeds = 40
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			v := variant{v6: r.IntN(2) == 0, timestamps: r.IntN(2) == 0, gso: r.IntN(2) == 0}
			s := newSession(t, v, randomConfig(seed, r, v))
			for range 4 {
				randomConnection(s, r)
			}
			s.Advance(idle + soon)
			wantEmpty(t, s)
			wantHeld(t, s.Network, 0)
		})
	}
}

// idle is a shorter time-out than usual: the test need not wait long until all is forgotten.
const idle = proxy.DefaultTransitoryTimeout

// mostLate bounds how long a packet is held up.
const mostLate = 100 * time.Millisecond

func randomConfig(seed uint64, r *rand.Rand, v variant) proxytest.Config {
	cfg := v.config()
	cfg.Seed = seed
	cfg.Workers = 1 + r.IntN(2)
	cfg.Proxy.IdleTimeout = idle
	cfg.Proxy.Services[0].Options.WScale = uint8(r.IntN(15))
	cfg.Client.ReceiveBuffer = proxytest.ReceiveBufferFor(r.IntN(10))
	cfg.Server.ReceiveBuffer = proxytest.ReceiveBufferFor(r.IntN(10))
	cfg.Client.TimeWait = time.Millisecond
	cfg.ClientLatency = time.Duration(1+r.IntN(30)) * time.Millisecond
	cfg.ServerLatency = time.Duration(1+r.IntN(10)) * time.Millisecond
	lost := r.IntN(80)
	late := lost + 30
	doubled := late + 20
	corrupted := doubled + 20
	// Only before levee or only behind it: two wrong bits in one packet can make the checksum right.
	before := r.IntN(2) == 0
	cfg.Hostile = true
	for hop := range cfg.Hooks {
		corrupts := before == (proxytest.Hop(hop) == proxytest.FromClient || proxytest.Hop(hop) == proxytest.FromServer)
		cfg.Hooks[hop] = []proxytest.Hook{func(p *proxytest.Packet) proxytest.Fate {
			switch n := r.IntN(1000); {
			case n < lost:
				return proxytest.Drop
			case n < late:
				return proxytest.Fate{Delay: time.Duration(r.Int64N(int64(mostLate)))}
			case n < doubled:
				return proxytest.Fate{Copies: 1 + r.IntN(2)}
			case n < corrupted && corrupts && !p.TCP.Partial: // one bit, which no checksum can miss
				segment := p.TCP.IP[p.TCP.L4:]
				segment[r.IntN(len(segment))] ^= 1 << r.IntN(8)
			}
			return proxytest.Fate{}
		}}
	}
	return cfg
}

// randomConnection opens a connection, sends some data both ways and ends it.
func randomConnection(s *session, r *rand.Rand) {
	s.t.Helper()
	const patience = 10 * time.Minute
	before := len(s.servers)
	up, down := data(r.Uint64(), r.IntN(30_000)), data(r.Uint64(), 1+r.IntN(30_000))
	s.dial()
	s.client.KeepAlive(5 * time.Second)
	s.Until("accepted", patience, func() bool { return len(s.servers) > before || s.client.Err() != nil })
	if s.client.Err() != nil {
		return // too much was lost
	}
	client, server := s.client, s.server
	client.Send(up)
	server.Send(down)

	if r.IntN(2) == 0 {
		// Each lasts longer than any packet is late: levee knows late segments of the connection before, not of one before that.
		s.Advance(mostLate + time.Duration(r.IntN(300))*time.Millisecond)
		if r.IntN(2) == 0 {
			client.Abort()
		} else {
			server.Abort()
			s.Until("reset at the client", patience, func() bool { return client.Err() != nil })
		}
		if r.IntN(2) == 0 { // the next connection otherwise comes at once
			s.Advance(time.Duration(r.IntN(3000)) * time.Millisecond)
		}
		return
	}
	s.Until("all received", patience, func() bool {
		return len(server.Received()) >= len(up) && len(client.Received()) >= len(down) || server.Err() != nil || client.Err() != nil
	})
	if !bytes.Equal(server.Received(), up) || !bytes.Equal(client.Received(), down) {
		s.t.Fatalf("the server has %d of %d bytes and error %v, the client %d of %d and %v",
			len(server.Received()), len(up), server.Err(), len(client.Received()), len(down), client.Err())
	}
	client.CloseWrite()
	server.CloseWrite()
	s.Until("closed", patience, client.Gone)
}
