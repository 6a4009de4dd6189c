package proxy

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/stack"
)

// again sends a SYN from a port, with another number than host.syn, and returns the number to acknowledge.
func (h *host) again(port uint16, seq uint32) (synAck stack.Packet) {
	h.port = port
	sent := h.sends(stack.Segment{Seq: seqnum.Value(seq), Flags: flagSYN, Window: 64240, MSS: 1460, WScale: 7})
	if len(sent) != 1 || sent[0].Flags != flagSYN|flagACK {
		panic(fmt.Sprintf("the SYN from port %d is not answered", port))
	}
	return sent[0]
}

// finishAgain acknowledges a SYN-ACK of again, and says whether levee asks the server.
func (h *host) finishAgain(port uint16, seq uint32, synAck stack.Packet) bool {
	h.port = port
	for _, p := range h.sends(stack.Segment{Seq: seqnum.Value(seq + 1), Ack: synAck.Seq + 1, Flags: flagACK, Window: 500}) {
		if p.Flags == flagSYN {
			return true
		}
	}
	return false
}

// What a source may have holds for connections too whose ports it has used before.
func TestPerSourceReopened(t *testing.T) {
	for _, limit := range []PerSource{{Flows: 2}, {Rate: 2}} {
		r := newSourceRig(t, func(cfg *Config) { cfg.Services[0].PerSource = limit })
		h := r.host("203.0.113.1")
		const ports = 6
		for range ports {
			if !h.connect() {
				t.Fatal("a connection within the limits is refused")
			}
			h.sends(stack.Segment{Seq: 1001, Flags: flagRST})
			r.now = r.now.Add(time.Second)
		}
		var synAcks []stack.Packet
		for i := range uint16(ports) {
			synAcks = append(synAcks, h.again(40001+i, 5_000_000))
		}
		opened := 0
		for i, synAck := range synAcks {
			if h.finishAgain(40001+uint16(i), 5_000_000, synAck) {
				opened++
			}
		}
		if opened != 2 {
			t.Errorf("%+v: %d connections are opened again, not 2", limit, opened)
		}
		if n := r.drops(DropSourceFlows) + r.drops(DropSourceRate); n != ports-2 {
			t.Errorf("%+v: %d drops counted, not %d", limit, n, ports-2)
		}
	}
}

// A source that has all it may have may still begin one of its connections anew.
func TestPerSourceReplaces(t *testing.T) {
	r := newSourceRig(t, func(cfg *Config) { cfg.Services[0].PerSource.Flows = 2 })
	h := r.host("203.0.113.1")
	h.connect()
	synAck := h.again(40001, 5_000_000)
	if h.port = 40001; !h.connect() {
		t.Fatal("the second connection is refused")
	}
	if !h.finishAgain(40001, 5_000_000, synAck) {
		t.Error("a connection isn't begun anew")
	}
}

// A source that is denied while it has a cookie opens nothing by it, be its ports remembered or not.
func TestReopenedDenied(t *testing.T) {
	r := newSourceRig(t, func(*Config) {})
	h := r.host("203.0.113.1")
	if !h.connect() {
		t.Fatal("no connection")
	}
	h.sends(stack.Segment{Seq: 1001, Flags: flagRST})
	r.now = r.now.Add(time.Second)
	remembered, other := h.again(40001, 5_000_000), h.again(50000, 5_000_000)
	r.change(func(s *Service) { s.Deny = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")} })
	if h.finishAgain(40001, 5_000_000, remembered) || h.finishAgain(50000, 5_000_000, other) {
		t.Error("a denied source opens a connection")
	}
	if n := r.drops(DropDenied); n != 2 {
		t.Errorf("%d drops counted, not 2", n)
	}
}

// A source's flows are counted with the service that they belong to, also where a connection is begun anew after its address went to
// another service.
func TestPerSourceServiceChanges(t *testing.T) {
	r := newSourceRig(t, func(cfg *Config) { cfg.Services[0].PerSource.Flows = 5 })
	h := r.host("203.0.113.1")
	if !h.connect() {
		t.Fatal("no connection")
	}
	src := stack.AddrFrom(h.addr)
	former := r.proxy.policy.Load().services[0]
	cfg := r.proxy.cfg
	cfg.Services = append([]Service(nil), former.Service)
	cfg.Services[0].Name = "other"
	if err := r.proxy.Reload(cfg, r.now); err != nil {
		t.Fatal(err)
	}
	want := func(when string, was, is int) {
		t.Helper()
		other := r.proxy.policy.Load().services[0]
		if a, b := r.proxy.perSource.of(sourceOf(&src, former)), r.proxy.perSource.of(sourceOf(&src, other)); a != was || b != is {
			t.Errorf("%s the source has %d flows with the former service and %d with the other, not %d and %d", when, a, b, was, is)
		}
	}
	want("before", 1, 0)
	synAck := h.again(40001, 5_000_000)
	if !h.finishAgain(40001, 5_000_000, synAck) {
		t.Fatal("the connection isn't begun anew")
	}
	want("then", 0, 1)
	h.sends(stack.Segment{Seq: 5_000_001, Flags: flagRST})
	want("at last", 0, 0)
}
