package stacktest

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

var (
	client4 = netip.MustParseAddrPort("198.51.100.7:40000")
	server4 = netip.MustParseAddrPort("192.0.2.10:443")
	client6 = netip.MustParseAddrPort("[2001:db8:c::7]:40000")
	server6 = netip.MustParseAddrPort("[2001:db8:5::10]:443")
)

// samples are segments of very different shapes.
func samples() map[string]Segment {
	return map[string]Segment{
		"bare":    {Src: client4, Dst: server4},
		"bare v6": {Src: client6, Dst: server6},
		"everything v4": {
			Src: server4, Dst: client4, TrafficClass: 0xb9, TTL: 3, ID: 0xabcd, Fragment: DontFragment,
			IPOptions: []byte{148, 4, 0, 0, 1, 1, 1, 0},
			Seq:       0xfffffff0, Ack: 0x80000001, Reserved: 1, Flags: 0xff, Window: 0xfeed, Urgent: 9,
			Options: bytes.Join([][]byte{WScale(7), SACK(1, 2, 0xfffffffe, 5), NOP(1), Timestamps(77, 0xffffffff)}, nil),
			Payload: []byte("odd"),
		},
		"everything v6": {
			Src: server6, Dst: client6, TrafficClass: 0x5a, TTL: 255, FlowLabel: 0xfedcb,
			Extensions: []Extension{
				ExtensionHeader(HopByHop, 16), ExtensionHeader(Routing, 24), FragmentHeader(0, false),
				ExtensionHeader(Authentication, 20), ExtensionHeader(DestinationOptions, 2048),
			},
			Seq: 1, Ack: 2, Flags: ACK | PSH, Window: 3, Options: append(MSS(1440), SACKPermitted()...), Payload: []byte("even"),
		},
		"partial":        {Src: client4, Dst: server4, Flags: SYN, Options: MSS(1460), Partial: true},
		"wrong checksum": {Src: client6, Dst: server6, Flags: SYN, Options: MSS(1440), ChecksumError: 0x1234},
		"first fragment": {Src: client4, Dst: server4, Fragment: MoreFragments, Payload: make([]byte, 8)},
		"superpacket v4": {Src: client4, Dst: server4, Flags: ACK | CWR, Partial: true, GSOSize: 1448, Payload: make([]byte, 65000)},
		"superpacket v6": {Src: client6, Dst: server6, Flags: ACK, Partial: true, GSOSize: 1428, Payload: make([]byte, 65515)},
	}
}

