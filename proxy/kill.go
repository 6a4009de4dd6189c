package proxy

import (
	"context"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/stack"
)

// killQueue bounds the orders that wait, and killBatch those that one batch of packets carries out.
const (
	killQueue = 64
	killBatch = 16
)

// killOrder asks a worker to end a flow. The worker answers whether there was one.
type killOrder struct {
	key    flowKey
	killed chan<- bool
}

// Kill ends the flow between two ends, whichever of them opened it: both hosts get resets with the numbers that
// they expect, and the flow is remembered as one that was reset. It says whether there was a flow that had not ended. The resets
// leave by a worker: Kill waits for it, half a second at most when all is well, and returns the error of ctx if that is done first.
func (p *Proxy) Kill(ctx context.Context, a, b netip.AddrPort) (bool, error) {
	src, dst := stack.AddrFrom(a.Addr()), stack.AddrFrom(b.Addr())
	key, _ := keyOfEnds(&src, a.Port(), &dst, b.Port())
	killed := make(chan bool, 1) // the worker never waits
	select {
	case p.kills <- killOrder{key, killed}:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	select {
	case done := <-killed:
		return done, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// carryOut carries out the orders that wait.
func (w *Worker) carryOut() {
	for range killBatch {
		select {
		case order := <-w.proxy.kills:
			order.killed <- w.kill(&order.key)
		default:
			return
		}
	}
}

// kill ends the flow with this key, if it has not ended.
func (w *Worker) kill(key *flowKey) bool {
	hash := w.proxy.table.hash.of(key)
	w.out.reserve() // before the lock, which nobody holds while frames are sent
	s := w.proxy.table.stripe(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	slot, found := s.find(key, hash)
	if !found || !live(s.flows[slot].state) {
		return false
	}
	f := &s.flows[slot]
	switch {
	case f.has(opened):
		w.resetOpened(f, client)
		w.resetOpened(f, server)
	case !f.has(direct): // the server gets its reset when it answers
		w.resetClient(f)
	}
	w.enter(s, slot, evRST)
	return true
}

// resetOpened sends one side of an opened flow a reset that it accepts (RFC 5961 §3.2): with the sequence number that it has acknowledged,
// and with the one that follows all that its peer has sent, which it may have received meanwhile.
func (w *Worker) resetOpened(f *flow, to side) {
	from := to.peer()
	rst := f.segmentTo(to)
	rst.Flags = flagRST
	var shift seqnum.Value
	if to == client {
		shift = seqnum.Value(f.delta)
	}
	next, end := f.half[to].ack, f.half[from].end
	rst.Seq = next + shift
	w.out.build(&rst)
	if end != next {
		rst.Seq = end + shift
		w.out.build(&rst)
	}
}
