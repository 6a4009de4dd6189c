package lab_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
)

// families are the two that every test of traffic goes over.
var families = []struct {
	name string
	v6   bool
}{{"IPv4", false}, {"IPv6", true}}

const webPort = 80

// startWeb serves both families on the lab's first server.
func startWeb(t testing.TB, l *lab.Lab) {
	t.Helper()
	s := l.Servers[0]
	if _, err := s.StartWeb(0, s.AddrPort(false, webPort), s.AddrPort(true, webPort)); err != nil {
		t.Fatal(err)
	}
}

// eventually waits until ok returns true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not after 10 s: %s", what)
		}
	}
}

// heldNamespaces are the network namespaces that this process keeps alive, by a thread or a descriptor.
func heldNamespaces(t testing.TB) map[string]bool {
	t.Helper()
	held := map[string]bool{}
	for _, pattern := range []string{"/proc/self/task/*/ns/net", "/proc/self/fd/*"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paths {
			// Threads and descriptors come and go meanwhile.
			if target, err := os.Readlink(p); err == nil && strings.HasPrefix(target, "net:") {
				held[target] = true
			}
		}
	}
	return held
}

func hostLinks(t testing.TB) string {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return strings.Join(names, " ")
}

func TestCloseLeavesNothing(t *testing.T) {
	labtest.RequireRoot(t)
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	before := hostLinks(t)
	l, err := lab.New(lab.Config{Clients: 2, Servers: 2, Attacker: true})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(heldNamespaces(t)); n < 1+len(l.Namespaces()) {
		t.Errorf("%d namespaces are held, want at least %d: this test can't see them", n, 1+len(l.Namespaces()))
	}
	if during := hostLinks(t); during != before {
		t.Errorf("the lab made links outside: %s, before %s", during, before)
	}
	startWeb(t, l)
	sleeper := l.Gateway.Command(t.Context(), "sleep", "1000")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-sleeper.Done():
	default:
		t.Error("a process outlived the lab")
	}
	eventually(t, "no namespace but our own is held", func() bool {
		held := heldNamespaces(t)
		return len(held) == 1 && held[home]
	})
	if after := hostLinks(t); after != before {
		t.Errorf("links outside are %s, before %s", after, before)
	}
	if err := l.Gateway.Do(func() error { return nil }); err == nil {
		t.Error("a namespace can be entered after Close")
	}
}

func TestTooManyHosts(t *testing.T) {
	if l, err := lab.New(lab.Config{Servers: 17}); err == nil {
		l.Close()
		t.Error("a lab of 17 servers was made")
	}
}

// Two labs have the same addresses and don't see each other.
func TestTwoLabsAtOnce(t *testing.T) {
	for i, name := range []string{"one", "another"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := labtest.New(t, lab.Config{})
			s := l.Servers[0]
			// Only one of them serves at each port.
			if _, err := s.StartWeb(0, s.AddrPort(false, uint16(8000+i))); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if _, err := l.Clients[0].Get(ctx, lab.URL(s.AddrPort(false, uint16(8000+i)), "/bytes/10")); err != nil {
				t.Error(err)
			}
			if _, err := l.Clients[0].Get(ctx, lab.URL(s.AddrPort(false, uint16(8000+1-i)), "/bytes/10")); err == nil {
				t.Error("reached a port that only the other lab serves")
			}
		})
	}
}

func TestForwarding(t *testing.T) {
	for _, offload := range []bool{true, false} {
		t.Run(fmt.Sprintf("offload=%t", offload), func(t *testing.T) {
			l := labtest.New(t, lab.Config{Clients: 2, Servers: 2})
			for _, h := range append(l.Clients, l.Servers...) {
				if err := h.Link.SetOffload(offload); err != nil {
					t.Fatal(err)
				}
			}
			for _, f := range families {
				for i, s := range l.Servers {
					web := s.AddrPort(f.v6, webPort)
					if _, err := s.StartWeb(0, web); err != nil {
						t.Fatal(err)
					}
					for j, c := range l.Clients {
						t.Run(fmt.Sprintf("%s client %d server %d", f.name, j, i), func(t *testing.T) {
							transfer(t, c.Namespace, lab.URL(web, ""))
						})
					}
				}
			}
		})
	}
}

