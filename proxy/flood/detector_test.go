package flood

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"levee/stack"
)

// rig is a Detector with a clock, ticked four times a second.
type rig struct {
	*testing.T
	*Detector
	now  time.Duration
	unix int64
	rand *rand.Rand
}

func newRig(t *testing.T, services ...Service) *rig {
	r := &rig{T: t, Detector: New(), unix: 1_700_000_000, rand: rand.New(rand.NewPCG(1, 2))}
	r.Use(services)
	return r
}

func service(name string, l Limits) Service { return Service{Watch: NewWatch(name), Limits: l} }

func destination(n int) Destination {
	return Destination{Addr: stack.AddrFrom(netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)})), Port: 80}
}

const tickEvery = time.Second / 4

// pass lets time pass, tick by tick, and calls each in every one.
func (r *rig) pass(d time.Duration, each func()) {
	for end := r.now + d; r.now < end; {
		if each != nil {
			each()
		}
		r.now += tickEvery
		r.Tick(r.now, r.unix+int64(r.now/time.Second))
	}
}

// flood sends forged SYNs, n a second.
func (r *rig) flood(s Service, to Destination, n int) func() {
	return func() {
		for range n / 4 {
			r.SYN(s.Watch, &to, r.rand.Uint64(), r.now)
		}
	}
}

// connect makes n connections a second that are all finished. It says nothing about how long that takes.
func (r *rig) connect(s Service, to Destination, n int) func() {
	return func() {
		for range n / 4 {
			flow := r.rand.Uint64()
			r.SYN(s.Watch, &to, flow, r.now)
			r.Finished(s.Watch, &to, flow, r.now)
		}
	}
}

func (r *rig) want(s Service, to Destination, engaged bool) {
	r.Helper()
	if got := r.Engaged(s.Watch, &to); got != engaged {
		r.Fatalf("at %v: engaged %v, want %v", r.now, got, engaged)
	}
}

func (r *rig) count(to Destination) uint32 {
	_, by := r.destinations.of(NewWatch(""), &to)
	return r.halfOpen.count(by)
}

var fixed = Limits{HalfOpen: 500, SYNRate: 2000, Hold: 10 * time.Second}

func (r *rig) wantNearest(s Service, halfOpen, rate int) {
	r.Helper()
	if h, n := s.Nearest(); h != halfOpen || n != rate {
		r.Errorf("at %v: %d half-open and %d SYNs in a second, want %d and %d", r.now, h, n, halfOpen, rate)
	}
}

// How near to its limits a service is, is how near its destination is that is nearest, and floods are said when they begin and end.
func TestNearest(t *testing.T) {
	s := service("web", fixed)
	r := newRig(t, s)
	r.wantNearest(s, 0, 0)
	if began, ended := s.Latest(); began != 0 || ended != 0 {
		t.Errorf("a flood from %v to %v before any", began, ended)
	}
	r.pass(5*time.Second, func() {
		r.flood(s, destination(1), 8)()
		r.flood(s, destination(2), 40)()
		r.connect(s, destination(3), 400)()
	})
	r.wantNearest(s, 200, 400)
	r.pass(20*time.Second, r.flood(s, destination(2), 40))
	if h, _ := s.Nearest(); h < 400 || h > 500 { // it is engaged, and nobody stands by its SYNs
		t.Errorf("%d half-open of an engaged destination", h)
	}
	began, ended := s.Latest()
	if began < 12*time.Second || began > 13*time.Second || ended != 0 {
		t.Errorf("a flood from %v to %v, want from 12.5 s on", began, ended)
	}
	r.pass(2*time.Minute, nil)
	r.wantNearest(s, 0, 0)
	if f := r.Floods()[0]; !f.Over {
		t.Errorf("the flood lasts: %+v", f)
	} else if began, ended := s.Latest(); began != f.Start || ended != f.End {
		t.Errorf("from %v to %v, want %v to %v", began, ended, f.Start, f.End)
	}
	r.pass(time.Second, r.flood(s, destination(2), 9000))
	if again, ended := s.Latest(); again <= began || ended != 0 {
		t.Errorf("the second flood is from %v to %v", again, ended)
	}
}

