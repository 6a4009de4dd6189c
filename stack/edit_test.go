package stack_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"levee/stack"
	"levee/stack/stacktest"
)

// translated is s after e, field by field: the slow model of Apply. Its bytes are those of a new segment.
func translated(t rapid.TB, s stacktest.Segment, e stack.Edit) stacktest.Segment {
	t.Helper()
	s.Options = slices.Clone(s.Options)
	if s.Flags&stacktest.ACK == 0 {
		e.Ack, e.TSEcr = 0, 0
	}
	s.Seq += e.Seq
	s.Ack += e.Ack
	if e.SetWindow {
		s.Window = e.Window
	}
	list, err := stacktest.ParseOptions(s.Options)
	if err != nil {
		t.Fatal(err)
	}
	add := func(b []byte, v uint32) { binary.BigEndian.PutUint32(b, binary.BigEndian.Uint32(b)+v) }
	for _, o := range list {
		switch {
		case o.Kind == 8 && len(o.Data) == 8:
			add(o.Data, e.TSVal)
			add(o.Data[4:], e.TSEcr)
		case o.Kind == 5 && len(o.Data)%8 == 0:
			for edge := range slices.Chunk(o.Data, 4) {
				add(edge, e.Ack)
			}
		}
	}
	return s
}

// checkApply applies e to the packet of s and compares every byte with the model's.
func checkApply(t rapid.TB, s stacktest.Segment, e stack.Edit) {
	t.Helper()
	packet := s.Packet()
	p := mustParse(t, packet, s.Partial)
	p.Apply(&e)

	want := translated(t, s, e).Packet()
	// A wrong checksum is wrong by the same difference, in which 0 and 0xffff are one.
	field := p.L4 + 16
	got, right := binary.BigEndian.Uint16(packet[field:]), binary.BigEndian.Uint16(want[field:])
	if s.ChecksumError != 0 && stacktest.SameChecksum(got, right) {
		copy(want[field:], packet[field:field+2])
	}
	if !bytes.Equal(packet, want) {
		t.Fatalf("%+v changes\n%x to\n%x, want\n%x", e, s.Packet(), packet, want)
	}
	if diff := cmp.Diff(mustParse(t, packet, s.Partial), p); diff != "" {
		t.Fatalf("%+v: -parsed anew +edited\n%s", e, diff)
	}
	complete := !s.Partial && !s.FirstFragment()
	if complete && stacktest.FullChecksumOK(packet) != (s.ChecksumError == 0) {
		t.Fatalf("%+v: the checksum was off by %#x, and a full recomputation says %v", e, s.ChecksumError, s.ChecksumError != 0)
	}
}

func TestApplyLikeModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		checkApply(t, randomSegment(t), randomEdit(t))
	})
}

func TestApplyShapes(t *testing.T) {
	for name, e := range map[string]stack.Edit{
		"nothing":          {},
		"client to server": {Ack: 0xdeadbeef, TSEcr: 0x12345678},
		"server to client": {Seq: 0x21524111, TSVal: 0xedcba988, Window: 0x7fff, SetWindow: true},
		"everything by 1":  {Seq: 1, Ack: 1, TSVal: 1, TSEcr: 1, Window: 1, SetWindow: true},
		"everything by -1": {Seq: 0xffffffff, Ack: 0xffffffff, TSVal: 0xffffffff, TSEcr: 0xffffffff, SetWindow: true},
		"low bytes only":   {Seq: 0xff, TSVal: 0xff},
		"high bytes only":  {Ack: 0xff000000, TSEcr: 0xff000000},
		"window to 0":      {SetWindow: true},
	} {
		t.Run(name, func(t *testing.T) {
			for _, s := range shapes() {
				if len(s.Payload) > 3000 && name != "everything by 1" {
					continue // one edit of each superpacket will do: the slow model is slow
				}
				checkApply(t, s, e)
			}
		})
	}
}

