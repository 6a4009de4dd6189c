package integration

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"levee/integration/lab"
)

// firewall is what careful operators have on a gateway: what connection tracking calls invalid is dropped, on the gateway and through it. What else is
// protected traffic is let pass by the last rules, which want it to be untracked where that is asked for.
func firewall(t *testing.T, gateway *lab.Namespace, rest string) {
	t.Helper()
	run(t, gateway, 10*time.Second, "nft", fmt.Sprintf(`
		table inet firewall {
			counter invalid {}
			chain input { type filter hook input priority 0; ct state invalid counter name invalid drop; }
			chain output { type filter hook output priority 0; ct state invalid counter name invalid drop; }
			chain forward { type filter hook forward priority 0; ct state invalid counter name invalid drop; %s }
		}`, rest))
}

// dropped is how many packets the firewall has called invalid.
func dropped(t *testing.T, gateway *lab.Namespace) int {
	t.Helper()
	words := strings.Fields(run(t, gateway, 10*time.Second, "nft", "list counter inet firewall invalid"))
	for i, w := range words {
		if w == "packets" {
			n, err := strconv.Atoi(words[i+1])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no counter: %v", words)
	return 0
}

// TestConntrack: on a gateway that tracks connections and drops what is invalid, everything still works, because protected traffic is exempt: bulk both
// ways, also across narrow places that only ICMP errors tell of, the gateway's own among them. The firewall sees no segment of it as tracked.
func TestConntrack(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		for _, place := range []struct {
			name  string
			lab   lab.Config
			after bool // the gateway's link to the server shrinks when the connection is open
		}{
			{name: "nowhere narrow"},
			{name: "narrow in front of it", lab: lab.Config{ClientHopMTU: narrow}},
			{name: "narrow behind it", lab: lab.Config{ServerHopMTU: narrow}},
			{name: "narrow at the gateway", after: true},
		} {
			t.Run(place.name, func(t *testing.T) {
				p := protectLab(t, place.lab, options{"timestamps": "true"})
				p.capture(t)
				// After the start: levee has to notice.
				firewall(t, p.Gateway, "meta l4proto tcp ct state != untracked counter name invalid drop;")
				p.exempt(t)
				client, server := connect(t, p.client, p.server, v6, 7777)
				if place.after {
					shrink(t, p.server.Link)
				}
				for _, way := range ways(client, server) {
					if _, err := transfer(way.from, way.to, pmtuSize, 30*time.Second); err != nil {
						t.Errorf("%s: %v", way.name, err)
					}
				}
				if place.lab.ClientHopMTU+place.lab.ServerHopMTU > 0 {
					p.told(t)
				}
				if n := dropped(t, p.Gateway); n > 0 {
					t.Errorf("%d packets of it were tracked or invalid", n)
				}
				p.spliced(t, 1)
			})
		}
	})
}

// exempt waits until levee says that protected traffic is exempt.
func (p *protected) exempt(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var s struct {
			TUN struct{ Notrack string }
		}
		p.status(t, &s)
		if s.TUN.Notrack == "exempt" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("levee says %q of connection tracking", s.TUN.Notrack)
		}
	}
}

// documentedFirewall is the ruleset of docs/operations.md for another port.
func documentedFirewall(t *testing.T, port uint16) string {
	t.Helper()
	text, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "```\n  table inet filter {")
	block, _, found := strings.Cut(rest, "```")
	if !found || strings.Count(block, "{ 443 }") != 2 || !strings.Contains(block, " "+lab.ServerPrefix4.String()+" ") || !strings.Contains(block, " "+lab.ServerPrefix6.String()+" ") {
		t.Fatalf("docs/operations.md has no ruleset for the lab's prefixes:\n%s", block)
	}
	return "table inet filter {" + strings.ReplaceAll(block, "{ 443 }", fmt.Sprintf("{ %d }", port))
}

// TestConntrackPolicyDrop: with the forward chain of docs/operations.md, whose policy is to drop, everything works that did before: clients' connections and those
// that a protected server opens, both ways, also across narrow places. What it doesn't accept is dropped.
func TestConntrackPolicyDrop(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		for _, place := range []lab.Config{{}, {ClientHopMTU: narrow}, {ServerHopMTU: narrow}} {
			t.Run(fmt.Sprintf("narrow %d %d", place.ClientHopMTU, place.ServerHopMTU), func(t *testing.T) {
				p := protectLab(t, place, options{"timestamps": "true"})
				run(t, p.Gateway, 10*time.Second, "nft", documentedFirewall(t, 7777))
				p.exempt(t)
				client, server := connect(t, p.client, p.server, v6, 7777)
				from, to := connect(t, p.server, p.client, v6, 9000)
				for _, way := range append(ways(client, server), ways(from, to)...) {
					if _, err := transfer(way.from, way.to, pmtuSize, 30*time.Second); err != nil {
						t.Errorf("%s: %v", way.name, err)
					}
				}
				p.spliced(t, 1)
				l, err := p.server.Listen(p.server.AddrPort(v6, 22), 1)
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if c, err := p.client.DialContext(ctx, "tcp", p.server.AddrPort(v6, 22).String()); err == nil {
					_ = c.Close()
					t.Error("the firewall lets a port pass that it doesn't accept")
				}
			})
		}
	})
}

