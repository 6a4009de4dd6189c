package cookie

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

// now is in the middle of an epoch.
const now = 1790000000 + 31

var testSecret = Secret{0: 0x5e, 31: 0xc7}

// tuples has one connection of each family.
var tuples = []struct {
	name string
	t    Tuple
}{
	{"v4", Tuple{addr("192.0.2.7"), addr("198.51.100.1"), 49152, 443, 0}},
	{"v6", Tuple{addr("2001:db8::7"), addr("2001:db8:1::1"), 49152, 443, 0}},
}

func addr(s string) [16]byte { return netip.MustParseAddr(s).As16() }

// issue is Issue or IssueTS.
func issue(m *Maker, timestamps bool, unix int64, t *Tuple, clientISN uint32, o Options) (isn, tsval uint32) {
	if timestamps {
		return m.IssueTS(unix, t, clientISN, o)
	}
	return m.Issue(unix, t, clientISN, o), 0
}

// layouts runs a test for each family and layout.
func layouts(t *testing.T, f func(t *testing.T, tuple *Tuple, timestamps bool)) {
	for _, tt := range tuples {
		for _, timestamps := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/timestamps=%v", tt.name, timestamps), func(t *testing.T) {
				tuple := tt.t
				f(t, &tuple, timestamps)
			})
		}
	}
}

func drawTuple(t *rapid.T) *Tuple {
	v6 := rapid.Bool().Draw(t, "v6")
	a := func(label string) (a [16]byte) {
		if v6 {
			copy(a[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, label))
			a[0] |= 0x20 // not v4-mapped
			return a
		}
		return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, label))).As16()
	}
	return &Tuple{a("client"), a("server"), rapid.Uint16().Draw(t, "client port"), rapid.Uint16().Draw(t, "server port"), rapid.Uint8().Draw(t, "context")}
}

func drawOptions(t *rapid.T) Options {
	return Options{
		MSS:    rapid.Uint16().Draw(t, "MSS"),
		WScale: rapid.Uint8Range(0, WScaleNone).Draw(t, "wscale"),
		SACK:   rapid.Bool().Draw(t, "SACK"),
		ECN:    rapid.Bool().Draw(t, "ECN"),
	}
}

// Whatever is issued is accepted at every second of its life, by the Maker of any node, and gives back the rounded options.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var secret Secret
		copy(secret[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "secret"))
		issuer, checker := NewMaker(secret), NewMaker(secret)
		tuple, o := drawTuple(t), drawOptions(t)
		timestamps := rapid.Bool().Draw(t, "timestamps")
		unix := rapid.Int64Range(-1<<40, 1<<40).Draw(t, "unix")
		clientISN := rapid.Uint32().Draw(t, "client ISN")

		isn, tsval := issue(issuer, timestamps, unix, tuple, clientISN, o)
		want := Valid{
			ClientISN: clientISN,
			ISN:       isn,
			TSVal:     tsval,
			Options: Options{
				MSS:    RoundMSS(tuple.isV6(), o.MSS),
				WScale: RoundWScale(timestamps, o.WScale),
				SACK:   o.SACK,
				ECN:    o.ECN && timestamps,
			},
		}
		if want.Options.WScale > o.WScale || want.Options.MSS > max(o.MSS, RoundMSS(tuple.isV6(), 0)) {
			t.Fatalf("rounded up: %+v to %+v", o, want.Options)
		}
		end := (Epoch(unix) + 2) * EpochSeconds
		if age := end - unix; age <= 64 || age > 128 {
			t.Fatalf("a life of %d s", age)
		}
		for at := unix; at < end; at++ {
			for _, probe := range []bool{false, true} {
				a := Ack{Seq: clientISN + 1, Ack: isn + 1, Timestamps: timestamps, TSEcr: tsval}
				want.Probe = probe
				if probe {
					a.Seq--
				}
				if got, ok := checker.Check(at, tuple, a); !ok || got != want {
					t.Fatalf("%d s after: %+v, %v, want %+v", at-unix, got, ok, want)
				}
			}
		}
	})
}

