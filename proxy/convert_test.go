package proxy

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/stack"
)

// converted makes of another FlowState one for so many flows, which must not change the former.
func converted(t *testing.T, from *FlowState, capacity int) (*FlowState, Conversion) {
	t.Helper()
	was := string(from.Memory)
	to := keptState(capacity)
	to.Boot, to.Monotonic = from.Boot, from.Monotonic
	c, err := to.Convert(from, capacity)
	if err != nil {
		t.Fatal(err)
	}
	if was != string(from.Memory) {
		t.Error("what was converted has changed")
	}
	if err := to.Check(capacity); err != nil {
		t.Errorf("the new one: %v", err)
	}
	return to, c
}

// The file of version 1 was left by levee at commit e4195be: for 8 flows, of which rigClient's to port 80 of rigServer are
// open (from port 40000; the client was told the cookie and timestamp below, where the server has 5000 and 7777), opening (40001), being
// rewritten (40002) and over (40003).
const (
	version1File     = "testdata/flows.version1"
	version1Capacity = 8
	version1Cookie   = 1766585591
	version1TSVal    = 2341056727
)

func version1(t *testing.T) *FlowState {
	t.Helper()
	b, err := os.ReadFile(version1File)
	if err != nil {
		t.Fatal(err)
	}
	s := &FlowState{Memory: make([]byte, FlowStateBytes(version1Capacity)), Boot: [16]byte{1}, Monotonic: 2 * time.Hour}
	if copy(s.Memory, b) != len(b) || len(b) != len(s.Memory) {
		t.Fatalf("%s has %d bytes", version1File, len(b))
	}
	return s
}

// TestConvertVersion1: connections of the first version go on, in a table of the same size or of another.
func TestConvertVersion1(t *testing.T) {
	if err := version1(t).Check(version1Capacity); !errors.Is(err, ErrStateDiffers) {
		t.Fatalf("Check: %v", err)
	}
	for _, capacity := range []int{version1Capacity, 3, 40 * minStripe} {
		t.Run(fmt.Sprint(capacity), func(t *testing.T) {
			r := newKeptRig(t)
			cfg := r.proxy.cfg
			var c Conversion
			cfg.Capacity = capacity
			cfg.State, c = converted(t, version1(t), capacity)
			if want := (Conversion{Flows: 3, Rewritten: 1}); c != want {
				t.Errorf("converted %+v, want %+v", c, want)
			}
			r.now = r.now.Add(time.Second)
			r.start(cfg)
			if got := r.proxy.Restored(); got != (Restored{Flows: 3}) {
				t.Fatalf("restored %+v", got)
			}
			s := r.proxy.Snapshot()
			if s.Flows[StateOpen] != 1 || s.Flows[StateOpening] != 1 || s.Flows[StateTimeWait] != 1 {
				t.Errorf("flows %v", s.Flows)
			}
			for f := range flowsOf(r) { // time has gone on
				if f.State == StateOpen && (f.Idle != time.Hour || f.Age != time.Hour) {
					t.Errorf("idle for %v of %v", f.Idle, f.Age)
				}
			}
			sent := r.sentFor(r.segment(server, stack.Segment{
				Seq: 5001, Ack: 1001, Flags: flagACK, Window: 501, WScale: WScaleNone, Timestamps: true, TSVal: 7778, TSEcr: 11,
			}))
			if len(sent) != 2 {
				t.Fatalf("%d packets", len(sent))
			}
			if p := sent[0]; p.Dst != rigClient || p.Seq != version1Cookie+1 || p.Options.TSVal != version1TSVal+1 {
				t.Errorf("translated to %d, timestamp %d", p.Seq, p.Options.TSVal)
			}
			if p := sent[1]; p.Dst != rigServer || !isSYN(&p) || p.Seq != 1000 || p.SrcPort != 40001 {
				t.Errorf("for the one that is opening: %+v", p)
			}
			for i := range r.proxy.table.stripes {
				checkStripe(t, &r.proxy.table.stripes[i])
			}
		})
	}
}

// TestConvertVersion1Damaged: no damage to the header of a former version goes unnoticed.
func TestConvertVersion1Damaged(t *testing.T) {
	for at := range 100 {
		s := version1(t)
		if s.Memory[at] ^= 0x40; s.Check(version1Capacity) != nil && !errors.Is(s.Check(version1Capacity), ErrStateDiffers) {
			continue
		}
		if at < 84 { // the header without its padding
			t.Errorf("byte %d: %v", at, s.Check(version1Capacity))
		}
	}
}

