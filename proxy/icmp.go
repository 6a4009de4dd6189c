package proxy

import "gvisor.dev/gvisor/pkg/tcpip/seqnum"

// icmp handles a packet that isn't TCP. An ICMP error about a segment that a server has sent through levee quotes the sequence number
// that the client was to see; the server heeds the error, above all that a segment was too long for the path (RFC 1191,
// RFC 8201), only if it quotes the one that it sent. Everything else passes as it is.
func (w *Worker) icmp(frame []byte) {
	q := &w.quote
	if !q.Parse(&w.pkt) {
		w.pass(PassNotTCP, frame)
		return
	}
	key, srcLow := keyOfEnds(&q.Src, q.SrcPort, &q.Dst, q.DstPort)
	hash := w.proxy.table.hash.of(&key)
	s := w.proxy.table.stripe(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	slot, found := s.find(&key, hash)
	if !found {
		if svc := w.proxy.policy.find(&q.Src, q.SrcPort); svc != nil && svc.Mode != ModeOff {
			w.drop(DropICMP)
			return
		}
		w.pass(PassNotTCP, frame)
		return
	}
	f := &s.flows[slot]
	if f.has(direct) || f.from(srcLow) == client {
		w.out.forward(frame) // about numbers that levee leaves alone
		return
	}
	if !f.has(opened) || !f.inFlight(q.Seq-seqnum.Value(f.delta)) {
		w.drop(DropICMP) // RFC 5927 §4: not about anything that is under way
		return
	}
	q.AddSeq(-f.delta)
	w.out.forward(frame)
}
