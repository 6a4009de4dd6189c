package proxy

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"levee/stack"
)

// TestDeniedStrays: what a denied source sends that is of no flow, or looks as if it were of a handshake, is dropped without a flood too; and only
// counted in monitor.
func TestDeniedStrays(t *testing.T) {
	for _, mode := range []Mode{ModeAuto, ModeMonitor} {
		for _, deny := range []bool{false, true} {
			r := newWatchedRig(t, mode, func(*Service) {})
			h := r.host("203.0.113.1")
			h.direct()
			h.accept()
			if deny { // by a reload, after its SYN has passed
				cfg := r.proxy.cfg
				cfg.Services = []Service{r.proxy.policy.Load().services[0].Service}
				cfg.Services[0].Deny = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
				if err := r.proxy.Reload(cfg, r.now); err != nil {
					t.Fatal(err)
				}
			}
			opening := h.port
			for _, tt := range []struct {
				name string
				port uint16
				s    stack.Segment
			}{
				{"no flags", opening + 1, stack.Segment{Seq: 1001}},
				{"ACK", opening + 1, stack.Segment{Seq: 1001, Ack: 7, Flags: flagACK}},
				{"FIN", opening + 1, stack.Segment{Seq: 1001, Ack: 7, Flags: flagFIN | flagACK}},
				{"wrong ACK of a handshake", opening, stack.Segment{Seq: 1001, Ack: 7, Flags: flagACK}},
			} {
				h.port = tt.port
				frame := h.frame(client, tt.s)
				before := r.proxy.Snapshot().Services[0].WouldDrop
				sent := r.framesFor(bytes.Clone(frame))
				if passes, want := len(sent) == 1 && bytes.Equal(sent[0], frame), mode == ModeMonitor || !deny; passes != want {
					t.Errorf("%v, denied %t: %s passes: %t", mode, deny, tt.name, passes)
				}
				if counted := r.proxy.Snapshot().Services[0].WouldDrop > before; counted != (deny && mode == ModeMonitor) {
					t.Errorf("%v, denied %t: %s is counted: %t", mode, deny, tt.name, counted)
				}
			}
		}
	}
}

// TestDamagedSynAck: a SYN-ACK whose checksum is wrong passes, as the client drops it, and begins no flow: its numbers may be wrong.
func TestDamagedSynAck(t *testing.T) {
	r := newWatchedRig(t, ModeAuto, func(*Service) {})
	h := r.host("203.0.113.1")
	h.direct()
	synAck := h.frame(server, stack.Segment{Seq: 5000, Ack: 1001, Flags: flagSYN | flagACK, Window: 500, WScale: 7})
	damaged := bytes.Clone(synAck)
	clear(damaged[:stack.VirtioLen]) // the checksum is not partial, and so wrong
	for _, tt := range []struct {
		frame []byte
		flows int
	}{{damaged, 0}, {synAck, 1}} {
		if sent := r.framesFor(bytes.Clone(tt.frame)); len(sent) != 1 || !bytes.Equal(sent[0], tt.frame) {
			t.Error("a SYN-ACK doesn't pass")
		}
		r.wantStates(StateOpening, tt.flows)
	}
}

// TestResetThatServerIgnores: whoever follows each SYN of a flood with a reset that gets to levee but not to the server hides nothing: it goes on with the
// handshake, by which levee sees that it is half-open still, and no other reset changes that.
func TestResetThatServerIgnores(t *testing.T) {
	for _, ignores := range []bool{false, true} {
		r := newWatchedRig(t, ModeAuto, func(s *Service) { s.Engage.HalfOpen = 10 })
		h := r.host("203.0.113.1")
		for range 20 {
			h.direct()
			h.accept()
			reset := stack.Segment{Seq: 1001, Flags: flagRST}
			h.sends(reset)
			if ignores {
				r.now = r.now.Add(time.Second)
				h.accept()
				h.sends(reset)
			}
		}
		r.now = r.now.Add(time.Second)
		r.sentFor(nil) // a tick
		if e := r.proxy.Snapshot().Services[0].Engagement; e.Engaged > 0 != ignores {
			t.Errorf("the server ignores resets: %t: %+v", ignores, e)
		}
	}
}