// The SYN that reaches the limit of a second is answered itself, other destinations are not concerned, and hold after the flood it is over.
func TestRate(t *testing.T) {
	s := service("web", fixed)
	r := newRig(t, s)
	hit, other := destination(1), destination(2)
	for i := range 2000 {
		flow := uint64(i) << 8
		engaged := r.SYN(s.Watch, &hit, flow, r.now)
		r.Finished(s.Watch, &hit, flow, r.now) // no half-opens
		if want := i == 1999; engaged != want {
			t.Fatalf("SYN %d: engaged %v", i+1, engaged)
		}
	}
	r.want(s, other, false)
	r.pass(30*time.Second, r.flood(s, hit, 20_000))
	r.want(s, hit, true)
	r.want(s, other, false)
	r.pass(fixed.Hold, nil)
	r.want(s, hit, true)
	r.pass(2*time.Second, nil)
	r.want(s, hit, false)
	floods := r.Floods()
	if len(floods) != 1 {
		t.Fatalf("%d floods: %+v", len(floods), floods)
	}
	f := floods[0]
	if f.Cause != BySYNRate || !f.Over || f.Start > time.Second || f.Top != hit || f.TopRate < 20_000 || f.TopRate > 22_000 ||
		f.PeakRate != f.TopRate || f.Destinations != 1 || f.Spread || f.Service != "web" || f.Monitored {
		t.Errorf("the flood was %+v", f)
	}
	if lasted := f.End - f.Start; lasted < 40*time.Second || lasted > 42*time.Second {
		t.Errorf("the flood lasted %v", lasted)
	}
}

// A slow flood fills the server's queue, which the rate doesn't show; half the limit for hold lets go, and handshakes that finish never count.
func TestHalfOpen(t *testing.T) {
	s := service("web", fixed)
	r := newRig(t, s)
	to := destination(1)
	honest := r.connect(s, to, 400)
	slow := r.flood(s, to, 12) // 12 times 64 s are more than 500
	r.pass(30*time.Second, honest)
	if n := r.count(to); n != 0 {
		t.Fatalf("%d half-open without a flood", n)
	}
	r.pass(39*time.Second, func() { honest(); slow() })
	r.want(s, to, false)
	r.pass(6*time.Second, func() { honest(); slow() })
	r.want(s, to, true)
	if f := r.Floods()[0]; f.Cause != ByHalfOpen {
		t.Errorf("engaged by %v", f.Cause)
	}
	quick := r.flood(s, to, 60) // unproven for hold/ln 2 or so: more than half the limit
	r.pass(5*time.Minute, func() { honest(); quick() })
	r.want(s, to, true)
	r.pass(fixed.Hold-time.Second, honest)
	r.want(s, to, true)
	r.pass(3*time.Second, honest)
	r.want(s, to, false)
	if n := r.count(to); n != 0 {
		t.Errorf("%d half-open are left of the flood", n)
	}
	r.pass(time.Minute, honest)
	r.want(s, to, false)
}

// What is half-open ends by itself, by a refusal and by an acknowledgement; the same SYN again is the same handshake.
func TestHandshakeEnds(t *testing.T) {
	s := service("web", fixed)
	r := newRig(t, s)
	to := destination(1)
	start := func(flow uint64) { r.SYN(s.Watch, &to, flow<<45, r.now) }
	for flow := range uint64(9) {
		start(flow)
		start(flow)
	}
	if n := r.count(to); n != bucketCells { // all these flows share one bucket
		t.Fatalf("%d half-open, not %d", n, bucketCells)
	}
	r.Refused(3 << 44)
	r.Refused(3 << 44)
	r.Finished(s.Watch, &to, 4<<45, r.now)
	r.Finished(s.Watch, &to, 99<<45, r.now)
	if n := r.count(to); n != 5 {
		t.Errorf("%d half-open, not 5", n)
	}
	r.pass(30*time.Second, nil)
	start(5) // again, by a client that waits: no new one, and no longer
	r.pass(Lifetime-30*time.Second-time.Second, nil)
	if n := r.count(to); n != 5 {
		t.Errorf("%d half-open after %v, not 5", n, r.now)
	}
	r.pass(6*time.Second, nil)
	if n := r.count(to); n != 0 {
		t.Errorf("%d half-open for ever", n)
	}
}

