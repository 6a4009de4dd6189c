package cookie

import (
	"bytes"
	_ "embed"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/dchest/siphash"
)

//go:embed testdata/vectors.json
var vectorsJSON []byte

// hex32 is a number written as 8 hexadecimal digits.
type hex32 uint32

func (h *hex32) UnmarshalText(b []byte) error {
	v, err := strconv.ParseUint(string(b), 16, 32)
	*h = hex32(v)
	return err
}

// hexBytes is bytes written as hexadecimal digits.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(b []byte) (err error) {
	*h, err = hex.DecodeString(string(b))
	return err
}

type vectorOptions struct {
	MSS    uint16
	WScale uint8
	SACK   bool
	ECN    bool
}

type vector struct {
	Name       string
	Secret     hexBytes
	Unix       int64
	Client     netip.Addr
	Server     netip.Addr
	ClientPort uint16 `json:"client_port"`
	ServerPort uint16 `json:"server_port"`
	ClientISN  hex32  `json:"client_isn"`
	Timestamps bool
	Options    vectorOptions
	Epoch      int64
	Key        hexBytes
	Message    hexBytes
	SipHash    hexBytes
	ISN        hex32
	TSVal      hex32
	Back       vectorOptions
	Accept     []int64
	Refuse     []int64
}

func loadVectors(tb testing.TB) []vector {
	tb.Helper()
	var file struct {
		About   string
		Vectors []vector
	}
	d := json.NewDecoder(bytes.NewReader(vectorsJSON))
	d.DisallowUnknownFields()
	if err := d.Decode(&file); err != nil {
		tb.Fatal(err)
	}
	return file.Vectors
}

func (v *vector) tuple() *Tuple {
	return &Tuple{Client: v.Client.As16(), Server: v.Server.As16(), ClientPort: v.ClientPort, ServerPort: v.ServerPort}
}

func TestVectors(t *testing.T) {
	vectors := loadVectors(t)
	if len(vectors) < 40 {
		t.Fatalf("%d vectors, want 40 at least", len(vectors))
	}
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) {
			secret := Secret(v.Secret)
			if got := Epoch(v.Unix); got != v.Epoch {
				t.Errorf("epoch %d, want %d", got, v.Epoch)
			}
			k := deriveKey(&secret, v.Epoch)
			if got := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, k.k0), k.k1); !bytes.Equal(got, v.Key) {
				t.Errorf("key %x, want %x", got, v.Key)
			}
			tuple, l := v.tuple(), plain
			if v.Timestamps {
				l = stamped
			}
			var buf [maxMessage]byte
			msg := message(&buf, l, tuple, encode(l, tuple.isV6(), Options(v.Options)))
			setClientISN(msg, uint32(v.ClientISN))
			if !bytes.Equal(msg, v.Message) {
				t.Errorf("message %x, want %x", msg, v.Message)
			}
			if got, want := siphash.Hash(k.k0, k.k1, v.Message), binary.BigEndian.Uint64(v.SipHash); got != want {
				t.Errorf("SipHash %016x, want %016x", got, want)
			}

			m := NewMaker(secret)
			isn, tsval := issue(m, v.Timestamps, v.Unix, tuple, uint32(v.ClientISN), Options(v.Options))
			if isn != uint32(v.ISN) || tsval != uint32(v.TSVal) {
				t.Errorf("issued ISN %08x TSval %08x, want %08x and %08x", isn, tsval, v.ISN, v.TSVal)
			}

			want := Valid{ClientISN: uint32(v.ClientISN), ISN: uint32(v.ISN), TSVal: uint32(v.TSVal), Options: Options(v.Back)}
			ack := Ack{Seq: uint32(v.ClientISN) + 1, Ack: uint32(v.ISN) + 1, Timestamps: v.Timestamps, TSEcr: uint32(v.TSVal)}
			for _, at := range v.Accept {
				if got, ok := m.Check(at, tuple, ack); !ok || got != want {
					t.Errorf("at %d: %+v, %v, want %+v", at, got, ok, want)
				}
			}
			for _, at := range v.Refuse {
				if got, ok := m.Check(at, tuple, ack); ok {
					t.Errorf("at %d: accepted as %+v", at, got)
				}
			}
			want.Probe = true
			ack.Seq--
			if got, ok := m.Check(v.Unix, tuple, ack); !ok || got != want {
				t.Errorf("probe: %+v, %v, want %+v", got, ok, want)
			}
		})
	}
}

// TestVectorsCover makes sure that the vectors say something about every bit of the options and of the cookies.
func TestVectorsCover(t *testing.T) {
	type kind struct{ v6, timestamps bool }
	var and, or [4]struct{ options, cookie uint64 }
	for i := range and {
		and[i].options, and[i].cookie = ^uint64(0), ^uint64(0)
	}
	for _, v := range loadVectors(t) {
		k := kind{v.tuple().isV6(), v.Timestamps}
		i := int(bit(k.v6))<<1 | int(bit(k.timestamps))
		l := layout(bit(k.timestamps))
		c := encode(l, k.v6, Options(v.Options))
		options := uint64(c.mss)<<8 | uint64(c.rest)
		cookie := uint64(v.ISN)<<32 | uint64(v.TSVal)
		and[i].options, or[i].options = and[i].options&options, or[i].options|options
		and[i].cookie, or[i].cookie = and[i].cookie&cookie, or[i].cookie|cookie
	}
	for i := range and {
		l := layout(i & 1)
		wantOptions, wantCookie := uint64(7<<8|0xf), uint64(0xffffffff<<32)
		if l == stamped {
			wantOptions, wantCookie = 7<<8|0x3f, ^uint64(0)
		}
		if or[i].options != wantOptions || and[i].options != 0 {
			t.Errorf("kind %d: option bits never set: %#x, never clear: %#x", i, wantOptions&^or[i].options, and[i].options)
		}
		if or[i].cookie != wantCookie || and[i].cookie != 0 {
			t.Errorf("kind %d: cookie bits never set: %#x, never clear: %#x", i, wantCookie&^or[i].cookie, and[i].cookie)
		}
	}
}

// TestVectorsCurrent runs the independent implementation, with its own checks of SipHash and HKDF.
func TestVectorsCurrent(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		const reason = "the vectors can't be made anew without python3: install it"
		if os.Getenv("LEVEE_REQUIRE_ROOT") == "1" {
			t.Fatal(reason)
		}
		t.Skip(reason)
	}
	cmd := exec.CommandContext(t.Context(), python, "testdata/vectors.py")
	cmd.Stderr = os.Stderr
	got, err := cmd.Output()
	if err != nil {
		t.Fatalf("vectors.py: %v", err)
	}
	if !bytes.Equal(got, vectorsJSON) {
		t.Error("testdata/vectors.json is not what vectors.py prints: run vectors.py > vectors.json in testdata")
	}
}
