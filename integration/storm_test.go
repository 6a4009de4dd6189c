package integration

import (
	"context"
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
	"levee/stack/stacktest"
)

// unreachableError is a router's ICMP error that says that there is no way to where a packet was sent (RFC 792, RFC 4443 §3.1).
func unreachableError(router, to netip.Addr, code uint8, quoted []byte) []byte {
	message := append([]byte{3, code, 0, 0, 0, 0, 0, 0}, quoted...)
	if router.Is4() {
		binary.BigEndian.PutUint16(message[2:], ^stacktest.Sum(message))
		b := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0}
		b = append(append(b, router.AsSlice()...), to.AsSlice()...)
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)+len(message)))
		binary.BigEndian.PutUint16(b[10:], ^stacktest.Sum(b))
		return append(b, message...)
	}
	const icmp6 = 58
	message[0] = 1
	addresses := append(router.AsSlice(), to.AsSlice()...)
	pseudo := binary.BigEndian.AppendUint32(addresses[:32:32], uint32(len(message)))
	pseudo = append(pseudo, 0, 0, 0, icmp6)
	binary.BigEndian.PutUint16(message[2:], ^stacktest.Sum(append(pseudo, message...)))
	b := []byte{0x60, 0, 0, 0, 0, 0, icmp6, 64}
	binary.BigEndian.PutUint16(b[4:], uint16(len(message)))
	return append(append(b, addresses...), message...)
}

// storm is n packets of somebody on the clients' side who wants levee to believe something of a server: resets, SYN-ACKs and ACKs with random numbers, in
// both directions, and errors about segments in both, sent to either end. Half of them are about connections that there are.
func storm(n int, tuples [][2]netip.AddrPort, router netip.Addr) [][]byte {
	r := rand.New(rand.NewPCG(5, 5))
	var packets [][]byte
	for i := range n {
		tuple := tuples[i/16%len(tuples)]
		client, server := tuple[0], tuple[1]
		if i%2 == 1 {
			client = netip.AddrPortFrom(client.Addr(), uint16(1024+r.IntN(60000)))
			server = netip.AddrPortFrom(server.Addr(), uint16(1+r.IntN(1000)))
		}
		up := stacktest.Segment{Src: client, Dst: server, Seq: r.Uint32(), Ack: r.Uint32(), Flags: stacktest.ACK}
		down := stacktest.Segment{Src: server, Dst: client, Seq: r.Uint32(), Ack: r.Uint32(), Flags: stacktest.ACK}
		code := uint8(r.IntN(5))
		var p []byte
		switch i / 2 % 8 {
		case 0:
			up.Flags = stacktest.RST
			p = up.Packet()
		case 1:
			up.Flags = stacktest.RST | stacktest.ACK
			p = up.Packet()
		case 2:
			up.Flags = stacktest.SYN | stacktest.ACK
			p = up.Packet()
		case 3:
			down.Flags = stacktest.RST | stacktest.ACK
			p = down.Packet()
		case 4:
			down.Flags = stacktest.SYN | stacktest.ACK
			p = down.Packet()
		case 5:
			p = unreachableError(router, server.Addr(), code, down.Packet())
		case 6:
			up.Flags = stacktest.SYN
			p = unreachableError(router, server.Addr(), code, up.Packet())
		case 7:
			up.Flags = stacktest.SYN
			p = unreachableError(router, client.Addr(), code, up.Packet())
		}
		packets = append(packets, p)
	}
	return packets
}

// TestStormTeachesNothing forges resets and ICMP errors about servers that levee knows, open ports, a closed one, and one whose server has not
// answered yet: nothing that is known changes, and the client that waits is connected in the end.
func TestStormTeachesNothing(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		const size = 20_000
		l := labtest.New(t, lab.Config{})
		client, server := l.Clients[0], l.Servers[0]
		open, waiting, closed := server.AddrPort(v6, 22), server.AddrPort(v6, 80), server.AddrPort(v6, 81)
		listeners := map[netip.AddrPort]*net.TCPListener{open: nil, waiting: nil}
		for addr := range listeners {
			listeners[addr] = kind{}.listen(t, server, addr)
		}
		path, err := labtest.Binary()
		if err != nil {
			t.Fatal(err)
		}
		lv := labtest.StartLevee(t, l, path, config(nil)+"learn: {closed_for: 10m}\n")
		const ports = 100
		scanPorts(t, client, closed.Addr(), ports)
		for deadline := time.Now().Add(30 * time.Second); len(knownServers(t, lv)) < ports; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("levee knows %+v", knownServers(t, lv))
			}
		}
		for _, addr := range []netip.AddrPort{open, waiting} {
			_ = listeners[addr].SetDeadline(time.Now().Add(10 * time.Second))
			if c, err := listeners[addr].Accept(); err != nil { // the scan's
				t.Fatal(err)
			} else {
				_ = c.Close()
			}
			awaitLearned(t, lv, addr)
		}
		established, _ := meet(t, client, listeners[open])

		// A client that has returned its cookie waits for a server that answers only later.
		if err := server.SetLoss(100); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		opening, err := client.DialContext(ctx, "tcp", waiting.String())
		if err != nil {
			t.Fatal(err)
		}
		defer opening.Close()
		before, packets := knownServers(t, lv), receivedFrames(t, lv)
		if before[closed].State != "closed" || len(before) != ports {
			t.Fatalf("levee knows %+v", before)
		}
		tuple := func(c net.Conn) [2]netip.AddrPort {
			return [2]netip.AddrPort{c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()}
		}
		// No kernel takes a packet from an address of its own, as the gateway's would be.
		router := tuple(opening)[0].Addr().Next()
		sendRaw(t, client, storm(size, [][2]netip.AddrPort{tuple(established), tuple(opening)}, router))
		if n := receivedFrames(t, lv) - packets; n < size/4 {
			t.Errorf("only %d packets of the storm have come to levee", n)
		}
		if n := icmpDrops(t, lv); n < size/8 {
			t.Errorf("levee has dropped only %d errors", n)
		}
		if after := knownServers(t, lv); !maps.EqualFunc(before, after, func(a, b learned) bool { return reflect.DeepEqual(a, b) }) {
			for addr := range after {
				if !reflect.DeepEqual(before[addr], after[addr]) {
					t.Errorf("%v: %+v before the storm, %+v after it", addr, before[addr], after[addr])
				}
			}
			t.Errorf("%d were known, now %d", len(before), len(after))
		}
		if err := server.SetLoss(0); err != nil {
			t.Fatal(err)
		}
		answered, err := listeners[waiting].Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer answered.Close()
		if _, err := transfer(opening.(*net.TCPConn), answered.(*net.TCPConn), 100_000, 10*time.Second); err != nil {
			t.Errorf("the client that waited: %v", err)
		}
		if _, err := established.Write([]byte("still there")); err != nil {
			t.Error(err)
		}
	})
}

// receivedFrames is how many frames have come into levee.
func receivedFrames(t *testing.T, lv *lab.Levee) (n uint64) {
	t.Helper()
	for _, w := range (&protected{levee: lv}).tun(t).Workers {
		n += w.Received
	}
	return n
}

// icmpDrops is how many ICMP errors levee has dropped.
func icmpDrops(t *testing.T, lv *lab.Levee) uint64 {
	t.Helper()
	status, err := lv.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return status.Drops["icmp"]
}