// former is a FlowState as a levee would have written it whose records have another layout.
func former(t *testing.T, s *FlowState, l layout) *FlowState {
	t.Helper()
	at := make(map[string]layoutField)
	for _, f := range l.fields {
		at[f.name] = f
	}
	own, err := s.records()
	if err != nil {
		t.Fatal(err)
	}
	stride := wholeLines(own.each * l.size)
	o := &FlowState{Memory: make([]byte, stateRecordsAt+own.stripes*stride), Boot: s.Boot, Monotonic: s.Monotonic}
	copy(o.Memory, s.Memory[:stateRecordsAt])
	clear(o.described())
	copy(o.described(), l.String())
	o.header().Layout = l.hash()
	o.header().Checksum = o.sum()
	for stripe := range own.stripes {
		for slot := range own.each {
			from, to := own.at(stripe, slot), o.Memory[stateRecordsAt+stripe*stride+slot*l.size:][:l.size]
			for _, f := range ownLayout.fields {
				if g, ok := at[f.name]; ok {
					copy(to[g.offset:], from[f.offset:f.offset+f.bytes])
				}
			}
		}
	}
	return o
}

// reversed is the own layout from back to front, with a field that this levee doesn't know before each that it does.
func reversed() layout {
	l := layout{size: 7}
	for i, f := range slices.Backward(ownLayout.fields) {
		l.fields = append(l.fields, layoutField{fmt.Sprintf("unknown[%d]", i), "uint8x3", l.size, 3})
		l.size += 3
		f.offset = l.size
		l.fields = append(l.fields, f)
		l.size += f.bytes
	}
	return l
}

// busyState is memory in which a Proxy has left flows of all states.
func busyState(t *testing.T, capacity, flows int) (*rig, *FlowState) {
	t.Helper()
	r := newKeptRig(t)
	cfg := r.proxy.cfg
	cfg.Capacity, cfg.State = capacity, keptState(capacity)
	r.start(cfg)
	rng := rand.New(rand.NewPCG(uint64(capacity), uint64(flows)))
	for i := range flows {
		k := key(i)
		k.high, k.highPort = rigServer, 80
		hash := r.proxy.table.hash.of(&k)
		s := r.proxy.table.stripe(hash)
		slot, ok := s.insert(&k, hash, func(*flow) { t.Fatal("no room") })
		if !ok {
			t.Fatal("no room")
		}
		f := &s.flows[slot]
		f.flags, f.wscale, f.cookie, f.delta = clientLow|opened, 7, 1, uint32(i)
		f.former, f.fins = fingerprint{1, 2, uint8(i)}, [2]finMark{finSent, finAhead}
		for h := range f.half {
			f.half[h] = half{bytes: rng.Uint64(), end: 3, ack: 4, maxWindow: rng.Uint32(), window: 5, scale: 6, promised: uint8(h)}
		}
		s.setState(slot, StateOpen+State(i%int(NumStates-StateOpen)))
	}
	return r, cfg.State
}

// flowsIn are the records of a Proxy's table by their difference, which tells those of busyState apart.
func flowsIn(p *Proxy) map[uint32]flow {
	all := make(map[uint32]flow)
	for i := range p.table.stripes {
		for _, f := range p.table.stripes[i].flows {
			if f.state != StateFree {
				f.service = 0
				all[f.delta] = f
			}
		}
	}
	return all
}

// TestConvertLayout: records of a layout in which every field is elsewhere, among others that nobody knows, become the same flows.
func TestConvertLayout(t *testing.T) {
	const capacity, flows = 3 * minStripe, 9000
	r, state := busyState(t, capacity, flows)
	want := flowsIn(r.proxy)
	o := former(t, state, reversed())
	if err := o.Check(capacity); !errors.Is(err, ErrStateDiffers) {
		t.Fatalf("Check: %v", err)
	}
	if live, noRoom := o.Live(capacity); live != o.liveSlowly(want) || noRoom != 0 {
		t.Errorf("%d live, not %d; %d without room", live, o.liveSlowly(want), noRoom)
	}
	cfg := r.proxy.cfg
	var c Conversion
	cfg.State, c = converted(t, o, capacity)
	if c != (Conversion{Flows: flows}) {
		t.Errorf("converted %+v", c)
	}
	r.start(cfg)
	if got := r.proxy.Restored(); got != (Restored{Flows: flows}) {
		t.Errorf("restored %+v", got)
	}
	got := flowsIn(r.proxy)
	for delta, f := range want {
		if got[delta] != f {
			t.Fatalf("flow %d is\n%+v, was\n%+v", delta, got[delta], f)
		}
	}
	for i := range r.proxy.table.stripes {
		checkStripe(t, &r.proxy.table.stripes[i])
	}
}

