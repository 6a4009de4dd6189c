package proxy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"levee/proxy/cookie"
	"levee/proxy/flood"
	"levee/proxy/servers"
	"levee/stack"
)

// TestExplainIsTrue explains SYNs between random ends, of services of every kind and servers in every state, and then sends them: what
// becomes of each, and what the SYN-ACK tells the client, is what was said.
func TestExplainIsTrue(t *testing.T) {
	r := newRig(t, DefaultOptions())
	cfg := r.proxy.cfg
	cfg.Replies = Replies{PerNetwork: MaxReplyRate}
	cfg.Secret, cfg.EarlyPool, cfg.Services = cookie.Secret{1}, 1<<16, nil
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 24 {
		for _, prefix := range []string{"192.0.2.%d/32", "2001:db8:1::%x/128"} {
			s := Service{
				Name: fmt.Sprintf("service-%d-%d", i, len(cfg.Services)), Prefixes: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf(prefix, i))},
				Mode: ModeAlways, ClosedPorts: ClosedPorts(i % 3), EarlyData: 1000 * (i % 4), BypassRate: 1,
				Options: Options{WScale: uint8(i % 15), SACK: i%2 == 0, Timestamps: i%3 == 0, ECN: i%5 == 0, Learn: servers.Features(random.IntN(int(servers.All) + 1))},
			}
			switch {
			case i%7 == 6:
				s.Mode = ModeOff
			case i%7 == 5:
				s.Mode = ModeAuto + Mode(i%2)
				s.Engage = flood.Limits{HalfOpen: 1 + i%5, SYNRate: 1000, Hold: flood.DefaultHold} // some are engaged by the first SYN, others never
				s.Deny = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/29"), netip.MustParsePrefix("2001:db8:2::/125")}
			case i%8 == 2:
				s.Allow = []netip.Prefix{netip.MustParsePrefix("198.51.100.8/29"), netip.MustParsePrefix("2001:db8:2::8/125")}
				s.Deny = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:2::/64")}
			case i%8 == 4:
				s.Verified = Verified{TTL: time.Hour, Rate: 1000}
			}
			if i%4 == 3 {
				s.Ports = []PortRange{{80, 80}}
			}
			cfg.Services = append(cfg.Services, s)
		}
	}
	cfg.Servers = servers.New(servers.Config{Capacity: 1000, WScale: 7, ClosedFor: servers.DefaultClosedFor})
	for i := range 24 {
		for _, server := range []string{fmt.Sprintf("192.0.2.%d", i), fmt.Sprintf("2001:db8:1::%x", i)} {
			k := servers.Key{Addr: stack.AddrFrom(netip.MustParseAddr(server)), Port: 80}
			switch (i / 3) % 4 {
			case 0:
				cfg.Servers.Answered(&k, r.now.Unix(), &servers.Answer{Asked: servers.All, Does: servers.Features(random.IntN(int(servers.All) + 1)), MSS: uint16(600 + random.IntN(900)), WScale: 9, Window: 1000}, servers.Probe)
			case 1:
				cfg.Servers.Refused(&k, r.now.Unix(), servers.Closed)
			case 2:
				cfg.Servers.Refused(&k, r.now.Unix(), servers.Silent)
			}
		}
	}
	var err error
	if r.proxy, err = New(cfg, r.now); err != nil {
		t.Fatal(err)
	}
	r.worker = r.proxy.NewWorker(r.link)
	for i := range 24 {
		svc := r.proxy.policy.Load().services[2*i]
		known := stack.AddrFrom(netip.MustParseAddr("198.51.100.3"))
		r.proxy.verified.prove(sourceOf(&known, svc), 0)
	}
	o := look(t, r.proxy, Interest{})
	address := func(v6 bool) netip.Addr {
		inside, outside := "192.0.2.%d", "198.51.100.%d"
		if v6 {
			inside, outside = "2001:db8:1::%x", "2001:db8:2::%x"
		}
		if random.IntN(3) == 0 {
			inside = outside
		}
		if random.IntN(30) == 0 && !v6 {
			inside = "127.0.0.%d"
		}
		return netip.MustParseAddr(fmt.Sprintf(inside, random.IntN(24)))
	}
	seen := map[string]int{}
	for range 5000 {
		v6 := random.IntN(2) == 0
		client := netip.AddrPortFrom(address(v6), uint16(79+random.IntN(3)))
		server := netip.AddrPortFrom(address(v6), uint16(79+random.IntN(3)))
		before := r.proxy.Snapshot()
		e := r.proxy.Explain(r.now, client, server)
		if after := r.proxy.Snapshot(); fmt.Sprint(before) != fmt.Sprint(after) {
			t.Fatal("explaining changes something")
		}
		syn := stack.Segment{
			Src: stack.AddrFrom(client.Addr()), Dst: stack.AddrFrom(server.Addr()), SrcPort: client.Port(), DstPort: server.Port(),
			Seq: 1, Flags: flagSYN | flagECE | flagCWR, Window: 65535, MSS: 65535, WScale: 14, SACKPermitted: true, Timestamps: true, TSVal: 1,
		}
		o.Read(nil)
		sent := r.sentFor(syn.Build(make([]byte, stack.MaxBuilt)))
		d := o.Read(nil)[0]
		if e.Watched && !e.DestinationEngaged {
			if next := r.proxy.Explain(r.now, client, server); next.DestinationEngaged {
				e = next // it was this SYN that engaged it
			}
		}
		said, done := Decision{Verdict: e.Verdict, Drop: e.Drop, Pass: e.Pass}, d
		what := fmt.Sprintf("%v %s", done.Verdict, done.Reason())
		seen[what]++
		if said.Verdict != done.Verdict || said.Reason() != done.Reason() {
			t.Fatalf("%v to %v: %v %s, not as was said: %+v", client, server, done.Verdict, done.Reason(), e)
		}
		if e.Verdict != VerdictAnswer {
			continue
		}
		a := sent[0]
		if a.Options.MSS != e.Promise.MSS || a.Options.WScale != e.Promise.WScale || a.Options.SACKPermitted != e.Promise.SACK ||
			a.Options.Timestamps != e.Promise.Timestamps || a.Flags.Contains(flagECE) != (e.Promise.ECN && e.Promise.Timestamps) || a.Window != e.Window {
			t.Fatalf("%v to %v: %+v, not as was said: %+v", client, server, a, e)
		}
	}
	for _, what := range []string{"answer ", "refuse ", "forward ", "drop closed", "drop silent", "drop land", "pass mode_off", "pass no_service",
		"drop denied", "drop no_source", "pass allowed", "pass verified", "pass handshake"} {
		if seen[what] == 0 {
			t.Errorf("no %q among %v", what, seen)
		}
	}
}

