package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/integration/lab"
)

// narrow is the MTU in bytes of the hop that nobody knows of: the smallest link of IPv6.
const narrow = 1280

// pmtuSize is how much crosses it each way, in bytes.
const pmtuSize = 10 << 20

// hops are the places where the path is narrow.
var hops = []struct {
	name string
	lab  lab.Config
}{
	{"before the proxy", lab.Config{ClientHopMTU: narrow}},
	{"behind the proxy", lab.Config{ServerHopMTU: narrow}},
	{"on both sides", lab.Config{ClientHopMTU: narrow, ServerHopMTU: narrow}},
}

// TestPathMTU moves 10 MiB each way across a hop of 1280 bytes between two routers, in front of levee, behind it, or both. Neither the
// hosts nor the gateway know of it, and nobody clamps an MSS: the routers' errors must reach the sender with numbers that it knows.
func TestPathMTU(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		for _, hop := range hops {
			t.Run(hop.name, func(t *testing.T) {
				p := protectLab(t, hop.lab, options{"timestamps": "true"})
				p.capture(t)
				client, server := connect(t, p.client, p.server, v6, 7777)
				for _, way := range ways(client, server) {
					if took, err := transfer(way.from, way.to, pmtuSize, 30*time.Second); err != nil {
						t.Errorf("%s: %v", way.name, err)
					} else {
						t.Logf("%s: %s", way.name, took.Round(time.Millisecond))
					}
				}
				p.told(t)
				p.spliced(t, 1)
			})
		}
	})
}

// TestPathMTUShrinks moves 10 MiB each way when a link of the gateway's gets the MTU of 1280 bytes after the handshake: the
// gateway's own errors are translated too, and no MSS tells.
func TestPathMTUShrinks(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		for _, where := range []string{"client", "server"} {
			t.Run("narrow at the "+where, func(t *testing.T) {
				p := protect(t, options{"timestamps": "true"})
				p.capture(t)
				host := p.client
				if where == "server" {
					host = p.server
				}
				client, server := connect(t, p.client, p.server, v6, 7777)
				shrink(t, host.Link)
				for _, way := range ways(client, server) {
					if _, err := transfer(way.from, way.to, pmtuSize, 30*time.Second); err != nil {
						t.Errorf("%s: %v", way.name, err)
					}
				}
				p.spliced(t, 1)
			})
		}
	})
}

// shrink gives a link the MTU of 1280 bytes at both ends: one that is smaller than the other drops single segments that are too large without a word.
func shrink(t *testing.T, l *lab.Link) {
	t.Helper()
	for _, end := range []lab.End{l.Gateway, l.Host} {
		handle := end.Namespace.Netlink()
		link, err := handle.LinkByName(end.Name)
		if err == nil {
			err = handle.LinkSetMTU(link, narrow)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// told checks that both hosts were told of the narrow place by ICMP errors: without a hop in the path the test shows nothing. Some
// of those at the server may come when their segment has been acknowledged; with wrong numbers all would be refused, and no data arrives.
func (p *protected) told(t *testing.T) {
	t.Helper()
	for name, h := range map[string]*lab.Host{"client": p.client, "server": p.server} {
		n, err := h.Counters()
		if err != nil {
			t.Fatal(err)
		}
		if n["IcmpInDestUnreachs"]+n["Icmp6InPktTooBigs"] == 0 {
			t.Errorf("the %s was told of no narrow place", name)
		}
		t.Logf("the %s refused %d ICMP errors as out of its window", name, n["TcpExtOutOfWindowIcmps"])
	}
}

// way is a direction of a connection.
type way struct {
	name     string
	from, to *net.TCPConn
}

func ways(client, server *net.TCPConn) []way {
	return []way{{"to the server", client, server}, {"to the client", server, client}}
}

// transfer moves the first size bytes of the lab's pattern and compares them. The error of one that isn't done within limit says how far it
// came.
func transfer(from, to *net.TCPConn, size int, limit time.Duration) (time.Duration, error) {
	want, got := make([]byte, size), make([]byte, size)
	_, _ = io.ReadFull(lab.Pattern(), want)
	began := time.Now()
	_ = from.SetWriteDeadline(began.Add(limit))
	_ = to.SetReadDeadline(began.Add(limit))
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = from.Write(want)
	}()
	n, err := io.ReadFull(to, got)
	<-sent
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return limit, fmt.Errorf("%d of %d bytes in %s", n, size, limit)
	case err != nil:
		return time.Since(began), fmt.Errorf("%d of %d bytes: %w", n, size, err)
	case !bytes.Equal(got, want):
		return time.Since(began), errors.New("other bytes than were sent")
	}
	return time.Since(began), nil
}

// TestSmallClientLink: a link to other clients that carries less than levee reckons with keeps nobody from working, not even the clients behind it.
func TestSmallClientLink(t *testing.T) {
	p := protectLab(t, lab.Config{Attacker: true}, options{"timestamps": "true"})
	for ns, name := range map[*lab.Namespace]string{p.Gateway: p.Attacker.Link.Gateway.Name, p.Attacker.Namespace: "eth0"} {
		link, err := ns.Netlink().LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := ns.Netlink().LinkSetMTU(link, 1000); err != nil {
			t.Fatal(err)
		}
	}
	p.until(t, "levee tells of it", func(s *lab.Status) bool {
		return slices.ContainsFunc(s.Kernel.Problems, func(problem string) bool { return strings.Contains(problem, "has an MTU of 1000") })
	})
	if err := p.levee.Command(t.Context(), "reload").Run(); err != nil {
		t.Errorf("reload: %v", err)
	}
	for i, from := range []*lab.Host{p.client, p.Attacker} {
		client, server := connect(t, from, p.server, false, 7777+uint16(i))
		for _, way := range ways(client, server) {
			if _, err := transfer(way.from, way.to, pmtuSize, 30*time.Second); err != nil {
				t.Errorf("%s of %s: %v", way.name, from.Name, err)
			}
		}
	}
	p.spliced(t, 2)
}