func (s *FlowState) liveSlowly(flows map[uint32]flow) (n int) {
	for _, f := range flows {
		if !f.state.Ended() {
			n++
		}
	}
	return n
}

// TestConvertLacking: a field that zero is right for may be missing, any other may not; nor may it have become something else.
func TestConvertLacking(t *testing.T) {
	_, state := busyState(t, 100, 50)
	without := func(name string) layout {
		l := reversed()
		l.fields = slices.DeleteFunc(l.fields, func(f layoutField) bool { return f.name == name })
		return l
	}
	const missing = "half[1].maxWindow"
	o := former(t, state, without(missing))
	if err := o.Check(100); !errors.Is(err, ErrStateForeign) || !strings.Contains(err.Error(), "its records have no "+missing) {
		t.Errorf("without %s: %v", missing, err)
	}
	absent[missing] = true
	defer delete(absent, missing)
	to, c := converted(t, o, 100)
	if c.Flows != 50 {
		t.Errorf("converted %+v", c)
	}
	memory := to.Memory[stateRecordsAt:]
	for _, f := range carve[flow](&memory, 100) {
		if f.half[1].maxWindow != 0 || f.state != StateFree && f.half[1].end != 3 {
			t.Fatalf("%+v", f.half)
		}
	}

	l := reversed()
	i := slices.IndexFunc(l.fields, func(f layoutField) bool { return f.name == "tries" })
	l.fields[i].kind, l.fields[i].bytes, l.fields[i].offset = "uint16", 2, 0
	if err := former(t, state, l).Check(100); !errors.Is(err, ErrStateForeign) || !strings.Contains(err.Error(), "tries is uint16, not uint8") {
		t.Errorf("another type: %v", err)
	}
}

// TestConvertCapacity: flows go on in a table of another size; if there is not room for all, those that are over go without.
func TestConvertCapacity(t *testing.T) {
	const flows = 5000
	for _, tt := range []struct{ from, to, want int }{
		{6000, 6001, flows},
		{6000, 80 * minStripe, flows},
		{80 * minStripe, 6000, flows},
		{6000, 5000, flows},
		{6000, 3500, 3500}, // 3000 are live
		{6000, 2000, 2000},
	} {
		t.Run(fmt.Sprintf("%d to %d", tt.from, tt.to), func(t *testing.T) {
			r, state := busyState(t, tt.from, flows)
			want := flowsIn(r.proxy)
			if err := state.Check(tt.to); !errors.Is(err, ErrStateDiffers) {
				t.Errorf("Check: %v", err)
			}
			cfg := r.proxy.cfg
			var c Conversion
			cfg.Capacity = tt.to
			cfg.State, c = converted(t, state, tt.to)
			if c.Flows != tt.want || c.NoRoom != flows-tt.want {
				t.Errorf("converted %+v, want %d", c, tt.want)
			}
			r.start(cfg)
			if got := r.proxy.Restored(); got != (Restored{Flows: tt.want}) {
				t.Errorf("restored %+v", got)
			}
			over := 0
			got := flowsIn(r.proxy)
			for delta, f := range got {
				if want[delta] != f {
					t.Fatalf("flow %d is\n%+v, was\n%+v", delta, f, want[delta])
				}
				if f.state.Ended() {
					over++
				}
			}
			if missing := flows - tt.want; over > 0 && missing > 2000 {
				t.Errorf("%d are there that are over, and live ones are not", over)
			}
		})
	}
}

// TestLiveNoRoom: what finds no room among the live ones is known before, also where the stripes of a table with room for as many fill unevenly.
func TestLiveNoRoom(t *testing.T) {
	const from, to = 8 * minStripe, 4 * minStripe
	r, state := busyState(t, from, to)
	for i := range r.proxy.table.stripes {
		for j := range r.proxy.table.stripes[i].flows {
			if f := &r.proxy.table.stripes[i].flows[j]; f.state != StateFree {
				f.state = StateOpen
			}
		}
	}
	live, noRoom := state.Live(to)
	_, c := converted(t, state, to)
	if live != to || noRoom == 0 || noRoom != c.NoRoom {
		t.Errorf("%d live, %d without room; converted %+v", live, noRoom, c)
	}
	if _, noRoom := state.Live(from); noRoom != 0 {
		t.Errorf("%d without room where there is", noRoom)
	}
}

