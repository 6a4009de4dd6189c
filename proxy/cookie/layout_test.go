package cookie

import (
	"math"
	"slices"
	"testing"
)

func TestRoundMSS(t *testing.T) {
	tables := map[bool][]uint16{
		false: {536, 1200, 1360, 1400, 1440, 1452, 1460, 8960},
		true:  {1220, 1280, 1340, 1380, 1420, 1432, 1440, 8940},
	}
	for v6, table := range tables {
		for mss := range math.MaxUint16 + 1 {
			got := RoundMSS(v6, uint16(mss))
			want := table[0]
			for _, e := range table {
				if int(e) <= mss {
					want = e
				}
			}
			if got != want {
				t.Fatalf("RoundMSS(%v, %d) = %d, want %d", v6, mss, got, want)
			}
			if int(got) > mss && mss >= int(table[0]) {
				t.Fatalf("RoundMSS(%v, %d) = %d: rounded up", v6, mss, got)
			}
		}
	}
}

func TestRoundWScale(t *testing.T) {
	// By shift 0 to 15, then the out of range 16 and 255.
	shifts := []uint8{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, WScaleNone, 16, 255}
	tests := []struct {
		name       string
		timestamps bool
		want       []uint8
	}{
		{"plain", false, []uint8{0, 0, 2, 2, 2, 5, 6, 7, 8, 8, 10, 10, 10, 10, 10, WScaleNone, 10, 10}},
		{"timestamps", true, []uint8{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, WScaleNone, 14, 14}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []uint8
			for _, ws := range shifts {
				got = append(got, RoundWScale(tt.timestamps, ws))
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got  %v\nwant %v", got, tt.want)
			}
		})
	}
}

// Every code is the code of what it decodes to, and all fit into their bits.
func TestCodeRoundTrip(t *testing.T) {
	for _, l := range []layout{plain, stamped} {
		rests := 16
		if l == stamped {
			rests = 64
		}
		for _, v6 := range []bool{false, true} {
			for mss := range uint8(8) {
				for rest := range uint8(rests) {
					c := code{mss, rest}
					if got := encode(l, v6, decode(l, v6, c)); got != c {
						t.Errorf("layout %d, v6 %v: %+v decodes to %+v, which encodes to %+v", l, v6, c, decode(l, v6, c), got)
					}
				}
			}
		}
	}
}

func TestPackUnpack(t *testing.T) {
	tests := []struct {
		name       string
		l          layout
		epoch      int64
		c          code
		hash       uint64
		isn, tsval uint32
		mac        uint64
	}{
		{"plain, hash only", plain, 0, code{}, math.MaxUint64, 0x00ffffff, 0, 0xffffff},
		{"plain, key", plain, 3, code{}, 0, 0x80000000, 0, 0},
		{"plain, key before 1970", plain, -1, code{}, 0, 0x80000000, 0, 0},
		{"plain, MSS", plain, 2, code{mss: 7}, 0, 0x70000000, 0, 0},
		{"plain, wscale and SACK", plain, 2, code{rest: 0xf}, 0, 0x0f000000, 0, 0},
		{"timestamps, hash only", stamped, 0, code{}, math.MaxUint64, 0x0fffffff, 0xffffffc0, 0xffffffc00fffffff},
		{"timestamps, key", stamped, 1, code{}, 0, 0x80000000, 0, 0},
		{"timestamps, MSS", stamped, 0, code{mss: 5}, 0, 0x50000000, 0, 0},
		{"timestamps, ECN, SACK and wscale", stamped, 0, code{rest: 0x3f}, 0, 0, 0x3f, 0},
		{"timestamps, halves", stamped, 0, code{}, 0x123456789abcdef0, 0x0abcdef0, 0x12345640, 0x123456400abcdef0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			isn, tsval := pack(tt.l, tt.epoch, tt.c, tt.hash)
			if isn != tt.isn || tsval != tt.tsval {
				t.Errorf("pack: ISN %08x TSval %08x, want %08x and %08x", isn, tsval, tt.isn, tt.tsval)
			}
			c, mac := unpack(tt.l, isn, tsval)
			if c != tt.c || mac != tt.mac {
				t.Errorf("unpack: %+v %016x, want %+v %016x", c, mac, tt.c, tt.mac)
			}
			if tt.hash&tt.l.macMask() != mac {
				t.Errorf("mask %016x doesn't select the MAC %016x", tt.l.macMask(), mac)
			}
		})
	}
}

func TestFamily(t *testing.T) {
	v4 := [16]byte{10: 0xff, 11: 0xff, 12: 192, 14: 2, 15: 1}
	v6 := [16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 1}
	compatible := [16]byte{12: 192, 14: 2, 15: 1} // RFC 4291's dead IPv4-compatible form
	tests := []struct {
		name           string
		client, server [16]byte
		want           bool
	}{
		{"v4", v4, v4, false},
		{"v6", v6, v6, true},
		{"client v6", v6, v4, true},
		{"server v6", v4, v6, true},
		{"v4-compatible", compatible, compatible, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := (&Tuple{Client: tt.client, Server: tt.server}).isV6(); got != tt.want {
				t.Errorf("isV6 = %v", got)
			}
		})
	}
}
