package integration

import (
	"bytes"
	"io"
	"net"
	"testing"

	"levee/integration/lab"
)

// TestPathMTU moves 10 MiB each way across a hop of 1280 bytes that neither host knows of, in front of levee or behind it: the
// gateway's own errors, and those of levee's translation, must reach the sender with numbers that it knows.
func TestPathMTU(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		for _, narrow := range []string{"client", "server"} {
			t.Run("narrow at the "+narrow, func(t *testing.T) {
				p := protect(t, options{"timestamps": "true"})
				p.capture(t)
				end := p.client.Link.Gateway
				if narrow == "server" {
					end = p.server.Link.Gateway
				}
				client, server := connect(t, p.client, p.server, v6, 7777)
				// After the handshake, so that no MSS tells.
				handle := p.Gateway.Netlink()
				link, err := handle.LinkByName(end.Name)
				if err != nil {
					t.Fatal(err)
				}
				if err := handle.LinkSetMTU(link, 1280); err != nil {
					t.Fatal(err)
				}
				const size = 10 << 20
				want := make([]byte, size)
				_, _ = io.ReadFull(lab.Pattern(), want)
				for name, pair := range map[string][2]*net.TCPConn{"up": {client, server}, "down": {server, client}} {
					go func() { _, _ = io.CopyN(pair[0], lab.Pattern(), size) }()
					got := make([]byte, size)
					if n, err := io.ReadFull(pair[1], got); err != nil || !bytes.Equal(got, want) {
						t.Errorf("%s: read %d of %d bytes: %v", name, n, size, err)
					}
				}
				counters, err := p.server.Counters()
				if err != nil {
					t.Fatal(err)
				}
				// One or another may come when its segment has been acknowledged; with wrong numbers all are refused, and no data arrives.
				t.Logf("the server refused %d ICMP errors as out of its window", counters["TcpExtOutOfWindowIcmps"])
				p.spliced(t, 1)
			})
		}
	})
}
