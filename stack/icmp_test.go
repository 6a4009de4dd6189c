package stack_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"levee/stack"
	"levee/stack/stacktest"
	"pgregory.net/rapid"
)

// icmpError is an ICMP or ICMPv6 error about a segment, which it quotes up to n bytes of TCP, with its checksum complete.
func icmpError(s stacktest.Segment, kind byte, n int) []byte {
	quoted := s.Packet()
	ipLen, v6 := 20, quoted[0]>>4 == 6
	if v6 {
		ipLen = 40
	}
	quoted = quoted[:min(len(quoted), ipLen+n)]
	message := append([]byte{kind, 0, 0, 0, 0, 0, 5, 0}, quoted...)
	var packet []byte
	if v6 {
		packet = make([]byte, 40, 40+len(message))
		packet[0], packet[6], packet[7] = 0x60, 58, 64
		binary.BigEndian.PutUint16(packet[4:], uint16(len(message)))
		packet[8], packet[23] = 0x20, 9 // from a router
		copy(packet[24:40], quoted[8:24])
	} else {
		packet = make([]byte, 20, 20+len(message))
		packet[0], packet[8], packet[9] = 0x45, 64, 1
		binary.BigEndian.PutUint16(packet[2:], uint16(20+len(message)))
		packet[12], packet[15] = 192, 9
		copy(packet[16:20], quoted[12:16])
	}
	packet = append(packet, message...)
	binary.BigEndian.PutUint16(packet[ipLen+2:], ^icmpSum(packet))
	return packet
}

// icmpSum is the sum that the checksum of a message complements: over the message, with a pseudo-header for ICMPv6.
func icmpSum(packet []byte) uint16 {
	covered := packet[20:]
	if packet[0]>>4 == 6 {
		covered = append(bytes.Clone(packet[8:40]), 0, 0, packet[4], packet[5], 0, 0, 0, 58)
		covered = append(covered, packet[40:]...)
	}
	if len(covered)%2 != 0 {
		covered = append(bytes.Clone(covered), 0)
	}
	return stacktest.Sum(covered)
}

// TestQuoteAgainstModel changes the quoted sequence number of random errors: nothing else may change but the checksums, and those
// must be what a full recomputation gives.
func TestQuoteAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := randomSegment(t)
		s.Extensions, s.Fragment, s.IPOptions, s.Partial = nil, 0, nil, false
		v6 := s.Src.Addr().Is6()
		kind := rapid.SampledFrom([]byte{3, 11, 12}).Draw(t, "kind")
		if v6 {
			kind = rapid.SampledFrom([]byte{1, 2, 3, 4}).Draw(t, "kind6")
		}
		n := rapid.IntRange(8, 120).Draw(t, "quoted")
		if n == 17 {
			n = 16 // half a checksum stays as it is
		}
		d := rapid.Uint32().Draw(t, "d")

		packet := icmpError(s, kind, n)
		var p stack.Packet
		if got := p.Parse(packet, false); got != stack.KindOther {
			t.Fatalf("kind %d", got)
		}
		var q stack.Quote
		if !q.Parse(&p) {
			t.Fatal("not taken for an error about TCP")
		}
		if q.SrcPort != s.Src.Port() || q.DstPort != s.Dst.Port() || uint32(q.Seq) != s.Seq {
			t.Fatalf("quotes port %d to %d, seq %d; want %d, %d, %d", q.SrcPort, q.DstPort, q.Seq, s.Src.Port(), s.Dst.Port(), s.Seq)
		}
		if q.Unreachable != (kind == 3 && !v6 || kind == 1) || !q.ChecksumOK() {
			t.Fatalf("kind %d, IPv6 %v: unreachable %v, checksum right %v", kind, v6, q.Unreachable, q.ChecksumOK())
		}
		q.AddSeq(d)
		s.Seq += d
		if !q.ChecksumOK() {
			t.Fatal("the checksum is not right any more")
		}
		packet[p.L4+5] ^= 1
		if q.ChecksumOK() {
			t.Fatal("a wrong checksum is right")
		}
		packet[p.L4+5] ^= 1
		want := icmpError(s, kind, n)
		// The checksums may write zero in two ways; the rest must be the same.
		l4 := p.L4
		inner := l4 + 8 + l4 + 16
		if len(packet) >= inner+2 {
			got, model := binary.BigEndian.Uint16(packet[inner:]), binary.BigEndian.Uint16(want[inner:])
			if !stacktest.SameChecksum(got, model) {
				t.Fatalf("the quoted checksum is %x, want %x", got, model)
			}
			copy(want[inner:inner+2], packet[inner:])
		}
		copy(want[l4+2:l4+4], packet[l4+2:])
		if !bytes.Equal(packet, want) {
			t.Fatalf("got  %x\nwant %x", packet, want)
		}
		if sum := icmpSum(packet); sum != 0xffff {
			t.Fatalf("the message sums to %x", sum)
		}
	})
}

