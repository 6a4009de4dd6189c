package proxy

import (
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/stack"
)

// finMark says whether the last that a side has sent is a FIN that its peer has not acknowledged.
//
// A FIN counts once it is acknowledged, as it does for the host that sends it (RFC 9293 §3.6). Before that nobody but its receiver can tell: a
// forged or belated FIN may look right to levee, whose windows are wider than a host's, and be refused for its number or its timestamp, or
// never arrive. The sequence number that its receiver has to acknowledge is the end of what the side has sent: after a FIN nothing follows, and
// what was followed by something was none.
type finMark uint8

const (
	// finNone: no FIN, or one that is acknowledged already.
	finNone finMark = iota
	// finAhead: a FIN, but levee has not seen all that comes before it. It was overtaken on its way, or is forged.
	finAhead
	// finSent: a FIN right behind what came before. Its sender repeats it until it is acknowledged.
	finSent
)

// markFIN notes what a plausible segment of side s says about its FIN, before observe learns from it.
func (f *flow) markFIN(s side, p *stack.Packet) {
	switch end, known := p.End(), f.half[s].end; {
	case end.LessThan(known): // sent before
	case !isFIN(p) || !p.ChecksumOK():
		if known.LessThan(end) {
			f.fins[s] = finNone
		}
	case next(f.state, fin(s)) == f.state: // counted already
	case p.Seq.LessThanEq(known):
		f.fins[s] = finSent
	default:
		f.fins[s] = finAhead
	}
}

// acknowledgedFIN says whether the plausible segment of side s, with this acknowledgement in the numbers of the record, is the first that
// acknowledges the FIN of the other side, and notes that.
func (f *flow) acknowledgedFIN(s side, p *stack.Packet, ack seqnum.Value) bool {
	peer := s.peer()
	if f.fins[peer] == finNone || !isACK(p) || ack != f.half[peer].end || !p.ChecksumOK() {
		return false
	}
	f.fins[peer] = finNone
	return true
}

// closing says that a side waits for the acknowledgement of its FIN. It sends the FIN again at least every two minutes (RFC 6298 §2.5, and
// Linux's TCP_RTO_MAX), so that a flow where nothing passes for longer has lost both hosts.
func (f *flow) closing() bool { return f.fins[client] == finSent || f.fins[server] == finSent }
