package integration

import (
	"bytes"
	"context"
	be "encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
	"levee/stack"
)

// sendRaw sends IP packets out of a lab host's eth0 to the gateway (AF_PACKET), one by one.
func sendRaw(t *testing.T, from *lab.Host, packets [][]byte) {
	t.Helper()
	err := from.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for i, p := range packets {
			proto := uint16(unix.ETH_P_IP)
			if p[0]>>4 == 6 {
				proto = unix.ETH_P_IPV6
			}
			sa := &unix.SockaddrLinklayer{Protocol: proto<<8 | proto>>8, Ifindex: from.Link.Host.Index, Halen: 6}
			copy(sa.Addr[:], from.Link.Gateway.HardwareAddr)
			if err := unix.Sendto(fd, p, 0, sa); err != nil {
				return err
			}
			if i%50 == 49 {
				time.Sleep(2 * time.Millisecond)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// synPacket is a SYN with its checksum complete.
func synPacket(src, dst netip.AddrPort) []byte {
	s := stack.Segment{
		Src: stack.AddrFrom(src.Addr()), Dst: stack.AddrFrom(dst.Addr()), SrcPort: src.Port(), DstPort: dst.Port(),
		Seq: 1, Flags: 2, Window: 65535, MSS: 1460, WScale: 7, SACKPermitted: true,
	}
	packet := s.Build(make([]byte, stack.MaxBuilt))[stack.VirtioLen:]
	at := 40
	if src.Addr().Is4() {
		at = 20
	}
	// The field holds the pseudo-header's sum.
	sum := uint32(0)
	for i := at; i+1 < len(packet); i += 2 {
		sum += uint32(be.BigEndian.Uint16(packet[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	be.BigEndian.PutUint16(packet[at+16:], ^uint16(sum))
	return packet
}

// TestNoSYNGoesAround hides SYNs behind IPv6 extension headers, where the kernel's rules stop looking for TCP: behind more than
// fifteen, and behind a fragment header and another. None may reach the server.
func TestNoSYNGoesAround(t *testing.T) {
	const dest, fragment, tcp = 60, 44, 6
	chains := map[string][]byte{
		"fragment, options": {fragment, dest},
		"options, fragment": {dest, fragment},
	}
	for _, n := range []int{0, 1, 8, 9, 15, 16, 20} {
		chains[fmt.Sprint(n, " options")] = bytes.Repeat([]byte{dest}, n)
	}
	for name, kinds := range chains {
		t.Run(name, func(t *testing.T) {
			p := protect(t, nil)
			l, err := p.server.Listen(p.server.AddrPort(true, 80), 16)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			c := labtest.Capture(t, p.server.Namespace, "eth0")
			raw := synPacket(p.client.AddrPort(true, 4444), p.server.AddrPort(true, 80))
			var chain []byte
			kinds = append(kinds, tcp)
			for i, kind := range kinds[:len(kinds)-1] {
				header := []byte{kinds[i+1], 0, 1, 4, 0, 0, 0, 0} // a padding option
				if kind == fragment {
					header = []byte{kinds[i+1], 0, 0, 0, 0, 0, 0, 9} // all of the packet
				}
				chain = append(chain, header...)
			}
			packet := append(append(append([]byte{}, raw[:40]...), chain...), raw[40:]...)
			packet[6] = kinds[0]
			be.BigEndian.PutUint16(packet[4:], uint16(len(packet)-40))
			sendRaw(t, p.client, [][]byte{packet})
			time.Sleep(200 * time.Millisecond)
			_ = c.Stop()
			out := run(t, p.client.Namespace, time.Minute, "tshark", "-r", c.File, "-Y", "tcp", "-T", "fields", "-e", "ipv6.src", "-e", "tcp.flags.str")
			half := run(t, p.server.Namespace, 10*time.Second, "ss", "-6tanH", "state", "syn-recv")
			status, err := p.levee.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if n := status.Services[0].SynReceived + status.Drops["bad_ip"]; n != 1 {
				t.Errorf("levee answered or dropped %d SYNs, want 1", n)
			}
			if strings.Contains(out, "S") || strings.TrimSpace(half) != "" {
				t.Errorf("the SYN reaches the server: on its wire %q, half-open %q", out, half)
			}
		})
	}
}

// tryConnect says whether a connection moves a byte within three seconds.
func tryConnect(t *testing.T, from, to *lab.Host, port uint16) error {
	t.Helper()
	addr := to.AddrPort(false, port)
	l, err := to.Listen(addr, 16)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, _ = c.Write([]byte("x"))
			_ = c.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	c, err := from.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(3 * time.Second))
	_, err = c.Read(make([]byte, 1))
	return err
}

// TestUnprotectedNeighbour connects from a host that isn't protected, on an interface where a protected server is too, to a
// protected server behind another interface.
func TestUnprotectedNeighbour(t *testing.T) {
	l := labtest.New(t, lab.Config{Servers: 2})
	if err := tryConnect(t, l.Servers[0], l.Servers[1], 80); err != nil {
		t.Fatalf("without levee: %v", err)
	}
	path, err := labtest.Binary()
	if err != nil {
		t.Fatal(err)
	}
	labtest.StartLevee(t, l, path, fmt.Sprintf(`
metrics: {listen: ""}
services:
  - {name: web, prefixes: [192.0.2.64/26, %v/32], mode: always}
`, l.Servers[1].AddrPort(false, 80).Addr()))
	if err := tryConnect(t, l.Clients[0], l.Servers[1], 80); err != nil {
		t.Errorf("client behind a client interface: %v", err)
	}
	if err := tryConnect(t, l.Servers[0], l.Servers[1], 80); err != nil {
		t.Errorf("unprotected host on a server interface: %v", err)
	}
}