// TestExplainReplies: what is left for a client's network, and for new neighbours, goes down with each SYN; and when nothing is left that is what a SYN meets.
func TestExplainReplies(t *testing.T) {
	for _, tt := range []struct {
		name, client, network string
		limits                Replies
		neighbour             bool
		drop                  DropReason
	}{
		{"network", "198.51.100.%d", "198.51.100.0/24", Replies{PerNetwork: 10, Neighbours: 5}, false, DropReplyBudget},
		{"network of IPv6", "2001:db8:2:107::%d", "2001:db8:2:100::/56", Replies{PerNetwork: 10, Neighbours: 5}, false, DropReplyBudget},
		{"neighbours", "198.51.100.%d", "198.51.100.0/24", Replies{PerNetwork: 10, Neighbours: 5}, true, DropNeighbours},
	} {
		r := newSourceRig(t, func(c *Config) {
			c.Replies = tt.limits
			if tt.neighbour {
				c.Neighbours = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
			}
		})
		for i := range 12 {
			h := r.host(fmt.Sprintf(tt.client, i+1))
			server := netip.AddrPortFrom(h.server().Netip(), 80)
			e := r.proxy.Explain(r.now, netip.AddrPortFrom(h.addr, h.port), server)
			most := tt.limits.PerNetwork
			if tt.neighbour {
				most = tt.limits.Neighbours
			}
			want := RepliesLeft{
				Network: netip.MustParsePrefix(tt.network), ToNetwork: tt.limits.PerNetwork - min(i, most), PerNetwork: tt.limits.PerNetwork,
				NewNeighbour: tt.neighbour, ToNeighbours: tt.limits.Neighbours, Neighbours: tt.limits.Neighbours,
			}
			if tt.neighbour {
				want.ToNeighbours -= min(i, most)
			}
			if e.Replies != want {
				t.Errorf("%s: %+v before SYN %d, want %+v", tt.name, e.Replies, i+1, want)
			}
			if said := e.Verdict == VerdictDrop && e.Drop == tt.drop; said != (i >= most) {
				t.Errorf("%s: %v %v before SYN %d", tt.name, e.Verdict, e.Drop, i+1)
			}
			if _, answered := h.syn(); answered != (e.Verdict == VerdictAnswer) {
				t.Errorf("%s: SYN %d is answered: %v, not as was said", tt.name, i+1, answered)
			}
			if e := r.proxy.Explain(r.now, netip.AddrPortFrom(h.addr, h.port), server); tt.neighbour && e.Replies.NewNeighbour != (i >= most) {
				t.Errorf("%s: one that was answered is new: %+v", tt.name, e.Replies)
			}
		}
	}
}

// TestExplainFlow finds the record of a connection from either end.
func TestExplainFlow(t *testing.T) {
	r := newRig(t, DefaultOptions())
	r.open()
	client, server := netip.MustParseAddrPort("198.51.100.7:40000"), netip.MustParseAddrPort("192.0.2.1:80")
	e := r.proxy.Explain(r.now, client, server)
	if !e.Recorded || e.Flow.Client != client || e.Flow.State != StateOpen || e.Service != "web" || e.Verdict != VerdictAnswer {
		t.Errorf("%+v", e)
	}
	e = r.proxy.Explain(r.now, server, client) // a server doesn't open what it has accepted
	if !e.Recorded || e.Flow.Client != client || e.Service != "" || e.ClientService != "web" || e.Verdict != VerdictDrop || e.Drop != DropBadAck {
		t.Errorf("%+v", e)
	}
	if e := r.proxy.Explain(r.now, netip.MustParseAddrPort("198.51.100.7:40001"), server); e.Recorded {
		t.Errorf("%+v", e)
	}
}
