package proxy

import (
	"levee/stack"
)

// kindDrops says why a packet that Parse refuses is dropped.
var kindDrops = [...]DropReason{
	stack.KindTruncated:    DropTruncated,
	stack.KindBadIP:        DropBadIP,
	stack.KindTinyFragment: DropFragment,
	stack.KindBadTCP:       DropBadTCP,
	stack.KindBadOptions:   DropBadOptions,
}

// packet decides about one frame, which it may edit, and which must be left alone until the next flush.
func (w *Worker) packet(frame []byte) {
	if len(frame) < stack.VirtioLen {
		w.drop(DropTruncated)
		return
	}
	virtio := stack.DecodeVirtio(frame)
	p := &w.pkt
	switch kind := p.Parse(frame[stack.VirtioLen:], virtio.Flags&stack.VirtioNeedsCsum != 0); kind {
	case stack.KindTCP:
	case stack.KindLaterFragment:
		w.laterFragment(frame)
		return
	case stack.KindOther:
		w.firstFragment()
		w.icmp(frame)
		return
	default:
		w.dropOrSpare(kindDrops[kind], frame)
		return
	}
	frame = frame[:stack.VirtioLen+len(p.IP)]
	if virtio.GSOType != stack.GSONone && p.PayloadLen <= int(virtio.GSOSize) {
		// One segment: the kernel would refuse it as a superpacket.
		virtio.GSOType, virtio.GSOSize = stack.GSONone, 0
		virtio.Encode(frame)
	}

	if isSYN(p) && !isACK(p) {
		w.syn(frame)
		return
	}
	key, srcLow := keyOf(p)
	hash := w.proxy.table.hash.of(&key)
	s := w.proxy.table.stripe(hash)
	s.mu.Lock()
	slot, found := s.find(&key, hash)
	switch {
	case !found:
		w.stranger(s, &key, hash, srcLow, frame)
	case saneFlags(p.Flags):
		w.firstFragment()
		w.segment(s, slot, s.flows[slot].from(srcLow), frame)
	case s.flows[slot].has(direct):
		w.dropOrSpare(DropBadFlags, frame)
	default:
		w.drop(DropBadFlags)
	}
	s.mu.Unlock()
}

// syn handles a first SYN.
func (w *Worker) syn(frame []byte) {
	p := &w.pkt
	switch svc := w.policy.find(&p.Dst, p.DstPort); {
	case !svc.protected():
		w.unproxied(svc.whyPassed(), frame)
	case svc.watched() && w.handshake(svc, frame):
	default:
		if fault := faultOf(p); fault != NumDropReasons {
			w.drop(fault)
			return
		}
		w.checkedSYN(svc, frame)
	}
}

// faultOf is why a first SYN isn't what it looks like, or NumDropReasons.
func faultOf(p *stack.Packet) DropReason {
	switch {
	case !saneFlags(p.Flags):
		return DropBadFlags
	case p.Src == p.Dst:
		return DropLand
	case p.FirstFragment:
		return DropFragment
	case !p.ChecksumOK():
		return DropBadChecksum
	}
	return NumDropReasons
}

// checkedSYN handles a first SYN to a service that may be what it looks like.
func (w *Worker) checkedSYN(svc *service, frame []byte) {
	p := &w.pkt
	switch reason := w.proxy.refusal(svc, &p.Src, w.now.since); {
	case reason == DropDenied:
		w.deny(svc)
	case reason != NumDropReasons:
		w.drop(reason)
	case svc.lists.of(&p.Src) == allowed:
		w.count(svc).allowed.inc()
		w.direct(svc, frame, PassAllowed)
	case p.Options.Signed || p.Options.Join:
		w.bypass(svc, frame)
	case belowCookie(p) && svc.mayBypass(w.now):
		w.direct(svc, frame, PassBypass)
	case w.proxy.verified.admit(sourceOf(&p.Src, svc), w.now.since, svc.Verified):
		w.count(svc).verified.inc()
		w.direct(svc, frame, PassVerified)
	case w.mayReply():
		w.answer(svc)
	}
}

// unproxied handles a first SYN that levee doesn't answer.
func (w *Worker) unproxied(why PassReason, frame []byte) {
	p := &w.pkt
	if svc := w.policy.find(&p.Src, p.SrcPort); svc.protected() {
		if p.Src == p.Dst {
			w.dropOrSpare(DropLand, frame)
			return
		}
		w.outbound(svc, frame)
		return
	}
	w.makeWay()
	w.pass(why, frame)
}

// makeWay takes the record of a connection that is over out of the way of a new one with the same addresses and ports, whose SYN is in work
// and which levee doesn't track: its service was protected before a reload.
func (w *Worker) makeWay() {
	key, _ := keyOf(&w.pkt)
	hash := w.proxy.table.hash.of(&key)
	s := w.proxy.table.stripe(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	if slot, found := s.find(&key, hash); found && (s.flows[slot].state.Ended() || s.flows[slot].evictable()) {
		if s.flows[slot].state == StateOpening {
			w.enter(s, slot, evRST)
		}
		w.enter(s, slot, evTimeout)
	}
}

// stranger handles a segment of no flow that isn't a first SYN.
func (w *Worker) stranger(s *stripe, key *flowKey, hash uint64, srcLow bool, frame []byte) {
	p := &w.pkt
	svc := w.policy.find(&p.Dst, p.DstPort)
	if svc == nil {
		switch from := w.policy.find(&p.Src, p.SrcPort); {
		case from.watched():
			w.fromServer(s, key, hash, srcLow, from, frame)
		case !from.protected():
			w.pass(from.whyPassed(), frame)
		case !saneFlags(p.Flags):
			w.drop(DropBadFlags)
		default:
			w.unknown(s, key, hash, srcLow, from, server, strayReason(p), frame)
		}
		return
	}
	if !saneFlags(p.Flags) && svc.protected() {
		if !svc.watched() || !w.passUnknown(svc, frame) {
			w.drop(DropBadFlags)
		}
		return
	}
	if svc.protected() && svc.Mode != ModeMonitor && svc.lists.of(&p.Src) == denied {
		w.deny(svc)
		return
	}
	valid, reason := w.checkCookie(svc)
	if reason != NumDropReasons {
		if !svc.protected() {
			w.pass(svc.whyPassed(), frame)
			return
		}
		if svc.watched() && w.passUnknown(svc, frame) {
			return
		}
		if reason == DropCookieInvalid {
			w.count(svc).cookieInvalid.inc()
			if isFIN(p) {
				reason = DropNoFlowFIN
			}
		}
		w.unknown(s, key, hash, srcLow, svc, client, reason, frame)
		return
	}
	if s.full() { // before the source is charged for a connection
		w.drop(DropTableFull)
		return
	}
	if !w.mayOpen(svc) {
		return
	}
	slot, _ := s.insert(key, hash, w.evict)
	w.open(s, slot, svc, srcLow, &valid)
}
