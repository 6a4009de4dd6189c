package proxy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"levee/proxy/cookie"
	"levee/stack"
)

// reloads is a Proxy's configuration with any number of services, each of one address.
func reloads(names ...string) Config {
	cfg := Config{
		Capacity: 1000, MTU: 1500, IdleTimeout: DefaultIdleTimeout, TransitoryTimeout: DefaultTransitoryTimeout,
		Secret: cookie.Secret{1},
	}
	for i, name := range names {
		cfg.Services = append(cfg.Services, Service{
			Name: name, Prefixes: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 32)},
			Mode: ModeAlways, Options: DefaultOptions(),
		})
	}
	return cfg
}

// TestReloadRefuses sees a broken configuration and one that changes what is fixed refused, by name, and nothing changed.
func TestReloadRefuses(t *testing.T) {
	now := time.Unix(1e9, 0)
	p, err := New(reloads("web"), now)
	if err != nil {
		t.Fatal(err)
	}
	before := p.policy.Load()
	for _, tt := range []struct {
		want string
		edit func(*Config)
	}{
		{"capacity", func(c *Config) { c.Capacity++ }},
		{"early data", func(c *Config) { c.EarlyPool = 1 << 20 }},
		{"secret", func(c *Config) { c.Secret = cookie.Secret{2} }},
		{"secret", func(c *Config) { c.SharedSecret = true }},
		{"use 1 to", func(c *Config) { c.Capacity = 0 }},
		{"time-outs", func(c *Config) { c.IdleTimeout = 0 }},
		{"it needs a name", func(c *Config) { c.Services[0].Prefixes = nil }},
		{"two services are called web", func(c *Config) { c.Services = append(c.Services, reloads("new", "web").Services[1]) }},
		{"both have", func(c *Config) { c.Services = append(c.Services, reloads("new").Services...) }},
	} {
		cfg := reloads("web")
		tt.edit(&cfg)
		if err := p.Reload(cfg, now); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want an error with %q", err, tt.want)
		}
	}
	if p.policy.Load() != before || len(p.roster.states) != 1 {
		t.Error("something has changed")
	}
}

// TestRoster follows the index of a service through removal: it is kept for its records, its cookies and workers that are behind, its
// counters go on if the name comes back, and then another service gets it.
func TestRoster(t *testing.T) {
	r := newRig(t, DefaultOptions())
	cfg := r.proxy.cfg
	cfg.Services = append(cfg.Services, reloads("x").Services...)
	cfg.Services[1].Prefixes = []netip.Prefix{netip.MustParsePrefix("203.0.113.1/32")}
	reload := func(services ...Service) {
		t.Helper()
		cfg.Services = services
		if err := r.proxy.Reload(cfg, r.now); err != nil {
			t.Fatal(err)
		}
	}
	web, other := cfg.Services[0], cfg.Services[1]
	index := func(name string) int {
		if s := r.proxy.roster.states[name]; s != nil {
			return int(s.index)
		}
		return -1
	}
	step := func() { // the worker takes the latest policy
		r.link.in = nil
		if _, err := r.worker.Step(r.clock, 0); err != nil {
			t.Fatal(err)
		}
	}
	r.open()
	if index("web") != 0 {
		t.Fatalf("web has index %d", index("web"))
	}
	for range 3 {
		reload(other)
		step()
	}
	if index("web") != 0 || index("x") != 1 {
		t.Fatalf("with a flow: web %d, x %d", index("web"), index("x"))
	}
	for f := range flowsOf(r) {
		if f.Service != "web" {
			t.Errorf("the flow's service is %q", f.Service)
		}
	}
	reload(web, other)
	if s := r.proxy.Snapshot().Services[0]; s.Name != "web" || s.CookieValid != 1 || s.Opened != 1 || s.Flows != 1 {
		t.Errorf("the counters of a name that comes back: %+v", s)
	}
	reload(other)
	reload(other)
	if index("web") != 0 {
		t.Error("a service is forgotten before the worker has seen that it is removed")
	}
	step()
	r.step(r.segment(server, stack.Segment{Seq: 5001, Ack: 1001, Flags: flagRST | flagACK, WScale: WScaleNone}))
	r.now = r.now.Add(DefaultTransitoryTimeout + time.Minute) // record and cookies are forgotten
	step()
	if n := r.proxy.roster.states["web"].records.Load(); n != 0 {
		t.Fatalf("%d records", n)
	}
	reload(other)
	if index("web") != -1 || r.proxy.policy.Load().of(0) != nil {
		t.Error("nothing needs the service, and it is kept")
	}
	third := other
	third.Name, third.Prefixes = "y", []netip.Prefix{netip.MustParsePrefix("203.0.113.2/32")}
	reload(other, third)
	if index("y") == 0 {
		t.Error("an index is given away before the worker has seen that it is free")
	}
	step()
	third.Name, third.Prefixes = "z", []netip.Prefix{netip.MustParsePrefix("203.0.113.3/32")}
	reload(other, third)
	if index("z") != 0 {
		t.Errorf("a free index is not used: z has %d", index("z"))
	}
	reload(other)
	reload(other)
	if index("z") != 0 {
		t.Error("a service is forgotten that the worker may still be at work for")
	}
	step()
	if reload(other); index("z") != -1 {
		t.Error("a service is kept that was never used")
	}
}

