package stack_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"levee/stack"
	"levee/stack/stacktest"
)

// A segment with payload is the one without, but for lengths, and a superpacket if it is longer than one segment.
func TestBuildData(t *testing.T) {
	for _, server := range []string{"192.0.2.10:443", "[2001:db8:5::10]:443"} {
		to := netip.MustParseAddrPort(server)
		from := netip.MustParseAddrPort("198.51.100.7:40000")
		if to.Addr().Is6() {
			from = netip.MustParseAddrPort("[2001:db8::7]:40000")
		}
		s := between(from, to)
		s.Seq, s.Ack, s.Flags, s.Window, s.Urgent = 7, 8, header.TCPFlagAck|header.TCPFlagUrg, 9, 10
		s.Timestamps, s.TSVal, s.TSEcr, s.TrafficClass = true, 11, 12, 0xb9
		for _, test := range []struct{ payload, size, gso int }{
			{1, 1448, 0}, {1448, 1448, 0}, {1449, 1448, 1448}, {60000, 48, 48},
		} {
			t.Run(fmt.Sprint(server, test), func(t *testing.T) {
				payload := bytes.Repeat([]byte{0xc3}, test.payload)
				frame, data := s.BuildData(append(dirty(), payload...), test.payload, test.size)
				if copy(data, payload) != test.payload || len(data) != test.payload {
					t.Fatalf("room for %d bytes", len(data))
				}
				var p stack.Packet
				if kind := p.Parse(frame[stack.VirtioLen:], true); kind != stack.KindTCP || len(p.IP) != len(frame)-stack.VirtioLen {
					t.Fatalf("kind %d, %d bytes in a frame of %d", kind, len(p.IP), len(frame))
				}
				if p.PayloadLen != test.payload || !bytes.Equal(p.IP[p.L4+p.HeaderLen:], payload) {
					t.Errorf("%d bytes of payload", p.PayloadLen)
				}
				if p.Seq != 7 || p.Ack != 8 || p.Flags != s.Flags || p.Window != 9 || p.TrafficClass() != 0xb9 ||
					p.Options.TSVal != 11 || p.Options.TSEcr != 12 || header.TCP(p.IP[p.L4:]).UrgentPointer() != 10 {
					t.Errorf("%+v", p)
				}
				v := stack.DecodeVirtio(frame)
				want := stack.Virtio{
					Flags: stack.VirtioNeedsCsum, HdrLen: uint16(p.L4 + p.HeaderLen), CsumStart: uint16(p.L4), CsumOffset: 16, GSOSize: uint16(test.gso),
				}
				if test.gso != 0 {
					want.GSOType = stack.GSOTCPv4
					if p.V6 {
						want.GSOType = stack.GSOTCPv6
					}
				}
				if v != want {
					t.Errorf("virtio header %+v, not %+v", v, want)
				}
				// The pseudo-header sum is that of a packet of this length: with the rest summed the checksum is right.
				complete := stacktest.CompleteChecksum(frame)
				if kind := p.Parse(complete[stack.VirtioLen:], false); kind != stack.KindTCP || !p.ChecksumOK() {
					t.Error("the checksum is wrong when completed")
				}
			})
		}
	}
}
