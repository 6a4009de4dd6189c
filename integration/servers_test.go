package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
)

// kind is a server as it is configured, by sysctls of its namespace and options of its listener.
type kind struct {
	name    string
	sysctls map[string]string
	// mss and window, in bytes, are the most that it offers; 0 leaves them to the kernel, which takes the window scale from the latter.
	mss, window int
}

var kinds = []kind{
	{"wscale 0", nil, 1460, 1<<16 - 1},
	{"wscale 7", nil, 1460, 1<<23 - 1},
	{"wscale 10", nil, 1460, 1<<26 - 1},
	{"wscale 14", nil, 1460, 1<<30 - 1},
	{"no wscale", map[string]string{"tcp_window_scaling": "0"}, 1460, 0},
	{"MSS 536", nil, 536, 0},
	{"MSS 1220", nil, 1220, 0},
	{"MSS 1460", nil, 1460, 0},
	{"MSS 8960", nil, 0, 0},
	{"no SACK", map[string]string{"tcp_sack": "0"}, 1460, 0},
	{"no timestamps", map[string]string{"tcp_timestamps": "0", "tcp_ecn": "0"}, 1460, 0},
	{"no ECN", map[string]string{"tcp_ecn": "0"}, 1460, 0},
	{"nothing", map[string]string{"tcp_ecn": "0", "tcp_timestamps": "0", "tcp_sack": "0", "tcp_window_scaling": "0"}, 536, 0},
}

// mixedLab has a server of each kind, all on links for jumbo frames, and its client so far away in each direction.
func mixedLab(t *testing.T, away time.Duration) *lab.Lab {
	t.Helper()
	l := labtest.New(t, lab.Config{Servers: len(kinds), ClientDelays: []time.Duration{away}})
	set := func(h *lab.Host, sysctls map[string]string) {
		t.Helper()
		if err := h.Link.SetMTU(9000); err != nil {
			t.Fatal(err)
		}
		for key, value := range sysctls {
			if err := h.SetSysctl("net.ipv4."+key, value); err != nil {
				t.Fatal(err)
			}
		}
	}
	set(l.Clients[0], map[string]string{"tcp_ecn": "1"})
	for i, k := range kinds {
		sysctls := map[string]string{"tcp_ecn": "2", "tcp_rmem": "4096 131072 1073741823"}
		maps.Copy(sysctls, k.sysctls)
		set(l.Servers[i], sysctls)
	}
	return l
}

// listen makes a listener that is of this kind too, until the test ends.
func (k kind) listen(t *testing.T, on *lab.Host, addr netip.AddrPort) *net.TCPListener {
	t.Helper()
	limit := func(_, _ string, c syscall.RawConn) (err error) {
		ctl := c.Control(func(fd uintptr) {
			if k.window > 0 {
				err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_WINDOW_CLAMP, k.window)
			}
			if k.mss > 0 && err == nil {
				err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, k.mss)
			}
		})
		return errors.Join(ctl, err)
	}
	var l net.Listener
	if err := on.Do(func() (err error) {
		l, err = (&net.ListenConfig{Control: limit}).Listen(t.Context(), "tcp", addr.String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.(*net.TCPListener)
}

// meet makes a connection to a listener.
func meet(t *testing.T, from *lab.Host, l *net.TCPListener) (client, server *net.TCPConn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := from.DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := l.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

var negotiated = regexp.MustCompile(` (ts|sack|ecn|wscale:\S+|mss:\d+|advmss:\d+|pmtu:\d+)\b`)

// agreed is what a connection has agreed on, as one of its hosts sees it.
func agreed(t *testing.T, n *lab.Namespace, conn *net.TCPConn) string {
	t.Helper()
	out := run(t, n, 10*time.Second, "ss", "-tnioOH", fmt.Sprintf("( src %v and dst %v )", conn.LocalAddr(), conn.RemoteAddr()))
	var found []string
	for _, m := range negotiated.FindAllStringSubmatch(out, -1) {
		found = append(found, m[1])
	}
	if len(found) < 3 {
		t.Fatalf("ss says:\n%s", out)
	}
	slices.Sort(found)
	return strings.Join(found, " ")
}

// learned is what levee servers says about one.
type learned struct {
	Server     netip.AddrPort `json:"server"`
	State      string         `json:"state"`
	MSS        *int           `json:"mss"`
	Timestamps *bool          `json:"timestamps"`
	ECN        *bool          `json:"ecn"`
	Source     string         `json:"source"`
}

func knownServers(t *testing.T, lv *lab.Levee) map[netip.AddrPort]learned {
	t.Helper()
	var out strings.Builder
	c := lv.Command(t.Context(), "servers", "-o", "json")
	c.Stdout = &out
	if err := c.Run(); err != nil {
		t.Fatal(err)
	}
	var answer struct{ Servers []learned }
	if err := json.Unmarshal([]byte(out.String()), &answer); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	known := map[netip.AddrPort]learned{}
	for _, s := range answer.Servers {
		known[s.Server] = s
	}
	return known
}

// awaitLearned waits until levee knows all that a probe finds out about a server.
func awaitLearned(t *testing.T, lv *lab.Levee, addr netip.AddrPort) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		known := knownServers(t, lv)
		if k, ok := known[addr]; ok && k.Timestamps != nil && k.ECN != nil && k.State == "alive" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("of %v levee knows %+v, in all %+v", addr, known[addr], known)
		}
	}
}