// TestRosterIsBounded reloads with other names all the time: what is kept of them does not grow.
func TestRosterIsBounded(t *testing.T) {
	r := newRig(t, DefaultOptions())
	cfg := r.proxy.cfg
	web := cfg.Services[0]
	for i := range 1000 {
		r.now = r.now.Add(time.Second)
		web.Name = fmt.Sprint("s", i)
		cfg.Services = []Service{web}
		if err := r.proxy.Reload(cfg, r.now); err != nil {
			t.Fatal(err)
		}
		r.step(r.syn())
	}
	// Cookies live for 128 s, and an index rests for two reloads more.
	p := r.proxy.policy.Load()
	if n := len(r.proxy.roster.states); n > 140 || len(p.left) > 140 || len(p.indexed) > 145 {
		t.Errorf("%d names are kept, %d services left, %d indices", n, len(p.left), len(p.indexed))
	}
}

// TestRosterFull names the service for which there is no index.
func TestRosterFull(t *testing.T) {
	r := newRoster()
	for i := range maxServices {
		r.admit(fmt.Sprint(i))
	}
	if err := r.room(reloads("0", "1").Services, 0); err != nil {
		t.Errorf("services that are known: %v", err)
	}
	if err := r.room(reloads("0", "new").Services, 0); err == nil || !strings.Contains(err.Error(), "service new") {
		t.Errorf("got %v", err)
	}
	delete(r.states, "7")
	r.resting = []restingIndex{{7, 5}}
	if err := r.room(reloads("new").Services, 4); err == nil {
		t.Error("an index is given away that a worker may still look up")
	}
	if err := r.room(reloads("new").Services, 5); err != nil || r.admit("new").index != 7 {
		t.Errorf("a rested index is not free: %v", err)
	}
}

// trafficLink brings random segments between a few clients and servers for as long as it lasts.
type trafficLink struct {
	random *rand.Rand
	frames [][]byte

	mu   *sync.Mutex
	back *[][]byte // SYN-ACKs of levee, to be answered
}

