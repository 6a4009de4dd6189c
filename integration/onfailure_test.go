package integration

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"levee/integration/lab"
)

// gap is how long there is no daemon.
const gap = 10 * time.Second

// TestOnFailure kills the daemon and starts no other for a while: what connections from before, from meanwhile and after see, by
// routing.on_failure.
func TestOnFailure(t *testing.T) {
	for _, tt := range []struct {
		posture string
		// reached says that new connections get through meanwhile.
		reached bool
	}{{"block", false}, {"bypass", true}} {
		t.Run(tt.posture, func(t *testing.T) {
			t.Parallel()
			yaml := strings.Replace(config(nil), "services:", "routing: {on_failure: "+tt.posture+"}\nservices:", 1)
			p := protectYAML(t, lab.Config{}, yaml)
			addr := p.server.AddrPort(false, 80)
			startEcho(t, p.server, addr)
			listening(t, p.server.Namespace, addr)
			dial := func(patience time.Duration) (net.Conn, error) {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				return p.client.DialContext(ctx, "tcp", addr.String())
			}
			old := make([]net.Conn, 2) // one that is used meanwhile, and one that isn't
			for i := range old {
				c, err := dial(patience)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if _, err := exchange(c, []byte("before"), make([]byte, 6)); err != nil {
					t.Fatal(err)
				}
				old[i] = c
			}
			p.spliced(t, 2)
			if err := p.levee.Kill(); err != nil {
				t.Fatal(err)
			}
			killed := time.Now()
			used := make(chan string, 1)
			go func() {
				took, err := exchange(old[0], []byte("meanwhile"), make([]byte, 9))
				used <- fmt.Sprintf("answered after %v, error %v", took.Round(100*time.Millisecond), err)
				if err != nil {
					t.Errorf("the open connection is lost: %v", err)
				}
			}()
			begin := time.Now()
			meanwhile, err := dial(gap / 2)
			if (err == nil) != tt.reached {
				t.Errorf("a new connection meanwhile: %v", err)
			}
			reached := "no answer"
			if err == nil {
				defer meanwhile.Close()
				_, err := exchange(meanwhile, []byte("new"), make([]byte, 3))
				reached = fmt.Sprintf("open and answered after %v, error %v", time.Since(begin).Round(time.Millisecond), err)
			}
			waiting := make(chan string, 1)
			go func() { // begins while levee is down, and waits
				begin := time.Now()
				c, err := dial(patience)
				if err != nil {
					waiting <- err.Error()
					t.Errorf("a connection that began meanwhile: %v", err)
					return
				}
				defer c.Close()
				waiting <- fmt.Sprintf("open after %v", time.Since(begin).Round(100*time.Millisecond))
			}()
			time.Sleep(time.Until(killed.Add(gap)))
			if err := p.levee.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			t.Logf("used meanwhile: %s", <-used)
			t.Logf("new meanwhile: %s", reached)
			t.Logf("new meanwhile, patient: %s", <-waiting)
			if _, err := exchange(old[1], []byte("after"), make([]byte, 5)); err != nil {
				t.Errorf("the idle connection is lost: %v", err)
			}
			if meanwhile != nil {
				_ = meanwhile.SetDeadline(time.Now().Add(2 * time.Second))
				_, err := meanwhile.Write([]byte("after"))
				if err == nil {
					_, err = meanwhile.Read(make([]byte, 5))
				}
				t.Logf("opened meanwhile, used after: error %v", err)
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
