package proxy

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/proxy/cookie"
	"levee/proxy/servers"
)

// segment handles a segment of a flow, from the given side.
func (w *Worker) segment(s *stripe, slot uint32, from side, frame []byte) {
	f := &s.flows[slot]
	if svc, ok := w.anew(f, from); ok && w.pkt.ChecksumOK() {
		w.passedHandshake(s, slot, svc, f.has(clientLow))
		w.out.forward(frame)
		return
	}
	switch {
	case f.has(direct) && f.evictable() && w.takeOver(s, slot, from):
	case f.has(direct) && (f.state == StateOpening || !f.has(opened)):
		w.directOpening(s, slot, from, frame)
	case f.state == StateOpening && from == client:
		w.fromClientOpening(s, slot)
	case f.state == StateOpening:
		w.fromServerOpening(s, slot)
	case !f.has(opened):
		w.neverOpened(s, slot, from, frame)
	default:
		w.relay(s, slot, from, frame)
	}
}

// relay translates a segment of an opened flow and sends it on. Whatever the hosts should judge is left to them: a
// segment that can't belong to the flow is forwarded too, but teaches levee nothing.
func (w *Worker) relay(s *stripe, slot uint32, from side, frame []byte) {
	p, f := &w.pkt, &s.flows[slot]
	ack := p.Ack
	if from == client {
		ack -= seqnum.Value(f.delta)
	}
	if from == server && f.state.Ended() && w.takeOver(s, slot, from) {
		return
	}
	plausible := f.plausible(from, p, ack)
	if from == client && (!plausible || f.state.Ended() || f.unexpected(p)) && w.reopen(s, slot) {
		return
	}
	if isSYN(p) {
		w.synAckAgain(s, slot, from, frame)
		return
	}
	if !plausible && w.wentAround(s, slot, from, frame) {
		return
	}
	if from == client && !plausible && f.state.Ended() && !f.has(direct) && !isRST(p) {
		// Early data of a new incarnation, come before their handshake's ACK. The server would answer them, with the old numbers, by
		// a reset that is exact for the client.
		w.drop(strayReason(p))
		return
	}
	switch {
	case f.has(signed) && !p.Options.Signed: // the receiver drops it
	case isRST(p):
		if f.exactReset(from, p) && p.ChecksumOK() {
			w.enter(s, slot, evRST)
		}
	case plausible && (f.ordinary(from, p, ack) || p.ChecksumOK()):
		f.observe(from, p, ack)
		w.touch(s, slot)
		if f.acknowledgedFIN(from, p, ack) {
			w.enter(s, slot, fin(from.peer()))
		}
		if isFIN(p) && f.closing() {
			s.arm(slot, w.due(f)) // sooner than it was
		}
	}
	if f.has(direct) && f.has(abandoned) && from == server && !isRST(p) && plausible {
		f.flags &^= abandoned // it has a connection after all
		w.proxy.floods.Refused(w.proxy.table.hash.of(&f.key))
	}
	e := f.edit(from, p)
	p.Apply(&e)
	w.out.forward(frame)
}

// synAckAgain handles a SYN-ACK on an opened flow: the server has not seen the acknowledgement of its first.
func (w *Worker) synAckAgain(s *stripe, slot uint32, from side, frame []byte) {
	p, f := &w.pkt, &s.flows[slot]
	switch {
	case f.has(direct):
		if from == server && p.ChecksumOK() {
			if f.state == StateOpen && isACK(p) && p.Ack == f.clientISN+1 && p.Seq+1 == f.half[server].end {
				if w.freesServer(s, slot) {
					return
				}
				f.set(abandoned, true) // the acknowledgement that levee has seen was lost, or made to get no further
				w.waiting(f)
			}
			w.accepted(s, slot)
		}
		w.out.forward(frame)
	case !p.ChecksumOK():
		w.drop(DropBadChecksum)
	case from == server && isACK(p) && p.Ack != f.clientISN+1 && !w.policy.find(&p.Src, p.SrcPort).protected():
		// Its service is not protected any longer, so the server has seen the client's own SYN, and has no connection but that.
		w.enter(s, slot, evTimeout)
		w.pass(PassModeOff, frame)
	case from == server && uint32(f.cookie-p.Seq) == f.delta && p.Ack == f.clientISN+1:
		if f.state == StateReset { // the client has gone
			w.resetServer(f)
			return
		}
		if !w.repeated(f) {
			w.ackServer(f, 0, true) // the client's flow label is forgotten
		}
	default:
		w.drop(DropBadAck)
	}
}

