package proxy

import (
	"errors"
	"slices"
	"testing"
	"time"

	"levee/stack"
)

// keptState is the memory of a FlowState that no file keeps.
func keptState(capacity int) *FlowState {
	return &FlowState{Memory: make([]byte, FlowStateBytes(capacity)), Boot: [16]byte{1}, Monotonic: time.Hour} // large: Go aligns it to a page
}

// after is the same memory, so much later.
func (s *FlowState) after(d time.Duration) *FlowState {
	return &FlowState{Memory: s.Memory, Boot: s.Boot, Monotonic: s.Monotonic + d}
}

// restart makes the rig's Proxy anew, as by a process that starts so much later.
func (r *rig) restart(d time.Duration) {
	r.t.Helper()
	cfg := r.proxy.cfg
	cfg.State = cfg.State.after(d)
	r.now = r.now.Add(d)
	r.start(cfg)
}

func (r *rig) start(cfg Config) {
	r.t.Helper()
	p, err := New(cfg, r.now)
	if err != nil {
		r.t.Fatal(err)
	}
	r.proxy, r.worker = p, p.NewWorker(r.link)
}

// newKeptRig is a rig whose flows are in a FlowState.
func newKeptRig(t testing.TB) *rig {
	o := DefaultOptions()
	o.Timestamps = true
	r := newRig(t, o)
	cfg := r.proxy.cfg
	cfg.State = keptState(cfg.Capacity)
	cfg.Services = append(slices.Clone(cfg.Services), Service{
		Name: "other", Prefixes: slices.Clone(cfg.Services[0].Prefixes), Ports: []PortRange{{81, 81}}, Mode: ModeAlways, Options: o,
	})
	slices.Reverse(cfg.Services)
	r.start(cfg)
	return r
}

// TestRestoreOpenFlow: a connection goes on through a restart, whatever has become of the order of the services.
func TestRestoreOpenFlow(t *testing.T) {
	r := newKeptRig(t)
	isn := r.open()
	before := slices.Clone(r.proxy.table.stripes[0].flows)
	cfg := r.proxy.cfg
	slices.Reverse(cfg.Services)
	cfg.State = cfg.State.after(time.Second)
	r.now = r.now.Add(time.Second)
	r.start(cfg)
	if got := r.proxy.Restored(); got != (Restored{Flows: 1}) {
		t.Fatalf("restored %+v", got)
	}
	snapshot := r.proxy.Snapshot()
	if snapshot.Flows[StateOpen] != 1 || snapshot.Services[0].Flows != 1 || snapshot.Services[1].Flows != 0 {
		t.Errorf("after the restart: %+v", snapshot)
	}
	for i := range before {
		before[i].service = r.proxy.table.stripes[0].flows[i].service
	}
	if !slices.Equal(before, r.proxy.table.stripes[0].flows) {
		t.Error("a record has changed")
	}
	checkStripe(t, &r.proxy.table.stripes[0])
	p := r.step(r.segment(server, stack.Segment{
		Seq: 5001, Ack: 1001, Flags: flagACK, Window: 501, WScale: WScaleNone, Timestamps: true, TSVal: 7778, TSEcr: 11,
	}))
	if p.Seq != isn+1 {
		t.Errorf("translated to %d, not %d", p.Seq, isn+1)
	}
	var idle time.Duration
	r.proxy.Flows(r.now.Add(time.Minute), func(f FlowInfo) bool { idle = f.Idle; return true })
	if idle != time.Minute {
		t.Errorf("idle for %v", idle)
	}
}