// TestTooLongIsNotUnreachable: what a smaller packet would reach can be reached (RFC 792, code 4).
func TestTooLongIsNotUnreachable(t *testing.T) {
	for code := range byte(16) {
		packet := icmpError(stacktest.Segment{Src: server4, Dst: client4}, 3, 8)
		packet[21] = code
		var p stack.Packet
		var q stack.Quote
		if p.Parse(packet, false) != stack.KindOther || !q.Parse(&p) || q.Unreachable != (code != 4) {
			t.Errorf("code %d: unreachable %v", code, q.Unreachable)
		}
	}
}

// TestQuoteBehindExtensions finds the segment behind IPv6 extension headers, as far as the quotation goes.
func TestQuoteBehindExtensions(t *testing.T) {
	options, routing := stacktest.ExtensionHeader(stacktest.DestinationOptions, 8), stacktest.ExtensionHeader(stacktest.Routing, 24)
	for _, tt := range []struct {
		name   string
		chain  []stacktest.Extension
		quoted int
		want   bool
	}{
		{"two headers", []stacktest.Extension{routing, options}, 40, true},
		{"fragment header of a whole packet", []stacktest.Extension{stacktest.FragmentHeader(0, false)}, 16, true},
		{"first fragment", []stacktest.Extension{options, stacktest.FragmentHeader(0, true)}, 24, true},
		{"later fragment", []stacktest.Extension{stacktest.FragmentHeader(9, false)}, 60, false},
		{"quoted up to the ports", []stacktest.Extension{options}, 12, false},
		{"quoted up to the header", []stacktest.Extension{options}, 8, false},
		{"quoted up to the first byte of a header", []stacktest.Extension{options, options}, 9, false},
	} {
		packet := icmpError(stacktest.Segment{Src: server6, Dst: client6, Seq: 12345, Extensions: tt.chain}, 1, tt.quoted)
		var p stack.Packet
		var q stack.Quote
		if kind := p.Parse(packet, false); kind != stack.KindOther {
			t.Fatalf("%s: kind %d", tt.name, kind)
		}
		if got := q.Parse(&p); got != tt.want || got && q.Seq != 12345 {
			t.Errorf("%s: found %v, seq %d", tt.name, got, q.Seq)
		}
		if tt.want {
			if q.AddSeq(7); !q.ChecksumOK() {
				t.Errorf("%s: the checksum is wrong after an edit", tt.name)
			}
		}
	}
}

