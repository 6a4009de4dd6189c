package proxy_test

import (
	"math/rand/v2"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"levee/proxy"
	"levee/proxy/proxytest"
)

// scenario is everything that a run of the impaired network depends on. All of it is drawn from the seed.
type scenario struct {
	seed  uint64
	v     variant
	cfg   proxytest.Config
	wires [proxytest.NumHops]proxytest.Impairment
	// clean: the wires only have latency, so that a run with levee and one without can be compared to the millisecond.
	clean bool
	// narrow is the hop toward levee of the wire that carries less from some time on, in both directions; narrowMTU is 0 if none.
	narrow, narrowBack proxytest.Hop
	narrowAt           time.Duration
	narrowMTU          int
	talks              []talkPlan
}

// ending is how a conversation ends.
type ending int

const (
	clientFirst ending = iota
	serverFirst
	together
	// clientEarly and serverEarly: that side's FIN comes before the other's last message.
	clientEarly
	serverEarly
	clientAborts
	serverAborts

	numEndings
)

func (e ending) aborts() bool { return e == clientAborts || e == serverAborts }

// talkPlan is one conversation.
type talkPlan struct {
	// start is after the beginning, or, if again, after the conversation before it, whose port it uses.
	start time.Duration
	again bool
	port  uint16
	// messages are sent in turn: each when its sender has received all of the other's before it; at once if eager.
	messages []message
	eager    bool
	end      ending
	abortAt  time.Duration // since the server has accepted
	// stall: for this long from the beginning on, that side does not read.
	stallClient, stallServer time.Duration
}

type message struct {
	fromServer bool
	size       int
}

// oneIn says true once in n times.
func oneIn(r *rand.Rand, n int) bool { return r.IntN(n) == 0 }

func newScenario(seed uint64) *scenario {
	r := rand.New(rand.NewPCG(seed, 0))
	sc := &scenario{seed: seed, clean: oneIn(r, 8)}
	sc.v = variant{v6: oneIn(r, 2), timestamps: oneIn(r, 2), gso: oneIn(r, 2)}
	sc.configure(r)
	sc.impair(r)
	for range 1 + r.IntN(4) {
		sc.talks = append(sc.talks, sc.newTalk(r))
	}
	// Early data as by default, in a pool that may be small, or the zero window that SYNPROXY starts with.
	if !oneIn(r, 4) {
		sc.cfg.Proxy.Services[0].EarlyData = proxy.DefaultEarlyData
		sc.cfg.Proxy.EarlyPool = pick(r, smallPool, 1<<20)
	}
	return sc
}

// smallPool is soon full.
const smallPool = 4 << 10

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

func (sc *scenario) configure(r *rand.Rand) {
	sc.cfg = sc.v.config()
	cfg := &sc.cfg
	cfg.Seed = sc.seed
	cfg.Workers = 1 + r.IntN(2)
	cfg.ClientLatency = time.Duration(1+r.IntN(60)) * time.Millisecond
	cfg.ServerLatency = time.Duration(1+r.IntN(20)) * time.Millisecond
	for _, h := range []*proxytest.HostConfig{&cfg.Client, &cfg.Server} {
		h.MTU = pick[uint32](r, 1280, 1400, 1500, 1500, 1500, 9000)
		h.ReceiveBuffer = proxytest.ReceiveBufferFor(r.IntN(10))
		h.SendBuffer = 1 << (13 + r.IntN(8))
		h.NoSACK = oneIn(r, 5)
		h.Stubborn = true
		h.TimeWait = pick(r, 20*time.Second, time.Minute)
	}
	p := &cfg.Proxy
	p.IdleTimeout, p.TransitoryTimeout = patience, patience
	p.Capacity = pick(r, 16, 64, 1024)
	p.SharedSecret = oneIn(r, 4)
	p.MTU = min(int(cfg.Client.MTU), int(cfg.Server.MTU))
	if oneIn(r, 4) {
		p.MTU = 1280
	}
	o := &p.Services[0].Options
	o.WScale = pick(r, uint8(r.IntN(15)), proxy.DefaultWScale, proxy.WScaleNone)
	o.SACK = !oneIn(r, 5)
	if oneIn(r, 5) {
		o.MSS = uint16(500 + r.IntN(900))
	}
	// A host without an option neither sends it nor sees it.
	without := func(hop proxytest.Hop, kind uint8) {
		cfg.Hooks[hop] = append(cfg.Hooks[hop], proxytest.WithoutOption(kind))
	}
	if !sc.v.timestamps && oneIn(r, 2) {
		without(proxytest.ToServer, header.TCPOptionTS)
	}
	if oneIn(r, 6) {
		without(proxytest.FromClient, header.TCPOptionTS)
	}
	if oneIn(r, 8) {
		without(proxytest.FromClient, header.TCPOptionWS)
	}
	if cfg.Server.NoSACK {
		o.SACK = false
	}
}

