package proxy

import (
	"fmt"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/stack"
)

// TestOutputKeepsRoom: after reserve a packet and all its replies fit, whatever was there before, without growing anything.
func TestOutputKeepsRoom(t *testing.T) {
	for n := range 12 * batchSize {
		before, every := n/3, 1+n%3 // all are frames that came, or every second or third
		o := newOutput(&oneLink{last: make([]byte, frameSize)}, new(counters), 0)
		for i := range before {
			o.reserve()
			if i%every == 0 {
				o.forward([]byte{stack.VirtioLen: 0})
			} else {
				o.build(&stack.Segment{})
			}
		}
		o.reserve()
		frames, built := cap(o.frames), len(o.built)
		o.forward([]byte{stack.VirtioLen: 0})
		for range maxReplies {
			o.build(&stack.Segment{}) // panics if there is no room
		}
		if cap(o.frames) != frames || len(o.built) != built {
			t.Fatalf("with %d before, the buffers grow from %d and %d to %d and %d", before, frames, built, cap(o.frames), len(o.built))
		}
	}
}

// TestTimeOutsGoOn: time-outs that one batch had no budget for are the next one's, though it may come in the same tick.
func TestTimeOutsGoOn(t *testing.T) {
	r := newRig(t, DefaultOptions())
	cfg := r.proxy.cfg
	cfg.Capacity = stripesWanted * minStripe
	p, err := New(cfg, r.now)
	if err != nil {
		t.Fatal(err)
	}
	r.proxy, r.worker = p, p.NewWorker(r.link)
	r.worker.now = p.instant(r.now)
	const flows = 2*expireBudget + 1
	for i := range flows {
		k := key(i)
		hash := p.table.hash.of(&k)
		s := p.table.stripe(hash)
		slot, ok := s.insert(&k, hash, r.worker.evict)
		if !ok {
			t.Fatal("full")
		}
		r.worker.enter(s, slot, evHandshake)
	}
	r.now = r.now.Add(2 * time.Second)
	for i, want := range []int{expireBudget, 2 * expireBudget, flows} {
		if _, err := r.worker.Step(r.clock, 0); err != nil {
			t.Fatal(err)
		}
		if got := p.Snapshot().Services[0].CookieRetrans; got != uint64(want) {
			t.Errorf("after batch %d of the tick %d flows have timed out, not %d", i+1, got, want)
		}
	}
}

// TestWheelCatchesUp: after a pause of any length every flow whose time has come fires.
func TestWheelCatchesUp(t *testing.T) {
	for _, pause := range []tick{1, wheelSlots - 1, wheelSlots, wheelSlots + 1, 3*wheelSlots + 7} {
		const begin = 5000
		s := &heapTable(wheelSlots).stripes[0]
		due := func(f *flow) tick { return f.lastSeen }
		s.expire(begin, 1, due, func(uint32) {})
		for i := range wheelSlots {
			k := key(i)
			slot, ok := s.insert(&k, s.hash.of(&k), func(*flow) {})
			if !ok {
				t.Fatal("full")
			}
			s.flows[slot].lastSeen = begin + tick(i)
			s.setState(slot, StateOpen)
			s.arm(slot, begin+tick(i))
		}
		fired := 0
		s.expire(begin+pause, 2*wheelSlots, due, func(slot uint32) {
			fired++
			s.remove(slot)
		})
		if want := min(int(pause)+1, wheelSlots); fired != want {
			t.Errorf("after %d ticks %d flows fire, not %d", pause, fired, want)
		}
	}
}

// TestInFlight: what was sent is under way for the window of its receiver, and for 66000 bytes at least.
func TestInFlight(t *testing.T) {
	for _, s := range []side{client, server} {
		for _, base := range []seqnum.Value{1 << 20, 10} { // the second wraps
			for window, back := range map[uint32]seqnum.Value{0: 66000, 65999: 66000, 70000: 70000} {
				f := flow{}
				f.half[s].end, f.half[s.peer()].maxWindow = base, window
				f.half[s].maxWindow = 1 << 30 // its own counts for nothing
				for seq, want := range map[seqnum.Value]bool{base: true, base + 1: false, base - back: true, base - back - 1: false} {
					if got := f.inFlight(s, seq); got != want {
						t.Errorf("%v, window %d: %d before the end is under way: %v", s, window, base-seq, got)
					}
				}
			}
		}
	}
}

// TestReplayAfterShortTimeout: however short the time-out of ended flows is, they are remembered for as long as their cookies would be good.
func TestReplayAfterShortTimeout(t *testing.T) {
	r := newRig(t, DefaultOptions())
	cfg := r.proxy.cfg
	cfg.TransitoryTimeout = time.Second
	p, err := New(cfg, r.now)
	if err != nil {
		t.Fatal(err)
	}
	r.proxy, r.worker = p, p.NewWorker(r.link)
	k := r.open()
	r.sentFor(r.from(client, 1001, k+1, flagRST, 500, 0))
	r.wantStates(StateReset, 1)
	for range 30 {
		r.now = r.now.Add(4 * time.Second)
		r.sentFor(nil) // time-outs
		for _, p := range r.sentFor(r.from(client, 1001, k+1, flagACK, 500, 0)) {
			if isSYN(&p) {
				t.Fatalf("a replayed ACK opens a connection after %v", r.now.Sub(r.proxy.start))
			}
		}
	}
}

