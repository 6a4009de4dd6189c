package proxy

import (
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/proxy/cookie"
	"levee/proxy/flood"
	"levee/stack"
)

// Direct flows are connections whose hosts shake hands with each other, while levee only looks on: those that protected servers
// open themselves, and those of clients whose SYN passes: with options that no proxy or no cookie can honour, or from a source that is allowed or verified.
// Those adopted without a handshake are among them (see adopt). Nothing in them is translated; they are
// tracked so that their segments are not taken for strays. In the record the client is the one who opened the
// connection, and cookie and tries are the initial sequence number and window scale of the latest SYN, whose answer makes the
// record begin anew.
//
// A SYN may be forged: nobody has proved to be its source. Until whoever sent it has acknowledged the answer, the flow
// counts as one that makes room for others, and only what belongs to a handshake passes toward a protected server.

// outbound handles a SYN that a protected server sends to somebody else.
func (w *Worker) outbound(svc *service, frame []byte) {
	if !saneFlags(w.pkt.Flags) {
		w.dropOrSpare(DropBadFlags, frame)
		return
	}
	w.direct(svc, frame, NumPassReasons)
}

// bypass handles a SYN, checked already, that can't be proxied: with TCP-MD5 (RFC 2385) or TCP-AO (RFC 5925), which sign what levee would
// have to change, or one that joins an MPTCP connection, of which only the server knows (RFC 8684 §3.2). It goes to
// the server at a bounded rate.
func (w *Worker) bypass(svc *service, frame []byte) {
	if !svc.mayBypass(w.now) {
		w.drop(DropBypassRate)
		return
	}
	w.direct(svc, frame, PassBypass)
}

// belowCookie says that a SYN's MSS is smaller than any that a cookie gives back. The server would be offered more than the client takes, so that
// such a SYN had better go to it as it is, like one that can't be proxied. Beyond that rate it gets a cookie all the same.
func belowCookie(p *stack.Packet) bool {
	mss := p.Options.MSS
	return mss != 0 && mss < cookie.RoundMSS(p.V6, mss)
}

// mayBypass says whether one more SYN may go to a server as it is.
func (s *service) mayBypass(now instant) bool { return s.state.bypassed.take(now.since, s.BypassRate) }

// patience is in how many seconds servers may repeat as many SYN-ACKs to clients whose SYNs passed within BypassRate as such SYNs pass in one.
const patience = 30

// spares says whether one more of those handshakes may go on, whose SYN-ACK the server repeats: some clients have a slow path, or have lost their
// acknowledgement, but where there are many of them most are forged.
func (s *service) spares(now instant) bool {
	return s.state.spared.take(now.since/patience, s.BypassRate)
}