// The tests that expect a refusal draw from a fixed seed: the plain layout lets one guess in 2^23
// pass, which would be a rare failure of no meaning.
func seeded(a, b uint64) *rand.Rand { return rand.New(rand.NewPCG(a, b)) }

func TestLifeEdges(t *testing.T) {
	layouts(t, func(t *testing.T, tuple *Tuple, timestamps bool) {
		m := NewMaker(testSecret)
		r := seeded(1, 1)
		start := Epoch(now) * EpochSeconds
		for _, start := range []int64{start, start + EpochSeconds, 0, -EpochSeconds, -2 * EpochSeconds} {
			for issued := start; issued < start+EpochSeconds; issued++ {
				clientISN := r.Uint32()
				isn, tsval := issue(m, timestamps, issued, tuple, clientISN, Options{})
				a := Ack{Seq: clientISN + 1, Ack: isn + 1, Timestamps: timestamps, TSEcr: tsval}
				for _, tt := range []struct {
					name string
					at   int64
					want bool
				}{
					{"last second of the epoch before", start - 1, false},
					{"first second of its epoch", start, true},
					{"second of its issue", issued, true},
					{"last second of its epoch", start + 63, true},
					{"first second of the next epoch", start + 64, true},
					{"64 s later", issued + 64, true},
					{"last second of its life", start + 127, true},
					{"first second after its life", start + 128, false},
					{"128 s later", issued + 128, false},
					{"last second of the epoch after", start + 191, false},
					{"two epochs after, same key bit", start + 192, false},
					{"a day later", issued + 86400, false},
				} {
					if _, ok := m.Check(tt.at, tuple, a); ok != tt.want {
						t.Fatalf("issued at %d, %s (%d): accepted = %v", issued, tt.name, tt.at, ok)
					}
				}
			}
		}
	})
}

func TestEpoch(t *testing.T) {
	for unix, want := range map[int64]int64{
		0: 0, 1: 0, 63: 0, 64: 1, 127: 1, 128: 2, -1: -1, -64: -1, -65: -2,
		math.MaxInt64: 1<<57 - 1, math.MinInt64: -1 << 57,
	} {
		if got := Epoch(unix); got != want {
			t.Errorf("Epoch(%d) = %d, want %d", unix, got, want)
		}
	}
}

// Times at the ends of their range and jumps between them neither panic nor leave a wrong key in the cache.
func TestAnyTime(t *testing.T) {
	layouts(t, func(t *testing.T, tuple *Tuple, timestamps bool) {
		m := NewMaker(testSecret)
		times := []int64{math.MinInt64, math.MaxInt64, 0, -1, now, math.MinInt64 + 64, 64, now + 64, -65, now, math.MaxInt64 - 64, 0}
		for i, unix := range times {
			isn, tsval := issue(m, timestamps, unix, tuple, 7, Options{})
			freshISN, freshTSval := issue(NewMaker(testSecret), timestamps, unix, tuple, 7, Options{})
			if isn != freshISN || tsval != freshTSval {
				t.Errorf("step %d: cookie %08x/%08x, from a new Maker %08x/%08x", i, isn, tsval, freshISN, freshTSval)
			}
			a := Ack{Seq: 8, Ack: isn + 1, Timestamps: timestamps, TSEcr: tsval}
			if _, ok := m.Check(unix, tuple, a); !ok {
				t.Errorf("step %d: refused at %d", i, unix)
			}
			a.Ack ^= 1 << 31 // the other key, whose epoch may lie before the first time there is
			if _, ok := m.Check(unix, tuple, a); ok {
				t.Errorf("step %d: accepted with the other key at %d", i, unix)
			}
		}
	})
}

