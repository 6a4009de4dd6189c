package tunnel

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"levee/stack"
)

// gateway is the smallest network in which levee would work, with an echo in its place:
//
//	client ──── cli0  gateway  srv0 ──── server
//	.2       .1  │             │  .1      .2
//	             └─▶ levee0 ◀──┘        198.51.100.0/24, 2001:db8:1::/64: client
//	                 └─▶ main table     203.0.113.0/24,  2001:db8:2::/64: server
type gateway struct {
	client, router, server *namespace
	device                 *Device
}

// network is the addresses of one family in a gateway.
type network struct {
	name                     string
	family                   int
	clientNet, serverNet     string
	clientSide, serverSide   string // of the router
	client, server           string
	forwarding, everything   string
	bits, superpacket, ipLen int
}

var networks = []network{
	{name: "IPv4", family: unix.AF_INET, clientNet: "198.51.100.0/24", serverNet: "203.0.113.0/24",
		clientSide: "198.51.100.1", serverSide: "203.0.113.1", client: "198.51.100.2", server: "203.0.113.2",
		forwarding: "ipv4/ip_forward", everything: "0.0.0.0/0", bits: 24, superpacket: stack.GSOTCPv4, ipLen: 20},
	{name: "IPv6", family: unix.AF_INET6, clientNet: "2001:db8:1::/64", serverNet: "2001:db8:2::/64",
		clientSide: "2001:db8:1::1", serverSide: "2001:db8:2::1", client: "2001:db8:1::2", server: "2001:db8:2::2",
		forwarding: "ipv6/conf/all/forwarding", everything: "::/0", bits: 64, superpacket: stack.GSOTCPv6, ipLen: 40},
}

func newGateway(t testing.TB, queues int) *gateway {
	t.Helper()
	g := &gateway{client: newNamespace(t), router: newNamespace(t), server: newNamespace(t)}
	for _, ns := range []*namespace{g.client, g.router, g.server} {
		ns.sysctl(t, "ipv6/conf/all/accept_dad", "0") // both, so that link-local addresses work at once
		ns.sysctl(t, "ipv6/conf/default/accept_dad", "0")
	}
	g.device = g.router.open(t, Config{Name: "levee0", MTU: 1500, Queues: queues})
	g.router.up(t, "levee0")
	for _, end := range []struct {
		ns   *namespace
		name string
	}{{g.client, "cli0"}, {g.server, "srv0"}} {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: end.name},
			PeerName: "eth0", PeerNamespace: netlink.NsFd(end.ns.NsHandle)}
		if err := g.router.link.LinkAdd(veth); err != nil {
			t.Fatalf("add veth %s: %v", end.name, err)
		}
	}
	for _, n := range networks {
		bits := fmt.Sprintf("/%d", n.bits)
		g.router.up(t, "cli0", n.clientSide+bits)
		g.router.up(t, "srv0", n.serverSide+bits)
		g.client.up(t, "eth0", n.client+bits)
		g.server.up(t, "eth0", n.server+bits)
		g.client.route(t, n.serverNet, "eth0", n.clientSide, 0)
		g.server.route(t, n.clientNet, "eth0", n.serverSide, 0)
		g.router.sysctl(t, n.forwarding, "1")

		const table = 100
		g.router.route(t, n.everything, "levee0", "", table)
		server, err := netlink.ParseIPNet(n.serverNet)
		if err != nil {
			t.Fatal(err)
		}
		for i, edit := range []func(r *netlink.Rule){
			func(r *netlink.Rule) { r.IifName, r.Table = "levee0", unix.RT_TABLE_MAIN },
			func(r *netlink.Rule) { r.IifName, r.Table, r.Dst = "cli0", table, server },
			func(r *netlink.Rule) { r.IifName, r.Table, r.Src = "srv0", table, server },
		} {
			rule := netlink.NewRule()
			rule.Family, rule.Priority = n.family, 100+i
			edit(rule)
			if err := g.router.link.RuleAdd(rule); err != nil {
				t.Fatalf("add rule %v: %v", rule, err)
			}
		}
	}
	return g
}

// echo writes back every frame of every queue until the device is closed. look may inspect
// each; it is called by several goroutines.
func (g *gateway) echo(t testing.TB, look func(frame []byte)) (wait func()) {
	var running sync.WaitGroup
	for i, q := range g.device.Queues() {
		running.Go(func() {
			frames := newFrames(32)
			for {
				n, err := q.Recv(frames, time.Minute)
				if err == nil {
					for _, frame := range frames[:n] {
						look(frame)
					}
					err = q.Send(frames[:n])
				}
				if errors.Is(err, os.ErrClosed) {
					return
				}
				if err != nil {
					t.Errorf("queue %d: %v", i, err)
					return
				}
			}
		})
	}
	return running.Wait
}

// transfer sends so many bytes from the client to the server and back over one connection,
// which the server echoes, and checks that they are the same.
func (g *gateway) transfer(t testing.TB, n network, size int64) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	var listener net.Listener
	g.server.do(t, func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(netip.MustParseAddr(n.server), 5001).String())
		return err
	})
	defer listener.Close()
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() {
		listener.(*net.TCPListener).SetDeadline(deadline)
		c, err := listener.Accept()
		if err != nil {
			t.Errorf("accept: %v", err)
			return
		}
		defer c.Close()
		c.SetDeadline(deadline)
		// Hide ReadFrom, or the echo would be a splice in the kernel.
		if _, err := io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, make([]byte, 1<<20)); err != nil {
			t.Errorf("server: %v", err)
		}
	})

	var conn net.Conn
	g.client.do(t, func() (err error) {
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		defer cancel()
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", listener.Addr().String())
		return err
	})
	defer conn.Close()
	conn.SetDeadline(deadline)
	sent, received := crc32.NewIEEE(), crc32.NewIEEE()
	running.Go(func() {
		block := make([]byte, 1<<20)
		for i := range block {
			block[i] = byte(i * i >> 8)
		}
		for left := size; left > 0; left -= int64(len(block)) {
			block = block[:min(int64(len(block)), left)]
			block[0]++
			sent.Write(block)
			if _, err := conn.Write(block); err != nil {
				t.Errorf("client: write: %v", err)
				return
			}
		}
		conn.(*net.TCPConn).CloseWrite()
	})
	got, err := io.CopyBuffer(received, struct{ io.Reader }{conn}, make([]byte, 1<<20))
	running.Wait()
	if err != nil || got != size {
		t.Fatalf("client: received %d of %d bytes: %v", got, size, err)
	}
	if sent.Sum32() != received.Sum32() {
		t.Error("the bytes received are not the bytes sent")
	}
}
