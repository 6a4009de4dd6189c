package integration

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
)

// TestServerWithSYNCookies connects through levee to servers that answer with SYN cookies of their own: always, or because a flood has filled their
// queue before levee began. All connections go on with the window scale, SACK and timestamps that the client was promised: a server that is
// sent a TSecr of 0 forgets all of that, and half of the connections hang.
func TestServerWithSYNCookies(t *testing.T) {
	for name, before := range map[string]func(t *testing.T, l *lab.Lab, v6 bool){
		"always": func(t *testing.T, l *lab.Lab, _ bool) {
			if err := l.Servers[0].SetSysctl("net.ipv4.tcp_syncookies", "2"); err != nil {
				t.Fatal(err)
			}
		},
		"full queue": func(t *testing.T, l *lab.Lab, v6 bool) {
			flood, err := l.Attacker.Link.StartFlood(t.Context(), lab.FloodConfig{
				Target: l.Servers[0].AddrPort(v6, 80), Rate: 10_000, Count: 1000, Duration: 5 * time.Second, Options: lab.LinuxSYN,
			})
			if err != nil {
				t.Fatal(err)
			}
			if r, err := flood.Wait(); err != nil || r.Sent != 1000 {
				t.Fatalf("%d SYNs: %v", r.Sent, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			families(t, func(t *testing.T, v6 bool) { cookiesBothSides(t, v6, before) })
		})
	}
}

func cookiesBothSides(t *testing.T, v6 bool, before func(*testing.T, *lab.Lab, bool)) {
	const connections, rate, block = 500, 500, 100_000
	l := labtest.New(t, lab.Config{Attacker: true})
	path, err := labtest.Binary()
	if err != nil {
		t.Fatal(err)
	}
	s, client := l.Servers[0], l.Clients[0]
	addr := s.AddrPort(v6, 80)
	const backlog = 64
	listener, err := s.Listen(addr, backlog)
	if err != nil {
		t.Fatal(err)
	}
	listening := listener.(*net.TCPListener)
	defer func() { _ = listening.Close() }()
	before(t, l, v6)
	levee := labtest.StartLevee(t, l, path, config(options{"timestamps": "true"}))

	for i := range 3 { // levee gets to know the server by the first
		_, conn := meet(t, client, listening)
		whole := agreed(t, s.Namespace, conn)
		for _, option := range []string{"sack", "ts", "wscale:"} {
			if !strings.Contains(whole, option) || strings.Contains(whole, "wscale:0,") {
				t.Errorf("connection %d of the server has %s", i, whole)
			}
		}
	}
	if err := listening.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := listening.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	var all sync.WaitGroup
	failed := make(chan error, connections)
	each := time.NewTicker(time.Second / rate)
	defer each.Stop()
	for range connections {
		<-each.C
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			c, err := client.DialContext(ctx, "tcp", addr.String())
			if err == nil {
				_, err = exchange(c, make([]byte, block), make([]byte, block))
				_ = c.Close()
			}
			if err != nil {
				failed <- err
			}
		})
	}
	all.Wait()
	if n := len(failed); n > 0 {
		t.Errorf("%d of %d connections failed: %v", n, connections, <-failed)
	}
	status, err := levee.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	counters, err := s.Counters()
	if err != nil {
		t.Fatal(err)
	}
	noticed, made := status.Services[0].ServerCookies, counters["TcpExtSyncookiesRecv"]
	t.Logf("the server made %d of %d connections of SYN cookies, levee noticed %d", made, connections, noticed)
	if made < connections*9/10 || noticed < connections*9/10 {
		t.Errorf("the server made %d of %d connections of SYN cookies, levee noticed %d", made, connections, noticed)
	}
}
