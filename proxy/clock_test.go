package proxy

import (
	"testing"
	"time"

	"levee/proxy/cookie"
	"levee/stack"
)

// set sets the wall clock, which leaves the monotonic one alone.
func (r *rig) set(d time.Duration) {
	r.now = r.now.Add(d)
	r.proxy.start = r.proxy.start.Add(d)
}

// knock sends a SYN from a port.
func (r *rig) knock(port uint16) (synAck stack.Packet) {
	syn := stack.Segment{
		Src: rigClient, Dst: rigServer, SrcPort: port, DstPort: 80,
		Seq: 1000, Flags: flagSYN, Window: 64240, MSS: 1460, WScale: 7, SACKPermitted: true, Timestamps: true, TSVal: 10,
	}
	return r.step(syn.Build(make([]byte, stack.MaxBuilt)))
}

// returns says whether the cookie of a SYN-ACK is good. If it is the connection opens.
func (r *rig) returns(synAck stack.Packet) bool {
	r.t.Helper()
	before := r.proxy.Snapshot()
	ack := stack.Segment{
		Src: rigClient, Dst: rigServer, SrcPort: synAck.DstPort, DstPort: 80,
		Seq: 1001, Ack: synAck.Seq + 1, Flags: flagACK, Window: 500, WScale: WScaleNone,
		Timestamps: synAck.Options.Timestamps, TSVal: 11, TSEcr: synAck.Options.TSVal,
	}
	r.link.in = [][]byte{ack.Build(make([]byte, stack.MaxBuilt))}
	if _, err := r.worker.Step(r.clock, 0); err != nil {
		r.t.Fatal(err)
	}
	if r.proxy.Snapshot().Services[0].CookieValid == before.Services[0].CookieValid {
		return false
	}
	answer := stack.Segment{
		Src: rigServer, Dst: rigClient, SrcPort: 80, DstPort: synAck.DstPort,
		Seq: 5000, Ack: 1001, Flags: flagSYN | flagACK, Window: 65535, MSS: 1460, WScale: 9, SACKPermitted: true,
		Timestamps: synAck.Options.Timestamps, TSVal: 7777, TSEcr: 11,
	}
	r.step(answer.Build(make([]byte, stack.MaxBuilt)))
	return true
}

// TestClockStep: a cookie lives as long as ever whatever the wall clock is set to, and however often; and an open connection goes on.
func TestClockStep(t *testing.T) {
	const epoch = cookie.EpochSeconds * time.Second
	const year = 365 * 24 * time.Hour
	for name, steps := range map[string][]time.Duration{
		"an hour on":               {time.Hour},
		"an hour back":             {-time.Hour},
		"an epoch on":              {epoch},
		"an epoch back":            {-epoch},
		"two epochs on":            {2 * epoch},
		"a leap second":            {-time.Second},
		"on and back":              {time.Hour, -time.Hour},
		"back and on":              {-time.Hour, time.Hour},
		"again and again":          {time.Hour, time.Hour, -24 * time.Hour, 100 * year, epoch},
		"to before 1970":           {-80 * year},
		"by as little as can be":   {-step},
		"by less than can be seen": {-step / 2},
	} {
		for _, timestamps := range []bool{true, false} {
			t.Run(name+map[bool]string{true: ", timestamps"}[timestamps], func(t *testing.T) {
				o := DefaultOptions()
				o.Timestamps = timestamps
				r := newRig(t, o)
				r.now = time.Unix(cookie.Epoch(r.now.Unix())*cookie.EpochSeconds, 0)
				r.start(r.proxy.cfg)
				// The first moment of an epoch, and past the time for which a new Proxy checks everything.
				r.now = r.now.Add(4 * epoch)
				if !r.returns(r.knock(3)) {
					t.Fatal("a cookie is refused")
				}
				before, late := r.knock(1), r.knock(2)
				issued := r.now
				for i, d := range steps {
					r.set(d)
					if !r.returns(r.knock(uint16(100 + i))) {
						t.Error("a cookie from after a step is refused")
					}
				}
				r.now = r.now.Add(epoch)
				if !r.returns(before) {
					t.Error("a cookie from before is refused")
				}
				r.now = r.now.Add(epoch / 2)
				after := r.knock(4)
				r.now = r.now.Add(epoch/2 + time.Second)
				// When a clock that was set back comes to the epoch of a cookie from before, that is good again.
				if again := r.now.Sub(issued); (again < 0 || again >= 2*epoch) && r.returns(late) {
					t.Error("a cookie lives for more than two epochs")
				}
				if !r.returns(after) {
					t.Error("a cookie from after the steps is refused when the clock is followed")
				}
				if got := r.proxy.Snapshot().Flows[StateOpen]; got < len(steps)+3 {
					t.Errorf("%d connections are left", got)
				}
			})
		}
	}
}