// TestDirectWindows: the windows of a direct flow are as large as the hosts' scales make them, and pass as they are.
func TestDirectWindows(t *testing.T) {
	r := newRig(t, DefaultOptions())
	syn := stack.Segment{Seq: 9000, Flags: flagSYN, Window: 500, WScale: 7}
	r.sentFor(r.segment(server, syn))
	syn.Seq, syn.Ack, syn.Flags = 100, 9001, flagSYN|flagACK
	r.sentFor(r.segment(client, syn))
	r.sentFor(r.from(server, 9001, 101, flagACK, 500, 0))
	r.sentFor(r.from(client, 101, 9001, flagACK, 500, 0))
	for i := range seqnum.Value(60) {
		for _, frame := range [][]byte{
			r.from(server, 9001+1000*i, 101, flagACK, 500, 1000), r.from(client, 101+1000*i, 9001, flagACK, 500, 1000),
		} {
			if sent := r.sentFor(frame); len(sent) != 1 || sent[0].Window != 500 {
				t.Fatalf("segment %d: %+v", i, sent)
			}
		}
	}
	for f := range flowsOf(r) {
		if f.State != StateOpen || f.ClientBytes != 60_000 || f.ServerBytes != 60_000 {
			t.Errorf("a window full each way is %+v", f)
		}
	}
}

// TestDirectACKOutOfWindow: nobody ends the handshake of a direct flow who knows only the half of its numbers.
func TestDirectACKOutOfWindow(t *testing.T) {
	r := newRig(t, DefaultOptions())
	r.sentFor(r.from(server, 9000, 0, flagSYN, 500, 0))
	r.sentFor(r.from(client, 100, 9001, flagSYN|flagACK, 500, 0))
	for _, jump := range []seqnum.Value{1 << 20, 1 << 31, 1<<32 - 1<<20} {
		r.sentFor(r.from(server, 9001+jump, 101, flagACK, 500, 0))
		r.wantStates(StateOpening, 1)
	}
	r.sentFor(r.from(server, 9001, 101, flagACK, 500, 0))
	r.wantStates(StateOpen, 1)
}

// TestTakenOver: a direct flow that was never acknowledged leaves nothing in the counts when a client takes its record.
func TestTakenOver(t *testing.T) {
	r := newRig(t, DefaultOptions())
	want := func(opening int) {
		t.Helper()
		if n := r.proxy.Openings(); n != opening {
			t.Errorf("%d connections are opening toward servers, not %d", n, opening)
		}
		if n := r.proxy.Snapshot().Services[0].Flows; n != 1 {
			t.Errorf("the service counts %d flows", n)
		}
	}
	r.sentFor(r.from(server, 9000, 0, flagSYN, 500, 0))
	want(0)
	k := r.step(r.syn()).Seq
	r.sentFor(r.from(client, 1001, k+1, flagACK, 500, 0))
	want(1)
	r.sentFor(r.from(server, 5000, 1001, flagSYN|flagACK, 500, 0))
	r.wantStates(StateOpen, 1)
	want(0)
}

// TestEvictedDirectFlows: outbound SYNs that make room for others are not counted with the service any more.
func TestEvictedDirectFlows(t *testing.T) {
	r := newRig(t, DefaultOptions())
	capacity := r.proxy.table.capacity()
	for i := range capacity + 100 {
		syn := stack.Segment{
			Src: rigServer, Dst: rigClient, SrcPort: 80, DstPort: uint16(1 + i), Seq: seqnum.Value(i), Flags: flagSYN, Window: 500, WScale: WScaleNone,
		}
		r.sentFor(syn.Build(make([]byte, stack.MaxBuilt)))
	}
	s := r.proxy.Snapshot()
	if s.Flows[StateOpening] != capacity || s.Services[0].Flows != capacity || s.Evicted != 100 {
		t.Errorf("%d flows are opening, %d counted with the service, %d evicted", s.Flows[StateOpening], s.Services[0].Flows, s.Evicted)
	}
}

// TestPlainCookieSparesStampedFlowInEveryState: an ACK without timestamps, whose cookie has far fewer bits, ends no connection with timestamps
// that is opening or half-closed either.
func TestPlainCookieSparesStampedFlowInEveryState(t *testing.T) {
	for _, state := range []State{StateOpening, StateClientClosed, StateServerClosed} {
		t.Run(fmt.Sprint(state), func(t *testing.T) {
			o := DefaultOptions()
			o.Timestamps = true
			r := newRig(t, o)
			plain := r.sentFor(r.segment(client, stack.Segment{Seq: 777_000, Flags: flagSYN, Window: 500, MSS: 1460, WScale: 7}))[0]
			stamped := func(s side, seq, ack seqnum.Value, fin bool) {
				segment := stack.Segment{Seq: seq, Ack: ack, Flags: flagACK, Window: 500, WScale: WScaleNone, Timestamps: true, TSVal: 8000, TSEcr: 11}
				if fin {
					segment.Flags |= flagFIN
				}
				r.sentFor(r.segment(s, segment))
			}
			if state == StateOpening {
				synAck := r.step(r.syn())
				r.sentFor(r.segment(client, stack.Segment{
					Seq: 1001, Ack: synAck.Seq + 1, Flags: flagACK, Window: 500, WScale: WScaleNone, Timestamps: true, TSVal: 11, TSEcr: synAck.Options.TSVal,
				}))
			} else {
				k := r.open()
				if state == StateClientClosed {
					stamped(client, 1001, k+1, true)
					stamped(server, 5001, 1002, false)
				} else {
					stamped(server, 5001, 1001, true)
					stamped(client, 1001, k+2, false)
				}
			}
			r.wantStates(state, 1)
			forged := r.from(client, 777_001, plain.Seq+1, flagACK, 500, 0)
			for _, p := range r.sentFor(forged) {
				if isSYN(&p) || isRST(&p) {
					t.Errorf("levee answers a plain cookie with %v", p.Flags)
				}
			}
			r.wantStates(state, 1)
		})
	}
}
