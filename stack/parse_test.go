package stack_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"pgregory.net/rapid"

	"levee/stack"
	"levee/stack/stacktest"
)

// parse is Parse into a Packet full of what an earlier packet left.
func parse(b []byte, partial bool) (*stack.Packet, stack.Kind) {
	p := &stack.Packet{
		IP: []byte("old"), L4: -1, HeaderLen: -1, PayloadLen: -1, Src: stack.Addr{1}, Dst: stack.Addr{1}, SrcPort: 1, DstPort: 1,
		Seq: 1, Ack: 1, Flags: 0xff, Window: 1, V6: true, FirstFragment: true, Partial: true,
		Options: stack.Options{MSS: 1, WScale: 1, SACKPermitted: true, SACKBlocks: 1, Timestamps: true, TSVal: 1, TSEcr: 1, Signed: true, Join: true},
	}
	return p, p.Parse(b, partial)
}

// mustParse parses the packet of a segment that is expected to be sound.
func mustParse(t rapid.TB, b []byte, partial bool) *stack.Packet {
	t.Helper()
	p, kind := parse(b, partial)
	if kind != stack.KindTCP {
		t.Fatalf("kind %d, want KindTCP, for %x", kind, b)
	}
	return p
}

// wantOptions is what stack.Options should say about the options b: the last of a kind and right length counts.
func wantOptions(t rapid.TB, b []byte) stack.Options {
	t.Helper()
	list, err := stacktest.ParseOptions(b)
	if err != nil {
		t.Fatalf("options %x: %v", b, err)
	}
	want := stack.Options{WScale: stack.WScaleNone}
	for _, o := range list {
		switch n := len(o.Data); {
		case o.Kind == 2 && n == 2:
			want.MSS = binary.BigEndian.Uint16(o.Data)
		case o.Kind == 3 && n == 1:
			want.WScale = min(o.Data[0], 14)
		case o.Kind == 4 && n == 0:
			want.SACKPermitted = true
		case o.Kind == 5 && n%8 == 0 && n > 0:
			want.SACKBlocks = uint8(n / 8)
		case o.Kind == 8 && n == 8:
			want.Timestamps = true
			want.TSVal, want.TSEcr = binary.BigEndian.Uint32(o.Data), binary.BigEndian.Uint32(o.Data[4:])
		case o.Kind == 19, o.Kind == 29:
			want.Signed = true
		case o.Kind == 30 && n > 0 && o.Data[0]>>4 == 1:
			want.Join = true
		}
	}
	return want
}

// wantPacket is what Parse should find in the packet of s.
func wantPacket(t rapid.TB, s *stacktest.Segment, packet []byte) *stack.Packet {
	t.Helper()
	headerLen := 20 + (len(s.Options)+3)/4*4
	return &stack.Packet{
		IP: packet, L4: len(packet) - len(s.Payload) - headerLen, Protocol: 6, HeaderLen: headerLen, PayloadLen: len(s.Payload),
		Src: stack.AddrFrom(s.Src.Addr()), Dst: stack.AddrFrom(s.Dst.Addr()), SrcPort: s.Src.Port(), DstPort: s.Dst.Port(),
		Seq: seqnum.Value(s.Seq), Ack: seqnum.Value(s.Ack), Flags: header.TCPFlags(s.Flags), Window: s.Window,
		Options: wantOptions(t, s.Options), V6: s.Src.Addr().Is6(), FirstFragment: s.FirstFragment(), Partial: s.Partial,
	}
}

func TestParseReadsEveryField(t *testing.T) {
	for name, s := range shapes() {
		t.Run(name, func(t *testing.T) {
			packet := s.Packet()
			p := mustParse(t, packet, s.Partial)
			if diff := cmp.Diff(wantPacket(t, &s, packet), p); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if p.TrafficClass() != s.TrafficClass || p.FlowLabel() != s.FlowLabel {
				t.Errorf("traffic class %#x, flow label %#x, want %#x, %#x", p.TrafficClass(), p.FlowLabel(), s.TrafficClass, s.FlowLabel)
			}
		})
	}
}