// TestClockFollowed: nodes that share cookies need the same time. One whose clock is put right follows it, at once for the first step and
// within the life of a cookie for later ones.
func TestClockFollowed(t *testing.T) {
	r := newRig(t, DefaultOptions())
	unix := func() int64 { return r.proxy.instant(r.now).unix }
	r.set(time.Hour)
	if unix() != r.now.Unix() {
		t.Error("the first step is not followed")
	}
	r.set(-2 * time.Hour)
	if r.now = r.now.Add(time.Minute); unix() == r.now.Unix() {
		t.Error("the second is followed while there are cookies of two timelines")
	}
	if r.now = r.now.Add(2 * time.Minute); unix() != r.now.Unix() {
		t.Error("the second is never followed")
	}
	i := r.proxy.instant(r.now)
	if i.former != i.unix+2*60*60 {
		t.Errorf("before the step it was %d, not %d", i.former, i.unix)
	}
	if r.now = r.now.Add(3 * time.Minute); r.proxy.instant(r.now).former != unix() {
		t.Error("the former time is never over")
	}
}

// TestSuspend: the wall clock jumps while the machine sleeps, the monotonic one doesn't. A flow has not been idle for all that time, nor a cookie
// become old: the hosts' retransmission timers may have run or not, and both may go on.
func TestSuspend(t *testing.T) {
	r := newRig(t, DefaultOptions())
	k := r.open()
	waiting := r.knock(1)
	r.set(2 * r.proxy.cfg.IdleTimeout)
	for range 2 * ticksPerSecond { // every stripe is looked at
		r.now = r.now.Add(time.Second / ticksPerSecond)
		r.link.in = nil
		if _, err := r.worker.Step(r.clock, 0); err != nil {
			t.Fatal(err)
		}
	}
	sent := r.step(r.segment(client, stack.Segment{
		Seq: 1001, Ack: k + 1, Flags: flagACK | flagPSH, Window: 500, WScale: WScaleNone, Timestamps: true, TSVal: 12, TSEcr: 1,
	}))
	if sent.Dst != rigServer || sent.Ack != 5001 {
		t.Errorf("the client's segment goes on as %+v", sent)
	}
	if !r.returns(waiting) {
		t.Error("a cookie from before is refused")
	}
	if got := r.proxy.Snapshot().Flows[StateOpen]; got != 2 {
		t.Errorf("%d flows are open, not 2", got)
	}
}

// TestIdleTime: ticks are coarser than what a flow's age is counted in, but no flow is idle for longer than it has been there.
func TestIdleTime(t *testing.T) {
	r := newRig(t, DefaultOptions())
	r.now = r.proxy.start.Add(time.Second - time.Millisecond) // the end of a tick
	r.open()
	for after := time.Duration(0); after < 2*time.Second; after += time.Millisecond {
		r.proxy.Flows(r.now.Add(after), func(f FlowInfo) bool {
			if f.Age != after || f.Idle > f.Age || after-f.Idle >= time.Second/ticksPerSecond {
				t.Fatalf("after %v it is %v old and idle for %v", after, f.Age, f.Idle)
			}
			return true
		})
	}
}