// direct forwards a SYN and tracks its connection. It is counted as passed for this reason, if any.
func (w *Worker) direct(svc *service, frame []byte, why PassReason) {
	p := &w.pkt
	key, srcLow := keyOf(p)
	hash := w.proxy.table.hash.of(&key)
	s := w.proxy.table.stripe(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	slot, found := s.find(&key, hash)
	if !found {
		var ok bool
		if slot, ok = s.insert(&key, hash, w.evict); !ok {
			if svc.watched() {
				w.pass(PassUnknown, frame)
			} else {
				w.drop(DropTableFull)
			}
			return
		}
	}
	f := &s.flows[slot]
	switch {
	case !live(f.state):
		s.rewrite(slot)
		w.assign(f, svc)
		*f = flow{key: f.key, state: f.state, service: svc.state.index, created: w.now.since, flags: direct, clientISN: p.Seq, wscale: p.Options.WScale}
		f.set(clientLow, srcLow)
		f.set(signed, p.Options.Signed)
		f.set(bypassed, why == PassBypass)
		c := &f.half[client]
		c.end, c.window, c.maxWindow = p.End(), p.Window, uint32(p.Window) // with TCP Fast Open a SYN has data, which may be acknowledged
		w.enter(s, slot, evHandshake)
		f.cookie, f.tries = p.Seq, p.Options.WScale
		s.rewritten()
	case f.has(direct) && f.from(srcLow) == client:
		// The same SYN again, or that of a new connection: the other host will say.
		f.cookie, f.tries = p.Seq, p.Options.WScale
		if p.Seq == f.clientISN {
			w.touch(s, slot)
		}
	case !f.has(direct) && why == NumPassReasons:
		w.drop(DropBadAck) // the server side of a spliced flow does not send a SYN
		return
	}
	if why != NumPassReasons {
		w.pass(why, frame)
		return
	}
	w.out.forward(frame)
}

// takeOver gives a record to a client that connects by way of levee: that of a direct flow that is over or was never acknowledged,
// from whichever end, or that of any flow that is over, from the end that was its server. It says whether the segment in work
// is the client's cookie.
func (w *Worker) takeOver(s *stripe, slot uint32, from side) bool {
	p, f := &w.pkt, &s.flows[slot]
	svc := w.policy.find(&p.Dst, p.DstPort)
	if svc == nil {
		return false
	}
	valid, reason := w.checkCookie(svc)
	if reason != NumDropReasons {
		return false
	}
	used := live(f.state) && f.has(opened) && f.state != StateOpening
	if used && (f.has(timestamps) && !p.Options.Timestamps || w.former(f, &valid)) {
		return false // see reopen
	}
	if !w.mayReplace(f, svc) {
		return true
	}
	if live(f.state) {
		if used {
			// The server's half may still live.
			rst := f.segmentTo(server)
			rst.Seq, rst.Flags = f.half[server].ack, flagRST
			w.out.build(&rst)
		}
		w.enter(s, slot, evRST) // it may have been another service's
	}
	w.open(s, slot, svc, f.from(true) == from, &valid)
	return true
}

// directOpening handles a segment of a direct flow whose handshake is not over, or never was.
func (w *Worker) directOpening(s *stripe, slot uint32, from side, frame []byte) {
	p, f := &w.pkt, &s.flows[slot]
	switch {
	case from == server:
		if f.state == StateOpening && isACK(p) && p.ChecksumOK() {
			switch {
			case isSYN(p) && w.freesServer(s, slot):
				return
			case isSYN(p):
				w.waiting(f)
				w.accepted(s, slot)
			case isRST(p) && f.answered(p.Ack):
				w.enter(s, slot, evRST)
			}
		}
	case isRST(p):
		if f.state == StateOpening && p.Seq == f.half[client].end && !f.has(abandoned) && p.ChecksumOK() {
			w.proxy.floods.Refused(w.proxy.table.hash.of(&f.key)) // half-open no longer
			f.set(abandoned, true)
		}
	case f.state == StateOpening && f.has(opened) && isACK(p) && p.Ack == f.half[server].end &&
		f.plausible(client, p, p.Ack) && p.ChecksumOK():
		if !f.has(outbound) {
			if !w.mayFinish() {
				return
			}
			w.prove(w.serviceOf(f))
			w.finished(w.policy.find(&p.Dst, p.DstPort), f)
		}
		f.observe(client, p, p.Ack)
		w.enter(s, slot, evSynAck)
	default:
		svc := w.policy.find(&p.Dst, p.DstPort)
		if svc.protected() { // else the client is: a server that speaks to somebody else
			if !svc.watched() || svc.hidden(p) || !w.passUnknown(svc, frame) {
				w.drop(DropOpening)
			}
			return
		}
	}
	w.out.forward(frame)
}

// waiting notes that the server of a direct flow goes on with its handshake, whose SYN-ACK is in work, though levee has seen the client's reset or
// acknowledgement: that has been lost, or was made to get to levee and no further, by a time to live that ends there or something that the server doesn't
// heed. The handshake is half-open still, whatever else of the client's comes.
func (w *Worker) waiting(f *flow) {
	p := &w.pkt
	if svc := w.policy.find(&p.Src, p.SrcPort); f.has(abandoned) && svc.watched() {
		to := flood.Destination{Addr: p.Src, Port: p.SrcPort}
		w.proxy.floods.Unfinished(svc.state.watch, &to, w.proxy.table.hash.of(&f.key), w.now.since)
	}
}

// freesServer ends a handshake that the server, which now sends its SYN-ACK again, should not have to wait for: one whose SYN passed before its destination
// was engaged, or within BypassRate where every other SYN gets a cookie, and whose client has not answered. It says whether that is so. The
// handshake is one of a flood, or as good as that: it would take the place of others in the server's queue for another minute. The client whose
// acknowledgement was lost, and that waits for the server to speak, is one in very many.
func (w *Worker) freesServer(s *stripe, slot uint32) bool {
	p, f := &w.pkt, &s.flows[slot]
	svc := w.policy.find(&p.Src, p.SrcPort)
	if svc == nil || !f.has(opened) || p.Ack != f.clientISN+1 || w.now.since-f.created < repeatTime || svc.lists.of(&p.Dst) == allowed {
		return false
	}
	to := flood.Destination{Addr: p.Src, Port: p.SrcPort}
	switch {
	case svc.Mode == ModeAuto && w.proxy.floods.Engaged(svc.state.watch, &to):
		w.proxy.floods.Refused(w.proxy.table.hash.of(&f.key))
	case svc.Mode == ModeAlways && f.has(bypassed) && !svc.spares(w.now):
	default:
		return false
	}
	w.count(svc).halfOpenReset.inc()
	w.resetServer(f)
	w.enter(s, slot, evRST)
	return true
}

// mayFinish says whether the client's segment in work may end its handshake with a server. If not, it is counted as dropped.
func (w *Worker) mayFinish() bool {
	svc := w.policy.find(&w.pkt.Dst, w.pkt.DstPort)
	return !svc.protected() || w.mayOpen(svc) // else it was protected before a reload
}

// hidden says whether a client's segment may end its handshake with a server unseen: in fragments, whose checksum levee can't look at. Where sources are
// bounded they could open any number of connections so.
func (s *service) hidden(p *stack.Packet) bool {
	return p.FirstFragment && s.PerSource != PerSource{} && s.Mode != ModeMonitor
}

// answered says whether an acknowledgement is the answer to the first SYN of a direct flow that is opening: of all its data, or of some
// of them.
func (f *flow) answered(ack seqnum.Value) bool {
	return f.clientISN.LessThan(ack) && ack.LessThanEq(f.half[client].end)
}

// accepted learns from a SYN-ACK, if it is the answer to the first SYN or to the latest. The latter begins a new
// connection: until then the one before may have been in use.
func (w *Worker) accepted(s *stripe, slot uint32) {
	p, f := &w.pkt, &s.flows[slot]
	s.rewrite(slot)
	defer s.rewritten()
	switch {
	case p.Ack == f.cookie+1 && f.cookie != f.clientISN:
		f.clientISN, f.wscale = f.cookie, f.tries
		f.half[client] = half{end: f.clientISN + 1, maxWindow: 1 << 16}
		f.fins = [2]finMark{}
		f.flags &^= abandoned
		f.created = w.now.since
		w.enter(s, slot, evHandshake)
	case !f.answered(p.Ack) || f.state != StateOpening:
		return
	}
	c := &f.half[client]
	c.ack, c.scale, c.promised = p.Seq+1, 0, 0
	v := &f.half[server]
	*v = half{end: p.Seq + 1, ack: p.Ack, window: p.Window, maxWindow: uint32(p.Window)}
	if f.wscale != WScaleNone && p.Options.WScale != WScaleNone {
		c.scale, c.promised = f.wscale, f.wscale
		v.scale, v.promised = p.Options.WScale, p.Options.WScale
	}
	accepts := w.policy.find(&p.Src, p.SrcPort).protected()
	f.flags &^= outbound
	f.set(outbound, !accepts)
	f.set(opened, true)
	if accepts {
		w.learnPassed()
	}
}