// No bit of the segment or of the connection can change without the cookie being refused, but for SEQ's shift by one.
func TestEveryBitCounts(t *testing.T) {
	layouts(t, func(t *testing.T, tuple *Tuple, timestamps bool) {
		m := NewMaker(testSecret)
		r := seeded(2, 2)
		for range 100 {
			clientISN := r.Uint32()
			o := Options{MSS: uint16(r.Uint32()), WScale: uint8(r.UintN(16)), SACK: r.UintN(2) == 0, ECN: r.UintN(2) == 0}
			isn, tsval := issue(m, timestamps, now, tuple, clientISN, o)
			good := Ack{Seq: clientISN + 1, Ack: isn + 1, Timestamps: timestamps, TSEcr: tsval}
			if _, ok := m.Check(now, tuple, good); !ok {
				t.Fatal("the cookie as it was issued is refused")
			}
			refused := func(what string, bit int, tuple *Tuple, a Ack) {
				t.Helper()
				if v, ok := m.Check(now, tuple, a); ok {
					t.Fatalf("accepted with bit %d of %s flipped: %+v", bit, what, v)
				}
			}
			for i := range 32 {
				a := good
				a.Ack = (isn ^ 1<<i) + 1
				refused("ISN", i, tuple, a)
				a.Ack = good.Ack ^ 1<<i
				refused("SEG.ACK", i, tuple, a)
				a = good
				a.TSEcr ^= 1 << i
				if timestamps {
					refused("TSecr", i, tuple, a)
				}
				a = good
				a.Seq ^= 1 << i
				if a.Seq != clientISN {
					refused("SEG.SEQ", i, tuple, a)
				} else if v, ok := m.Check(now, tuple, a); !ok || !v.Probe || v.ClientISN != clientISN {
					t.Fatalf("SEQ = client ISN: %+v, %v", v, ok)
				}
			}
			for i := range 16 {
				other := *tuple
				other.ClientPort ^= 1 << i
				refused("client port", i, &other, good)
				other = *tuple
				other.ServerPort ^= 1 << i
				refused("server port", i, &other, good)
			}
			for i := range 128 {
				other := *tuple
				other.Client[i/8] ^= 1 << (i % 8)
				refused("client address", i, &other, good)
				other = *tuple
				other.Server[i/8] ^= 1 << (i % 8)
				refused("server address", i, &other, good)
			}
			swapped := Tuple{tuple.Server, tuple.Client, tuple.ServerPort, tuple.ClientPort, tuple.Context}
			refused("direction", 0, &swapped, good)
			for _, shift := range []uint32{2, 3, math.MaxUint32, math.MaxUint32 - 1} {
				a := good
				a.Seq = clientISN + shift
				refused("SEQ, shifted", int(shift), tuple, a)
			}
		}
	})
}

// Neither layout's cookie passes as the other's, and TSEcr is ignored without timestamps.
func TestLayoutsApart(t *testing.T) {
	for _, tt := range tuples {
		t.Run(tt.name, func(t *testing.T) {
			m := NewMaker(testSecret)
			r := seeded(3, 3)
			for range 1000 {
				clientISN, tuple := r.Uint32(), &tt.t
				// Options whose bits could be those of either layout, so that only the layout byte differs.
				o := Options{MSS: 1460, WScale: uint8(r.UintN(16))}
				isn, tsval := m.IssueTS(now, tuple, clientISN, o)
				if _, ok := m.Check(now, tuple, Ack{Seq: clientISN + 1, Ack: isn + 1, TSEcr: tsval}); ok {
					t.Fatal("cookie with timestamps accepted without")
				}
				isn = m.Issue(now, tuple, clientISN, o)
				for _, tsecr := range []uint32{0, 0x17, isn, r.Uint32()} {
					if _, ok := m.Check(now, tuple, Ack{Seq: clientISN + 1, Ack: isn + 1, Timestamps: true, TSEcr: tsecr}); ok {
						t.Fatal("cookie without timestamps accepted with")
					}
				}
				v, ok := m.Check(now, tuple, Ack{Seq: clientISN + 1, Ack: isn + 1, TSEcr: r.Uint32()})
				if !ok || v.TSVal != 0 {
					t.Fatalf("a segment without the option: %+v, %v", v, ok)
				}
			}
		})
	}
}

