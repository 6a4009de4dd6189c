package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
)

// connect makes a connection from the client to a listener on the server.
func connect(t *testing.T, from, to *lab.Host, v6 bool, port uint16) (client, server *net.TCPConn) {
	t.Helper()
	return connectClamped(t, from, to, to.AddrPort(v6, port), 0, 0)
}

// connectClamped is connect with the largest window, in bytes, that each side may offer; 0 leaves it to
// the kernel. The kernel takes the window scale from it.
func connectClamped(t *testing.T, from, to *lab.Host, addr netip.AddrPort, clientWindow, serverWindow int) (client, server *net.TCPConn) {
	t.Helper()
	clamp := func(window int) func(string, string, syscall.RawConn) error {
		return func(_, _ string, c syscall.RawConn) error {
			var err error
			if ctl := c.Control(func(fd uintptr) {
				if window > 0 {
					err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_WINDOW_CLAMP, window)
				}
			}); ctl != nil {
				return ctl
			}
			return err
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var l net.Listener
	if err := to.Do(func() (err error) {
		l, err = (&net.ListenConfig{Control: clamp(serverWindow)}).Listen(ctx, "tcp", addr.String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	var c net.Conn
	if err := from.Do(func() (err error) {
		c, err = (&net.Dialer{Control: clamp(clientWindow)}).DialContext(ctx, "tcp", addr.String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := l.(*net.TCPListener).SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	deadline := time.Now().Add(time.Minute)
	_, _ = c.SetDeadline(deadline), s.SetDeadline(deadline)
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// TestHalfClose closes one direction and moves a megabyte in the other, both ways.
func TestHalfClose(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		for _, first := range []string{"client", "server"} {
			t.Run(first+" closes first", func(t *testing.T) {
				p := protect(t, options{"timestamps": "true"})
				p.capture(t)
				closer, sender := connect(t, p.client, p.server, v6, 7777)
				if first == "server" {
					closer, sender = sender, closer
				}
				data := make([]byte, 1<<20)
				_, _ = io.ReadFull(lab.Pattern(), data)

				if _, err := closer.Write([]byte("last words")); err != nil {
					t.Fatal(err)
				}
				if err := closer.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				if got, err := io.ReadAll(sender); err != nil || string(got) != "last words" {
					t.Fatalf("read %q, %v", got, err)
				}
				go func() {
					_, _ = sender.Write(data)
					_ = sender.CloseWrite()
				}()
				got, err := io.ReadAll(closer)
				if err != nil || !bytes.Equal(got, data) {
					t.Fatalf("read %d of %d bytes, equal: %t, %v", len(got), len(data), bytes.Equal(got, data), err)
				}
				p.spliced(t, 1)
			})
		}
	})
}

// TestRefused checks that a closed port reaches the client as a reset, at once.
func TestRefused(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		p := protect(t, nil)
		p.capture(t)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		began := time.Now()
		conn, err := p.client.DialContext(ctx, "tcp", p.server.AddrPort(v6, 9).String())
		if err == nil {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			_, err = conn.Read(make([]byte, 1))
		}
		if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("the client sees %v", err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("the reset took %s", took)
		}
		p.spliced(t, 1)
	})
}

// TestSilentServer checks that a server that never answers reaches the client as a reset, after the SYN was sent again.
func TestSilentServer(t *testing.T) {
	p := protect(t, nil)
	p.capture(t)
	// Nobody has this address: the gateway's neighbour entry of the server's link does not lead there.
	dead := netip.AddrPortFrom(p.server.Link.Host.Addr(false).Next(), 80)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	began := time.Now()
	conn, err := p.client.DialContext(ctx, "tcp", dead.String())
	if err == nil {
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		_, err = conn.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client sees %v", err)
	}
	if took := time.Since(began); took < 7*time.Second || took > 20*time.Second {
		t.Errorf("the reset came after %s, want it after 15 s", took)
	}
}

// TestLoss loses 2 % of all packets of a connection and checks the bytes, and that SACK does its work on both sides of levee. Nothing is lost of
// the handshake: a server that the first of levee's two SYNs doesn't reach goes without SACK (proxy.ServerAck).
func TestLoss(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		for _, timestamps := range []string{"true", "false"} {
			t.Run("timestamps "+timestamps, func(t *testing.T) {
				p := protect(t, options{"timestamps": timestamps})
				// One packet a segment, so that a loss is a segment and not 64 KB.
				for _, h := range []*lab.Host{p.client, p.server} {
					if err := h.Link.SetOffload(false); err != nil {
						t.Fatal(err)
					}
				}
				captures := map[string]*lab.Capture{
					"client": labtest.Capture(t, p.client.Namespace, "eth0"),
					"server": labtest.Capture(t, p.server.Namespace, "eth0"),
				}
				conn := echoing(t, p.client, p.server, v6)
				port := netip.MustParseAddrPort(conn.RemoteAddr().String()).Port()
				// In the hosts: in the gateway a packet would pass twice, before and after levee.
				for _, h := range []*lab.Host{p.client, p.server} {
					if err := h.SetLoss(2); err != nil {
						t.Fatal(err)
					}
				}
				echoed(t, conn, 10<<20)
				// Blocks that don't fit what was sent are discarded: translated wrongly they would be on the wire and no use.
				for name, h := range map[string]*lab.Host{"client": p.client, "server": p.server} {
					n, err := h.Counters()
					if err != nil {
						t.Fatal(err)
					}
					if n["TcpExtTCPSackRecovery"] == 0 || n["TcpExtTCPSACKDiscard"] != 0 {
						t.Errorf("%s: %d recoveries by SACK, %d SACK blocks discarded", name, n["TcpExtTCPSackRecovery"], n["TcpExtTCPSACKDiscard"])
					}
				}
				for where, c := range captures {
					if err := c.Stop(); err != nil {
						t.Fatal(err)
					}
					for _, end := range []string{"src", "dst"} {
						out := run(t, p.client.Namespace, time.Minute, "tshark", "-r", c.File, "-Y",
							fmt.Sprintf("tcp.options.sack_le && tcp.%sport == %d", end, port), "-T", "fields", "-e", "frame.number")
						if n := strings.Count(out, "\n"); n == 0 {
							t.Errorf("%s: no SACK with %sport %d", where, end, port)
						}
					}
				}
				p.spliced(t, 1)
			})
		}
	})
}

// echoed sends random bytes, and wants them back.
func echoed(t *testing.T, conn net.Conn, size int64) {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
	sent, got := sha256.New(), sha256.New()
	var group errgroup.Group
	group.Go(func() error {
		_, err := io.CopyN(conn, io.TeeReader(rand.NewChaCha8([32]byte{1}), sent), size)
		return err
	})
	_, err := io.CopyN(got, conn, size)
	if err := errors.Join(err, group.Wait()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		t.Errorf("of %d bytes other ones came back", size)
	}
}

// sockets returns (ss names SACK and timestamps only with -o) what `ss -tio` says of the established connections of a namespace with a local or remote port.
func sockets(t *testing.T, n *lab.Namespace, port uint16) string {
	t.Helper()
	return run(t, n, 10*time.Second, "ss", "-tinoH", "state", "established",
		fmt.Sprintf("( sport = :%d or dport = :%d )", port, port))
}

// TestClientWithoutTimestamps checks that such a client keeps SACK and window scaling, which kernel SYNPROXY takes away.
func TestClientWithoutTimestamps(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		p := protect(t, options{"timestamps": "true"})
		p.capture(t)
		if err := p.client.SetSysctl("net.ipv4.tcp_timestamps", "0"); err != nil {
			t.Fatal(err)
		}
		connect(t, p.client, p.server, v6, 7777)
		for name, n := range map[string]*lab.Namespace{"client": p.client.Namespace, "server": p.server.Namespace} {
			out := sockets(t, n, 7777)
			words := strings.Fields(out)
			has := func(word string) bool {
				for _, w := range words {
					if w == word || strings.HasPrefix(w, word+":") {
						return true
					}
				}
				return false
			}
			if !has("sack") || !has("wscale") || has("ts") {
				t.Errorf("%s: want sack and wscale and no ts: %s", name, out)
			}
		}
		p.spliced(t, 1)
	})
}

