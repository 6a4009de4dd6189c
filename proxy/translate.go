package proxy

import "levee/stack"

// edit is how a segment of side s must change for its receiver (DESIGN §6):
//
//	field         client → server   server → client
//	seq / ack     kept / - Δ        + Δ / kept
//	SACK edges    - Δ               kept
//	TSval / TSecr kept / - δ        + δ / kept
//	window        from the sender's scale to the one the receiver was told
func (f *flow) edit(s side, p *stack.Packet) stack.Edit {
	var e stack.Edit
	if s == client {
		e.Ack, e.TSEcr = -f.delta, -f.tsDelta
	} else {
		e.Seq, e.TSVal = f.delta, f.tsDelta
	}
	if h := &f.half[s]; h.scale != h.promised && !isSYN(p) {
		e.Window, e.SetWindow = rescale(p.Window, h.scale, h.promised), true
	}
	return e
}

// rescale turns a window field written with shift from into one written with shift to. It rounds down, as a
// window must not promise more than there is, but to 0 only what was 0: a zero window stops
// the sender. It saturates at 65535.
func rescale(window uint16, from, to uint8) uint16 {
	scaled := uint64(window) << from >> to
	switch {
	case window != 0 && scaled == 0:
		return 1
	case scaled > 0xffff:
		return 0xffff
	}
	return uint16(scaled)
}
