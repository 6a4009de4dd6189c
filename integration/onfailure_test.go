package integration

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"levee/integration/lab"
)

// gap is how long there is no daemon.
const gap = 10 * time.Second

// TestOnFailure kills the daemon and starts no other for a while: what connections from before, from meanwhile and after see, by
// routing.on_failure. The table in docs/restarts.md is its log.
func TestOnFailure(t *testing.T) {
	for _, tt := range []struct {
		posture, grace string
		// reached says that new connections get through meanwhile, kept that these go on when levee is back.
		reached, kept bool
	}{
		{"block", "2m", false, false},
		{"bypass", "2m", true, true},
		{"bypass", "0s", true, false},
	} {
		t.Run(tt.posture+" grace "+tt.grace, func(t *testing.T) {
			t.Parallel()
			yaml := strings.NewReplacer(
				"grace: 0s", "grace: "+tt.grace,
				"services:", "routing: {on_failure: "+tt.posture+"}\nservices:",
				"mode: always", "mode: always\n    ports: [80]",
			).Replace(config(nil))
			yaml += fmt.Sprintf("  - {name: direct, prefixes: [%s], ports: [81], mode: off}\n", lab.ServerPrefix4)
			p := protectYAML(t, lab.Config{}, yaml)
			spliced, direct := p.server.AddrPort(false, 80), p.server.AddrPort(false, 81)
			for _, addr := range []netip.AddrPort{spliced, direct} {
				startEcho(t, p.server, addr)
				listening(t, p.server.Namespace, addr)
			}
			dial := func(addr netip.AddrPort, patience time.Duration) (net.Conn, error) {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				return p.client.DialContext(ctx, "tcp", addr.String())
			}
			open := func(addr netip.AddrPort) net.Conn {
				c, err := dial(addr, patience)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = c.Close() })
				if _, err := exchange(c, []byte("before"), make([]byte, 6)); err != nil {
					t.Fatal(err)
				}
				return c
			}
			busy, idle, passed := open(spliced), open(spliced), open(direct)
			p.spliced(t, 2)
			if err := p.levee.Kill(); err != nil {
				t.Fatal(err)
			}
			killed := time.Now()
			var done sync.WaitGroup
			use := func(what string, c net.Conn) {
				done.Go(func() {
					took, err := exchange(c, []byte("meanwhile"), make([]byte, 9))
					t.Logf("%s, used meanwhile: answered after %v, error %v", what, took.Round(100*time.Millisecond), err)
					if err != nil {
						t.Errorf("%s is lost: %v", what, err)
					}
				})
			}
			use("a proxied connection", busy)
			use("a direct connection", passed)
			begin := time.Now()
			meanwhile, err := dial(spliced, gap/2)
			if (err == nil) != tt.reached {
				t.Errorf("a new connection meanwhile: %v", err)
			}
			if err == nil {
				defer meanwhile.Close()
				_, err = exchange(meanwhile, []byte("new"), make([]byte, 3))
			}
			t.Logf("a new connection meanwhile: after %v, error %v", time.Since(begin).Round(100*time.Millisecond), err)
			done.Go(func() { // begins while levee is down, and waits
				begin := time.Now()
				c, err := dial(spliced, patience)
				if err != nil {
					t.Errorf("a connection that began meanwhile: %v", err)
					return
				}
				defer c.Close()
				t.Logf("a patient new connection: open after %v", time.Since(begin).Round(100*time.Millisecond))
			})
			time.Sleep(time.Until(killed.Add(gap)))
			if err := p.levee.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			done.Wait()
			if _, err := exchange(idle, []byte("after"), make([]byte, 5)); err != nil {
				t.Errorf("the idle connection is lost: %v", err)
			}
			if meanwhile == nil {
				return
			}
			_ = meanwhile.SetDeadline(time.Now().Add(2 * time.Second))
			_, err = meanwhile.Write([]byte("after"))
			if err == nil {
				_, err = io.ReadFull(meanwhile, make([]byte, 5))
			}
			t.Logf("opened meanwhile, used after levee's return: error %v", err)
			if (err == nil) != tt.kept {
				t.Errorf("a connection from meanwhile after levee's return: %v", err)
			}
		})
	}
}

// TestOnFailureTUNGone deletes the TUN too, which has its route disappear: on_failure holds all the same.
func TestOnFailureTUNGone(t *testing.T) {
	for _, tt := range []struct {
		posture string
		reached bool
	}{{"block", false}, {"bypass", true}} {
		t.Run(tt.posture, func(t *testing.T) {
			yaml := strings.Replace(config(nil), "services:", "routing: {on_failure: "+tt.posture+"}\nservices:", 1)
			p := protectYAML(t, lab.Config{}, yaml)
			addrs := []netip.AddrPort{p.server.AddrPort(false, 80), p.server.AddrPort(true, 80)}
			var old []net.Conn
			for _, addr := range addrs {
				startEcho(t, p.server, addr)
				listening(t, p.server.Namespace, addr)
				c, err := p.client.DialContext(t.Context(), "tcp", addr.String())
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				old = append(old, c)
			}
			if err := p.levee.Kill(); err != nil {
				t.Fatal(err)
			}
			run(t, p.Gateway, patience, "ip", "link", "del", "levee0")
			for _, addr := range addrs {
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				c, err := p.client.DialContext(ctx, "tcp", addr.String())
				cancel()
				if err == nil {
					c.Close()
				}
				if (err == nil) != tt.reached {
					t.Errorf("%v without levee and its TUN: %v", addr, err)
				}
			}
			if err := p.levee.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, c := range old {
				if _, err := exchange(c, []byte("after"), make([]byte, 5)); err != nil {
					t.Errorf("an open connection to %v is lost: %v", c.RemoteAddr(), err)
				}
			}
		})
	}
}
