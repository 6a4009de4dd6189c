package stack_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"levee/stack"
	"levee/stack/stacktest"
)

// parseLimit is far above what the slowest packet costs and below what any loop would.
const parseLimit = time.Second

// addSeeds gives f every shape and oddity.
func addSeeds(f *testing.F, add func(packet []byte, partial bool)) {
	f.Helper()
	for _, s := range shapes() {
		// A fuzzing engine copies and mutates long inputs slowly and learns nothing from them.
		s.Payload = s.Payload[:min(len(s.Payload), 100)]
		add(s.Packet(), s.Partial)
	}
	for _, all := range []map[string]oddity{oddities4(), oddities6()} {
		for _, o := range all {
			add(o.packet, false)
			add(o.packet, true)
		}
	}
	for _, options := range badOptions() {
		add(stacktest.Segment{Src: client4, Dst: server4, Options: options}.Packet(), false)
		add(stacktest.Segment{Src: client6, Dst: server6, Options: options}.Packet(), true)
	}
}

// FuzzParse gives any bytes to Parse and compares with the slow decoder.
func FuzzParse(f *testing.F) {
	addSeeds(f, func(packet []byte, partial bool) { f.Add(packet, partial) })
	f.Fuzz(func(t *testing.T, b []byte, partial bool) {
		before := bytes.Clone(b)
		start := time.Now()
		p, kind := parse(b, partial)
		if took := time.Since(start); took > parseLimit {
			t.Errorf("took %s", took)
		}
		s, err := stacktest.Decode(b, partial)
		if (kind == stack.KindTCP) != (err == nil) {
			t.Fatalf("kind %d, but the decoder says %v", kind, err)
		}
		if kind == stack.KindTCP {
			if diff := cmp.Diff(wantPacket(t, &s, b[:len(p.IP)]), p); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if p.L4+p.HeaderLen+p.PayloadLen != len(p.IP) {
				t.Errorf("header at %d of %d bytes and payload of %d make no packet of %d", p.L4, p.HeaderLen, p.PayloadLen, len(p.IP))
			}
			if p.TrafficClass() != s.TrafficClass || p.FlowLabel() != s.FlowLabel {
				t.Errorf("traffic class %#x, flow label %#x, want %#x, %#x", p.TrafficClass(), p.FlowLabel(), s.TrafficClass, s.FlowLabel)
			}
			size := len(s.Payload) + int(s.Flags>>1&1) + int(s.Flags&1)
			if int(p.SeqLen()) != size || uint32(p.End()) != s.Seq+uint32(size) {
				t.Errorf("SeqLen %d, End %d for %+v", p.SeqLen(), p.End(), s)
			}
			right := partial || !s.FirstFragment() && stacktest.SameChecksum(s.ChecksumError, 0)
			if p.ChecksumOK() != right {
				t.Errorf("ChecksumOK says %v, the decoder %#x", p.ChecksumOK(), s.ChecksumError)
			}
		}
		if !bytes.Equal(b, before) {
			t.Error("reading has changed the packet")
		}
	})
}

// FuzzEdit applies an edit to any packet that Parse takes, compares with the slow model and undoes the edit.
func FuzzEdit(f *testing.F) {
	addSeeds(f, func(packet []byte, partial bool) {
		f.Add(packet, partial, uint32(1), uint32(0xfffffffe), uint32(0x80000000), uint32(77), uint16(501), true)
		f.Add(packet, partial, uint32(0), uint32(0), uint32(0), uint32(1), uint16(0), false)
	})
	f.Fuzz(func(t *testing.T, b []byte, partial bool, seq, ack, tsval, tsecr uint32, window uint16, setWindow bool) {
		p, kind := parse(bytes.Clone(b), partial)
		if kind != stack.KindTCP {
			return
		}
		before := b[:len(p.IP)]
		e := stack.Edit{Seq: seq, Ack: ack, TSVal: tsval, TSEcr: tsecr, Window: window, SetWindow: setWindow}
		back := inverse(p, e)
		p.Apply(&e)

		s, err := stacktest.Decode(before, partial)
		if err != nil {
			t.Fatal(err)
		}
		model := translated(t, s, e).Packet()[p.L4:] // before that the packet may be odd, and must stay as it is
		got := bytes.Clone(p.IP[p.L4:])
		if sum := 16; stacktest.SameChecksum(be16(got[sum:]), be16(model[sum:])) {
			copy(model[sum:], got[sum:sum+2])
		}
		if !bytes.Equal(got, model) {
			t.Errorf("got  %x\nwant %x", got, model)
		}
		if !bytes.Equal(p.IP[:p.L4], before[:p.L4]) {
			t.Error("the IP header has changed")
		}
		if diff := cmp.Diff(mustParse(t, p.IP, partial), p); diff != "" {
			t.Errorf("-parsed anew +edited\n%s", diff)
		}
		p.Apply(&back)
		checkRestored(t, p, before)
	})
}

// FuzzOptions gives any 40 bytes of options to Parse and compares with the slow list.
func FuzzOptions(f *testing.F) {
	for _, s := range shapes() {
		f.Add(s.Options)
	}
	for _, options := range badOptions() {
		f.Add(options)
	}
	f.Fuzz(func(t *testing.T, options []byte) {
		s := stacktest.Segment{Src: client4, Dst: server4, Options: options[:min(len(options), 40)]}
		packet := s.Packet()
		padded := packet[40:]
		p, kind := parse(packet, false)
		switch _, err := stacktest.ParseOptions(padded); {
		case err != nil && kind != stack.KindBadOptions, err == nil && kind != stack.KindTCP:
			t.Errorf("kind %d, but the decoder says %v", kind, err)
		case err == nil:
			if diff := cmp.Diff(wantOptions(t, padded), p.Options); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		}
	})
}

// FuzzVirtio decodes any header and encodes it again.
func FuzzVirtio(f *testing.F) {
	for _, s := range shapes() {
		f.Add(s.Frame()[:stack.VirtioLen])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < stack.VirtioLen {
			return
		}
		got := bytes.Clone(b)
		clear(got[:stack.VirtioLen])
		stack.DecodeVirtio(b).Encode(got)
		if !bytes.Equal(got, b) {
			t.Errorf("%x became %x", b, got)
		}
	})
}
