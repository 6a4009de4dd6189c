package integration

import (
	"context"
	"sync"
	"testing"
	"time"

	"levee/integration/lab"
)

// TestAutoShortQueue floods a server that has room for 16 half-open connections and no SYN cookies. Its queue is full before levee is engaged. It would
// be for seven seconds, were the handshakes that fill it not ended when the server repeats its SYN-ACKs.
func TestAutoShortQueue(t *testing.T) {
	const queue, tries, each = 16, 16, 250 * time.Millisecond
	families(t, func(t *testing.T, v6 bool) {
		p := protectYAML(t, lab.Config{Attacker: true}, courseConfig("auto"))
		s := p.Servers[0]
		if err := s.SetSysctl("net.ipv4.tcp_syncookies", "0"); err != nil {
			t.Fatal(err)
		}
		addr := s.AddrPort(v6, 7)
		if _, err := s.StartEcho(queue, addr); err != nil {
			t.Fatal(err)
		}
		flood, err := p.Attacker.Link.StartFlood(t.Context(), lab.FloodConfig{
			Target: addr, Rate: 4000, Count: lab.MaxFloodCount, Duration: tries * each,
		})
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		var all sync.WaitGroup
		for range tries {
			time.Sleep(each)
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				at := time.Now()
				c, err := p.client.DialContext(ctx, "tcp", addr.String())
				if err == nil {
					_, err = exchange(c, []byte("hello"), make([]byte, 5))
					_ = c.Close()
				}
				took := time.Since(at)
				t.Logf("%v after the flood's beginning: an answer after %v", at.Sub(begin).Round(time.Millisecond), took.Round(time.Millisecond))
				// Levee's SYN is sent again after one and three seconds.
				if err != nil || took > 4500*time.Millisecond {
					t.Errorf("%v after the flood's beginning: %v, %v", at.Sub(begin), took, err)
				}
			})
		}
		all.Wait()
		if _, err := flood.Wait(); err != nil {
			t.Fatal(err)
		}
		status, err := p.levee.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if n := status.Services[0].HalfOpenReset; n < queue {
			t.Errorf("%d handshakes were ended at the server", n)
		}
	})
}