// The numbers of half-open handshakes are those of a map, with random handshakes at many destinations.
func TestHalfOpenOracle(t *testing.T) {
	s := service("web", Limits{HalfOpen: MaxHalfOpen, SYNRate: MaxSYNRate, Hold: time.Minute})
	r := newRig(t, s)
	type handshake struct {
		to    int
		began time.Duration
	}
	oracle := make(map[uint64]handshake)
	r.pass(3*time.Minute, func() {
		for range 30 {
			flow, to := r.rand.Uint64N(1<<20)*0x9e3779b97f4a7c15, r.rand.IntN(20)
			d := destination(to)
			_, known := oracle[flow]
			switch {
			case known:
			case r.rand.IntN(3) == 0:
				r.Refused(flow)
			default:
				r.SYN(s.Watch, &d, flow, r.now)
				oracle[flow] = handshake{to, r.now}
				if r.rand.IntN(2) == 0 {
					r.Finished(s.Watch, &d, flow, r.now)
					delete(oracle, flow)
				}
			}
		}
	})
	low, high := make([]uint32, 20), make([]uint32, 20)
	for _, h := range oracle {
		age := r.now - h.began
		if age < Lifetime-time.Second {
			low[h.to]++
		}
		if age < Lifetime+sweepPart*tickEvery+time.Second {
			high[h.to]++
		}
	}
	for to := range low {
		if n := r.count(destination(to)); n < low[to] || n > high[to] {
			t.Errorf("destination %d: %d half-open, not %d to %d", to, n, low[to], high[to])
		}
	}
}

// A flood over a /16 and all ports engages the service as a whole, and a destination in its midst that gets far more is still found.
func TestSpread(t *testing.T) {
	s := service("web", Limits{HalfOpen: MaxHalfOpen, SYNRate: 2000, Hold: 5 * time.Second})
	r := newRig(t, s)
	hit := destination(7)
	spread := func(n int) func() {
		return func() {
			for range n / 4 {
				to := destination(r.rand.IntN(1 << 16))
				to.Port = uint16(r.rand.Uint32())
				r.SYN(s.Watch, &to, r.rand.Uint64(), r.now)
			}
		}
	}
	quiet := destination(8)
	r.pass(4*time.Second, spread(15_000)) // 60,000 half-open: not too many yet
	r.want(s, quiet, false)
	before := r.now
	r.pass(2*time.Second, spread(200_000))
	r.want(s, quiet, true)
	floods := r.Floods()
	if len(floods) != 1 || !floods[0].Spread || floods[0].Cause != BySYNRate || floods[0].Start-before > time.Second {
		t.Fatalf("the floods are %+v", floods)
	}
	both, toOne := spread(200_000), r.flood(s, hit, 2400)
	r.pass(3*time.Second, func() { both(); toOne() })
	if floods := r.Floods(); floods[0].Top != hit {
		t.Errorf("the flood of one destination among many was not found: %+v", floods)
	}
	r.pass(8*time.Second, nil)
	r.want(s, quiet, false)
	r.want(s, hit, false)
	if floods := r.Floods(); len(floods) != 1 || !floods[0].Over || floods[0].PeakRate < 190_000 {
		t.Errorf("the floods are %+v", floods)
	}
}

// Nobody is engaged by what is usual, however much it is: the first minutes of a busy service are, and then its rate is known.
func TestLearned(t *testing.T) {
	s := service("web", Limits{Hold: 10 * time.Second})
	r := newRig(t, s)
	to := destination(1)
	busy := r.connect(s, to, 4000)
	r.pass(time.Second, busy)
	r.want(s, to, true) // nothing is known yet
	r.pass(30*time.Second, busy)
	r.want(s, to, false)
	if halfOpen, rate := s.Thresholds(); rate != 16_000 || halfOpen != 8000 {
		t.Errorf("the limits are %d and %d", halfOpen, rate)
	}
	r.pass(time.Minute, r.flood(s, to, 30_000))
	if halfOpen, rate := s.Thresholds(); rate != 16_000 || halfOpen != 8000 {
		t.Errorf("a flood changes the limits to %d and %d", halfOpen, rate)
	}
}

// A quiet service has limits all the same, and one of many destinations is not taken for a flood of all.
func TestFloors(t *testing.T) {
	s := service("web", Limits{Hold: 10 * time.Second})
	r := newRig(t, s)
	if halfOpen, rate := s.Thresholds(); rate != floorSYNRate || halfOpen != floorHalfOpen {
		t.Errorf("the limits are %d and %d", halfOpen, rate)
	}
	r.pass(time.Minute, r.connect(s, destination(1), 4))
	if halfOpen, rate := s.Thresholds(); rate != floorSYNRate || halfOpen != floorHalfOpen {
		t.Errorf("the limits of a quiet service are %d and %d", halfOpen, rate)
	}
	for _, n := range []int{6000, 12_000} { // of all 100 together; each gets little
		each := func() {
			for i := range 100 {
				r.connect(s, destination(i), n/100)()
			}
		}
		r.pass(25*time.Second, each)
	}
	r.pass(15*time.Second, nil)
	each := func() {
		for i := range 100 {
			r.connect(s, destination(i), 120)()
		}
	}
	r.pass(15*time.Second, each)
	r.want(s, destination(500), false)
	if len(r.Floods()) > 1 {
		t.Errorf("the floods are %+v", r.Floods())
	}
}