// TestRestoreUnserved: a connection goes on through a restart with another configuration, as through a reload, when no service has its server any
// longer; with the next reload after its end nothing of that is left. Restarted once more, with the service, it is that one's again.
func TestRestoreUnserved(t *testing.T) {
	r := newKeptRig(t)
	isn := r.open()
	all := r.proxy.cfg.Services
	r.proxy.cfg.Services = all[:1]
	r.restart(time.Second)
	if got := r.proxy.Restored(); got != (Restored{Flows: 1, Unserved: 1}) {
		t.Fatalf("restored %+v", got)
	}
	translated := func() {
		t.Helper()
		p := r.step(r.segment(server, stack.Segment{
			Seq: 5001, Ack: 1001, Flags: flagACK, Window: 501, WScale: WScaleNone, Timestamps: true, TSVal: 7778, TSEcr: 11,
		}))
		if p.Seq != isn+1 {
			t.Errorf("translated to %d, not %d", p.Seq, isn+1)
		}
	}
	translated()
	if s := r.proxy.Snapshot().Services; len(s) != 1 || s[0].Name != "other" || s[0].Flows != 0 {
		t.Errorf("services %+v", s)
	}
	reload := func() {
		t.Helper()
		if err := r.proxy.Reload(r.proxy.cfg, r.now); err != nil {
			t.Fatal(err)
		}
	}
	reload()
	translated()
	r.proxy.cfg.Services = all
	r.restart(time.Second)
	if got := r.proxy.Restored(); got != (Restored{Flows: 1}) {
		t.Errorf("with its service: restored %+v", got)
	}
	r.proxy.cfg.Services = all[:1]
	r.restart(DefaultIdleTimeout)
	r.now = r.now.Add(time.Second)
	r.link.in = nil
	for range 3 { // the worker takes the policy, the index rests, and is free
		if _, err := r.worker.Step(r.clock, 0); err != nil {
			t.Fatal(err)
		}
		reload()
	}
	if n := len(r.proxy.roster.states); n != 1 {
		t.Errorf("%d services are known", n)
	}
}

// TestRestoreTimeOut: time goes on while there is no process.
func TestRestoreTimeOut(t *testing.T) {
	r := newKeptRig(t)
	r.open()
	r.restart(DefaultIdleTimeout - time.Second)
	if got := r.proxy.Snapshot().Flows[StateOpen]; got != 1 {
		t.Fatalf("%d flows open before the time-out", got)
	}
	r.now = r.now.Add(2 * time.Second)
	r.link.in = nil
	if _, err := r.worker.Step(r.clock, 0); err != nil {
		t.Fatal(err)
	}
	if got := r.proxy.Snapshot().Flows[StateOpen]; got != 0 {
		t.Errorf("%d flows open after the time-out", got)
	}
}

// TestRestoreOpening: what was held is gone, and the SYN goes out again.
func TestRestoreOpening(t *testing.T) {
	r := newKeptRig(t)
	cfg := r.proxy.cfg
	cfg.EarlyPool = 1 << 16
	for i := range cfg.Services {
		cfg.Services[i].EarlyData = 4096
	}
	cfg.State = keptState(cfg.Capacity)
	r.start(cfg)
	synAck := r.step(r.syn())
	request := stack.Segment{
		Src: rigClient, Dst: rigServer, SrcPort: 40000, DstPort: 80,
		Seq: 1001, Ack: synAck.Seq + 1, Flags: flagACK, Window: 500, WScale: WScaleNone, Timestamps: true, TSVal: 11, TSEcr: synAck.Options.TSVal,
	}
	frame, _ := request.BuildData(make([]byte, stack.MaxBuilt+100), 100, 1000)
	r.step(frame)
	if used, _ := r.proxy.early.level(); used == 0 {
		t.Fatal("nothing was held")
	}
	r.restart(1100 * time.Millisecond)
	if r.proxy.Openings() != 1 {
		t.Errorf("%d openings by server", r.proxy.Openings())
	}
	if syn := r.step(); !isSYN(&syn) || syn.Dst != rigServer {
		t.Error("no SYN to the server")
	}
	r.step(r.segment(server, stack.Segment{
		Seq: 5000, Ack: 1001, Flags: flagSYN | flagACK, Window: 65535, MSS: 1460, WScale: 9, SACKPermitted: true, Timestamps: true, TSVal: 7777, TSEcr: 11,
	}))
	if got := r.proxy.Snapshot().Flows[StateOpen]; got != 1 || r.proxy.Openings() != 0 {
		t.Errorf("%d flows open, %d openings", got, r.proxy.Openings())
	}
}