// TestConntrackNotExempt: with routing.notrack off the same firewall breaks connections, and levee says so beforehand. So the test above shows something. It
// is about half of the connections that break: newer kernels ignore what is left of the window, and call only what is right of it invalid, so it depends on the
// sign of the difference between the two connections' numbers.
func TestConntrackNotExempt(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		p := protectYAML(t, lab.Config{}, "routing: {notrack: off}\n"+config(options{"timestamps": "true"}))
		firewall(t, p.Gateway, "")
		broken := false
		for port := uint16(7000); port < 7040 && !broken; port++ {
			client, server := connect(t, p.client, p.server, v6, port)
			_, err := transfer(client, server, pmtuSize, 3*time.Second)
			broken = err != nil && dropped(t, p.Gateway) > 0
		}
		if !broken {
			t.Error("10 MiB arrived on each of 40 connections although they are tracked with two sets of numbers, or nothing was invalid")
		}
		var s struct {
			TUN struct{ Notrack string }
		}
		p.status(t, &s)
		if s.TUN.Notrack != "tracked" {
			t.Errorf("status says %q", s.TUN.Notrack)
		}
		var out strings.Builder
		check := p.levee.Command(t.Context(), "check")
		check.Stdout = &out
		if err := check.Run(); err != nil {
			t.Errorf("check: %v\n%s", err, out.String())
		}
		said := strings.Join(strings.Fields(out.String()), " ")
		for _, want := range []string{
			"connections are tracked and routing.notrack is off: rules that drop ct state invalid break proxied connections",
			"set routing.notrack to auto",
		} {
			if !strings.Contains(said, want) {
				t.Errorf("check doesn't say %q:\n%s", want, out.String())
			}
		}
	})
}

// TestConntrackFlushed: a firewall that is loaded anew with flush ruleset, as nftables.service does it, takes the exemption away too. levee puts it back; what is
// sent meanwhile arrives, and afterwards nothing is invalid again.
func TestConntrackFlushed(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		p := protect(t, options{"timestamps": "true"})
		firewall(t, p.Gateway, "")
		p.exempt(t)
		client, server := connect(t, p.client, p.server, v6, 7777)
		repaired := func() uint64 {
			status, err := p.levee.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return status.Kernel.Repairs["notrack"]
		}
		for range 3 {
			before := repaired()
			run(t, p.Gateway, 10*time.Second, "nft", "flush ruleset")
			firewall(t, p.Gateway, "")
			for _, way := range ways(client, server) {
				if _, err := transfer(way.from, way.to, pmtuSize, 60*time.Second); err != nil {
					t.Fatalf("%s, right after the flush: %v", way.name, err)
				}
			}
			p.exempt(t)
			for deadline := time.Now().Add(10 * time.Second); repaired() == before; time.Sleep(20 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the repair is not counted")
				}
			}
		}
		was := dropped(t, p.Gateway)
		again, peer := connect(t, p.client, p.server, v6, 7778)
		for _, way := range append(ways(client, server), ways(again, peer)...) {
			if _, err := transfer(way.from, way.to, pmtuSize, 30*time.Second); err != nil {
				t.Errorf("%s: %v", way.name, err)
			}
		}
		if n := dropped(t, p.Gateway); n != was {
			t.Errorf("%d packets were invalid after the repair", n-was)
		}
		p.spliced(t, 2)
	})
}

// TestConntrackOthers: connections that are not levee's are tracked and translated as without it: a masquerade of clients toward others, a connection of the
// gateway's own to a protected server, and the answers to both.
func TestConntrackOthers(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		p := protectLab(t, lab.Config{Attacker: true}, options{"timestamps": "true"})
		firewall(t, p.Gateway, "")
		out := p.Attacker.Link.Gateway.Name
		run(t, p.Gateway, 10*time.Second, "nft", fmt.Sprintf(`table inet nat {
			chain postrouting { type nat hook postrouting priority 100; oifname %q masquerade; }
			chain input { type filter hook input priority 10; policy drop; ct state established,related accept; iifname lo accept; meta l4proto ipv6-icmp accept; }
		}`, out))
		p.exempt(t)
		if got, want := seenFrom(t, p.client.Namespace, p.Attacker, v6), p.Attacker.Link.Gateway.Addr(v6); got != want {
			t.Errorf("a client behind the masquerade is seen as %v, want %v", got, want)
		}
		if got, want := seenFrom(t, p.Gateway, p.server, v6), p.server.Link.Gateway.Addr(v6); got != want {
			t.Errorf("the gateway is seen as %v, want %v", got, want)
		}
	})
}

// seenFrom connects to a host, has 64 KiB sent back, and returns whom the host sees.
func seenFrom(t *testing.T, from *lab.Namespace, to *lab.Host, v6 bool) netip.Addr {
	t.Helper()
	addr := to.AddrPort(v6, 7070)
	l, err := to.Listen(addr, 8)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const size = 64 << 10
	peer := make(chan netip.Addr, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.CopyN(c, lab.Pattern(), size)
		peer <- c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := from.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		t.Fatalf("connect from %s: %v", from.Name, err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if n, err := io.Copy(io.Discard, c); err != nil || n != size {
		t.Fatalf("%d bytes from %v (%v), want %d", n, addr, err, size)
	}
	return <-peer
}

// TestConntrackTableNotFilled: a flood leaves nothing in the kernel's table.
func TestConntrackTableNotFilled(t *testing.T) {
	p := protectLab(t, lab.Config{Attacker: true}, options{"timestamps": "true"})
	firewall(t, p.Gateway, "")
	p.exempt(t)
	flood, err := p.Attacker.Link.StartFlood(t.Context(), lab.FloodConfig{
		Target: p.server.AddrPort(false, 7777), Rate: 5000, Count: 5000, Duration: 5 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	sent, err := flood.Wait()
	if err != nil || sent.Sent < 4000 {
		t.Fatalf("the flood: %+v, %v", sent, err)
	}
	text, err := p.Gateway.Sysctl("net.netfilter.nf_conntrack_count")
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := strconv.Atoi(text); n > 10 {
		t.Errorf("%d connections are tracked", n)
	}
}