// patience is how long anything may take, retransmissions up to two minutes apart.
const patience = 40 * time.Minute

func (sc *scenario) impair(r *rand.Rand) {
	worst := pick(r, 0.01, 0.05, 0.10, 0.20) // loss on any wire
	lossy, bursty := !oneIn(r, 6), !oneIn(r, 4)
	for hop := range sc.wires {
		w := &sc.wires[hop]
		loss, duplication, late, corruption := r.Float64(), r.Float64(), r.Float64(), r.Float64()
		w.Jitter = time.Duration(r.IntN(8)) * time.Millisecond
		w.LateBy = time.Duration(1+r.IntN(200)) * time.Millisecond
		if lossy {
			w.Loss, w.Corruption = loss*worst, corruption*0.03
		}
		if bursty {
			w.Duplication, w.Late = duplication*0.05, late*0.05
		}
	}
	narrow := oneIn(r, 3)
	mtu := 1280 + r.IntN(200)
	if !sc.v.v6 {
		mtu = 600 + r.IntN(880)
	}
	sc.narrow, sc.narrowBack = proxytest.FromClient, proxytest.ToClient
	if oneIn(r, 2) {
		sc.narrow, sc.narrowBack = proxytest.ToServer, proxytest.FromServer
	}
	sc.narrowAt = time.Duration(r.IntN(1500)) * time.Millisecond
	if sc.clean {
		sc.wires = [proxytest.NumHops]proxytest.Impairment{}
		return
	}
	if narrow {
		sc.narrowMTU = mtu
	}
	for _, w := range sc.wires {
		sc.cfg.Hostile = sc.cfg.Hostile || w.Corruption > 0
	}
}

// latest is how late a packet can come on a wire.
func latest(w *proxytest.Impairment) time.Duration { return w.Jitter + 2*w.LateBy }

func (sc *scenario) latest() time.Duration {
	var most time.Duration
	for i := range sc.wires {
		most = max(most, latest(&sc.wires[i]))
	}
	return most
}

func (sc *scenario) newTalk(r *rand.Rand) talkPlan {
	t := talkPlan{start: time.Duration(r.IntN(500)) * time.Millisecond, port: uint16(clientPort + len(sc.talks))}
	if len(sc.talks) > 0 && oneIn(r, 2) {
		t.again = true
		t.port = sc.talks[len(sc.talks)-1].port
		// levee knows late segments of the connection before, not of one before that.
		t.start = 2*sc.latest() + time.Duration(r.IntN(3000))*time.Millisecond*time.Duration(r.IntN(2))
	}
	t.eager = oneIn(r, 3)
	fromServer := oneIn(r, 2)
	for range 1 + r.IntN(4) {
		size := 1 + r.IntN(1<<(4+r.IntN(13)))
		if oneIn(r, 10) {
			size = 0
		}
		t.messages = append(t.messages, message{fromServer, size})
		fromServer = !fromServer
	}
	t.end = ending(r.IntN(int(numEndings)))
	t.abortAt = time.Duration(r.IntN(600)) * time.Millisecond
	if oneIn(r, 6) {
		t.stallClient = time.Duration(r.IntN(3000)) * time.Millisecond
	}
	if oneIn(r, 6) {
		t.stallServer = time.Duration(r.IntN(3000)) * time.Millisecond
	}
	return t
}