func TestParseCutsWhatFollowsThePacket(t *testing.T) {
	for name, s := range shapes() {
		packet := s.Packet()
		p := mustParse(t, append(bytes.Clone(packet), "padding of a short Ethernet frame"...), s.Partial)
		if !bytes.Equal(p.IP, packet) || p.PayloadLen != len(s.Payload) || p.ChecksumOK() != mustParse(t, packet, s.Partial).ChecksumOK() {
			t.Errorf("%s: %d bytes of packet and %d of payload, want %d and %d", name, len(p.IP), p.PayloadLen, len(packet), len(s.Payload))
		}
	}
}

func TestParseOnlyReads(t *testing.T) {
	for name, s := range shapes() {
		packet := s.Packet()
		p := mustParse(t, packet, s.Partial)
		p.ChecksumOK()
		if !bytes.Equal(packet, s.Packet()) {
			t.Errorf("%s: Parse or ChecksumOK has changed the packet", name)
		}
	}
}

// TestParseCutOff gives every beginning of every shape to Parse: the IP header promises more.
func TestParseCutOff(t *testing.T) {
	for name, s := range shapes() {
		packet := s.Packet()
		// The payload is not looked at: its first and last bytes stand for all.
		headers := len(packet) - len(s.Payload)
		for n := range packet {
			if n > headers+2 && n < len(packet)-2 {
				continue
			}
			// A buffer of exactly n bytes, so that reading on panics.
			if _, kind := parse(bytes.Clone(packet[:n]), s.Partial); kind != stack.KindTruncated {
				t.Errorf("%s: first %d of %d bytes: kind %d", name, n, len(packet), kind)
			}
		}
	}
}

// TestParseShortened makes every shape as short as can be, with an IP header that says so; what is cut off stays in the
// buffer, where it must not be read, or goes.
func TestParseShortened(t *testing.T) {
	for name, s := range shapes() {
		packet := s.Packet()
		full := mustParse(t, packet, s.Partial)
		fixed, field, offset := 20+len(s.IPOptions), 2, 0
		if full.V6 {
			fixed, field, offset = 40, 4, 40
		}
		for n := fixed; n <= full.L4+full.HeaderLen+min(full.PayloadLen, 2); n++ {
			b := bytes.Clone(packet[:n])
			binary.BigEndian.PutUint16(b[field:], uint16(n-offset))
			want := stack.KindTCP
			switch {
			case n < full.L4:
				want = stack.KindTruncated
			case n < full.L4+full.HeaderLen && full.FirstFragment:
				want = stack.KindTinyFragment
			case n < full.L4+20:
				want = stack.KindTruncated
			case n < full.L4+full.HeaderLen:
				want = stack.KindBadTCP
			}
			p, kind := parse(b, s.Partial)
			_, roomy := parse(append(b, packet[n:]...), s.Partial)
			if kind != want || roomy != want {
				t.Errorf("%s: packet of %d bytes: kind %d, with the rest behind it %d, want %d", name, n, kind, roomy, want)
			}
			if kind == stack.KindTCP && p.PayloadLen != n-full.L4-full.HeaderLen {
				t.Errorf("%s: packet of %d bytes: %d bytes of payload", name, n, p.PayloadLen)
			}
		}
	}
}

func TestDataOffset(t *testing.T) {
	for _, addrs := range [][2]netip.AddrPort{{client4, server4}, {client6, server6}} {
		for length := 20; length <= 64; length += 4 {
			for words := range 16 {
				s := stacktest.Segment{Src: addrs[0], Dst: addrs[1], Payload: make([]byte, length-20)}
				packet := s.Packet()
				packet[len(packet)-length+12] = byte(words << 4)
				want := stack.KindTCP
				if words < 5 || words*4 > length {
					want = stack.KindBadTCP
				}
				p, kind := parse(packet, false)
				if kind != want {
					t.Errorf("%s: data offset %d in %d bytes: kind %d, want %d", addrs[0], words, length, kind, want)
				}
				if kind == stack.KindTCP && (p.HeaderLen != 4*words || p.PayloadLen != length-4*words) {
					t.Errorf("%s: data offset %d in %d bytes: header %d, payload %d", addrs[0], words, length, p.HeaderLen, p.PayloadLen)
				}
			}
		}
	}
}