// TestWindowScales checks, for servers whose window scale isn't what the client was told, that the client sees the window
// that the server offers: bulk moves at full window, and never beyond it.
func TestWindowScales(t *testing.T) {
	// The kernel takes the scale from the largest window that a socket may offer.
	windows := map[string]int{"0": 1<<16 - 1, "2": 1<<18 - 1, "7": 1<<23 - 1, "14": 1<<30 - 1}
	for _, clientScale := range []string{"0", "7", "14"} {
		for _, serverScale := range []string{"0", "2", "7", "14"} {
			t.Run(fmt.Sprintf("client %s server %s", clientScale, serverScale), func(t *testing.T) {
				p := protect(t, options{"timestamps": "true", "wscale": "7"})
				p.capture(t)
				for _, h := range []*lab.Host{p.client, p.server} {
					if err := h.SetSysctl("net.ipv4.tcp_rmem", "4096 131072 1073741823"); err != nil {
						t.Fatal(err)
					}
				}
				client, server := connectClamped(t, p.client, p.server, p.server.AddrPort(false, 7777),
					windows[clientScale], windows[serverScale])
				scales := regexp.MustCompile(`wscale:(\d+),(\d+)`).FindStringSubmatch(sockets(t, p.server.Namespace, 7777))
				if scales == nil || scales[1] != clientScale || scales[2] != serverScale {
					t.Fatalf("scales at the server: %v", scales)
				}
				for name, pair := range map[string][2]*net.TCPConn{"up": {client, server}, "down": {server, client}} {
					from, to := pair[0], pair[1]
					go func() {
						_, _ = io.CopyN(from, lab.Pattern(), 32<<20)
						_ = from.CloseWrite()
					}()
					want := make([]byte, 32<<20)
					_, _ = io.ReadFull(lab.Pattern(), want)
					got, err := io.ReadAll(to)
					if err != nil || !bytes.Equal(got, want) {
						t.Errorf("%s: read %d bytes, %v", name, len(got), err)
					}
				}
				p.spliced(t, 1)
			})
		}
	}
}

