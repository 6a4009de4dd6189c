package proxy

import (
	"fmt"
	"time"

	"levee/stack"
)

// Unknown says what becomes of a segment of no flow that can't open one.
type Unknown uint8

// The choices.
const (
	// UnknownDrop drops it.
	UnknownDrop Unknown = iota
	// UnknownPass lets it pass; the receiver judges it.
	UnknownPass
	// UnknownReset answers it with the reset of a host that has no such connection (RFC 9293 §3.10.7.1).
	UnknownReset
)

var unknownWords = [...]string{UnknownDrop: "drop", UnknownPass: "pass", UnknownReset: "reset"}

// String returns the choice's word in the configuration.
func (u Unknown) String() string {
	if int(u) < len(unknownWords) {
		return unknownWords[u]
	}
	return "unknown"
}

// ParseUnknown is the inverse of Unknown.String.
func ParseUnknown(s string) (Unknown, error) {
	for u, word := range unknownWords {
		if s == word {
			return Unknown(u), nil
		}
	}
	return 0, fmt.Errorf("%q is not known: use drop, pass or reset", s)
}

// graceRate is how many segments of no flow a second pass during the grace after a start or a reload that begins to protect their server: a flood of them reaches the
// servers no faster, and a connection needs few until it is adopted.
const graceRate = 20_000

// strayReason is the reason for a drop of a segment of no flow: each kind of flood has its own.
func strayReason(p *stack.Packet) DropReason {
	switch {
	case p.FirstFragment:
		return DropFragment
	case isRST(p):
		return DropNoFlowRST
	case isSYN(p):
		return DropNoFlowSYNACK
	case isFIN(p):
		return DropNoFlowFIN
	}
	return DropNoFlow
}

// unknown handles a segment of no flow, with sane flags, that opens none: of a client of the service, or of one of its servers if from is
// server. If it is dropped, it is for this reason. The stripe is that of its connection, and locked.
func (w *Worker) unknown(s *stripe, key *flowKey, hash uint64, srcLow bool, svc *service, from side, reason DropReason, frame []byte) {
	p := &w.pkt
	peer := &p.Src
	if from == server {
		peer = &p.Dst
	}
	why := NumPassReasons
	switch {
	case reason == DropBadChecksum:
	case svc.lists.of(peer) == allowed:
		why = PassAllowed
		w.count(svc).allowed.inc()
	case svc.Unknown == UnknownPass:
		why = PassUnknown
	case w.hasGrace(svc):
		why = PassGrace
	case svc.Unknown == UnknownReset:
		w.resetStray(svc, from, reason)
		return
	}
	if why == NumPassReasons {
		w.drop(reason)
		return
	}
	if from == server {
		w.adopt(s, key, hash, srcLow, svc)
	}
	w.firstFragment()
	w.pass(why, frame)
}

// hasGrace says whether a segment of a connection that levee doesn't know may pass, because there may be such connections, and counts it.
func (w *Worker) hasGrace(svc *service) bool {
	return w.now.since-w.unseenUntil(svc) < w.policy.grace && w.proxy.grace.take(w.now.since, graceRate)
}

// unseenUntil is until when there may have been connections of a service that levee didn't see.
func (w *Worker) unseenUntil(svc *service) time.Duration {
	return max(svc.since, time.Duration(w.proxy.around.Load()))
}

// wentAround handles a segment that can't be of the connection in the record, which is over or was not seen since packets went around levee, but may be of a
// later one with the same ports that did. It passes as one of no flow would, and the server's has the later connection take the record: a
// server has only one of these ports. The client's alone doesn't, so that nobody can have levee forget a connection or which cookies were used. False leaves
// the segment to the caller.
func (w *Worker) wentAround(s *stripe, slot uint32, from side, frame []byte) bool {
	p, f := &w.pkt, &s.flows[slot]
	if f.has(direct) || isSYN(p) {
		return false
	}
	svc, peer := w.policy.find(&p.Dst, p.DstPort), &p.Src
	if from == server {
		svc, peer = w.policy.find(&p.Src, p.SrcPort), &p.Dst
	}
	if !svc.protected() || svc.lists.of(peer) == denied || live(f.state) && f.lastSeen.start() > w.unseenUntil(svc) || !w.hasGrace(svc) {
		return false
	}
	if from == server && adoptable(p) {
		key, srcLow := f.key, f.from(true) == from
		w.enter(s, slot, evTimeout)
		w.adopt(s, &key, w.proxy.table.hash.of(&key), srcLow, svc)
	}
	w.firstFragment()
	w.pass(PassGrace, frame)
	return true
}

// resetStray answers a segment of no flow.
func (w *Worker) resetStray(svc *service, from side, reason DropReason) {
	p := &w.pkt
	if isRST(p) || p.FirstFragment || !p.ChecksumOK() {
		w.drop(reason)
		return
	}
	if from == client && !w.mayReply() {
		return
	}
	w.count(svc).unknownReset.inc()
	rst := stack.Segment{
		Src: p.Dst, Dst: p.Src, SrcPort: p.DstPort, DstPort: p.SrcPort, WScale: WScaleNone,
		Seq: p.Ack, Flags: flagRST,
	}
	if !isACK(p) {
		rst.Seq, rst.Ack, rst.Flags = 0, p.End(), flagRST|flagACK
	}
	w.out.build(&rst)
}

// adoptable says whether a server's segment shows a connection.
func adoptable(p *stack.Packet) bool {
	return isACK(p) && p.Flags&(flagSYN|flagRST) == 0 && p.ChecksumOK()
}

// unknownScale stands for the window scales of an adopted connection, whose handshake nobody saw: the largest there is, so
// that nothing that belongs to it is taken for implausible.
const unknownScale = 14

// adopt tracks the connection of a server's segment in work, whose handshake levee has not seen, as a direct flow: it was there before
// levee was, and has to last when the grace is over. Only the server's segments tell: it answers what belongs to no connection with a reset. If
// the table is full the connection goes untracked.
func (w *Worker) adopt(s *stripe, key *flowKey, hash uint64, srcLow bool, svc *service) {
	p := &w.pkt
	if !adoptable(p) {
		return
	}
	slot, ok := s.insert(key, hash, w.evict)
	if !ok {
		return
	}
	f := &s.flows[slot]
	*f = flow{
		key: f.key, state: f.state, service: svc.state.index, created: w.now.since, flags: direct | opened,
		clientISN: p.Ack, cookie: p.Ack, wscale: unknownScale,
	}
	f.set(clientLow, !srcLow)
	f.half[client] = half{end: p.Ack, ack: p.Seq, scale: unknownScale, promised: unknownScale, maxWindow: 1 << unknownScale}
	f.half[server] = half{end: p.Seq, ack: p.Ack, scale: unknownScale, promised: unknownScale, maxWindow: 1 << unknownScale}
	w.enter(s, slot, evHandshake)
	w.enter(s, slot, evSynAck)
	f.markFIN(server, p)
	f.observe(server, p, p.Ack)
	w.count(svc).adopted.inc()
}
