package stack_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"pgregory.net/rapid"

	"levee/stack"
	"levee/stack/stacktest"
)

// dirty is a buffer for Build, no longer than it has to be and full of what an earlier packet left.
func dirty() []byte { return bytes.Repeat([]byte{0xa5}, stack.MaxBuilt) }

// between is a segment from src to dst.
func between(src, dst netip.AddrPort) stack.Segment {
	return stack.Segment{
		Src: stack.AddrFrom(src.Addr()), Dst: stack.AddrFrom(dst.Addr()), SrcPort: src.Port(), DstPort: dst.Port(),
		WScale: stack.WScaleNone,
	}
}

func TestBuildBytes(t *testing.T) {
	// The four segments of a handshake through levee, with addresses and what else differs by family.
	handshake := func(client, server netip.AddrPort, mss uint16, flowLabel uint32) map[string]stack.Segment {
		syn := between(client, server)
		syn.Seq, syn.Flags, syn.Window, syn.FlowLabel = 0x01020304, header.TCPFlagSyn, 64240, flowLabel
		syn.MSS, syn.WScale, syn.SACKPermitted, syn.Timestamps, syn.TSVal = mss, 7, true, true, 0x11223344

		synAck := between(server, client)
		synAck.Seq, synAck.Ack, synAck.Window, synAck.TrafficClass = 0x8badf00d, 0x01020305, 65160, 2
		synAck.Flags = header.TCPFlagSyn | header.TCPFlagAck | header.TCPFlagEce
		synAck.MSS, synAck.WScale, synAck.SACKPermitted, synAck.Timestamps = mss, 10, true, true
		synAck.TSVal, synAck.TSEcr = 0xaabbccdd, 0x11223344

		ack := between(client, server)
		ack.Seq, ack.Ack, ack.Flags, ack.Window = 0x01020305, 0x8badf00e, header.TCPFlagAck, 502
		ack.Timestamps, ack.TSVal, ack.TSEcr = true, 0x11223345, 0xaabbccdd
		ack.TrafficClass, ack.FlowLabel = 0xb8, 0xfffff

		rst := between(client, server)
		rst.Seq, rst.Flags = 0x8badf00e, header.TCPFlagRst
		return map[string]stack.Segment{"SYN": syn, "SYN-ACK": synAck, "ACK": ack, "RST": rst}
	}
	want := map[string]map[string]string{
		"v4": {
			"SYN": `01 00 3c00 0000 1400 1000
				4500003c 00004000 4006 4e77 c6336407 c000020a
				9c40 01bb 01020304 00000000 a0 02 faf0 ec73 0000
				020405b4 0402 080a 11223344 00000000 01 030307`,
			"SYN-ACK": `01 00 3c00 0000 1400 1000
				4502003c 00004000 4006 4e75 c000020a c6336407
				01bb 9c40 8badf00d 01020305 a0 52 fe88 ec73 0000
				020405b4 0402 080a aabbccdd 11223344 01 03030a`,
			"ACK": `01 00 3400 0000 1400 1000
				45b80034 00004000 4006 4dc7 c6336407 c000020a
				9c40 01bb 01020305 8badf00e 80 10 01f6 ec6b 0000
				0101 080a 11223345 aabbccdd`,
			"RST": `01 00 2800 0000 1400 1000
				45000028 00004000 4006 4e8b c6336407 c000020a
				9c40 01bb 8badf00e 00000000 50 04 0000 ec5f 0000`,
		},
		"v6": {
			"SYN": `01 00 5000 0000 2800 1000
				60012345 0028 06 40 20010db8 000c0000 00000000 00000007 20010db8 00050000 00000000 00000010
				9c40 01bb 01020304 00000000 a0 02 faf0 5bc8 0000
				020405a0 0402 080a 11223344 00000000 01 030307`,
			"SYN-ACK": `01 00 5000 0000 2800 1000
				60200000 0028 06 40 20010db8 00050000 00000000 00000010 20010db8 000c0000 00000000 00000007
				01bb 9c40 8badf00d 01020305 a0 52 fe88 5bc8 0000
				020405a0 0402 080a aabbccdd 11223344 01 03030a`,
			"ACK": `01 00 4800 0000 2800 1000
				6b8fffff 0020 06 40 20010db8 000c0000 00000000 00000007 20010db8 00050000 00000000 00000010
				9c40 01bb 01020305 8badf00e 80 10 01f6 5bc0 0000
				0101 080a 11223345 aabbccdd`,
			"RST": `01 00 3c00 0000 2800 1000
				60000000 0014 06 40 20010db8 000c0000 00000000 00000007 20010db8 00050000 00000000 00000010
				9c40 01bb 8badf00e 00000000 50 04 0000 5bb4 0000`,
		},
	}
	for family, segments := range map[string]map[string]stack.Segment{
		"v4": handshake(client4, server4, 1460, 0),
		"v6": handshake(client6, server6, 1440, 0x12345),
	} {
		for name, s := range segments {
			t.Run(family+" "+name, func(t *testing.T) {
				frame, want := s.Build(dirty()), fromHex(t, want[family][name])
				if !bytes.Equal(frame, want) {
					t.Errorf("got  %x\nwant %x", frame, want)
				}
				if !stacktest.FullChecksumOK(stacktest.CompleteChecksum(frame)[stack.VirtioLen:]) {
					t.Error("the kernel's completion makes a wrong checksum")
				}
			})
		}
	}
}