// TestFreshLength: memory that nobody has used yet is no better than other memory if a table doesn't fit into it or leaves some of it.
func TestFreshLength(t *testing.T) {
	const capacity = 100
	whole := FlowStateBytes(capacity)
	for _, tt := range []struct {
		bytes int
		want  error
	}{{whole, nil}, {whole - 1, ErrStateDamaged}, {whole + 1, ErrStateDamaged}, {2 * whole, ErrStateDamaged}, {stateRecordsAt, ErrStateDamaged}, {0, ErrStateDamaged}} {
		s := &FlowState{Memory: make([]byte, tt.bytes)}
		if err := s.Check(capacity); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
			t.Errorf("%d bytes of %d: %v", tt.bytes, whole, err)
		}
	}
}

// TestConvertHostile: whatever a header says that has the right checksum, nothing outside of the memory is read.
func TestConvertHostile(t *testing.T) {
	_, state := busyState(t, 100, 50)
	for _, tt := range []struct {
		name  string
		spoil func(*FlowState)
		want  error
	}{
		{"more stripes", func(s *FlowState) { s.header().Stripes = 64 }, ErrStateDamaged},
		{"no stripes", func(s *FlowState) { s.header().Stripes = 0 }, ErrStateDamaged},
		{"three stripes", func(s *FlowState) { s.header().Stripes = 3 }, ErrStateDamaged},
		{"too many stripes", func(s *FlowState) { s.header().Stripes = 1 << 31 }, ErrStateDamaged},
		{"more stripes than marks, and as long", func(s *FlowState) {
			s.header().Stripes, s.header().Capacity = 2*stripesWanted, 1
			s.Memory = append(s.Memory[:stateRecordsAt], make([]byte, 2*stripesWanted*ownLayout.size)...)
		}, ErrStateDamaged},
		{"longer than it says", func(s *FlowState) { s.Memory = append(s.Memory, make([]byte, 128)...) }, ErrStateDamaged},
		{"too many records", func(s *FlowState) { s.header().Capacity = 1 << 63 }, ErrStateDamaged},
		{"more records", func(s *FlowState) { s.header().Capacity = 200 }, ErrStateDamaged},
		{"no records", func(s *FlowState) { s.header().Capacity = 0 }, ErrStateDamaged},
		{"no layout", func(s *FlowState) { clear(s.described()) }, ErrStateDamaged},
		{"a field beyond the record", func(s *FlowState) {
			l := ownLayout
			l.fields = slices.Clone(l.fields)
			l.fields[3].offset = l.size
			copy(s.described(), l.String())
		}, ErrStateDamaged},
		{"a larger record", func(s *FlowState) {
			l := ownLayout
			l.size = 900
			copy(s.described(), l.String())
		}, ErrStateDamaged},
		{"a mark beyond the records", func(s *FlowState) { s.marks()[0].record = 1 << 31 }, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := &FlowState{Memory: slices.Clone(state.Memory), Boot: state.Boot, Monotonic: state.Monotonic}
			tt.spoil(o)
			o.header().Layout++
			o.header().Checksum = o.sum()
			if _, err := keptState(100).Convert(o, 100); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			o.Live(100)
		})
	}
}

// TestLayoutIsKnown: the layout of records is what it was when it was last looked at. Whoever changes it makes this test pass by writing down the
// new one, after having decided what becomes of flow files that are there: a field whose zero is right for them goes into absent, and
// anything else takes a new stateVersion, and code in Convert.
func TestLayoutIsKnown(t *testing.T) {
	const file = "testdata/layout.version2"
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := ownLayout.String(); got != string(want) {
		t.Errorf("records have another layout than in %s: read the comment of this test\n%s", file, got)
	}
	if len(ownLayout.String()) >= len((&FlowState{Memory: make([]byte, stateRecordsAt)}).described()) {
		t.Error("it has no room in the header")
	}
}

func FuzzParseLayout(f *testing.F) {
	f.Add(ownLayout.String())
	f.Add(reversed().String())
	f.Add("128\nstate uint8 127\n")
	f.Add("128\nstate uint8 128\n")
	f.Add("128\nstate uint8x129 0\n")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := parseLayout(text)
		if err != nil {
			return
		}
		for _, field := range l.fields {
			if field.offset < 0 || field.bytes < 1 || field.offset+field.bytes > l.size {
				t.Errorf("%+v of %d bytes", field, l.size)
			}
		}
		again, err := parseLayout(l.String())
		if err != nil || !slices.Equal(again.fields, l.fields) || again.size != l.size {
			t.Errorf("%v: %+v, then %+v", err, l, again)
		}
		if moves, err := l.moves(); err == nil {
			_ = record(make([]byte, l.size), moves)
		}
	})
}
