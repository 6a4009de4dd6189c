package proxy_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/proxy"
	"levee/proxy/proxytest"
	"levee/proxy/servers"
	"levee/stack"
)

// scan connects to ports of the server and says of each what the client sees.
func scan(s *session, c *rawClient, listening func(port uint16) bool, r *proxytest.Peer, ports int) string {
	var seen bytes.Buffer
	for i := range ports {
		port := uint16(1 + i)
		to := netip.AddrPortFrom(s.v.serverAddr().Addr(), port)
		c.port++
		c.Take()
		first := c.Segment(c.port, to, c.isn, 0)
		c.Send(&first, nil)
		s.Advance(15 * time.Millisecond)
		for _, p := range c.Take() {
			switch {
			case p.Is(rst | ack):
				if p.TCP.Seq != 0 || p.TCP.Ack != c.isn+1 || len(p.TCP.IP) > len(proxytest.Frame(&first, nil))-stack.VirtioLen {
					fmt.Fprintf(&seen, "%d: wrong %+v\n", port, p.TCP)
				}
				fmt.Fprintf(&seen, "%d closed\n", port)
			case p.Is(synAck):
				fmt.Fprintf(&seen, "%d open\n", port)
				a := c.Segment(c.port, to, c.isn+1, p.TCP.Seq+1)
				c.Send(&a, nil)
			}
		}
		s.Advance(15 * time.Millisecond)
		for _, p := range r.Take() {
			if !p.Is(syn) {
				continue
			}
			a := profile{mss: 1460, wscale: 7}.answer(&p.TCP, 5000)
			if !listening(port) {
				a = stack.Segment{Src: a.Src, Dst: a.Dst, SrcPort: a.SrcPort, DstPort: a.DstPort, Ack: a.Ack, Flags: rst | ack, WScale: stack.WScaleNone}
			}
			r.Send(&a, nil)
			s.Advance(15 * time.Millisecond)
		}
	}
	return seen.String()
}

// A scan of a thousand ports sees through levee what it sees without, once the ports were tried; and again when they are forgotten.
func TestScan(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		v := variant{v6: v6}
		cfg, _ := learning(v, false)
		cfg.Hostile, cfg.Proxy.Capacity = true, 4096
		// The clock runs while it scans: no refusal is to be forgotten before the second scan has seen it.
		table := servers.New(servers.Config{Capacity: servers.DefaultCapacity, WScale: proxy.DefaultWScale, ClosedFor: 2 * time.Minute})
		cfg.Proxy.Servers = table
		s := &session{Network: proxytest.New(t, cfg), t: t, v: v}
		c, r := newRawClient(s), s.Peer(v.serverAddr().Addr(), true)
		const ports = 1000
		listening := func(port uint16) bool { return port == 22 || port == 80 }
		var want bytes.Buffer
		for port := range uint16(ports) {
			state := "closed"
			if listening(port + 1) {
				state = "open"
			}
			fmt.Fprintf(&want, "%d %s\n", port+1, state)
		}
		scan(s, c, listening, r, ports)
		if got := scan(s, c, listening, r, ports); got != want.String() {
			t.Errorf("the second scan sees\n%s", got)
		}
		if got := s.service(); got.ClosedReset != ports-2 || got.Refused != ports-2 {
			t.Errorf("counters: %+v", got)
		}
		if got := table.Counts(s.Clock.Now().Unix()); got[servers.Alive] != 2 || got[servers.Closed] != ports-2 {
			t.Errorf("table: %v", got)
		}
		// A port that opens is open when the refusal is over.
		s.Advance(2 * time.Minute)
		if got := scan(s, c, func(uint16) bool { return true }, r, 3); got != "1 open\n2 open\n3 open\n" {
			t.Errorf("after a while\n%s", got)
		}
	}
}

// A client that a server's firewall refuses closes its port for nobody else, however often it tries, until a probe is refused too.
func TestOneClientRefused(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		v := variant{v6: v6}
		cfg, table := learning(v, true)
		var asked []servers.Key
		cfg.Proxy.Probe = func(k servers.Key, why servers.Question) {
			if why == servers.WhetherClosed {
				asked = append(asked, k)
			}
		}
		s := &session{Network: proxytest.New(t, cfg), t: t, v: v}
		c, r := newRawClient(s), s.Peer(v.serverAddr().Addr(), true)
		nobody := func(uint16) bool { return false }
		for range 5 {
			if got := scan(s, c, nobody, r, 1); got != "1 open\n" {
				t.Fatalf("after another was refused a client sees %q", got)
			}
		}
		want := servers.Key{Addr: stack.AddrFrom(v.serverAddr().Addr()), Port: 1}
		if len(asked) != 1 || asked[0] != want {
			t.Errorf("asked for are probes of %v", asked)
		}
		table.ProbeFailed(&want, s.Clock.Now().Unix(), servers.Closed)
		if got := scan(s, c, nobody, r, 1); got != "1 closed\n" {
			t.Errorf("after a probe was refused a client sees %q", got)
		}
	}
}