func TestBuildOptions(t *testing.T) {
	const (
		mss = 1 << iota
		sack
		timestamps
		wscale
	)
	for combination, want := range map[int]string{
		0:                                ``,
		mss:                              `020405b4`,
		sack:                             `0101 0402`,
		timestamps:                       `0101 080a 01020304 05060708`,
		wscale:                           `01 030300`,
		mss | sack:                       `020405b4 0101 0402`,
		mss | timestamps:                 `020405b4 0101 080a 01020304 05060708`,
		mss | wscale:                     `020405b4 01 030300`,
		sack | timestamps:                `0402 080a 01020304 05060708`,
		sack | wscale:                    `0101 0402 01 030300`,
		timestamps | wscale:              `0101 080a 01020304 05060708 01 030300`,
		mss | sack | timestamps:          `020405b4 0402 080a 01020304 05060708`,
		mss | sack | wscale:              `020405b4 0101 0402 01 030300`,
		mss | timestamps | wscale:        `020405b4 0101 080a 01020304 05060708 01 030300`,
		sack | timestamps | wscale:       `0402 080a 01020304 05060708 01 030300`,
		mss | sack | timestamps | wscale: `020405b4 0402 080a 01020304 05060708 01 030300`,
	} {
		for family, s := range map[string]stack.Segment{"v4": between(client4, server4), "v6": between(server6, client6)} {
			t.Run(fmt.Sprintf("%s %04b", family, combination), func(t *testing.T) {
				if combination&mss != 0 {
					s.MSS = 1460
				}
				if combination&wscale != 0 {
					s.WScale = 0
				}
				s.SACKPermitted = combination&sack != 0
				s.Timestamps = combination&timestamps != 0
				s.TSVal, s.TSEcr = 0x01020304, 0x05060708
				frame := s.Build(dirty())
				got, err := stacktest.DecodeFrame(frame)
				if err != nil {
					t.Fatal(err)
				}
				if want := fromHex(t, want); !bytes.Equal(got.Options, want) {
					t.Errorf("options %x, want %x", got.Options, want)
				}
			})
		}
	}
}

// TestMaxBuilt pins that the longest frame uses all of MaxBuilt.
func TestMaxBuilt(t *testing.T) {
	s := between(client6, server6)
	s.MSS, s.WScale, s.SACKPermitted, s.Timestamps = 1440, 14, true, true
	if n := len(s.Build(dirty())); n != stack.MaxBuilt {
		t.Errorf("%d bytes, want MaxBuilt = %d", n, stack.MaxBuilt)
	}
}

func TestBuildUsesTheBuffer(t *testing.T) {
	for name, n := range map[string]int{"empty": 0, "full": stack.MaxBuilt} {
		buffer := dirty()
		s := between(client4, server4)
		if frame := s.Build(buffer[:n]); &frame[0] != &buffer[0] {
			t.Errorf("%s: the frame is not in the buffer", name)
		}
	}
}

// randomBuilt draws a segment for Build.
func randomBuilt(t *rapid.T) stack.Segment {
	src, dst := client4, server4
	if rapid.Bool().Draw(t, "v6") {
		src, dst = server6, client6
	}
	s := between(src, dst)
	s.SrcPort, s.DstPort = rapid.Uint16().Draw(t, "source port"), rapid.Uint16().Draw(t, "destination port")
	s.Seq, s.Ack = seqnum.Value(edgy().Draw(t, "seq")), seqnum.Value(edgy().Draw(t, "ack"))
	s.Flags = header.TCPFlags(rapid.Uint8().Draw(t, "flags"))
	s.Window = rapid.Uint16().Draw(t, "window")
	s.MSS = rapid.Uint16().Draw(t, "MSS")
	s.WScale = rapid.Uint8Range(0, stack.WScaleNone).Draw(t, "shift")
	s.SACKPermitted = rapid.Bool().Draw(t, "SACK")
	if rapid.Bool().Draw(t, "timestamps") {
		s.Timestamps, s.TSVal, s.TSEcr = true, edgy().Draw(t, "TSVal"), edgy().Draw(t, "TSEcr")
	}
	s.TrafficClass = rapid.Uint8().Draw(t, "traffic class")
	if !s.Src.Is4() {
		s.FlowLabel = rapid.Uint32Max(0xfffff).Draw(t, "flow label")
	}
	return s
}

// TestParseReadsWhatBuildWrites goes there and back: what Parse finds makes the same Segment again.
func TestParseReadsWhatBuildWrites(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := randomBuilt(t)
		frame := s.Build(dirty())
		if len(frame) > stack.MaxBuilt {
			t.Fatalf("%d bytes, more than MaxBuilt", len(frame))
		}
		if _, err := stacktest.DecodeFrame(frame); err != nil {
			t.Fatal(err)
		}
		if !stacktest.FullChecksumOK(stacktest.CompleteChecksum(frame)[stack.VirtioLen:]) {
			t.Fatalf("the kernel's completion makes a wrong checksum: %x", frame)
		}
		p := mustParse(t, frame[stack.VirtioLen:], true)
		if len(p.IP) != len(frame)-stack.VirtioLen || p.PayloadLen != 0 || p.V6 == s.Src.Is4() || p.FirstFragment || p.Options.SACKBlocks != 0 {
			t.Fatalf("parsed as %+v", p)
		}
		got := stack.Segment{
			Src: p.Src, Dst: p.Dst, SrcPort: p.SrcPort, DstPort: p.DstPort, Seq: p.Seq, Ack: p.Ack, Flags: p.Flags, Window: p.Window,
			MSS: p.Options.MSS, WScale: p.Options.WScale, SACKPermitted: p.Options.SACKPermitted,
			Timestamps: p.Options.Timestamps, TSVal: p.Options.TSVal, TSEcr: p.Options.TSEcr,
			TrafficClass: p.TrafficClass(), FlowLabel: p.FlowLabel(),
		}
		if diff := cmp.Diff(s, got); diff != "" {
			t.Fatalf("-built +parsed\n%s", diff)
		}
	})
}