// transfer moves a megabyte each way and compares it.
func transfer(t *testing.T, from *lab.Namespace, url string) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	const size = 1 << 20
	want, err := io.ReadAll(io.LimitReader(lab.Pattern(), size))
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/bytes/%d", url, size), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := body(t, from, req); !bytes.Equal(got, want) {
		t.Errorf("GET brought %d bytes that differ from the %d served", len(got), size)
	}
	req, err = http.NewRequestWithContext(ctx, http.MethodPost, url+"/sha256", bytes.NewReader(want))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(want)
	if got := body(t, from, req); string(got) != hex.EncodeToString(sum[:]) {
		t.Errorf("POST: the server saw %s, want %x", got, sum)
	}
}

func body(t *testing.T, from *lab.Namespace, req *http.Request) []byte {
	t.Helper()
	resp, err := from.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s, %v", req.Method, req.URL, resp.Status, err)
	}
	return b
}

func TestSetOffloadAndMTU(t *testing.T) {
	l := labtest.New(t, lab.Config{})
	link := l.Clients[0].Link
	for _, offload := range []bool{false, true} {
		if err := link.SetOffload(offload); err != nil {
			t.Fatal(err)
		}
		if got := sawSuperpacket(t, l); got != offload {
			t.Errorf("superpackets seen on the link: %t, with offload %t", got, offload)
		}
	}
	if err := link.SetMTU(1400); err != nil {
		t.Fatal(err)
	}
	for _, e := range []lab.End{link.Host, link.Gateway} {
		nl, err := e.Namespace.Netlink().LinkByName(e.Name)
		if err != nil {
			t.Fatal(err)
		}
		if got := nl.Attrs().MTU; got != 1400 {
			t.Errorf("MTU of %s in %s is %d, want 1400", e.Name, e.Namespace.Name, got)
		}
	}
}

// sawSuperpacket downloads something and says whether the client's link carried packets beyond its MTU.
func sawSuperpacket(t *testing.T, l *lab.Lab) bool {
	t.Helper()
	s := l.Servers[0]
	web, err := s.StartWeb(0, s.AddrPort(false, webPort))
	if err != nil {
		t.Fatal(err)
	}
	defer web.Close()
	file := filepath.Join(t.TempDir(), "client.pcap")
	c, err := l.Clients[0].StartCapture(l.Clients[0].Link.Host.Name, file)
	if err != nil {
		t.Fatal(err)
	}
	transfer(t, l.Clients[0].Namespace, lab.URL(s.AddrPort(false, webPort), ""))
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, p := range readCapture(t, file) {
		if p.Metadata().Length > 1514 {
			return true
		}
	}
	return false
}

func TestSysctl(t *testing.T) {
	l := labtest.New(t, lab.Config{})
	const name = "net.ipv4.tcp_syncookies"
	outside, err := os.ReadFile("/proc/sys/net/ipv4/tcp_syncookies")
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{"0", "2"} {
		if err := l.Servers[0].SetSysctl(name, value); err != nil {
			t.Fatal(err)
		}
		if got, err := l.Servers[0].Sysctl(name); err != nil || got != value {
			t.Errorf("%s is %q, %v after it was set to %q", name, got, err, value)
		}
	}
	if now, err := os.ReadFile("/proc/sys/net/ipv4/tcp_syncookies"); err != nil || !bytes.Equal(now, outside) {
		t.Errorf("%s of the machine is %q, %v, was %q", name, now, err, outside)
	}
	for _, foreign := range []string{"kernel.hostname", "net/../kernel/hostname"} {
		if err := l.Servers[0].SetSysctl(foreign, "levee"); err == nil {
			t.Errorf("%s of the whole machine was set", foreign)
		}
	}
}