func TestDecodeReadsWhatFrameWrites(t *testing.T) {
	for name, want := range samples() {
		t.Run(name, func(t *testing.T) {
			frame := want.Frame()
			got, err := DecodeFrame(append(frame, "behind the packet"...))
			if err != nil {
				t.Fatal(err)
			}
			if again := got.Frame(); !bytes.Equal(again, frame) {
				t.Errorf("written again:\n%x, want\n%x", again, frame)
			}
			for len(want.Options)%4 != 0 {
				want.Options = append(want.Options, 0)
			}
			if want.TTL == 0 {
				want.TTL = 64
			}
			opts := cmp.Options{cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })}
			if diff := cmp.Diff(want, got, opts); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

// TestGopacketAgrees compares with an encoder that others wrote.
func TestGopacketAgrees(t *testing.T) {
	for name, s := range samples() {
		if s.Partial || s.ChecksumError != 0 || len(s.Extensions)+len(s.IPOptions) > 0 {
			continue
		}
		t.Run(name, func(t *testing.T) {
			tcp := &layers.TCP{
				SrcPort: layers.TCPPort(s.Src.Port()), DstPort: layers.TCPPort(s.Dst.Port()),
				Seq: s.Seq, Ack: s.Ack, Window: s.Window, Urgent: s.Urgent,
			}
			var ip gopacket.SerializableLayer
			if s.Src.Addr().Is4() {
				v4 := &layers.IPv4{
					Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, Flags: layers.IPv4Flag(s.Fragment >> 13),
					SrcIP: s.Src.Addr().AsSlice(), DstIP: s.Dst.Addr().AsSlice(),
				}
				ip = v4
				tcp.SetNetworkLayerForChecksum(v4)
			} else {
				v6 := &layers.IPv6{
					Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolTCP,
					SrcIP: s.Src.Addr().AsSlice(), DstIP: s.Dst.Addr().AsSlice(),
				}
				ip = v6
				tcp.SetNetworkLayerForChecksum(v6)
			}
			// The same segment with payload, options and flags, so that all of them are summed.
			s.Flags = SYN | ACK | ECE
			tcp.SYN, tcp.ACK, tcp.ECE = true, true, true
			s.Options = append(MSS(1460), Timestamps(0xfffffffe, 3)...)
			for _, o := range [][]byte{MSS(1460), Timestamps(0xfffffffe, 3)} {
				tcp.Options = append(tcp.Options, layers.TCPOption{OptionType: layers.TCPOptionKind(o[0]), OptionLength: o[1], OptionData: o[2:]})
			}
			s.Payload = append(s.Payload, "\xff\xfe odd number"...)
			buf := gopacket.NewSerializeBuffer()
			opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
			if err := gopacket.SerializeLayers(buf, opts, ip, tcp, gopacket.Payload(s.Payload)); err != nil {
				t.Fatal(err)
			}
			if got := s.Packet(); !bytes.Equal(got, buf.Bytes()) {
				t.Errorf("got  %x\nwant %x", got, buf.Bytes())
			}
		})
	}
}

func TestSum(t *testing.T) {
	for name, c := range map[string]struct {
		hex  string
		want uint16
	}{
		"nothing":                  {"", 0},
		"the example of RFC 1071":  {"0001 f203 f4f5 f6f7", 0xddf2},
		"odd length":               {"0001 f2", 0xf201},
		"the carry carries itself": {"ffff ffff 0001", 0x0001},
		"minus zero":               {"fffe 0001", 0xffff},
	} {
		b, err := hex.DecodeString(strings.ReplaceAll(c.hex, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if got := Sum(b); got != c.want {
			t.Errorf("%s: %#04x, want %#04x", name, got, c.want)
		}
	}
}

func TestFullChecksumOK(t *testing.T) {
	for name, want := range map[string]bool{
		"bare": true, "bare v6": true, "everything v4": true, "everything v6": true,
		"partial": false, "wrong checksum": false, "first fragment": false,
	} {
		s := samples()[name]
		packet := s.Packet()
		if got := FullChecksumOK(packet); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
		// Any one bit off.
		for at := s.l4(); at < len(packet); at++ {
			packet[at] ^= 0x10
			if FullChecksumOK(packet) {
				t.Errorf("%s: right after a change of byte %d", name, at)
			}
			packet[at] ^= 0x10
		}
	}
	packet := samples()["bare"].Packet()
	packet[8]-- // TTL
	if FullChecksumOK(packet) {
		t.Error("right with a wrong checksum in the IPv4 header")
	}
	if FullChecksumOK([]byte("no packet")) {
		t.Error("right without a packet")
	}
}

func TestCompleteChecksum(t *testing.T) {
	for _, name := range []string{"partial", "superpacket v4", "superpacket v6"} {
		s := samples()[name]
		frame := CompleteChecksum(s.Frame())
		if !FullChecksumOK(frame[virtioLen:]) || !bytes.Equal(frame[:virtioLen], make([]byte, virtioLen)) {
			t.Errorf("%s: not complete: %x", name, frame[:100])
		}
	}
	frame := samples()["wrong checksum"].Frame()
	if got := CompleteChecksum(frame); !bytes.Equal(got, frame) {
		t.Errorf("a complete one changed to %x", got)
	}
}

func TestDecodeFrameRefusesBadVirtio(t *testing.T) {
	put := func(at int, v uint16) func([]byte) {
		return func(b []byte) { binary.LittleEndian.PutUint16(b[at:], v) }
	}
	for name, breakIt := range map[string]func([]byte){
		"csum_start":            put(6, 24),
		"csum_offset":           put(8, 6),
		"GSO type of IPv6":      func(b []byte) { b[1] = gsoTCPv6 },
		"no GSO type":           func(b []byte) { b[1] = 0 },
		"no NEEDS_CSUM":         func(b []byte) { b[0] = 0 },
		"gso_size 0":            put(4, 0),
		"gso_size over payload": put(4, 65000),
		"hdr_len":               put(2, 39),
	} {
		frame := samples()["superpacket v4"].Frame()
		breakIt(frame)
		if _, err := DecodeFrame(frame); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := DecodeFrame(make([]byte, 9)); err == nil {
		t.Error("9 bytes: no error")
	}
}

func TestParseOptions(t *testing.T) {
	got, err := ParseOptions(bytes.Join([][]byte{NOP(1), WScale(7), {254, 2}, {0, 3, 1}}, nil))
	want := []Option{{Kind: 1}, {3, []byte{7}}, {Kind: 254}}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	for name, b := range map[string][]byte{
		"length 0": {2, 0, 0, 0}, "length 1": {2, 1, 0, 0}, "no length": {1, 1, 1, 2}, "overrun": {1, 2, 4, 0},
	} {
		if _, err := ParseOptions(b); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
