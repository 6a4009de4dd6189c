package proxy

import (
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/proxy/servers"
)

// icmp handles a packet that isn't TCP. Only ICMP errors about segments that pass levee concern it, in two ways.
//
// An error about a segment that a server has sent quotes the sequence number that the client was to see. The server heeds the
// error, above all that a segment was too long for the path (RFC 1191, RFC 8201), only if it quotes the one that it sent.
//
// An error about levee's SYN means that the server can't be reached. Any other error ends nothing (RFC 5382 REQ-10).
//
// Whoever forges an error has to guess a sequence number that is under way (RFC 5927 §4): others are dropped.
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
		if svc := w.policy.find(&q.Src, q.SrcPort); svc.protected() && !svc.watched() {
			w.drop(DropICMP)
			return
		}
		w.pass(PassNotTCP, frame)
		return
	}
	f := &s.flows[slot]
	from := f.from(srcLow)
	switch {
	case q.Src != w.pkt.Dst: // not for the one whose segment it is about
		w.refuseICMP(f, frame)
	case !f.has(opened):
		w.icmpOpening(s, slot, from, frame)
	case from == client && f.inFlight(client, q.Seq):
		w.out.forward(frame)
	case from == server && f.inFlight(server, q.Seq-seqnum.Value(f.delta)):
		q.AddSeq(-f.delta)
		w.out.forward(frame)
	default:
		w.refuseICMP(f, frame)
	}
}

// refuseICMP drops an error about a flow, unless that is of a service that is only monitored.
func (w *Worker) refuseICMP(f *flow, frame []byte) {
	if svc := w.serviceOf(f); f.has(direct) && svc.Mode == ModeMonitor {
		w.spare(svc, frame)
		return
	}
	w.drop(DropICMP)
}

// icmpOpening handles an error while the server has not answered, or if it never has: the only segment
// that it can be about is a SYN. If that is levee's, a client waits that is connected already, and is told by a reset, whether
// the error may pass or not: so does Linux with an application that waits for connect().
func (w *Worker) icmpOpening(s *stripe, slot uint32, from side, frame []byte) {
	q, f := &w.quote, &s.flows[slot]
	switch {
	case f.state != StateOpening || from != client || q.Seq != f.clientISN:
		w.refuseICMP(f, frame)
	case f.has(direct):
		w.out.forward(frame)
	case !q.Unreachable || !q.ChecksumOK():
		w.drop(DropICMP)
	default:
		w.count(w.serviceOf(f)).unreachable.inc()
		w.unanswered(f, servers.Closed)
		w.resetClient(f)
		w.enter(s, slot, evGiveUp)
	}
}
