package proxytest

import (
	"cmp"
	"net/netip"
	"slices"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"levee/proxy"
)

// Addresses. A protected server is at Server4 and Server6; the server host has Other4 and Other6 too, which are in no prefix
// of Protected.
var (
	Client4 = netip.MustParseAddr("198.51.100.2")
	Client6 = netip.MustParseAddr("2001:db8:c::2")
	Server4 = netip.MustParseAddr("192.0.2.10")
	Server6 = netip.MustParseAddr("2001:db8:5::10")
	Other4  = netip.MustParseAddr("203.0.113.10")
	Other6  = netip.MustParseAddr("2001:db8:f::10")
)

// Protected are the prefixes of the protected servers.
func Protected() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:5::/64")}
}

// Config is everything that a Network depends on.
type Config struct {
	// Seed of all random numbers.
	Seed uint64
	// Start is what the clock shows at first: DefaultStart if zero.
	Start          time.Time
	Client, Server HostConfig
	// ClientLatency and ServerLatency are those of the two wires, one way: 5 ms and 1 ms if 0.
	ClientLatency, ServerLatency time.Duration
	// Proxy is the proxy's configuration. Missing are filled in: one service "web" for Protected, all ports, mode always,
	// DefaultOptions; capacity 1024; the default time-outs; MTU 1500; a secret made from the seed.
	Proxy proxy.Config
	// Workers is the number of workers, 1 if 0. The first gets the client side's packets, the last the server side's.
	Workers int
	// Hooks for each hop, applied in order.
	Hooks [NumHops][]Hook
	// Hostile: hosts may get packets that they find malformed.
	Hostile bool
	// Direct puts a plain router where levee would be, for comparison: the same wires and hosts, no proxy.
	Direct bool
}

// DefaultStart is a second after the beginning of a cookie epoch, an even one.
var DefaultStart = time.Unix(13_671_875*128+1, 0).UTC()

// Network is the two hosts and levee.
type Network struct {
	Clock          *Clock
	Client, Server *Host
	Proxy          *proxy.Proxy
	// Trace is every packet at every hop. A test may clear it.
	Trace Trace
	// Hooks for each hop, applied in order. A test may change them at any time.
	Hooks [NumHops][]Hook
	// ToLevee and FromLevee count the frames that levee was given, and that it sent.
	ToLevee, FromLevee uint64

	tb      testing.TB
	config  proxy.Config
	direct  bool
	hostile bool
	closed  bool
	latency [NumHops]time.Duration
	workers []*proxy.Worker
	links   []*link
	hosts   map[netip.Addr]*Host
	peers   map[netip.Addr]*Peer
	// arrived holds the packets that have come to the end of a wire, in order.
	arrived []*Packet
	// ticked is when the workers last looked at the clock.
	ticked time.Time
}

// New makes a network that lasts until the test ends.
func New(tb testing.TB, cfg Config) *Network {
	tb.Helper()
	if cfg.Start.IsZero() {
		cfg.Start = DefaultStart
	}
	n := &Network{
		Clock: NewClock(cfg.Start), Hooks: cfg.Hooks,
		tb: tb, direct: cfg.Direct,
		hosts: map[netip.Addr]*Host{}, peers: map[netip.Addr]*Peer{},
		ticked: cfg.Start,
	}
	client, server := cmp.Or(cfg.ClientLatency, 5*time.Millisecond), cmp.Or(cfg.ServerLatency, time.Millisecond)
	n.latency = [NumHops]time.Duration{FromClient: client, ToServer: server, FromServer: server, ToClient: client}
	n.config = withDefaults(cfg)
	p, err := proxy.New(n.config, cfg.Start)
	if err != nil {
		tb.Fatalf("proxytest: %v", err)
	}
	n.Proxy = p
	for range max(cfg.Workers, 1) {
		l := &link{send: n.fromLevee}
		n.links = append(n.links, l)
		n.workers = append(n.workers, p.NewWorker(l))
	}
	n.Client = newHost(n, FromClient, cfg.Seed, cfg.Client, Client4, Client6)
	n.Server = newHost(n, FromServer, cfg.Seed, cfg.Server, Server4, Server6, Other4, Other6)
	for _, h := range []*Host{n.Client, n.Server} {
		for _, a := range h.addrs {
			n.hosts[a] = h
		}
	}
	n.hostile = cfg.Hostile
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("packets (seed %d):\n%s", cfg.Seed, n.Trace)
		}
		n.Close()
	})
	return n
}

