package stack_test

import (
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"levee/stack"
)

func TestNoAllocations(t *testing.T) {
	if raceOn {
		t.Skip("the race detector allocates by itself; runs without -race")
	}
	// One Packet and one buffer serve all packets, as in a worker.
	var p stack.Packet
	check := func(name string, f func()) {
		t.Helper()
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	e := stack.Edit{Seq: 1, Ack: 2, TSVal: 3, TSEcr: 4, Window: 5, SetWindow: true}
	for name, s := range shapes() {
		packet := s.Packet()
		check("Parse "+name, func() { p.Parse(packet, s.Partial) })
		check("Apply "+name, func() { e.Window++; p.Apply(&e) })
		check("ChecksumOK "+name, func() { p.ChecksumOK() })
	}
	for _, all := range []map[string]oddity{oddities4(), oddities6()} {
		for name, o := range all {
			check("Parse "+name, func() { p.Parse(o.packet, false) })
		}
	}
	buffer := dirty()
	for name, s := range map[string]stack.Segment{"v4": between(client4, server4), "v6": between(client6, server6)} {
		s.Flags, s.MSS, s.WScale, s.SACKPermitted, s.Timestamps = header.TCPFlagSyn, 1440, 7, true, true
		check("Build "+name, func() { s.Build(buffer) })
		check("virtio "+name, func() { stack.DecodeVirtio(buffer).Encode(buffer) })
	}
}