// The goroutine that enters a namespace is back where it was, whatever happens inside.
func TestDo(t *testing.T) {
	l := labtest.New(t, lab.Config{})
	inode := func() string {
		s, err := os.Readlink("/proc/thread-self/ns/net")
		if err != nil {
			t.Error(err)
		}
		return s
	}
	home := inode()
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			n := l.Namespaces()[i%len(l.Namespaces())]
			err := n.Do(func() error {
				inside := inode()
				if inside == home {
					t.Error("Do did not enter the namespace")
				}
				l.Gateway.Do(func() error { return nil })
				if inode() != inside {
					t.Error("a Do inside a Do did not come back")
				}
				return io.ErrUnexpectedEOF
			})
			if err != io.ErrUnexpectedEOF {
				t.Errorf("Do returned %v, not what its function did", err)
			}
			if now := inode(); now != home {
				t.Errorf("Do came back to %s from %s", now, home)
			}
		})
	}
	wg.Wait()
}

func TestDialContextWantsNumbers(t *testing.T) {
	l := labtest.New(t, lab.Config{})
	if _, err := l.Clients[0].DialContext(t.Context(), "tcp", "localhost:80"); err == nil {
		t.Error("dialled a name")
	}
}

// Package net tries another socket when the kernel finds no port for the first. It would be made wherever the thread came from, here on the gateway
// and else on the machine itself, and reach whoever has the address there.
func TestDialContextStaysInside(t *testing.T) {
	l := labtest.New(t, lab.Config{})
	startWeb(t, l)
	client, to := l.Clients[0], l.Servers[0].AddrPort(false, webPort).String()
	if err := client.SetSysctl("net.ipv4.ip_local_port_range", "40001 40001"); err != nil {
		t.Fatal(err)
	}
	first, err := client.DialContext(t.Context(), "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	err = l.Gateway.Do(func() error {
		second, err := client.DialContext(t.Context(), "tcp", to)
		if err == nil {
			t.Errorf("without a port of its own the client connected from %v", second.LocalAddr())
			return second.Close()
		}
		if !strings.Contains(err.Error(), "no local port") {
			t.Errorf("without a port: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestDialContextHonoursItsContext(t *testing.T) {
	l := labtest.New(t, lab.Config{})
	if err := l.Servers[0].SetLoss(100); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if c, err := l.Clients[0].DialContext(ctx, "tcp", l.Servers[0].AddrPort(false, webPort).String()); err == nil {
		c.Close()
		t.Error("connected through a loss of 100 %")
	}
}

func TestLoad(t *testing.T) {
	l := labtest.New(t, lab.Config{})
	startWeb(t, l)
	s := l.Servers[0]
	load := lab.Load{
		URLs:     []string{lab.URL(s.AddrPort(false, webPort), "/bytes/100"), lab.URL(s.AddrPort(true, webPort), "/bytes/100")},
		Attempts: 40, Rate: 400, Timeout: 5 * time.Second,
	}
	r, err := load.Run(t.Context(), l.Clients[0].Namespace)
	if err != nil {
		t.Fatal(err)
	}
	if r.Tried != 40 || r.Completed != 40 || len(r.Latencies) != 40 || r.Percentile(0.5) <= 0 {
		t.Errorf("plain forwarding: %+v", r)
	}
	// Nobody listens there.
	load.URLs = []string{lab.URL(s.AddrPort(false, 81), "/")}
	r, err = load.Run(t.Context(), l.Clients[0].Namespace)
	if err != nil {
		t.Fatal(err)
	}
	if r.Tried != 40 || r.Completed != 0 || r.Failures["refused"] != 40 || r.Percentile(0.5) != 0 {
		t.Errorf("closed port: %+v", r)
	}
}

func TestCounters(t *testing.T) {
	l := labtest.New(t, lab.Config{})
	startWeb(t, l)
	before, err := l.Servers[0].Counters()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"TcpPassiveOpens", "TcpExtListenOverflows", "TcpExtListenDrops", "Ip6InReceives"} {
		if _, ok := before[name]; !ok {
			t.Errorf("%s is not counted", name)
		}
	}
	const requests = 7
	for range requests {
		if _, err := l.Clients[0].Get(t.Context(), lab.URL(l.Servers[0].AddrPort(false, webPort), "/bytes/1")); err != nil {
			t.Fatal(err)
		}
	}
	after, err := l.Servers[0].Counters()
	if err != nil {
		t.Fatal(err)
	}
	if got := after["TcpPassiveOpens"] - before["TcpPassiveOpens"]; got != requests {
		t.Errorf("the server accepted %d connections of %d", got, requests)
	}
}