// TestQuoteInFragments: the first fragment of an error is edited so that the whole is right when it is put together again. Its checksum
// proves nothing.
func TestQuoteInFragments(t *testing.T) {
	const part = 72 // of the message: up to the quoted checksum, at least
	for _, s := range []stacktest.Segment{{Src: server4, Dst: client4}, {Src: server6, Dst: client6}} {
		s.Seq, s.Payload = 12345, bytes.Repeat([]byte{7}, 50)
		whole := icmpError(s, 3, 70)
		l4, first := 20, bytes.Clone(whole[:20+part])
		if s.Src.Addr().Is6() {
			l4 = 40
			fragment := stacktest.FragmentHeader(0, true).Bytes
			fragment[0] = whole[6]
			first = append(append(bytes.Clone(whole[:l4]), fragment...), whole[l4:l4+part]...)
			first[6], first[5] = stacktest.Fragmentation, byte(len(first)-l4)
		} else {
			first[6], first[3] = 0x20, byte(len(first))
		}
		var p stack.Packet
		var q stack.Quote
		if kind := p.Parse(first, false); kind != stack.KindOther || !q.Parse(&p) || q.Seq != 12345 {
			t.Fatalf("kind %d, seq %d", kind, q.Seq)
		}
		if q.ChecksumOK() {
			t.Error("the checksum of a part is right")
		}
		q.AddSeq(7)
		copy(whole[l4:], first[p.L4:])
		if sum := icmpSum(whole); sum != 0xffff {
			t.Errorf("the whole message sums to %x", sum)
		}
		if p.Parse(whole, false) != stack.KindOther || !q.Parse(&p) || q.Seq != 12352 {
			t.Errorf("the whole quotes %d", q.Seq)
		}
	}
	alone := icmpError(stacktest.Segment{Src: server4, Dst: client4}, 3, 8) // right for what is here
	alone[6] = 0x20
	var p stack.Packet
	var q stack.Quote
	if p.Parse(alone, false) != stack.KindOther || !q.Parse(&p) || q.ChecksumOK() {
		t.Error("a checksum that is right for a part is right")
	}
}

// TestNotAQuote lists what isn't an error about TCP.
func TestNotAQuote(t *testing.T) {
	good := func() []byte { return icmpError(stacktest.Segment{Src: server4, Dst: client4}, 3, 8) }
	spoiled := func(at int, b byte) []byte { p := good(); p[at] = b; return p }
	for name, packet := range map[string][]byte{
		"echo request":         spoiled(20, 8),
		"echo reply":           spoiled(20, 0),
		"redirect":             spoiled(20, 5),
		"quotes IPv6":          spoiled(28, 0x65),
		"quotes UDP":           spoiled(28+9, 17),
		"quotes a later part":  spoiled(28+7, 9),
		"quotes a short IP":    spoiled(28, 0x44),
		"quotes a long IP":     spoiled(28, 0x4f),
		"quotes less than TCP": func() []byte { p := good()[:20+8+20+7]; p[3]--; return p }(),
		"without a quotation":  func() []byte { p := good()[:20+8]; p[3] = 28; return p }(),
		"without a message":    func() []byte { p := good()[:20+3]; p[3] = 23; return p }(),
	} {
		var p stack.Packet
		var q stack.Quote
		if kind := p.Parse(packet, false); kind == stack.KindOther && q.Parse(&p) {
			t.Errorf("%s is taken for an error about TCP", name)
		}
	}
	for n := range good() { // shortened at every length
		packet := good()[:n]
		var p stack.Packet
		var q stack.Quote
		if p.Parse(packet, false) == stack.KindOther {
			q.Parse(&p)
		}
	}
}

func FuzzQuote(f *testing.F) {
	f.Add(icmpError(stacktest.Segment{Src: server4, Dst: client4}, 3, 20), uint32(7))
	f.Add(icmpError(stacktest.Segment{Src: server6, Dst: client6}, 2, 20), uint32(7))
	f.Fuzz(func(t *testing.T, packet []byte, d uint32) {
		var p stack.Packet
		var q stack.Quote
		if p.Parse(packet, false) != stack.KindOther || !q.Parse(&p) {
			return
		}
		seq := q.Seq
		q.AddSeq(d)
		q.AddSeq(-d)
		if q.Seq != seq {
			t.Errorf("there and back: %d, %d", seq, q.Seq)
		}
	})
}
