package stack_test

import (
	"math/rand/v2"
	"net/netip"

	"pgregory.net/rapid"

	"levee/stack"
	"levee/stack/stacktest"
)

// edgy draws 32-bit values, many of them where sums wrap and signs change.
func edgy() *rapid.Generator[uint32] {
	return rapid.OneOf(
		rapid.SampledFrom([]uint32{0, 1, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xffff0000, 0xfffffffe, 0xffffffff}),
		rapid.Uint32(),
	)
}

// randomBytes draws n bytes, all 0, all 255 or anything.
func randomBytes(t *rapid.T, label string, n int) []byte {
	b := make([]byte, n)
	switch how := rapid.Uint64().Draw(t, label); how {
	case 0:
	case 1:
		for i := range b {
			b[i] = 0xff
		}
	default:
		r := rand.New(rand.NewPCG(how, 0))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
	}
	return b
}

// randomOption draws one option, mostly one of those that an edit changes, in its right length or not.
func randomOption(t *rapid.T) []byte {
	words := edgy()
	switch rapid.IntRange(0, 9).Draw(t, "option") {
	case 0, 1, 2:
		return stacktest.Timestamps(words.Draw(t, "TSVal"), words.Draw(t, "TSEcr"))
	case 3, 4:
		return stacktest.SACK(rapid.SliceOfN(words, 0, 9).Draw(t, "edges")...)
	case 5, 6:
		return stacktest.NOP(rapid.IntRange(1, 3).Draw(t, "NOPs"))
	case 7:
		return stacktest.WScale(rapid.Uint8().Draw(t, "shift"))
	case 8:
		return stacktest.MSS(rapid.Uint16().Draw(t, "MSS"))
	default:
		kind := rapid.ByteMin(2).Draw(t, "kind")
		data := randomBytes(t, "data", rapid.IntRange(0, 18).Draw(t, "length"))
		return append([]byte{kind, byte(len(data) + 2)}, data...)
	}
}

// randomOptions draws up to 40 bytes of sound options, at every alignment, sometimes with rubbish after their end.
func randomOptions(t *rapid.T) []byte {
	var b []byte
	for range rapid.IntRange(0, 8).Draw(t, "options") {
		if o := randomOption(t); len(b)+len(o) <= 40 {
			b = append(b, o...)
		}
	}
	if len(b) < 40 && rapid.IntRange(0, 9).Draw(t, "rubbish") == 0 {
		b = append(b, 0)
		rubbish := rapid.OneOf(
			rapid.Custom(randomOption),
			rapid.Custom(func(t *rapid.T) []byte { return randomBytes(t, "rubbish", rapid.IntRange(0, 40).Draw(t, "length")) }),
		).Draw(t, "rubbish")
		b = append(b, rubbish[:min(len(rubbish), 40-len(b))]...)
	}
	return b
}

// randomSegment draws a sound segment of either family, in either checksum state, right or wrong.
func randomSegment(t *rapid.T) stacktest.Segment {
	port := rapid.Uint16()
	s := stacktest.Segment{
		TrafficClass: rapid.Uint8().Draw(t, "traffic class"),
		Seq:          edgy().Draw(t, "seq"),
		Ack:          edgy().Draw(t, "ack"),
		Reserved:     rapid.Uint8Max(15).Draw(t, "reserved"),
		Flags:        rapid.Uint8().Draw(t, "flags"),
		Window:       rapid.Uint16().Draw(t, "window"),
		Urgent:       rapid.Uint16().Draw(t, "urgent"),
		Options:      randomOptions(t),
		Payload:      randomBytes(t, "payload", rapid.IntRange(0, 3000).Draw(t, "length")),
	}
	if rapid.Bool().Draw(t, "v6") {
		address := func(label string) netip.AddrPort {
			a := [16]byte(randomBytes(t, label, 16))
			a[0] = 0x20
			return netip.AddrPortFrom(netip.AddrFrom16(a), port.Draw(t, "port"))
		}
		s.Src, s.Dst = address("source"), address("destination")
		s.FlowLabel = rapid.Uint32Max(0xfffff).Draw(t, "flow label")
		for range rapid.IntRange(0, 2).Draw(t, "extensions") {
			kind := rapid.SampledFrom([]uint8{stacktest.HopByHop, stacktest.Authentication}).Draw(t, "kind")
			s.Extensions = append(s.Extensions, stacktest.ExtensionHeader(kind, 8*rapid.IntRange(1, 4).Draw(t, "words")))
		}
	} else {
		address := func(label string) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte(randomBytes(t, label, 4))), port.Draw(t, "port"))
		}
		s.Src, s.Dst = address("source"), address("destination")
		s.ID = rapid.Uint16().Draw(t, "ID")
		s.Fragment = rapid.SampledFrom([]uint16{0, stacktest.DontFragment, stacktest.MoreFragments}).Draw(t, "fragment")
		s.IPOptions = stacktest.NOP(4 * rapid.IntRange(0, 10).Draw(t, "IP options"))
	}
	switch rapid.IntRange(0, 3).Draw(t, "checksum") {
	case 0:
		s.Partial = true
	case 1:
		s.ChecksumError = rapid.Uint16Range(1, 0xfffe).Draw(t, "checksum error")
	}
	return s
}

// randomEdit draws an edit, often of some fields only.
func randomEdit(t *rapid.T) stack.Edit {
	some := rapid.OneOf(rapid.Just(uint32(0)), edgy())
	return stack.Edit{
		Seq:       some.Draw(t, "add to seq"),
		Ack:       some.Draw(t, "add to ack"),
		TSVal:     some.Draw(t, "add to TSVal"),
		TSEcr:     some.Draw(t, "add to TSEcr"),
		Window:    rapid.Uint16().Draw(t, "new window"),
		SetWindow: rapid.Bool().Draw(t, "set window"),
	}
}
