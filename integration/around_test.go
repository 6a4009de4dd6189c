package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"levee/integration/lab"
)

// TestWentAround: a connection that was opened around levee, while what leads there was gone, goes on when that is back, long after the
// grace of the start.
func TestWentAround(t *testing.T) {
	const grace = 10 * time.Second
	for _, tt := range []struct{ name, posture, damage string }{
		{"rules flushed", "block", "ip rule flush protocol 108"},
		{"the table flushed", "block", "ip route flush table 7332"},
		{"the TUN deleted", "bypass", "ip link del levee0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			yaml := strings.NewReplacer(
				"grace: 0s", fmt.Sprintf("grace: %v", grace),
				"services:", "routing: {on_failure: "+tt.posture+"}\nservices:",
			).Replace(config(nil))
			p := protectYAML(t, lab.Config{}, yaml)
			addr := p.server.AddrPort(false, 80)
			startEcho(t, p.server, addr)
			listening(t, p.server.Namespace, addr)
			time.Sleep(grace + time.Second) // that of the start is over
			p.signal(t, syscall.SIGSTOP)    // or it would be faster
			run(t, p.Gateway, patience, "sh", "-c", tt.damage)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			c, err := p.client.DialContext(ctx, "tcp", addr.String())
			if err != nil {
				t.Fatalf("around levee: %v", err)
			}
			defer c.Close()
			if _, err := exchange(c, []byte("around"), make([]byte, 6)); err != nil {
				t.Fatalf("around levee: %v", err)
			}
			p.signal(t, syscall.SIGCONT)
			p.until(t, "it is repaired", func(s *lab.Status) bool { return s.Kernel.Repairs["routing"]+s.Kernel.Repairs["tun"] > 0 })
			if _, err := exchange(c, []byte("through"), make([]byte, 7)); err != nil {
				t.Errorf("through levee: %v", err)
			}
			p.until(t, "levee has it", func(s *lab.Status) bool { return s.Flows.Open == 1 })
			time.Sleep(grace + time.Second)
			if _, err := exchange(c, []byte("after the grace"), make([]byte, 15)); err != nil {
				t.Errorf("after the grace: %v", err)
			}
		})
	}
}

// TestACKAroundLevee: a client whose handshake's last packet finds levee's rules flushed is reset: by its server, which knows
// nothing of the connection, and not by levee, which is stopped here.
func TestACKAroundLevee(t *testing.T) {
	// The SYN-ACK is on its way for as long as it takes to flush the rules, and the ACK again.
	p := protectLab(t, lab.Config{ClientDelays: []time.Duration{lab.MaxDelay}}, nil)
	addr := p.server.AddrPort(false, 80)
	startEcho(t, p.server, addr)
	listening(t, p.server.Namespace, addr)
	result := make(chan error, 1)
	go func() {
		c, err := p.client.DialContext(t.Context(), "tcp", addr.String())
		if err == nil {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(patience))
			_, err = c.Read(make([]byte, 1))
		}
		result <- err
	}()
	p.until(t, "levee has answered the SYN", func(s *lab.Status) bool { return s.Services[0].SynReceived > 0 })
	p.signal(t, syscall.SIGSTOP)
	defer p.signal(t, syscall.SIGCONT)
	run(t, p.Gateway, patience, "ip", "rule", "flush", "protocol", "108")
	if err := <-result; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client gets %v, want a reset", err)
	}
}

func (p *protected) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.levee.Process().Signal(s); err != nil {
		t.Fatal(err)
	}
}

// until waits for levee's status to be as it should.
func (p *protected) until(t *testing.T, what string, done func(*lab.Status) bool) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		s, err := p.levee.Status(t.Context())
		if err == nil && done(s) {
			return
		}
		// A levee that was stopped just now may be late to answer.
		if timeout := net.Error(nil); err != nil && !(errors.As(err, &timeout) && timeout.Timeout()) && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v: %+v", what, patience, s)
		}
	}
}