// TestRestoreCookies: cookies from before a restart are good after it, however late in the life of the flow file.
func TestRestoreCookies(t *testing.T) {
	r := newKeptRig(t)
	r.restart(time.Hour)
	synAck := r.step(r.syn())
	r.restart(10 * time.Second)
	r.step(r.segment(client, stack.Segment{
		Seq: 1001, Ack: synAck.Seq + 1, Flags: flagACK, Window: 500, WScale: WScaleNone, Timestamps: true, TSVal: 11, TSEcr: synAck.Options.TSVal,
	}))
	if got := r.proxy.Snapshot().Flows[StateOpening]; got != 1 {
		t.Errorf("%d flows opening", got)
	}
}

// TestRestoreDrops: records that can't be gone on with are none.
func TestRestoreDrops(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(r *rig, s *stripe, slot uint32)
		want  Restored
	}{
		{"unspoilt", func(*rig, *stripe, uint32) {}, Restored{Flows: 1}},
		{"being rewritten", func(_ *rig, s *stripe, slot uint32) { s.rewrite(slot) }, Restored{Rewritten: 1}},
		{"another being rewritten", func(_ *rig, s *stripe, slot uint32) { s.rewrite(slot + 1) }, Restored{Flows: 1}},
		{"service gone", func(r *rig, _ *stripe, _ uint32) { r.proxy.cfg.Services = r.proxy.cfg.Services[:1] }, Restored{Flows: 1, Unserved: 1}},
		{"no state", func(_ *rig, s *stripe, slot uint32) { s.flows[slot].state = NumStates }, Restored{Senseless: 1}},
		{"from the future", func(_ *rig, s *stripe, slot uint32) { s.flows[slot].lastSeen += 4 * 3600 }, Restored{Senseless: 1}},
		{"made in the future", func(_ *rig, s *stripe, slot uint32) { s.flows[slot].created = time.Hour }, Restored{Senseless: 1}},
		{"ends in the wrong order", func(_ *rig, s *stripe, slot uint32) {
			k := &s.flows[slot].key
			k.low, k.high = k.high, k.low
		}, Restored{Senseless: 1}},
		{"window scale", func(_ *rig, s *stripe, slot uint32) { s.flows[slot].half[server].scale = 15 }, Restored{Senseless: 1}},
		{"promised window scale", func(_ *rig, s *stripe, slot uint32) { s.flows[slot].half[client].promised = 200 }, Restored{Senseless: 1}},
		{"the client's window scale", func(_ *rig, s *stripe, slot uint32) { s.flows[slot].wscale = 16 }, Restored{Senseless: 1}},
		{"twice", func(_ *rig, s *stripe, slot uint32) { s.flows[slot+1] = s.flows[slot] }, Restored{Flows: 1, Senseless: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newKeptRig(t)
			r.open()
			s := &r.proxy.table.stripes[0]
			slot := uint32(slices.IndexFunc(s.flows, func(f flow) bool { return f.state != StateFree }))
			tt.spoil(r, s, slot)
			r.restart(time.Second)
			if got := r.proxy.Restored(); got != tt.want {
				t.Errorf("restored %+v, not %+v", got, tt.want)
			}
			checkStripe(t, &r.proxy.table.stripes[0])
			if n := len(r.proxy.table.stripes[0].flows); r.proxy.Snapshot().Flows[StateFree] != n-tt.want.Flows {
				t.Errorf("%d records are free", r.proxy.Snapshot().Flows[StateFree])
			}
			r.restart(time.Second)
			if got := r.proxy.Restored(); got != (Restored{Flows: tt.want.Flows, Unserved: tt.want.Unserved}) {
				t.Errorf("the second time: restored %+v", got)
			}
		})
	}
}

