package script

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"levee/integration/lab"
)

// The prefixes of the addresses that scripts use: parts of the lab's that none of its hosts has.
var (
	clients4 = netip.MustParsePrefix("198.51.100.128/25")
	clients6 = netip.MustParsePrefix("2001:db8:2::1:0/112")
	servers4 = netip.MustParsePrefix("192.0.2.128/25")
	servers6 = netip.MustParsePrefix("2001:db8:1::1:0/112")
)

// maxRuns is how many addresses of a side there are.
const maxRuns = 126

// queued is how many packets of one address wait to be asked for; more are lost.
const queued = 64

// Ground is a lab with a wire at each edge, on which scripts run side by side, each with addresses of its own.
type Ground struct {
	lab  *lab.Lab
	wire [2]*lab.Wire

	mu sync.Mutex
	// used counts the addresses given out, by family. Guarded by mu, as inbox is.
	used  [2]int
	inbox map[netip.Addr]chan Arrival
}

// NewGround opens the wires at the first client and the first server of a lab, whose offloads it switches off so that what is
// seen is what a wire would carry. vouched is for OpenWire. The lab closes it.
func NewGround(l *lab.Lab, vouched bool) (*Ground, error) {
	g := &Ground{lab: l, inbox: map[netip.Addr]chan Arrival{}}
	for side, link := range []*lab.Link{l.Clients[0].Link, l.Servers[0].Link} {
		if err := link.SetOffload(false); err != nil {
			return nil, err
		}
		prefixes := [][]netip.Prefix{{clients4, clients6}, {servers4, servers6}}[side]
		w, err := link.OpenWire(vouched, prefixes...)
		if err != nil {
			return nil, err
		}
		g.wire[side] = w
		go g.receive(w)
	}
	return g, nil
}

// receive hands out what comes until the wire closes.
func (g *Ground) receive(w *lab.Wire) {
	buffer := make([]byte, 1<<16)
	for {
		raw, err := w.Receive(buffer)
		if err != nil {
			if errors.Is(err, os.ErrClosed) {
				return
			}
			continue // an interface that goes down and comes back
		}
		at := time.Now()
		dst, ok := destination(raw)
		if !ok {
			continue
		}
		g.mu.Lock()
		box := g.inbox[dst]
		g.mu.Unlock()
		select {
		case box <- Arrival{append([]byte(nil), raw...), at}:
		default: // nobody's, or far too many
		}
	}
}

func destination(raw []byte) (netip.Addr, bool) {
	switch {
	case len(raw) >= 20 && raw[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(raw[16:])), true
	case len(raw) >= 40 && raw[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(raw[24:])), true
	}
	return netip.Addr{}, false
}

// Run runs a script over one family.
func (g *Ground) Run(s *Script, f Family) error {
	n, a, err := g.pair(f)
	if err != nil {
		return err
	}
	return s.Run(n, a)
}

// pair gives out two addresses that nobody had.
func (g *Ground) pair(f Family) (*pair, Addresses, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.used[f] == maxRuns {
		return nil, Addresses{}, fmt.Errorf("more than %d scripts on one lab", maxRuns)
	}
	i := g.used[f]
	g.used[f]++
	n := &pair{ground: g}
	a := Addresses{Router: [2]netip.Addr{
		g.lab.Clients[0].Link.Host.Addr(f == IPv6), g.lab.Servers[0].Link.Host.Addr(f == IPv6),
	}}
	for side, prefixes := range [2][2]netip.Prefix{{clients4, clients6}, {servers4, servers6}} {
		addr := prefixes[f].Addr()
		for range i + 1 {
			addr = addr.Next()
		}
		a.Host[side], n.inbox[side] = addr, make(chan Arrival, queued)
		g.inbox[addr] = n.inbox[side]
	}
	return n, a, nil
}

// pair is the Network of one run.
type pair struct {
	ground *Ground
	inbox  [2]chan Arrival
}

func (p *pair) Send(from Side, packet []byte) error { return p.ground.wire[from].Send(packet) }

func (p *pair) Next(to Side, deadline time.Time) (Arrival, bool) {
	select {
	case a := <-p.inbox[to]:
		return a, true
	default:
	}
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case a := <-p.inbox[to]:
		return a, true
	case <-timer.C:
		return Arrival{}, false
	}
}
