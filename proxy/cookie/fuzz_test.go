package cookie

import (
	"bytes"
	"math"
	"testing"
)

// FuzzCheck issues a cookie and checks it with its fields changed by xor, so that both good cookies and bad ones
// come up. Check never panics, accepts the unchanged cookie, and whatever it accepts is what Issue or
// IssueTS makes of what it says.
func FuzzCheck(f *testing.F) {
	v4 := append(bytes.Clone(tuples[0].t.Client[:]), tuples[0].t.Server[:]...)
	v6 := append(bytes.Clone(tuples[1].t.Client[:]), tuples[1].t.Server[:]...)
	f.Add(int64(now), v4, uint32(0xc001fefe), uint32(7), uint16(1460), uint8(7), uint8(7), int64(0), uint32(0), uint32(0), uint32(0))
	f.Add(int64(now), v6, uint32(0xc001fefe), uint32(7), uint16(1440), uint8(7), uint8(3), int64(0), uint32(0), uint32(0), uint32(0))
	f.Add(int64(0), v4, uint32(0), uint32(math.MaxUint32), uint16(0), uint8(15), uint8(0), int64(127), uint32(0), uint32(0), uint32(0))
	f.Add(int64(-1), v6, uint32(0), uint32(0), uint16(65535), uint8(0), uint8(1), int64(128), uint32(1), uint32(0), uint32(0))
	f.Add(int64(math.MinInt64), v4, uint32(1), uint32(2), uint16(536), uint8(14), uint8(5), int64(0), uint32(0), uint32(1<<31), uint32(0))
	f.Add(int64(math.MaxInt64), v6, uint32(1), uint32(2), uint16(536), uint8(200), uint8(0), int64(1), uint32(0), uint32(1), uint32(64))
	f.Fuzz(func(t *testing.T, unix int64, addrs []byte, ports, clientISN uint32, mss uint16, ws, flags uint8,
		age int64, xorSeq, xorAck, xorTS uint32) {
		var tuple Tuple
		copy(tuple.Server[:], addrs[copy(tuple.Client[:], addrs):])
		tuple.ClientPort, tuple.ServerPort = uint16(ports>>16), uint16(ports)
		timestamps := flags&1 != 0
		m := NewMaker(testSecret)
		isn, tsval := issue(m, timestamps, unix, &tuple, clientISN, Options{mss, ws, flags&2 != 0, flags&4 != 0})
		a := Ack{
			Seq:        (clientISN + 1) ^ xorSeq,
			Ack:        (isn + 1) ^ xorAck,
			Timestamps: timestamps != (flags&8 != 0),
			TSEcr:      tsval ^ xorTS,
		}
		at := unix + age // may wrap: any time is fine
		v, ok := m.Check(at, &tuple, a)
		unchanged := age == 0 && xorSeq == 0 && xorAck == 0 && xorTS == 0 && flags&8 == 0
		if !ok {
			if unchanged {
				t.Fatal("refused as it was issued")
			}
			if v != (Valid{}) {
				t.Fatalf("refused, but says %+v", v)
			}
			return
		}
		if v.ISN != a.Ack-1 || v.Probe != (v.ClientISN == a.Seq) || !v.Probe && v.ClientISN != a.Seq-1 {
			t.Fatalf("%+v of %+v", v, a)
		}
		// The key bit tells the epoch.
		epoch := Epoch(at)
		if uint32(epoch&1) != v.ISN>>31 {
			epoch--
		}
		again, againTS := issue(m, a.Timestamps, epoch*EpochSeconds, &tuple, v.ClientISN, v.Options)
		if again != v.ISN || againTS != v.TSVal || a.Timestamps && v.TSVal != a.TSEcr {
			t.Fatalf("accepted %+v, but issued again it is %08x, %08x", v, again, againTS)
		}
	})
}

// FuzzSecretFile: whatever is accepted is exactly what would be written for it.
func FuzzSecretFile(f *testing.F) {
	good := formatSecret(testSecret)
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(bytes.ToUpper(good))
	f.Add(append(bytes.Clone(good[:64]), '\r', '\n'))
	f.Add(bytes.Repeat([]byte{'0'}, 65))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSecret(b)
		if err != nil {
			if s != (Secret{}) {
				t.Fatal("an error and a secret")
			}
			return
		}
		if s == (Secret{}) || !bytes.Equal(formatSecret(s), b) {
			t.Fatalf("%q accepted", b)
		}
	})
}
