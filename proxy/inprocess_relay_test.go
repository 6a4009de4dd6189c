package proxy_test

import (
	"slices"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"levee/proxy"
	"levee/proxy/proxytest"
	"levee/stack"
)

// What levee must not touch passes through a translation as it is.
func TestUntouchedFields(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		s, c, r := rawPair(t, v, v.config(), nil)
		r.accept()
		for _, direction := range []string{"up", "down"} {
			seg, out, inbox := c.segment(0), proxytest.FromClient, r.Peer
			if direction == "down" {
				seg, out, inbox = r.segment(ack), proxytest.FromServer, c.Peer
				seg.Seq++
			}
			inbox.Take()
			seg.Flags = ack | header.TCPFlagPsh | header.TCPFlagUrg | ece | cwr
			seg.TrafficClass = 0xba // AF, ECT(0)
			if v.v6 {
				seg.FlowLabel = 0xabcde
			}
			seg.MSS = 1234 // options that have no business here
			frame := proxytest.Frame(&seg, data(1, 333))
			in := slices.Clone(frame)
			s.Inject(out, frame)
			s.Advance(20 * time.Millisecond)
			got := inbox.Take()
			if len(got) != 1 {
				t.Fatalf("%d segments came %s", len(got), direction)
			}
			// Put back what must change, and nothing is different.
			back, p := slices.Clone(got[0].Frame), got[0]
			at := stack.VirtioLen + p.TCP.L4
			copy(back[at+4:at+12], in[at+4:at+12])   // numbers
			copy(back[at+14:at+18], in[at+14:at+18]) // window and checksum
			if v.timestamps {
				copy(back[at+28:at+36], in[at+28:at+36])
			}
			if !slices.Equal(back, in) {
				t.Errorf("%s: more has changed than may:\n% x\n% x", direction, in, p.Frame)
			}
			if !p.TCP.ChecksumOK() {
				t.Errorf("%s: the checksum is wrong", direction)
			}
		}
	})
}

// FINs and resets with wrong checksums reach the hosts, which drop them, and do not move the flow.
func TestBadChecksumOnFlow(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		s, c, r := rawPair(t, v, v.config(), nil)
		r.accept()
		for _, flags := range []header.TCPFlags{fin | ack, rst} {
			p := c.segment(0)
			p.Flags = flags
			frame := proxytest.Frame(&p, nil)
			frame[len(frame)-1] ^= 1
			s.Inject(proxytest.FromClient, frame)
			s.Advance(20 * time.Millisecond)
			s.wantState(proxy.StateOpen)
			got := r.Take()
			if len(got) != 1 || got[0].TCP.ChecksumOK() {
				t.Errorf("%v: %d segments at the server, or with a checksum made right", flags, len(got))
			}
		}
	})
}

// A frame marked as a superpacket whose payload is one segment only leaves as an ordinary one.
func TestSuperpacketOfOneSegment(t *testing.T) {
	forVariants(t, false, func(t *testing.T, v variant) {
		s, c, r := rawPair(t, v, v.config(), nil)
		r.accept()
		r.Take()
		for _, test := range []struct{ payload, gso int }{{100, 1400}, {1400, 1400}, {1401, 1400}, {30000, 1400}} {
			p := c.segment(0)
			frame := proxytest.Frame(&p, data(1, test.payload))
			l4 := len(frame) - stack.VirtioLen - test.payload - header.TCPMinimumSize
			if v.timestamps {
				l4 -= 12
			}
			h := stack.Virtio{
				Flags: stack.VirtioNeedsCsum, GSOType: stack.GSOTCPv4, GSOSize: uint16(test.gso),
				CsumStart: uint16(l4), CsumOffset: 16, HdrLen: uint16(len(frame) - stack.VirtioLen - test.payload),
			}
			if v.v6 {
				h.GSOType = stack.GSOTCPv6
			}
			h.Encode(frame)
			s.Inject(proxytest.FromClient, frame)
			s.Advance(20 * time.Millisecond)
			got := r.Take()
			if len(got) != 1 || got[0].TCP.PayloadLen != test.payload {
				t.Fatalf("%d frames at the server", len(got))
			}
			out := stack.DecodeVirtio(got[0].Frame)
			if whole := test.payload <= test.gso; (out.GSOType == stack.GSONone) != whole || (out.GSOSize == 0) != whole {
				t.Errorf("%d bytes of payload: %+v", test.payload, out)
			}
		}
	})
}