// neverOpened handles a segment of a flow that ended before the server accepted it.
func (w *Worker) neverOpened(s *stripe, slot uint32, from side, frame []byte) {
	p, f := &w.pkt, &s.flows[slot]
	switch {
	case isRST(p):
		w.drop(DropNoFlow)
	case !p.ChecksumOK():
		w.drop(DropBadChecksum)
	case from == server && f.state.Ended() && w.takeOver(s, slot, from):
	case from == server && isACK(p) && p.Ack == f.clientISN+1:
		// A late SYN-ACK: the client has gone.
		w.resetServer(f)
	case from == client && p.Ack == f.cookie+1:
		// The client has not seen its RST.
		w.resetClient(f)
	case from == client && w.reopen(s, slot):
	case w.wentAround(s, slot, from, frame):
	default:
		w.drop(DropNoFlow)
	}
}

// reopen starts a new incarnation of the flow's tuple if the client's segment in work carries the cookie of one, and
// says whether it dealt with the segment. The flow's own cookie, replayed or late, is no new one, nor is that of an
// incarnation before.
func (w *Worker) reopen(s *stripe, slot uint32) bool {
	p, f := &w.pkt, &s.flows[slot]
	if f.has(direct) {
		return w.takeOver(s, slot, client)
	}
	svc := w.policy.find(&p.Dst, p.DstPort)
	if svc == nil {
		return false
	}
	valid, reason := w.checkCookie(svc)
	if reason != NumDropReasons {
		return false
	}
	if valid.ClientISN == uint32(f.clientISN) && valid.ISN == uint32(f.cookie) {
		// A segment like any other: the client's first data, sent again, and the FIN of a connection without data look the
		// same. That holds after a reset too: it may have been lost, and another by the server tells the client.
		return false
	}
	if live(f.state) && f.has(timestamps) && !p.Options.Timestamps {
		// Far fewer of its bits are MAC: it is too easily forged to end a connection that shows timestamps.
		return false
	}
	if w.former(f, &valid) {
		w.drop(DropReplay)
		return true
	}
	if !w.mayReplace(f, svc) {
		return true
	}
	w.count(svc).connReopened.inc()
	switch f.state {
	case StateOpening, StateOpen, StateClientClosed, StateServerClosed:
		// The server's half of the old one may still live; exactly its next sequence number ends it.
		rst := f.segmentTo(server)
		rst.Seq, rst.Flags = f.clientISN+1, flagRST
		if f.has(opened) {
			rst.Seq = f.half[server].ack
		}
		w.out.build(&rst)
	}
	former := fingerprintOf(f.cookie)
	w.open(s, slot, svc, f.from(true) == client, &valid)
	f.former = former
	return true
}

// former says whether a valid cookie is that of an incarnation before this one, whose late segment must not end it. The last one's
// is known. Of others only the initial sequence number tells, because a client's grow (RFC 6528); but they start anew in a
// client that was restarted, and are anything behind an address translator. They are therefore asked only while it matters: as
// long as a cookie from before the flow is still good, the flow lives, and there was another before it, or else
// the flow is in use, so that the client has not been away.
func (w *Worker) former(f *flow, valid *returned) bool {
	if f.former == fingerprintOf(seqnum.Value(valid.ISN)) {
		return true
	}
	return live(f.state) && seqnum.Value(valid.ClientISN).LessThan(f.clientISN) &&
		w.now.since-f.created < cookieEpochs*cookie.EpochSeconds*time.Second &&
		(f.former != fingerprint{} || w.now.tick-f.lastSeen <= inUse)
}