// Close ends the network before the test does, and checks what the hosts have got.
func (n *Network) Close() {
	if n.closed {
		return
	}
	n.closed = true
	if !n.hostile {
		n.checkHosts()
	}
	n.Client.close()
	n.Server.close()
}

func withDefaults(cfg Config) proxy.Config {
	p := cfg.Proxy
	if p.Services == nil {
		p.Services = []proxy.Service{{
			Name: "web", Prefixes: Protected(), Mode: proxy.ModeAlways, Options: proxy.DefaultOptions(),
		}}
	}
	p.Capacity = cmp.Or(p.Capacity, 1024)
	p.IdleTimeout = cmp.Or(p.IdleTimeout, proxy.DefaultIdleTimeout)
	p.TransitoryTimeout = cmp.Or(p.TransitoryTimeout, proxy.DefaultTransitoryTimeout)
	p.MTU = cmp.Or(p.MTU, 1500)
	if p.Secret == [32]byte{} {
		for i := range p.Secret {
			p.Secret[i] = byte(cfg.Seed>>(i%8*8)) ^ byte(i+1)
		}
	}
	return p
}

// Peer makes an address without a stack on the client's side, or on the server's.
func (n *Network) Peer(addr netip.Addr, serverSide bool) *Peer {
	p := &Peer{net: n, Addr: addr, out: FromClient}
	if serverSide {
		p.out = FromServer
	}
	n.peers[addr] = p
	return p
}

// Inject puts a frame on the wire at a hop, as if whoever sends there had sent it. The network keeps the frame.
func (n *Network) Inject(hop Hop, frame []byte) { n.transmit(hop, frame) }

// transmit puts a frame on a wire.
func (n *Network) transmit(hop Hop, frame []byte) {
	p := newPacket(hop, n.Clock.Elapsed(), frame)
	var fate Fate
	for _, hook := range n.Hooks[hop] {
		f := hook(p)
		fate.Drop = fate.Drop || f.Drop
		fate.Copies += f.Copies
		fate.Delay += f.Delay
		fate.CopyDelay += f.CopyDelay
	}
	if len(n.Hooks[hop]) > 0 {
		p.parse()
	}
	n.Trace.add(p, fate)
	if fate.Drop {
		return
	}
	for i := range 1 + fate.Copies {
		delay := n.latency[hop] + fate.Delay
		if i > 0 {
			delay += fate.CopyDelay
		}
		n.Clock.AfterFunc(delay, func() { n.arrived = append(n.arrived, p) })
	}
}

// fromLevee puts a frame that a worker sends on the wire where its destination is.
func (n *Network) fromLevee(frame []byte) {
	n.FromLevee++
	p := newPacket(ToClient, n.Clock.Elapsed(), frame)
	if err := checkVirtio(p); err != nil {
		n.tb.Errorf("at %v levee sends a frame that the kernel would refuse: %v: % x", p.At, err, frame[:min(len(frame), 90)])
	}
	hop, ok := n.hopTo(p)
	if !ok {
		n.tb.Errorf("at %v levee sends to %v, which is nobody", p.At, p.TCP.Dst.Netip())
		return
	}
	n.transmit(hop, frame)
}

// hopTo is the wire behind levee toward whom a packet is for, if there is somebody.
func (n *Network) hopTo(p *Packet) (Hop, bool) {
	dst := p.TCP.Dst.Netip()
	switch host, peer := n.hosts[dst], n.peers[dst]; {
	case host != nil && host.out == FromServer, peer != nil && peer.out == FromServer:
		return ToServer, true
	case host == nil && peer == nil:
		return 0, false
	}
	return ToClient, true
}

// route is what a plain router does in levee's place.
func (n *Network) route(p *Packet) {
	if hop, ok := n.hopTo(p); ok {
		n.transmit(hop, slices.Clone(p.Frame))
	}
}

// deliver hands over what has come to the end of a wire, and says whether there was anything.
func (n *Network) deliver() bool {
	busy := len(n.arrived) > 0
	for i := 0; i < len(n.arrived); i++ {
		p := n.arrived[i]
		switch p.Hop {
		case FromClient, FromServer:
			if n.direct {
				n.route(p)
				continue
			}
			l := n.links[0]
			if p.Hop == FromServer {
				l = n.links[len(n.links)-1]
			}
			if len(l.waiting) == maxQueued {
				n.tb.Fatalf("proxytest: more than %d frames wait for levee", maxQueued)
			}
			l.waiting = append(l.waiting, p.Frame)
			n.ToLevee++
		default:
			n.arrive(p)
		}
	}
	n.arrived = n.arrived[:0]
	for i, l := range n.links {
		for len(l.waiting) > 0 {
			n.step(i)
		}
	}
	return busy
}