// Services are watched apart, changes take effect at once, and what is no longer watched is let go.
func TestUse(t *testing.T) {
	a, b := service("a", fixed), service("b", fixed)
	b.Monitored = true
	r := newRig(t, a, b)
	hitA, hitB := destination(1), destination(2)
	r.pass(time.Second, func() { r.flood(a, hitA, 8000)(); r.flood(b, hitB, 8000)() })
	r.want(a, hitA, true)
	r.want(b, hitB, true)
	r.Use([]Service{b})
	r.pass(tickEvery, nil)
	r.want(a, hitA, false)
	r.want(b, hitB, true)
	floods := r.Floods()
	if len(floods) != 2 {
		t.Fatalf("the floods are %+v", floods)
	}
	for _, f := range floods {
		if f.Over != (f.Service == "a") || f.Monitored != (f.Service == "b") {
			t.Errorf("the flood of %s is %+v", f.Service, f)
		}
	}
	a.SYNRate = 40
	r.Use([]Service{a, b})
	r.pass(time.Second, r.flood(a, hitA, 80))
	r.want(a, hitA, true)
}

// Only so many floods are remembered, the latest.
func TestFloodsBounded(t *testing.T) {
	s := service("web", Limits{HalfOpen: 10, SYNRate: 10, Hold: time.Second})
	r := newRig(t, s)
	for range kept + 10 {
		r.pass(tickEvery, r.flood(s, destination(1), 400))
		r.pass(4*time.Second, nil)
	}
	floods := r.Floods()
	if len(floods) != kept {
		t.Fatalf("%d floods", len(floods))
	}
	for i, f := range floods {
		if f.ID != uint64(11+i) || !f.Over {
			t.Errorf("flood %d is %+v", i, f)
		}
	}
}

// Nothing here allocates on the way of a packet.
func TestNoAllocation(t *testing.T) {
	s := service("web", fixed)
	r := newRig(t, s)
	to := destination(1)
	if n := testing.AllocsPerRun(10_000, func() {
		flow := r.rand.Uint64()
		r.SYN(s.Watch, &to, flow, r.now)
		r.Engaged(s.Watch, &to)
		r.Finished(s.Watch, &to, flow, r.now)
		r.SYN(s.Watch, &to, flow, r.now)
		r.Refused(flow)
		r.now += 50 * time.Microsecond
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if n := testing.AllocsPerRun(100, func() { r.now += tickEvery; r.Tick(r.now, r.unix) }); n != 0 {
		t.Errorf("%v allocations in a tick", n)
	}
}

// What a forged SYN costs while it passes, each of another tuple, and while it is to be answered.
func BenchmarkSYN(b *testing.B) {
	for _, bench := range []struct {
		name    string
		limits  limits
		engaged bool
	}{
		{"passing", limits{halfOpen: math.MaxUint32, synRate: math.MaxUint32, hold: time.Minute, whole: math.MaxUint32}, false},
		{"engaged", limits{halfOpen: 1, synRate: 1, hold: time.Minute, whole: 1}, true},
	} {
		b.Run(bench.name, func(b *testing.B) {
			s := service("web", fixed)
			d := New()
			d.Use([]Service{s})
			s.limits.Store(&bench.limits)
			to := destination(1)
			flow := uint64(1)
			b.ReportAllocs()
			for b.Loop() {
				flow = flow*6364136223846793005 + 1442695040888963407
				if d.SYN(s.Watch, &to, flow, time.Second) != bench.engaged {
					b.Fatal("not what is to be measured")
				}
			}
		})
	}
}

func BenchmarkTick(b *testing.B) {
	s := service("web", Limits{HalfOpen: MaxHalfOpen, SYNRate: MaxSYNRate, Hold: time.Minute})
	d := New()
	d.Use([]Service{s})
	for i := range 20_000 {
		to := destination(i)
		d.SYN(s.Watch, &to, uint64(i)*0x9e3779b97f4a7c15, time.Second)
	}
	now := time.Second
	b.ReportAllocs()
	for b.Loop() {
		now += time.Millisecond
		d.Tick(now, 1_700_000_000)
	}
}