func TestOtherSecret(t *testing.T) {
	layouts(t, func(t *testing.T, tuple *Tuple, timestamps bool) {
		for i := range 256 {
			other := testSecret
			other[i/8] ^= 1 << (i % 8)
			isn, tsval := issue(NewMaker(other), timestamps, now, tuple, 1, Options{})
			a := Ack{Seq: 2, Ack: isn + 1, Timestamps: timestamps, TSEcr: tsval}
			if _, ok := NewMaker(testSecret).Check(now, tuple, a); ok {
				t.Errorf("accepted with bit %d of the secret flipped", i)
			}
		}
	})
}

// Random ACKs pass as often as the package comment says: plain 2^-23 each, timestamps 2^-53. Of 2^22 that makes
// 0.5 and 2^-31 expected. The counts are Poisson: 6 or more of 0.5 has a chance of 1.4e-5, and the seed is fixed.
func TestForgery(t *testing.T) {
	const acks = 1 << 22
	for _, tt := range []struct {
		name       string
		timestamps bool
		most       int
	}{
		{"plain", false, 5},
		{"timestamps", true, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := NewMaker(testSecret)
			r := seeded(4, 4)
			tuple := tuples[0].t
			passed := 0
			for range acks {
				a, b := r.Uint64(), r.Uint64()
				tuple.ClientPort = uint16(b >> 32)
				ack := Ack{Seq: uint32(a), Ack: uint32(a >> 32), Timestamps: tt.timestamps, TSEcr: uint32(b)}
				if _, ok := m.Check(now, &tuple, ack); ok {
					passed++
				}
			}
			t.Logf("%d of %d random ACKs accepted", passed, acks)
			if passed > tt.most {
				t.Errorf("%d of %d random ACKs accepted, want at most %d", passed, acks, tt.most)
			}
		})
	}
}

// The TSval's half of the MAC counts by itself: with the right ISN and options and a random rest, 2^-26 of the guesses
// pass. Of 2^22 that makes 1/16 expected; 3 or more has a chance of 4e-5, and the seed is fixed.
func TestForgedTSecr(t *testing.T) {
	m := NewMaker(testSecret)
	r := seeded(5, 5)
	tuple := &tuples[0].t
	isn, tsval := m.IssueTS(now, tuple, 1, Options{MSS: 1460, WScale: 7})
	passed := 0
	for range 1 << 22 {
		guess := r.Uint32()&^0x3f | tsval&0x3f
		if guess == tsval {
			continue
		}
		if _, ok := m.Check(now, tuple, Ack{Seq: 2, Ack: isn + 1, Timestamps: true, TSEcr: guess}); ok {
			passed++
		}
	}
	if passed > 2 {
		t.Errorf("%d guesses accepted", passed)
	}
}

func TestMakerIsRedacted(t *testing.T) {
	m := NewMaker(testSecret)
	m.Issue(now, &tuples[0].t, 1, Options{})
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		for _, v := range []any{m, *m} {
			if got := fmt.Sprintf(verb, v); got != redacted {
				t.Errorf("%s of a %T: %s", verb, v, got)
			}
		}
	}
}

// A cookie is good only in the context that it was made in.
func TestContext(t *testing.T) {
	layouts(t, func(t *testing.T, tuple *Tuple, timestamps bool) {
		m := NewMaker(testSecret)
		r := seeded(5, 5)
		for range 1000 {
			clientISN := r.Uint32()
			tuple.Context = uint8(r.Uint32())
			isn, tsval := issue(m, timestamps, now, tuple, clientISN, Options{})
			a := Ack{Seq: clientISN + 1, Ack: isn + 1, Timestamps: timestamps, TSEcr: tsval}
			if _, ok := m.Check(now, tuple, a); !ok {
				t.Fatalf("refused in its own context %d", tuple.Context)
			}
			other := *tuple
			other.Context ^= 1 << (r.Uint32() % 8)
			if _, ok := m.Check(now, &other, a); ok {
				t.Fatalf("made in context %d, accepted in %d", tuple.Context, other.Context)
			}
		}
	})
}