// TestRestoreWrongStripe: a record that is not where its hash says is found by no search.
func TestRestoreWrongStripe(t *testing.T) {
	r := newKeptRig(t)
	cfg := r.proxy.cfg
	cfg.Capacity = 2 * minStripe
	cfg.State = keptState(cfg.Capacity)
	r.start(cfg)
	r.open()
	stripes := r.proxy.table.stripes
	for _, i := range []int{0, 1} {
		if slot := slices.IndexFunc(stripes[i].flows, func(f flow) bool { return f.state != StateFree }); slot >= 0 {
			stripes[1-i].flows[7] = stripes[i].flows[slot]
			break
		}
	}
	r.restart(time.Second)
	if got := r.proxy.Restored(); got != (Restored{Flows: 1, Senseless: 1}) {
		t.Errorf("restored %+v", got)
	}
}

// TestRestoreEndedInOrder: what has ended is forgotten in the order in which it ended.
func TestRestoreEndedInOrder(t *testing.T) {
	r := newKeptRig(t)
	s := &r.proxy.table.stripes[0]
	for i := range 20 {
		k := key(i)
		k.high, k.highPort = rigServer, 80
		slot, _ := s.insert(&k, s.hash.of(&k), r.worker.evict)
		s.flows[slot].flags, s.flows[slot].wscale = clientLow, WScaleNone
		s.flows[slot].lastSeen = tick(i * 7 % 20)
		s.setState(slot, StateTimeWait)
		s.bury(slot)
	}
	r.restart(time.Minute)
	s = &r.proxy.table.stripes[0]
	checkStripe(t, s)
	var order []tick
	for n := s.links.first(s.ended); n != s.ended; n = s.links[n].next {
		order = append(order, s.flows[n].lastSeen)
	}
	if len(order) != 20 || !slices.IsSorted(order) {
		t.Errorf("in the order %v", order)
	}
}

// TestStateCheck: what isn't this table's memory is refused, and left as it is.
func TestStateCheck(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(*FlowState)
		want  error
	}{
		{"as it was left", func(*FlowState) {}, nil},
		{"nothing yet", func(s *FlowState) { clear(s.Memory) }, nil},
		{"shorter than a header", func(s *FlowState) { s.Memory = s.Memory[:100] }, ErrStateDamaged},
		{"truncated", func(s *FlowState) { s.Memory = s.Memory[:len(s.Memory)-1] }, ErrStateDamaged},
		{"no magic", func(s *FlowState) { s.Memory[3]++ }, ErrStateDamaged},
		{"a bit of the key", func(s *FlowState) { s.header().Hash1 ^= 1 << 40 }, ErrStateDamaged},
		{"checksum", func(s *FlowState) { s.header().Checksum++ }, ErrStateDamaged},
		{"a later version", func(s *FlowState) { s.header().Version++; s.header().Checksum = s.sum() }, ErrStateForeign},
		{"an unknown build of the first version", func(s *FlowState) { s.header().Version = 1; s.header().Checksum = s.sum() }, ErrStateForeign},
		{"other records", func(s *FlowState) { s.header().Layout++; s.header().Checksum = s.sum() }, ErrStateDiffers},
		{"a byte of the layout", func(s *FlowState) { s.described()[7]++ }, ErrStateDamaged},
		{"a byte behind the layout", func(s *FlowState) { s.Memory[stateMarksAt-1]++ }, ErrStateDamaged},
		{"another boot", func(s *FlowState) { s.Boot[15]++ }, ErrStateForeign},
		{"from the future", func(s *FlowState) { s.Monotonic = time.Minute }, ErrStateForeign},
		{"more records than there are", func(s *FlowState) { s.header().Capacity++; s.header().Checksum = s.sum() }, ErrStateDamaged},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newKeptRig(t)
			r.open()
			cfg := r.proxy.cfg
			tt.spoil(cfg.State)
			was := string(cfg.State.Memory)
			err := cfg.State.Check(cfg.Capacity)
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Errorf("Check: %v, not %v", err, tt.want)
			}
			if tt.want == nil {
				return
			}
			if _, err := New(cfg, r.now); !errors.Is(err, tt.want) {
				t.Errorf("New: %v", err)
			}
			if was != string(cfg.State.Memory) {
				t.Error("the memory has changed")
			}
		})
	}
}