func TestSeqLenAndEnd(t *testing.T) {
	for name, c := range map[string]struct {
		flags   uint8
		payload int
		seq     uint32
		size    seqnum.Size
		end     seqnum.Value
	}{
		"ACK":                     {stacktest.ACK, 0, 5, 0, 5},
		"data":                    {stacktest.ACK, 100, 5, 100, 105},
		"SYN":                     {stacktest.SYN, 0, 5, 1, 6},
		"SYN with data":           {stacktest.SYN, 10, 5, 11, 16},
		"FIN with data":           {stacktest.FIN | stacktest.ACK, 10, 5, 11, 16},
		"SYN and FIN":             {stacktest.SYN | stacktest.FIN, 1, 5, 3, 8},
		"RST with data":           {stacktest.RST, 3, 5, 3, 8},
		"wraps to 0":              {stacktest.ACK, 1, 0xffffffff, 1, 0},
		"SYN wraps":               {stacktest.SYN, 0, 0xffffffff, 1, 0},
		"superpacket wraps":       {stacktest.ACK | stacktest.FIN, 65000, 0xffff8000, 65001, 65001 - 0x8000},
		"URG and PSH add nothing": {stacktest.URG | stacktest.PSH | stacktest.ACK, 0, 5, 0, 5},
	} {
		s := stacktest.Segment{Src: client4, Dst: server4, Seq: c.seq, Flags: c.flags, Payload: make([]byte, c.payload)}
		p := mustParse(t, s.Packet(), false)
		if p.SeqLen() != c.size || p.End() != c.end {
			t.Errorf("%s: SeqLen %d, End %d, want %d, %d", name, p.SeqLen(), p.End(), c.size, c.end)
		}
	}
}

func TestChecksumOK(t *testing.T) {
	for name, s := range shapes() {
		packet := s.Packet()
		p := mustParse(t, packet, s.Partial)
		if want := s.Partial || stacktest.FullChecksumOK(packet); p.ChecksumOK() != want {
			t.Errorf("%s: %v, want %v", name, !want, want)
		}
		if s.Partial || p.FirstFragment || s.ChecksumError != 0 {
			continue
		}
		for _, at := range []int{p.L4, p.L4 + 4, p.L4 + 13, p.L4 + 16, p.L4 + 17, len(packet) - 1} {
			packet[at]++
			if p.ChecksumOK() {
				t.Errorf("%s: right after a change of byte %d of %d", name, at, len(packet))
			}
			packet[at]--
		}
		// Addresses and length are covered too. Ports are the segment's own.
		moved := s
		moved.Dst = moved.Src
		other := moved.Packet()
		copy(other[p.L4:], packet[p.L4:])
		if mustParse(t, other, false).ChecksumOK() {
			t.Errorf("%s: right with another destination address", name)
		}
	}
}

// TestChecksumMinusZero has a segment whose right checksum is 0: 0xffff says the same.
func TestChecksumMinusZero(t *testing.T) {
	for _, addrs := range [][2]netip.AddrPort{{client4, server4}, {client6, server6}} {
		s := stacktest.Segment{Src: addrs[0], Dst: addrs[1]}
		packet := s.Packet()
		p := mustParse(t, packet, false)
		field := packet[p.L4+16:]
		s.Window = binary.BigEndian.Uint16(field)
		packet = s.Packet()
		field = packet[p.L4+16:]
		if binary.BigEndian.Uint16(field) != 0 {
			t.Fatalf("checksum %x, want 0", field[:2])
		}
		for _, c := range []uint16{0, 0xffff} {
			binary.BigEndian.PutUint16(field, c)
			if !mustParse(t, packet, false).ChecksumOK() {
				t.Errorf("%s: checksum %#x counts as wrong", addrs[0], c)
			}
		}
	}
}
