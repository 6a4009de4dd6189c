package proxy

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"levee/proxy/flood"
	"levee/stack"
)

// refused are frames that levee drops whether there is a flood or not, of a connection of the host's that is open or of none.
func refused(h *host) map[DropReason][][]byte {
	sound := h.frame(client, stack.Segment{Seq: 1001, Ack: 5001, Flags: flagACK, Window: 500, MSS: 1460})
	v6, l4 := h.addr.Is6(), header.IPv4MinimumSize
	if v6 {
		l4 = header.IPv6MinimumSize
	}
	spoiled := func(spoil func(frame []byte) []byte) []byte { return spoil(bytes.Clone(sound)) }
	frames := map[DropReason][][]byte{
		DropTruncated:  {spoiled(func(f []byte) []byte { return f[:stack.VirtioLen+l4+10] }), spoiled(func(f []byte) []byte { return shortened(f, l4+10) })},
		DropBadTCP:     {spoiled(func(f []byte) []byte { f[stack.VirtioLen+l4+12] = 0x10; return f })},
		DropBadOptions: {spoiled(func(f []byte) []byte { f[stack.VirtioLen+l4+21] = 0; return f })},
		DropBadFlags: {
			h.frame(server, stack.Segment{Seq: 5001, Flags: flagSYN | flagFIN, Window: 500}),
			h.frame(client, stack.Segment{Seq: 1001, Flags: 0, Window: 500}),
			h.frame(server, stack.Segment{Seq: 5001, Flags: flagFIN, Window: 500}),
		},
	}
	land := h.frame(server, stack.Segment{Seq: 5001, Flags: flagSYN, Window: 500})
	ip := land[stack.VirtioLen:]
	if v6 {
		copy(ip[24:40], ip[8:24])
	} else {
		copy(ip[16:20], ip[12:16])
		frames[DropFragment] = [][]byte{fragmentOf(bytes.Clone(sound), false)}
		header.IPv4(frames[DropFragment][0][stack.VirtioLen:]).SetFlagsFragmentOffset(0, 8)
		quoted := h.frame(server, stack.Segment{Seq: 5001 + 1<<30, Ack: 1001, Flags: flagACK, Window: 500})[stack.VirtioLen:]
		router := []byte{0x45, 0, 0, byte(28 + len(quoted)), 0, 0, 0, 0, 64, 1, 0, 0, 203, 0, 113, 9}
		message := slices.Concat(router, quoted[12:16], []byte{3, 4, 0, 0, 0, 0, 5, 0}, quoted)
		elsewhere := slices.Concat(router, []byte{192, 0, 2, 77, 3, 4, 0, 0, 0, 0, 5, 0}, quoted)
		frames[DropICMP] = [][]byte{append(make([]byte, stack.VirtioLen), message...), append(make([]byte, stack.VirtioLen), elsewhere...)}
	}
	frames[DropLand] = [][]byte{land}
	for range earlyFragments + 1 {
		frames[DropLaterFragment] = append(frames[DropLaterFragment], fragmentOf(bytes.Clone(sound), v6))
	}
	return frames
}

// shortened makes a frame one whose IP packet says that it is n bytes long, and is.
func shortened(frame []byte, n int) []byte {
	ip := frame[stack.VirtioLen:][:n]
	if ip[0]>>4 == 6 {
		header.IPv6(ip).SetPayloadLength(uint16(n - header.IPv6MinimumSize))
	} else {
		header.IPv4(ip).SetTotalLength(uint16(n))
	}
	return frame[:stack.VirtioLen+n]
}

// TestMonitorDropsNothing: what auto drops goes on as it is, and is counted, where its service is only monitored.
func TestMonitorDropsNothing(t *testing.T) {
	for _, addr := range []string{"203.0.113.1", "2001:db8:5::1"} {
		for _, mode := range []Mode{ModeAuto, ModeMonitor} {
			r := newWatchedRig(t, mode, func(*Service) {})
			h := r.host(addr)
			if !h.shake() {
				t.Fatal("no connection")
			}
			for reason, frames := range refused(h) {
				for i, frame := range frames {
					if reason == DropLaterFragment && i < earlyFragments {
						r.framesFor(frame)
						continue
					}
					drops, would, passes := r.drops(reason), r.proxy.Snapshot().Services[0].WouldDrop, r.proxy.Snapshot().Passed[PassMonitored]
					sent := r.framesFor(bytes.Clone(frame))
					dropped, passed := r.drops(reason)-drops == 1 && len(sent) == 0, len(sent) == 1 && bytes.Equal(sent[0], frame)
					s := r.proxy.Snapshot()
					if s.Services[0].WouldDrop > would != passed || s.Passed[PassMonitored] > passes != passed {
						t.Errorf("%s: %v: packet %d of %v is counted %d times", addr, mode, i, reason, s.Services[0].WouldDrop-would)
					}
					if dropped != (mode == ModeAuto) || passed != (mode == ModeMonitor) {
						t.Errorf("%s: %v: packet %d of %v is dropped: %t, passes: %t", addr, mode, i, reason, dropped, passed)
					}
				}
			}
		}
	}
}

