package proxy

import (
	"fmt"
	"time"

	"levee/stack"
)

// PerSource bounds what one source of a service can have, an IPv4 address or an IPv6 /64. Sources count once they have proved that they
// exist, so that nobody can use up what is another's: by a cookie, or by the acknowledgement of a server's SYN-ACK. A SYN takes nothing, but
// is dropped where its source has all it may have; and so is the end of a handshake, if others of the source have ended since its SYN. The
// client sends again, and may find room then. Sources that the service allows are not bounded. A connection that goes untracked, because the flow table
// is full or its record had to make room, counts from when the server shows it, but is not refused.
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
func (f *flow) proven() bool { return f.provenIn(f.state) }

// provenIn is proven for the flow in another state. That a server opened the flow is said in its record, because a reload may change
// whose server is protected, and what was counted must be what is counted no longer. Who opened an adopted flow isn't known: it counts for
// the server's peer.
func (f *flow) provenIn(s State) bool {
	return live(s) && (!f.has(direct) || s != StateOpening && !f.has(outbound))
}

// count keeps the number of flows of their sources, when the flow has become proven or is no longer.
func (p *Proxy) count(f *flow, n int32) {
	client := &f.key.high
	if f.has(clientLow) {
		client = &f.key.low
	}
	p.perSource.add(source{cut(client, host4, host6), uint32(f.service)}, n)
}

// refusal says why a SYN from src to the service goes no further, wherever it leads, or is NumDropReasons. It takes nothing, because the source
// may be forged.
func (p *Proxy) refusal(svc *service, src *stack.Addr, now time.Duration) DropReason {
	switch svc.lists.of(src) {
	case allowed:
		return NumDropReasons
	case denied:
		return DropDenied
	}
	switch limit := svc.PerSource; {
	case p.crowded(svc, src):
		return DropSourceFlows
	case limit.Rate > 0 && p.opened.empty(sourceOf(src, svc), now, limit.Rate):
		return DropSourceRate
	}
	return NumDropReasons
}

// crowded says whether a source has as many flows as it may have.
func (p *Proxy) crowded(svc *service, src *stack.Addr) bool {
	return svc.PerSource.Flows > 0 && p.perSource.of(sourceOf(src, svc)) >= svc.PerSource.Flows
}

// mayOpen says whether the source of the packet in work, which has proved that it exists, may open another flow, and takes a token for it. If
// not, the packet is counted as dropped. The client sends its first data again, and they may find room while its cookie lasts.
func (w *Worker) mayOpen(svc *service) bool { return w.mayHave(svc, w.proxy.crowded(svc, &w.pkt.Src)) }

// mayReplace is mayOpen for a flow whose record the new one takes. If the source has it among its flows still, there will be no more of them.
// The source may be denied since its cookie was made.
func (w *Worker) mayReplace(f *flow, svc *service) bool {
	if svc.Mode != ModeMonitor && svc.lists.of(&w.pkt.Src) == denied {
		w.deny(svc)
		return false
	}
	counted := f.proven() && f.service == svc.state.index
	return w.mayHave(svc, !counted && w.proxy.crowded(svc, &w.pkt.Src))
}

// mayHave is mayOpen for a source that has, or has not, all the flows that it may have.
func (w *Worker) mayHave(svc *service, crowded bool) bool {
	src, reason := &w.pkt.Src, NumDropReasons
	switch {
	case svc.PerSource == PerSource{} || svc.lists.of(src) == allowed:
	case crowded:
		reason = DropSourceFlows
	case svc.PerSource.Rate > 0 && !w.proxy.opened.take(sourceOf(src, svc), w.now.since, svc.PerSource.Rate):
		reason = DropSourceRate
	}
	switch {
	case reason == NumDropReasons:
	case svc.Mode == ModeMonitor:
		w.count(svc).wouldDrop.inc()
	default:
		w.drop(reason)
		return false
	}
	return true
}