// arrive hands a packet to the host or peer that it is for.
func (n *Network) arrive(p *Packet) {
	dst := p.TCP.Dst.Netip()
	if peer := n.peers[dst]; peer != nil {
		peer.Inbox = append(peer.Inbox, p)
		return
	}
	host := n.hosts[dst]
	if host == nil {
		return // only a corrupted packet comes so far
	}
	for _, ip := range packets(p) {
		host.inject(ip)
		host.pump() // the application reads what has come before the next segment comes
	}
}

func (n *Network) step(worker int) {
	if _, err := n.workers[worker].Step(n.Clock.Now, 0); err != nil {
		n.tb.Fatalf("proxytest: worker %d: %v", worker, err)
	}
}

// settle does everything that is to be done at this instant.
func (n *Network) settle() {
	const rounds = 1 << 16
	for range rounds {
		busy := n.Clock.fire()
		if busy {
			n.Client.work()
			n.Server.work()
		}
		busy = n.deliver() || busy
		busy = n.Client.pump() || busy
		busy = n.Server.pump() || busy
		if !busy {
			return
		}
	}
	n.tb.Fatalf("proxytest: no end of packets at %v:\n%s", n.Clock.Elapsed(), n.Trace)
}

// tick is how often workers look at the clock when no packet comes.
const tick = time.Second / 4

// advance goes to the next event, or to until if there is none before.
func (n *Network) advance(until time.Time) {
	next := n.ticked.Add(tick)
	if timer, ok := n.Clock.next(); ok && timer.Before(next) {
		next = timer
	}
	if next.After(until) {
		next = until
	}
	n.Clock.moveTo(next)
	if now := n.Clock.Now(); now.Sub(n.ticked) >= tick {
		n.ticked = now
		for i := range n.workers {
			n.step(i)
		}
	}
	n.settle()
}

// Advance lets time pass.
func (n *Network) Advance(d time.Duration) {
	n.settle()
	until := n.Clock.Now().Add(d)
	for n.Clock.Now().Before(until) {
		n.advance(until)
	}
}

// Until lets time pass until cond is true, and says after how long. If that takes longer than limit, the test fails.
func (n *Network) Until(what string, limit time.Duration, cond func() bool) time.Duration {
	n.tb.Helper()
	n.settle()
	start := n.Clock.Now()
	until := start.Add(limit)
	for !cond() {
		if !n.Clock.Now().Before(until) {
			n.tb.Fatalf("at %v, after %v: not %s", n.Clock.Elapsed(), limit, what)
		}
		n.advance(until)
	}
	return n.Clock.Now().Sub(start)
}

// Flows is the flow table.
func (n *Network) Flows() []proxy.FlowInfo {
	var flows []proxy.FlowInfo
	n.Proxy.Flows(n.Clock.Now(), func(f proxy.FlowInfo) bool {
		flows = append(flows, f)
		return true
	})
	return flows
}

// checkHosts fails the test if a host has got something malformed.
func (n *Network) checkHosts() {
	for _, h := range []*Host{n.Client, n.Server} {
		s := h.Stats()
		for name, c := range map[string]*tcpip.StatCounter{
			"segments with a bad TCP checksum": s.TCP.ChecksumErrors,
			"malformed segments":               s.TCP.InvalidSegmentsReceived,
			"malformed packets":                s.IP.MalformedPacketsReceived,
			"packets for somebody else":        s.IP.InvalidDestinationAddressesReceived,
		} {
			if v := c.Value(); v != 0 {
				n.tb.Errorf("host %v has got %d %s", h.addrs[0], v, name)
			}
		}
	}
}

// Reload reloads the proxy's configuration, edited. The edit must leave the former slices alone.
func (n *Network) Reload(edit func(*proxy.Config)) {
	n.tb.Helper()
	edit(&n.config)
	if err := n.Proxy.Reload(n.config, n.Clock.Now()); err != nil {
		n.tb.Fatalf("reload: %v", err)
	}
}