// TestMonitorOfTwo: what has no ports is dropped if it may be of a service that is not only monitored, and so is what has them and is of that.
func TestMonitorOfTwo(t *testing.T) {
	r := newSourceRig(t, func(cfg *Config) {
		cfg.Services[0].Ports = []PortRange{{80, 80}}
		other := cfg.Services[0]
		other.Name, other.Ports = "other", []PortRange{{81, 81}}
		cfg.Services[0].Mode, cfg.Services[0].Engage = ModeMonitor, newWatchedRig(t, ModeAuto, func(*Service) {}).proxy.cfg.Services[0].Engage
		cfg.Services = append(cfg.Services, other)
	})
	h := r.host("203.0.113.1")
	frames := refused(h)
	for reason, want := range map[DropReason]bool{DropTruncated: false, DropFragment: false, DropBadTCP: true, DropBadOptions: true} {
		if passed := len(r.framesFor(bytes.Clone(frames[reason][0]))) == 1; passed != want {
			t.Errorf("%v passes: %t", reason, passed)
		}
		if reason == DropBadTCP || reason == DropBadOptions {
			if len(r.framesFor(toPort(bytes.Clone(frames[reason][0]), 81))) != 0 {
				t.Errorf("%v of the other service passes", reason)
			}
		}
	}
}

// TestMonitorCountsFaults: of the SYNs to an engaged destination, those that auto would drop are not counted as those that it would answer.
func TestMonitorCountsFaults(t *testing.T) {
	r := floodedRig(t, DefaultOptions(), ModeMonitor)
	before := r.proxy.Snapshot().Services[0]
	wrong := r.syn()
	clear(wrong[:stack.VirtioLen]) // its checksum is not partial, and so wrong
	for _, frame := range [][]byte{r.syn(), wrong} {
		if sent := r.framesFor(bytes.Clone(frame)); len(sent) != 1 || !bytes.Equal(sent[0], frame) {
			t.Fatal("a SYN is changed")
		}
	}
	after := r.proxy.Snapshot().Services[0]
	if after.WouldAnswer-before.WouldAnswer != 1 || after.WouldDrop-before.WouldDrop != 1 {
		t.Errorf("%+v, then %+v", before, after)
	}
}

// TestMonitorExplained: a SYN from a monitored server to itself passes, as is explained.
func TestMonitorExplained(t *testing.T) {
	r := newWatchedRig(t, ModeMonitor, func(*Service) {})
	a := netip.MustParseAddr("192.0.2.1")
	if e := r.proxy.Explain(r.now, netip.AddrPortFrom(a, 80), netip.AddrPortFrom(a, 81)); e.Verdict != VerdictPass || e.Pass != PassMonitored {
		t.Errorf("%+v", e)
	}
}

// TestOutboundEarly: what a server sends on a connection that it opens passes as it is before its SYN is answered too, whatever the mode.
func TestOutboundEarly(t *testing.T) {
	for _, mode := range []Mode{ModeAlways, ModeAuto, ModeMonitor} {
		r := newWatchedRig(t, mode, func(*Service) {})
		h := r.host("203.0.113.1")
		for _, s := range []stack.Segment{
			{Seq: 5000, Flags: flagSYN, Window: 500, WScale: WScaleNone},
			{Seq: 5001, Ack: 2001, Flags: flagACK, Window: 500}, // the answer went another way
			{Seq: 5001, Ack: 2001, Flags: flagACK | flagPSH, Window: 500},
			{Seq: 5001, Ack: 2001, Flags: flagFIN | flagACK, Window: 500},
			{Seq: 7000, Flags: flagRST},
		} {
			frame := h.frame(server, s)
			if sent := r.framesFor(bytes.Clone(frame)); len(sent) != 1 || !bytes.Equal(sent[0], frame) {
				t.Errorf("%v: %v does not pass: %v", mode, s.Flags, r.proxy.Snapshot().Drops)
			}
		}
	}
}

// TestMonitorOfTranslated: a connection that was translated before its service was only monitored still is, and what can't be is dropped still.
func TestMonitorOfTranslated(t *testing.T) {
	r := newSourceRig(t, nil)
	h := r.host("203.0.113.1")
	if !h.connect() {
		t.Fatal("no connection")
	}
	h.hears(stack.Segment{Seq: 5000, Ack: 1001, Flags: flagSYN | flagACK, Window: 1000, WScale: WScaleNone})
	r.change(func(s *Service) {
		s.Mode, s.Engage = ModeMonitor, flood.Limits{HalfOpen: 10, SYNRate: 10, Hold: time.Hour}
	})
	if sent := h.hears(stack.Segment{Seq: 5001, Ack: 1001, Flags: flagACK, Window: 1000}); len(sent) != 1 || sent[0].Seq == 5001 {
		t.Errorf("it is not translated: %+v", sent)
	}
	for reason, frame := range map[DropReason][]byte{
		DropBadFlags: h.frame(client, stack.Segment{Seq: 1001, Window: 500}),
		DropICMP:     refused(h)[DropICMP][0],
	} {
		if sent := r.framesFor(frame); len(sent) != 0 || r.drops(reason) != 1 {
			t.Errorf("%v passes", reason)
		}
	}
}