// inUse is how long after its last packet a flow counts as in use.
const inUse = 4 * ticksPerSecond

// enter moves a flow by an event, and sees to the counts and its time-out.
func (w *Worker) enter(s *stripe, slot uint32, e event) {
	f := &s.flows[slot]
	from, to, wasProven := f.state, next(f.state, e), f.proven()
	f.lastSeen = w.now.tick
	if from != to {
		w.forget(f)
	}
	if was, is := from == StateOpening, to == StateOpening; was != is && !f.has(direct) {
		n := int32(1)
		if was {
			n = -1
		}
		w.proxy.opening.of(f).Add(n)
	}
	if was, is := live(from), live(to); was != is {
		n := int64(1)
		if was {
			n = -1
		}
		w.serviceOf(f).state.flows.Add(n)
	}
	if was, is := from != StateFree, to != StateFree; was != is {
		n := int64(1)
		if was {
			n = -1
		}
		w.serviceOf(f).state.records.Add(n)
	}
	if isProven := f.provenIn(to); isProven != wasProven {
		n := int32(1)
		if wasProven {
			n = -1
		}
		w.proxy.count(f, n)
	}
	if to == StateFree {
		s.remove(slot)
		return
	}
	s.setState(slot, to)
	if f.evictable() {
		s.bury(slot)
	} else if from != to || e == evHandshake {
		s.arm(slot, w.due(f))
	}
}

// forget drops what is held of a client whose server has not answered.
func (w *Worker) forget(f *flow) {
	if f.state == StateOpening && f.flags&(direct|opened) == 0 {
		w.proxy.early.drop(f.early())
	}
}

// evict keeps the counts right when a flow makes room for another.
func (w *Worker) evict(f *flow) {
	w.proxy.evicted.Add(1)
	state := w.serviceOf(f).state
	state.records.Add(-1)
	if live(f.state) {
		state.flows.Add(-1)
	}
}

func live(s State) bool { return s != StateFree && !s.Ended() }

// touch notes that the flow is in use.
func (w *Worker) touch(s *stripe, slot uint32) {
	f := &s.flows[slot]
	if f.lastSeen == w.now.tick {
		return
	}
	f.lastSeen = w.now.tick
	if f.evictable() {
		s.bury(slot) // keeps their list in the order of time-outs
	}
}

// due is when a flow times out if nothing happens until then.
func (w *Worker) due(f *flow) tick { return w.policy.due(f) }

// due is when a flow times out by this policy if nothing happens until then.
func (p *policy) due(f *flow) tick {
	switch f.state {
	case StateOpening:
		switch {
		case f.has(direct):
		case f.half[server].scale == answeredOnce:
			return f.lastSeen + ticks(secondTime)
		default:
			return f.lastSeen + synTimeout(f.tries)
		}
	case StateOpen, StateClientClosed, StateServerClosed:
		idle := p.idle
		if f.closing() {
			idle = min(idle, p.remembered)
		}
		return f.lastSeen + idle
	}
	return f.lastSeen + p.remembered
}

// timeout acts on a flow that is due.
func (w *Worker) timeout(slot uint32) {
	s := w.firing
	f := &s.flows[slot]
	if f.state != StateOpening {
		w.enter(s, slot, evTimeout)
		return
	}
	if f.tries < synRetries && !f.has(direct) {
		f.tries++
		f.flags &^= challenged
		w.unrepeated(f)
		f.lastSeen = w.now.tick
		w.count(w.serviceOf(f)).cookieRetrans.inc()
		w.sendSYN(f)
		s.arm(slot, w.due(f))
		return
	}
	if !f.has(direct) {
		w.count(w.serviceOf(f)).timedOut.inc()
		w.unanswered(f, servers.Silent)
		w.resetClient(f)
	}
	w.enter(s, slot, evGiveUp)
}

// resetServer answers the server's segment in work with what a host without such a connection would (RFC 9293 §3.10.7.1).
func (w *Worker) resetServer(f *flow) {
	rst := f.segmentTo(server)
	rst.Seq, rst.Flags = w.pkt.Ack, flagRST
	w.out.build(&rst)
}
