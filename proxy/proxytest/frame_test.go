package proxytest

import (
	"bytes"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/stack"
)

// A superpacket arrives as segments that any host accepts.
func TestPackets(t *testing.T) {
	for _, ends := range [][2]string{{"192.0.2.1", "198.51.100.1"}, {"2001:db8::1", "2001:db8::2"}} {
		src, dst := netip.MustParseAddr(ends[0]), netip.MustParseAddr(ends[1])
		s := stack.Segment{
			Src: stack.AddrFrom(src), Dst: stack.AddrFrom(dst), SrcPort: 1, DstPort: 2, Seq: 0xffffff00, Ack: 7,
			Flags:  header.TCPFlagAck | header.TCPFlagFin | header.TCPFlagPsh | header.TCPFlagCwr,
			WScale: stack.WScaleNone, Timestamps: true, TSVal: 3, TSEcr: 4,
		}
		payload := bytes.Repeat([]byte("0123456789"), 1000)
		partial := append(bytes.Clone(s.Build(make([]byte, stack.MaxBuilt))), payload...)
		setLength(partial[stack.VirtioLen:])
		v := stack.DecodeVirtio(partial)
		v.GSOType, v.GSOSize = stack.GSOTCPv4, 1440
		if src.Is6() {
			v.GSOType = stack.GSOTCPv6
		}
		v.Encode(partial)
		// The pseudo-header sum of the whole, as a host writes it.
		tcp := header.TCP(partial[stack.VirtioLen+int(v.CsumStart):])
		tcp.SetChecksum(header.PseudoHeaderChecksum(header.TCPProtocolNumber, addrOf(s.Src), addrOf(s.Dst), uint16(len(tcp))))

		p := newPacket(ToClient, 0, partial)
		if err := checkVirtio(p); err != nil {
			t.Fatal(err)
		}
		var got []byte
		all := packets(p)
		for i, ip := range all {
			var view stack.Packet
			if kind := view.Parse(ip, false); kind != stack.KindTCP || !view.ChecksumOK() || view.PayloadLen > 1440 {
				t.Fatalf("segment %d: kind %d, %d bytes, checksum right: %v", i, kind, view.PayloadLen, view.ChecksumOK())
			}
			if want := s.Seq.Add(seqnum.Size(len(got))); view.Seq != want {
				t.Errorf("segment %d: sequence number %d, not %d", i, view.Seq, want)
			}
			last := i == len(all)-1
			if view.Flags.Contains(header.TCPFlagFin) != last || view.Flags.Contains(header.TCPFlagCwr) != (i == 0) {
				t.Errorf("segment %d of %d has flags %v", i, len(all), view.Flags)
			}
			got = append(got, ip[view.L4+view.HeaderLen:]...)
		}
		if len(all) != 7 || !bytes.Equal(got, payload) {
			t.Errorf("%d segments with %d bytes", len(all), len(got))
		}
	}
}

// What the kernel would refuse is noticed.
func TestCheckVirtio(t *testing.T) {
	s := stack.Segment{
		Src: stack.AddrFrom(netip.MustParseAddr("192.0.2.1")), Dst: stack.AddrFrom(netip.MustParseAddr("192.0.2.2")),
		Flags: header.TCPFlagAck, WScale: stack.WScaleNone,
	}
	good := stack.Virtio{
		Flags: stack.VirtioNeedsCsum, GSOType: stack.GSOTCPv4, GSOSize: 50, HdrLen: 40, CsumStart: 20, CsumOffset: 16,
	}
	for _, test := range []struct {
		name   string
		change func(v *stack.Virtio)
		ok     bool
	}{
		{"superpacket", func(*stack.Virtio) {}, true},
		{"ordinary", func(v *stack.Virtio) { *v = stack.Virtio{} }, true},
		{"size without type", func(v *stack.Virtio) { v.GSOType = 0 }, false},
		{"IPv6 type", func(v *stack.Virtio) { v.GSOType = stack.GSOTCPv6 }, false},
		{"complete checksum", func(v *stack.Virtio) { v.Flags = 0 }, false},
		{"no size", func(v *stack.Virtio) { v.GSOSize = 0 }, false},
		{"one segment", func(v *stack.Virtio) { v.GSOSize = 100 }, false},
		{"header length", func(v *stack.Virtio) { v.HdrLen = 52 }, false},
		{"checksum start", func(v *stack.Virtio) { v.CsumStart = 40 }, false},
	} {
		frame := Frame(&s, make([]byte, 100))
		v := good
		test.change(&v)
		v.Encode(frame)
		if err := checkVirtio(newPacket(ToServer, 0, frame)); (err == nil) != test.ok {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}
