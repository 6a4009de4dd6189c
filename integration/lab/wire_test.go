package lab_test

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
	"levee/stack/stacktest"
)

// A packet sent at one wire comes out at the other as it was, a hop later and with a right checksum, and no kernel answers it.
func TestWire(t *testing.T) {
	for _, vouched := range []bool{false, true} {
		name := map[bool]string{false: "checked", true: "vouched"}[vouched]
		t.Run(name, func(t *testing.T) {
			l := labtest.New(t, lab.Config{})
			links := []*lab.Link{l.Clients[0].Link, l.Servers[0].Link}
			prefixes := [][2]string{{"198.51.100.128/25", "2001:db8:2::1:0/112"}, {"192.0.2.128/25", "2001:db8:1::1:0/112"}}
			var wires []*lab.Wire
			for i, link := range links {
				if err := link.SetOffload(false); err != nil {
					t.Fatal(err)
				}
				w, err := link.OpenWire(vouched, netip.MustParsePrefix(prefixes[i][0]), netip.MustParsePrefix(prefixes[i][1]))
				if err != nil {
					t.Fatal(err)
				}
				wires = append(wires, w)
			}
			buffer := make([]byte, 1<<16)
			for _, ends := range [][2]string{{"198.51.100.129:1000", "192.0.2.129:80"}, {"[2001:db8:2::1:1]:1000", "[2001:db8:1::1:1]:80"}} {
				s := stacktest.Segment{
					Src: netip.MustParseAddrPort(ends[0]), Dst: netip.MustParseAddrPort(ends[1]),
					Seq: 7, Flags: stacktest.SYN, Window: 9, Options: stacktest.MSS(1460), Payload: []byte("odd"), TTL: 9,
				}
				for _, wrongBy := range []uint16{0, 1} {
					s.ChecksumError = wrongBy
					if err := wires[0].Send(s.Packet()); err != nil {
						t.Fatal(err)
					}
					raw, err := wires[1].Receive(buffer)
					if err != nil {
						t.Fatal(err)
					}
					got, err := stacktest.Decode(raw, false)
					if err != nil || got.TTL != s.TTL-1 || got.Seq != s.Seq || string(got.Payload) != "odd" || !stacktest.SameChecksum(got.ChecksumError, wrongBy) {
						t.Errorf("checksum wrong by %d: received %+v, %v", wrongBy, got, err)
					}
				}
				// The other way round: what comes first at the client's wire is this, and no kernel's answer to the above.
				s.Src, s.Dst, s.ChecksumError, s.Seq = s.Dst, s.Src, 0, 8
				if err := wires[1].Send(s.Packet()); err != nil {
					t.Fatal(err)
				}
				raw, err := wires[0].Receive(buffer)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := stacktest.Decode(raw, false); err != nil || got.Seq != 8 {
					t.Errorf("received %+v, %v", got, err)
				}
			}
			if err := wires[0].Close(); err != nil {
				t.Error(err)
			}
			if _, err := wires[0].Receive(buffer); !errors.Is(err, os.ErrClosed) {
				t.Errorf("received from a closed wire: %v", err)
			}
			if err := wires[1].Send(nil); err == nil {
				t.Error("sent nothing at all")
			}
		})
	}
}

// Addresses that a kernel has are not for a wire.
func TestWireRefusesAddressesInUse(t *testing.T) {
	l := labtest.New(t, lab.Config{})
	for _, prefix := range []netip.Prefix{lab.ClientPrefix4, lab.ClientPrefix6} {
		if _, err := l.Clients[0].Link.OpenWire(false, prefix); err == nil || !strings.Contains(err.Error(), "an address of the link") {
			t.Errorf("%s: %v", prefix, err)
		}
	}
}