// What the service says about closed ports.
func TestClosedPorts(t *testing.T) {
	for _, test := range []struct {
		choice proxy.ClosedPorts
		state  servers.State
		reply  header.TCPFlags // 0 for none
		drop   proxy.DropReason
	}{
		{proxy.ClosedAccept, servers.Closed, synAck, proxy.NumDropReasons},
		{proxy.ClosedAccept, servers.Silent, synAck, proxy.NumDropReasons},
		{proxy.ClosedReset, servers.Closed, rst | ack, proxy.NumDropReasons},
		{proxy.ClosedReset, servers.Silent, 0, proxy.DropSilent},
		{proxy.ClosedDrop, servers.Closed, 0, proxy.DropClosed},
		{proxy.ClosedDrop, servers.Silent, 0, proxy.DropSilent},
	} {
		t.Run(fmt.Sprint(test.choice, " ", test.state), func(t *testing.T) {
			v := variant{}
			cfg, table := learning(v, false)
			cfg.Proxy.Services[0].ClosedPorts = test.choice
			s := &session{Network: proxytest.New(t, cfg), t: t, v: v}
			c := newRawClient(s)
			k := servers.Key{Addr: stack.AddrFrom(v.serverAddr().Addr()), Port: serverPort}
			table.Refused(&k, s.Clock.Now().Unix(), test.state)
			// Data on the SYN is acknowledged by the reset, as by any host.
			syn := c.Segment(c.port, v.serverAddr(), c.isn, 0)
			c.Send(&syn, []byte("data"))
			s.Advance(20 * time.Millisecond)
			want := []header.TCPFlags{test.reply}
			if test.reply == 0 {
				want = nil
			}
			in := c.Take()
			checkControl(t, "client", in, want)
			if test.reply == rst|ack && (in[0].TCP.Ack != c.isn+5 || in[0].TCP.Seq != 0) {
				t.Errorf("the reset is %+v", in[0].TCP)
			}
			drops := map[proxy.DropReason]uint64{}
			if test.drop != proxy.NumDropReasons {
				drops[test.drop] = 1
			}
			wantDrops(t, s.Network, drops)
		})
	}
}

// A server that answers nothing is silent for the next client, until the entry is too old.
func TestSilentServer(t *testing.T) {
	v := variant{}
	cfg, table := learning(v, false)
	s, c, _ := rawPair(t, v, cfg, nil)
	s.Advance(18 * time.Second)
	s.wantState(proxy.StateReset)
	k := servers.Key{Addr: stack.AddrFrom(v.serverAddr().Addr()), Port: serverPort}
	if got := table.Find(&k, s.Clock.Now().Unix()).State; got != servers.Silent {
		t.Errorf("the server is %v", got)
	}
	c.Take()
	c.port++
	syn := c.Segment(c.port, v.serverAddr(), c.isn, 0)
	c.Send(&syn, nil)
	s.Advance(time.Second)
	checkControl(t, "client", c.Take(), nil)
	s.Advance(10 * time.Second)
	c.connect()
}

// unreachableFor is a router's error about a SYN from a port of the raw client.
func unreachableFor(s *session, port uint16, seq seqnum.Value) []byte {
	addr := raw4
	if s.v.v6 {
		addr = raw6
	}
	p := &proxytest.Peer{Addr: addr}
	quoted := p.Segment(port, s.v.serverAddr(), seq, 0)
	return icmpError(unreachable, 3, proxytest.Frame(&quoted, nil)[stack.VirtioLen:], 40)
}

// Whoever forges refusals changes nothing that is known: neither without a connection that waits for one, nor, with one, without its numbers.
func TestForgedRefusals(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		v := variant{v6: v6}
		cfg, table := learning(v, false)
		cfg.Hostile = true
		s, c, r := rawPair(t, v, cfg, nil)
		server := v.serverAddr()
		k := servers.Key{Addr: stack.AddrFrom(server.Addr()), Port: serverPort}
		before := table.Counts(s.Clock.Now().Unix())
		forge := func(i int, a stack.Segment) {
			a.Ack += seqnum.Value(1 + i*7919)
			r.Send(&a, nil)
			a.Flags = rst
			r.Send(&a, nil)
			a.DstPort += uint16(1 + i)
			a.Flags = rst | ack
			r.Send(&a, nil)
			a.SrcPort = uint16(i + 1)
			r.Send(&a, nil)
			for _, seq := range []seqnum.Value{r.syn.Seq + 1 + seqnum.Value(i), r.syn.Seq - 1 - seqnum.Value(i)} {
				s.Inject(proxytest.FromServer, unreachableFor(s, c.port, seq))
			}
			s.Inject(proxytest.FromServer, unreachableFor(s, c.port+1+uint16(i), r.syn.Seq))
		}
		for i := range 2000 {
			forge(i, r.segment(rst|ack))
			if i%100 == 0 {
				s.Advance(time.Millisecond)
			}
		}
		s.Advance(20 * time.Millisecond)
		if got := table.Counts(s.Clock.Now().Unix()); got != before {
			t.Errorf("the storm changed %v to %v", before, got)
		}
		s.wantState(proxy.StateOpening)
		// The true one counts.
		s.Inject(proxytest.FromServer, unreachableFor(s, c.port, r.syn.Seq))
		s.Advance(20 * time.Millisecond)
		s.wantState(proxy.StateReset)
		if got := table.Find(&k, s.Clock.Now().Unix()).State; got != servers.Closed {
			t.Errorf("after a true error the server is %v", got)
		}
	}
}