// TestNothingToConfigure compares connections to servers of many kinds with what the same hosts agree on without levee. No option is
// configured: levee finds out by the first connection to each and by a probe.
func TestNothingToConfigure(t *testing.T) {
	l := mixedLab(t, 0)
	client := l.Clients[0]
	type end struct {
		kind int
		v6   bool
	}
	type ends struct{ client, server string }
	each := func(f func(e end, addr netip.AddrPort)) {
		for i := range kinds {
			for _, v6 := range []bool{false, true} {
				f(end{i, v6}, l.Servers[i].AddrPort(v6, 7777))
			}
		}
	}
	direct, speed, listeners := map[end]ends{}, map[end]time.Duration{}, map[end]*net.TCPListener{}
	// What is moved for the figures, in bytes.
	const bulk = 32 << 20
	each(func(e end, addr netip.AddrPort) {
		listeners[e] = kinds[e.kind].listen(t, l.Servers[e.kind], addr)
		c, s := meet(t, client, listeners[e])
		direct[e] = ends{agreed(t, client.Namespace, c), agreed(t, l.Servers[e.kind].Namespace, s)}
		took, err := transfer(s, c, bulk, time.Minute)
		if err != nil {
			t.Fatalf("%s without levee: %v", kinds[e.kind].name, err)
		}
		speed[e] = took
	})
	path, err := labtest.Binary()
	if err != nil {
		t.Fatal(err)
	}
	lv := labtest.StartLevee(t, l, path, config(nil))
	each(func(e end, _ netip.AddrPort) {
		c, _ := meet(t, client, listeners[e])
		if got := agreed(t, client.Namespace, c); strings.Contains(got, "ts ") {
			t.Errorf("%s: timestamps are promised for an unknown server: %s", kinds[e.kind].name, got)
		}
	})
	each(func(_ end, addr netip.AddrPort) { awaitLearned(t, lv, addr) })
	each(func(e end, _ netip.AddrPort) {
		name := kinds[e.kind].name
		c, s := meet(t, client, listeners[e])
		got := ends{agreed(t, client.Namespace, c), agreed(t, l.Servers[e.kind].Namespace, s)}
		if got.client != direct[e].client {
			t.Errorf("%s, IPv6 %v: the client has\n%s, without levee\n%s", name, e.v6, got.client, direct[e].client)
		}
		if got.server != direct[e].server {
			t.Errorf("%s, IPv6 %v: the server has\n%s, without levee\n%s", name, e.v6, got.server, direct[e].server)
		}
		took, err := transfer(s, c, bulk, time.Minute)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		t.Logf("%-14s IPv6 %-5v %-62s %d MiB in %v, without levee %v", name, e.v6, got.client, bulk>>20,
			took.Round(time.Millisecond), speed[e].Round(time.Millisecond))
	})
	status, err := lv.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n := status.Services[0].CookieValid; n != uint64(4*len(kinds)) {
		t.Errorf("levee spliced %d connections", n)
	}
}

// scanPorts connects to ports 1 to n and says of each that isn't refused what becomes of it.
func scanPorts(t *testing.T, from *lab.Host, to netip.Addr, n int) (seen map[int]string) {
	t.Helper()
	results := make([]error, n+1)
	limit := make(chan struct{}, 32)
	var wg sync.WaitGroup
	for port := 1; port <= n; port++ {
		limit <- struct{}{}
		wg.Go(func() {
			defer func() { <-limit }()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			conn, err := from.DialContext(ctx, "tcp", netip.AddrPortFrom(to, uint16(port)).String())
			if results[port] = err; err == nil {
				_ = conn.Close()
			}
		})
	}
	wg.Wait()
	seen = map[int]string{}
	for port := 1; port <= n; port++ {
		switch err := results[port]; {
		case err == nil:
			seen[port] = "open"
		case !errors.Is(err, syscall.ECONNREFUSED):
			seen[port] = err.Error()
		}
	}
	return seen
}

// TestPortScan scans a thousand ports of a server of which two are open, without levee, and through it when it has learned.
func TestPortScan(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		const ports = 1000
		l := labtest.New(t, lab.Config{})
		client, server := l.Clients[0], l.Servers[0]
		for _, port := range []uint16{22, 80} {
			listener, err := server.Listen(server.AddrPort(v6, port), 64)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = listener.Close() })
		}
		to := server.AddrPort(v6, 1).Addr()
		want := scanPorts(t, client, to, ports)
		if !maps.Equal(want, map[int]string{22: "open", 80: "open"}) {
			t.Fatalf("without levee: %v", want)
		}
		path, err := labtest.Binary()
		if err != nil {
			t.Fatal(err)
		}
		lv := labtest.StartLevee(t, l, path, config(nil)+"learn: {closed_for: 1m}\n")
		scanPorts(t, client, to, ports) // these seem open, and are then reset
		for deadline := time.Now().Add(30 * time.Second); ; {
			states := map[string]int{}
			for _, k := range knownServers(t, lv) {
				states[k.State]++
			}
			if states["closed"] == ports-2 && states["alive"] == 2 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("levee knows %v", states)
			}
			time.Sleep(20 * time.Millisecond)
		}
		if got := scanPorts(t, client, to, ports); !maps.Equal(got, want) {
			t.Errorf("through levee %d ports are not refused: %.1000v", len(got), got)
		}
	})
}