func (l *trafficLink) Recv(frames [][]byte, _ time.Duration) (int, error) {
	n := 1 + l.random.IntN(8)
	for i := range n {
		s := stack.Segment{
			Src: rigClient, Dst: rigServer, SrcPort: uint16(1000 + l.random.IntN(50)), DstPort: 80,
			Seq: 1000, Flags: flagSYN, Window: 1000, MSS: 1460, WScale: WScaleNone,
		}
		s.Dst[15] = byte(1 + l.random.IntN(4))
		switch l.random.IntN(4) {
		case 0:
			l.mu.Lock()
			if len(*l.back) > 0 {
				var p stack.Packet
				last := (*l.back)[len(*l.back)-1]
				*l.back = (*l.back)[:len(*l.back)-1]
				if p.Parse(last[stack.VirtioLen:], true) == stack.KindTCP {
					if isSYN(&p) && isACK(&p) { // the client returns the cookie
						s.Src, s.Dst, s.SrcPort, s.DstPort = p.Dst, p.Src, p.DstPort, p.SrcPort
						s.Seq, s.Ack, s.Flags = p.Ack, p.Seq+1, flagACK
					} else if isSYN(&p) { // the server accepts
						s.Src, s.Dst, s.SrcPort, s.DstPort = p.Dst, p.Src, p.DstPort, p.SrcPort
						s.Seq, s.Ack, s.Flags = 5000, p.Seq+1, flagSYN|flagACK
					}
				}
			}
			l.mu.Unlock()
		case 1:
			s.Flags = flagRST
		case 2:
			s.Src, s.Dst, s.SrcPort, s.DstPort = s.Dst, s.Src, s.DstPort, s.SrcPort
			s.Flags = flagACK
		}
		frames[i] = append(frames[i][:0], s.Build(l.frames[i])...)
	}
	return n, nil
}

func (l *trafficLink) Send(frames [][]byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range frames {
		if len(*l.back) < 64 {
			*l.back = append(*l.back, append([]byte(nil), f...))
		}
	}
	return nil
}

// TestReloadWhilePacketsFlow reloads as fast as it can while three workers handle all kinds of segments, and somebody looks at everything: for the
// race detector, and for counts that don't come out even.
func TestReloadWhilePacketsFlow(t *testing.T) {
	start := time.Now()
	cfg := reloads("a", "b", "c", "d")
	cfg.Capacity = 64 // so that flows are evicted too
	p, err := New(cfg, start)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	var group sync.WaitGroup
	var mu sync.Mutex
	var back [][]byte
	var workers []*Worker
	for i := range 3 {
		link := &trafficLink{random: rand.New(rand.NewPCG(1, uint64(i))), mu: &mu, back: &back}
		for range batchSize {
			link.frames = append(link.frames, make([]byte, stack.MaxBuilt))
		}
		workers = append(workers, p.NewWorker(link))
	}
	for _, w := range workers {
		group.Go(func() {
			if err := w.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	var valid uint64
	for i := uint64(0); ctx.Err() == nil; i++ {
		random := rand.New(rand.NewPCG(2, i))
		next := reloads("a", "b", fmt.Sprint("c", i), "d")
		next.Capacity = cfg.Capacity
		for j := range next.Services {
			next.Services[j].Mode = Mode(random.IntN(2))
			next.Services[j].Options.WScale = uint8(random.IntN(3))
		}
		next.Services = next.Services[:1+random.IntN(4)]
		if err := p.Reload(next, time.Now()); err != nil {
			t.Fatal(err)
		}
		now := p.Snapshot().Services[0]
		if now.Name != "a" || now.CookieValid < valid {
			t.Fatalf("a counter went backwards: %+v after %d", now, valid)
		}
		valid = now.CookieValid
		p.Flows(time.Now(), func(f FlowInfo) bool { return f.State != StateFree })
		time.Sleep(time.Millisecond)
	}
	group.Wait()
	if valid == 0 {
		t.Error("no connection was opened: this test shows nothing")
	}
	var records, flows [maxServices]int64
	for i := range p.table.stripes {
		for _, f := range p.table.stripes[i].flows {
			if f.state != StateFree {
				records[f.service]++
			}
			if live(f.state) {
				flows[f.service]++
			}
		}
	}
	for _, s := range p.policy.Load().indexed {
		if s == nil {
			continue
		}
		if i := s.state.index; s.state.records.Load() != records[i] || s.state.flows.Load() != flows[i] {
			t.Errorf("service %s counts %d records and %d flows, the table has %d and %d",
				s.Name, s.state.records.Load(), s.state.flows.Load(), records[i], flows[i])
		}
	}
}
