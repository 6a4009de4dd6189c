package stack_test

import (
	"bytes"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"levee/stack"
	"levee/stack/stacktest"
)

// families are the two ends of the benchmarked traffic.
var families = map[string]stacktest.Segment{
	"v4": {Src: client4, Dst: server4},
	"v6": {Src: client6, Dst: server6},
}

// benchmarkFamilies runs f for both families with a segment of s's contents.
func benchmarkFamilies(b *testing.B, s stacktest.Segment, f func(b *testing.B, s stacktest.Segment)) {
	for name, ends := range families {
		s.Src, s.Dst = ends.Src, ends.Dst
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			f(b, s)
		})
	}
}

// bulk is a segment of a transfer with timestamps, its options full of SACK blocks if sack.
func bulk(payload int, sack, partial bool) stacktest.Segment {
	s := stacktest.Segment{
		Seq: 1, Ack: 2, Flags: stacktest.ACK, Window: 501, Options: bulkOptions(),
		Payload: bytes.Repeat([]byte{0x5a}, payload), Partial: partial,
	}
	if sack {
		s.Options = sackOptions()
	}
	return s
}

func syn() stacktest.Segment {
	return stacktest.Segment{Seq: 1, Flags: stacktest.SYN, Window: 64240, Options: synOptions(1460)}
}

func benchmarkParse(b *testing.B, s stacktest.Segment) {
	packet := s.Packet()
	var p stack.Packet
	for b.Loop() {
		if p.Parse(packet, s.Partial) != stack.KindTCP {
			b.Fatal("not TCP")
		}
	}
}

// benchmarkTranslate is what a worker does with a segment of an open flow: parse and edit.
func benchmarkTranslate(b *testing.B, s stacktest.Segment, e stack.Edit) {
	packet := s.Packet()
	var p stack.Packet
	b.SetBytes(int64(len(packet)))
	for b.Loop() {
		p.Parse(packet, s.Partial)
		e.Window++
		p.Apply(&e)
	}
}

var (
	toServer = stack.Edit{Ack: 0xdeadbeef, TSEcr: 0x12345678}
	toClient = stack.Edit{Seq: 0x21524111, TSVal: 0xedcba988, SetWindow: true}
)

func BenchmarkParseSYN(b *testing.B) { benchmarkFamilies(b, syn(), benchmarkParse) }

func BenchmarkParseBulkTimestamps(b *testing.B) {
	benchmarkFamilies(b, bulk(1448, false, false), benchmarkParse)
}

// BenchmarkTranslateBulk edits segments of full size in the direction of the data: partial ones are superpackets
// of a local peer or of GRO, complete ones come from a wire.
func BenchmarkTranslateBulk(b *testing.B) {
	translate := func(b *testing.B, s stacktest.Segment) { benchmarkTranslate(b, s, toClient) }
	b.Run("partial superpacket", func(b *testing.B) { benchmarkFamilies(b, bulk(64000, false, true), translate) })
	b.Run("complete segment", func(b *testing.B) { benchmarkFamilies(b, bulk(1428, false, false), translate) })
}

// BenchmarkTranslateSACK edits the acknowledgments of a lossy download: three SACK blocks each.
func BenchmarkTranslateSACK(b *testing.B) {
	translate := func(b *testing.B, s stacktest.Segment) { benchmarkTranslate(b, s, toServer) }
	b.Run("partial", func(b *testing.B) { benchmarkFamilies(b, bulk(0, true, true), translate) })
	b.Run("complete", func(b *testing.B) { benchmarkFamilies(b, bulk(0, true, false), translate) })
}

// BenchmarkBuildSYNACK answers a SYN of a flood.
func BenchmarkBuildSYNACK(b *testing.B) {
	benchmarkFamilies(b, syn(), func(b *testing.B, in stacktest.Segment) {
		s := between(in.Dst, in.Src)
		s.Flags, s.Ack, s.Window = header.TCPFlagSyn|header.TCPFlagAck, 2, 65160
		s.MSS, s.WScale, s.SACKPermitted, s.Timestamps, s.TSEcr = 1440, 7, true, true, 1
		buffer := dirty()
		for b.Loop() {
			s.Seq++
			s.Build(buffer)
		}
	})
}

// BenchmarkChecksumSYN verifies a SYN of a flood, which comes before anything is answered.
func BenchmarkChecksumSYN(b *testing.B) {
	benchmarkFamilies(b, syn(), func(b *testing.B, s stacktest.Segment) {
		p := mustParse(b, s.Packet(), false)
		b.SetBytes(int64(len(p.IP)))
		for b.Loop() {
			if !p.ChecksumOK() {
				b.Fatal("wrong")
			}
		}
	})
}