// TestApplyOptionsAtEveryAlignment puts timestamps and SACK blocks at every offset at which they fit.
func TestApplyOptionsAtEveryAlignment(t *testing.T) {
	e := stack.Edit{Seq: 1, Ack: 0xfffefdfc, TSVal: 0x01020304, TSEcr: 0x80ff00fe}
	for at := range 31 {
		for _, option := range [][]byte{
			stacktest.Timestamps(0xfffffffe, 0x00ff00ff),
			stacktest.SACK(0xffffffff, 1),
			stacktest.SACK(1, 2, 0xfffffff0, 4, 5, 6),
			stacktest.SACK(1, 2, 3, 4, 5, 6, 7, 8),
		} {
			if at+len(option) > 40 {
				continue
			}
			s := stacktest.Segment{Flags: stacktest.ACK, Ack: 9, Options: opts(stacktest.NOP(at), option), Payload: []byte("odd")}
			for _, partial := range []bool{false, true} {
				s.Partial = partial
				s.Src, s.Dst = client4, server4
				checkApply(t, s, e)
				s.Src, s.Dst = client6, server6
				checkApply(t, s, e)
			}
		}
	}
}

// TestApplyBytes has one segment whose bytes after an edit are worked out by hand.
func TestApplyBytes(t *testing.T) {
	s := stacktest.Segment{
		Src: client4, Dst: server4, Seq: 0xfffffff0, Ack: 0x00000010, Flags: stacktest.ACK, Window: 0x0100,
		Options: opts(stacktest.NOP(1), stacktest.Timestamps(0x00000001, 0xffffffff), stacktest.NOP(3), stacktest.SACK(0x20, 0x30)),
	}
	packet := s.Packet()
	p := mustParse(t, packet, false)
	p.Apply(&stack.Edit{Seq: 0x20, Ack: 0xfffffff0, TSVal: 0xffffffff, TSEcr: 2, Window: 0x0203, SetWindow: true})
	want := fromHex(t, `
		00000010 00000000 b0 10 0203 .... 0000
		01 080a 00000000 00000001 010101 050a 00000010 00000020`)
	got := bytes.Clone(packet[24:])
	copy(got[12:], want[12:14]) // checkApply and the property know the checksum
	if !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
	if !stacktest.FullChecksumOK(packet) {
		t.Error("wrong checksum")
	}
}

// TestApplyWithoutACK has segments whose acknowledgment fields mean nothing: they stay, and so do edges of SACK blocks.
func TestApplyWithoutACK(t *testing.T) {
	for _, flags := range []uint8{0, stacktest.SYN, stacktest.RST, stacktest.FIN | stacktest.PSH} {
		s := stacktest.Segment{
			Src: client4, Dst: server4, Seq: 1, Ack: 2, Flags: flags,
			Options: opts(stacktest.Timestamps(3, 4), stacktest.SACK(5, 6)),
		}
		p := mustParse(t, s.Packet(), false)
		p.Apply(&stack.Edit{Seq: 10, Ack: 20, TSVal: 30, TSEcr: 40})
		want := s
		want.Seq, want.Options = 11, opts(stacktest.Timestamps(33, 4), stacktest.SACK(5, 6))
		if !bytes.Equal(p.IP, want.Packet()) {
			t.Errorf("flags %#x: got  %x\nwant %x", flags, p.IP, want.Packet())
		}
		if p.Seq != 11 || p.Ack != 2 || p.Options.TSVal != 33 || p.Options.TSEcr != 4 {
			t.Errorf("flags %#x: %+v", flags, p)
		}
	}
}

// TestApplyTwice undoes an edit by its inverse.
func TestApplyTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, e := randomSegment(t), randomEdit(t)
		packet := s.Packet()
		p := mustParse(t, packet, s.Partial)
		back := inverse(p, e)
		p.Apply(&e)
		p.Apply(&back)
		checkRestored(t, p, s.Packet())
	})
}

// inverse is what undoes e on p.
func inverse(p *stack.Packet, e stack.Edit) stack.Edit {
	return stack.Edit{Seq: -e.Seq, Ack: -e.Ack, TSVal: -e.TSVal, TSEcr: -e.TSEcr, Window: p.Window, SetWindow: true}
}

// checkRestored compares p's bytes with those it had before. Only a checksum of 0xffff may come back as 0.
func checkRestored(t rapid.TB, p *stack.Packet, before []byte) {
	t.Helper()
	field := p.L4 + 16
	if binary.BigEndian.Uint16(before[field:]) == 0xffff && binary.BigEndian.Uint16(p.IP[field:]) == 0 {
		before = bytes.Clone(before)
		clear(before[field : field+2])
	}
	if !bytes.Equal(p.IP, before) {
		t.Fatalf("there and back: got\n%x, want\n%x", p.IP, before)
	}
}
