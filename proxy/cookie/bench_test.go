package cookie

import "testing"

// Each benchmark is one packet: a SYN answered, or an ACK judged.

func benchFamilies(b *testing.B, f func(b *testing.B, m *Maker, tuple *Tuple)) {
	for _, tt := range tuples {
		b.Run("family="+tt.name, func(b *testing.B) {
			b.ReportAllocs()
			tuple := tt.t
			f(b, NewMaker(testSecret), &tuple)
		})
	}
}

var benchOptions = Options{MSS: 1460, WScale: 7, SACK: true}

func BenchmarkIssue(b *testing.B) {
	benchFamilies(b, func(b *testing.B, m *Maker, tuple *Tuple) {
		for isn := uint32(0); b.Loop(); isn++ {
			m.Issue(now, tuple, isn, benchOptions)
		}
	})
}

func BenchmarkIssueTS(b *testing.B) {
	benchFamilies(b, func(b *testing.B, m *Maker, tuple *Tuple) {
		for isn := uint32(0); b.Loop(); isn++ {
			m.IssueTS(now, tuple, isn, benchOptions)
		}
	})
}

// An ACK of a handshake: one hash.
func BenchmarkCheckValid(b *testing.B) {
	benchFamilies(b, func(b *testing.B, m *Maker, tuple *Tuple) {
		isn, tsval := m.IssueTS(now, tuple, 1, benchOptions)
		a := Ack{Seq: 2, Ack: isn + 1, Timestamps: true, TSEcr: tsval}
		for b.Loop() {
			if _, ok := m.Check(now, tuple, a); !ok {
				b.Fatal("refused")
			}
		}
	})
}

// A flood of random ACKs: two hashes, keys of both epochs.
func BenchmarkCheckInvalid(b *testing.B) {
	benchFamilies(b, func(b *testing.B, m *Maker, tuple *Tuple) {
		for n := uint32(0); b.Loop(); n += 0x9e3779b9 {
			m.Check(now, tuple, Ack{Seq: n ^ 0x5555, Ack: n})
		}
	})
}

// What the first packet of an epoch pays on top.
func BenchmarkDeriveKey(b *testing.B) {
	b.ReportAllocs()
	secret := testSecret
	for epoch := int64(0); b.Loop(); epoch++ {
		deriveKey(&secret, epoch)
	}
}
