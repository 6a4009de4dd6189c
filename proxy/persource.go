package proxy

import (
	"fmt"

	"levee/stack"
)

// PerSource bounds what one source of a service can have, an IPv4 address or an IPv6 /64. Sources count once they have proved that they
// exist, so that nobody can use up what is another's.
type PerSource struct {
	// Flows is how many may be open at a time; 0 is any number. A source may be taken to have a few more than it has, when the flow
	// table is full of others' (see tally).
	Flows int
	// Rate is how many may be opened in a second, and as many at once; 0 is any number.
	Rate int
}

// MaxPerSource bounds both of PerSource.
const MaxPerSource = 1_000_000

func (l PerSource) validate() error {
	for _, n := range []int{l.Flows, l.Rate} {
		if n < 0 || n > MaxPerSource {
			return fmt.Errorf("%d for one source: use 0 to %d", n, MaxPerSource)
		}
	}
	return nil
}

// proven says whether a flow counts as its client's: one that the client has proved to be its own, and that isn't over.
func (f *flow) proven() bool { return live(f.state) && !f.evictable() }

// count keeps the number of flows of their sources, when the flow has become proven or is no longer.
func (p *Proxy) count(f *flow, n int32) {
	client := &f.key.high
	if f.has(clientLow) {
		client = &f.key.low
	}
	p.perSource.add(source{cut(client, host4, host6), uint32(f.service)}, n)
}

// crowded says whether the source of the packet in work has as many flows as it may have.
func (w *Worker) crowded(svc *service) bool { return w.proxy.crowded(svc, &w.pkt.Src) }

func (p *Proxy) crowded(svc *service, src *stack.Addr) bool {
	return svc.PerSource.Flows > 0 && p.perSource.of(sourceOf(src, svc)) >= svc.PerSource.Flows
}

// mayOpen says whether the source of the packet in work, which has proved that it exists, may open another flow. If
// not, the reason says why; otherwise it is NumDropReasons. The client sends its first data again, and they may find room while its cookie lasts.
func (w *Worker) mayOpen(svc *service) DropReason {
	switch {
	case w.crowded(svc):
		return DropSourceFlows
	case svc.PerSource.Rate > 0 && !w.proxy.opened.take(sourceOf(&w.pkt.Src, svc), w.now.since, svc.PerSource.Rate):
		return DropSourceRate
	}
	return NumDropReasons
}
