package lab_test

import (
	"fmt"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"levee/integration/lab"
	"levee/stack"
)

// Every frame of a flood is sound: lengths, flags and checksums, with addresses and ports as they were asked for.
func TestFloodFrames(t *testing.T) {
	flags := map[lab.FloodKind]header.TCPFlags{
		lab.FloodSYN: 2, lab.FloodACK: 0x10, lab.FloodSYNACK: 0x12, lab.FloodRST: 4, lab.FloodFIN: 0x11,
	}
	targets := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.10:80"), netip.MustParseAddrPort("[2001:db8:1::a]:80")}
	sources := []netip.AddrPort{netip.MustParseAddrPort("198.51.100.10:4321"), netip.MustParseAddrPort("[2001:db8:2::a]:4321")}
	for i, target := range targets {
		for _, kind := range lab.FloodKinds() {
			if kind == lab.FloodMixed {
				continue
			}
			for _, source := range []netip.AddrPort{{}, sources[i]} {
				t.Run(fmt.Sprintf("%v,v6=%d,%v", kind, i, source), func(t *testing.T) {
					frame, write := lab.FloodWriter(lab.FloodConfig{Target: target, Kind: kind, Source: source, Options: lab.LinuxSYN})
					seqs := make(map[uint32]bool)
					for range 100 {
						write(frame)
						var p stack.Packet
						got := p.Parse(frame[14:], false)
						if i == 0 && !header.IPv4(p.IP).IsChecksumValid() {
							t.Fatal("wrong checksum of the IP header")
						}
						if p.Dst.Netip() != target.Addr() || source.IsValid() && p.Src.Netip() != source.Addr() {
							t.Fatalf("from %v to %v", p.Src.Netip(), p.Dst.Netip())
						}
						if kind == lab.FloodFragments {
							if got != stack.KindLaterFragment || !p.MayCarryTCP() {
								t.Fatalf("kind %d, protocol %d", got, p.Protocol)
							}
							continue
						}
						if got != stack.KindTCP || !p.ChecksumOK() || p.Flags != flags[kind] || p.DstPort != 80 || source.IsValid() && p.SrcPort != 4321 {
							t.Fatalf("kind %d, %+v", got, p)
						}
						if (p.Ack != 0) != (p.Flags&0x10 != 0) {
							t.Fatalf("acknowledgement %d with flags %v", p.Ack, p.Flags)
						}
						seqs[uint32(p.Seq)] = true
					}
					if kind != lab.FloodFragments && len(seqs) < 95 {
						t.Errorf("%d sequence numbers in 100 frames", len(seqs))
					}
				})
			}
		}
	}
}