// TestFullWindow fills the window of a receiver that doesn't read: the sender must be allowed as much as without levee.
func TestFullWindow(t *testing.T) {
	fill := func(t *testing.T, from, to *lab.Host) (up int) {
		t.Helper()
		for _, h := range []*lab.Host{from, to} {
			if err := h.SetSysctl("net.ipv4.tcp_wmem", "4096 16384 16384"); err != nil {
				t.Fatal(err)
			}
		}
		client, server := connect(t, from, to, false, 7777)
		_ = server
		_ = client.SetWriteBuffer(16384)
		chunk := make([]byte, 16384)
		for {
			_ = client.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
			n, err := client.Write(chunk)
			up += n
			if err != nil {
				return up
			}
		}
	}
	for _, promised := range []string{"2", "7", "14"} {
		// Smaller buffers say little: there the receiver's own accounting of memory, which differs between a packet that came
		// through a TUN and one that didn't, decides what fits. A promise of 2 can't express more than 256 KB.
		buffer := "6291456"
		if promised == "2" {
			buffer = "250000"
		}
		t.Run("promised "+promised, func(t *testing.T) {
			rmem := "4096 " + buffer + " " + buffer
			l := labtest.New(t, lab.Config{})
			if err := l.Servers[0].SetSysctl("net.ipv4.tcp_rmem", rmem); err != nil {
				t.Fatal(err)
			}
			direct := fill(t, l.Clients[0], l.Servers[0])

			p := protect(t, options{"timestamps": "true", "wscale": promised})
			if err := p.server.SetSysctl("net.ipv4.tcp_rmem", rmem); err != nil {
				t.Fatal(err)
			}
			spliced := fill(t, p.client, p.server)
			// What the client was promised and what the server does: different, or the test shows nothing.
			scales := regexp.MustCompile(`wscale:(\d+),(\d+)`)
			told := scales.FindStringSubmatch(sockets(t, p.client.Namespace, 7777))
			does := scales.FindStringSubmatch(sockets(t, p.server.Namespace, 7777))
			if told == nil || does == nil || told[1] != promised || (promised != "7" && does[2] == promised) {
				t.Fatalf("the client was told %v, the server does %v", told, does)
			}
			t.Logf("the receiver took %d bytes directly, %d through levee", direct, spliced)
			if ratio := float64(spliced) / float64(direct); ratio < 0.8 || ratio > 1.25 {
				t.Errorf("the receiver took %d bytes directly and %d through levee", direct, spliced)
			}
			p.spliced(t, 1)
		})
	}
}
