package integration

import (
	"context"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"levee/integration/lab"
)

// TestDeferAccept connects to servers that take no connection before its client has spoken (TCP_DEFER_ACCEPT, the default of Apache httpd): they drop
// the acknowledgement of their SYN-ACK, and send that again. A client that speaks at once waits for nothing, and one that speaks late is heard.
func TestDeferAccept(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		p := protectYAML(t, lab.Config{}, config(options{"timestamps": "true"}))
		deferring := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			if e := c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 30)
			}); e != nil {
				return e
			}
			return err
		}}
		addr := p.server.AddrPort(v6, 80)
		var l net.Listener
		if err := p.server.Do(func() (err error) {
			l, err = deferring.Listen(context.Background(), "tcp", addr.String())
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					_, _ = io.Copy(c, c)
					_ = c.Close()
				}()
			}
		}()
		for i, late := range []time.Duration{0, 0, 0, 1500 * time.Millisecond, 4 * time.Second} {
			c, err := p.client.DialContext(t.Context(), "tcp", addr.String())
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(late)
			took, err := exchange(c, make([]byte, 1000), make([]byte, 1000))
			t.Logf("connection %d, whose client is silent for %v: an answer after %v", i, late, took)
			if err != nil || took > 900*time.Millisecond { // the server's time-out is a second
				t.Errorf("connection %d, whose client is silent for %v: an answer after %v, %v", i, late, took, err)
			}
			_ = c.Close()
		}
		p.spliced(t, 5)
		counters, err := p.server.Counters()
		if err != nil {
			t.Fatal(err)
		}
		if n := counters["TcpExtTCPDeferAcceptDrop"]; n < 5 {
			t.Errorf("the server dropped %d acknowledgements: it doesn't wait for the client to speak", n)
		}
	})
}
