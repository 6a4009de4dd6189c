package proxy

// outbound handles a SYN that a protected server sends to somebody else: the connection is tracked, so that the
// answers are not taken for strays, and nothing is translated. In such a flow the client of the record is the one
// who opened it, here the protected server.
//
// Such a SYN may be forged: nobody has proved to be its source. Until its SYN-ACK comes the flow therefore counts as one that
// makes room for others.
func (w *Worker) outbound(svc *service, frame []byte) {
	p := &w.pkt
	if !saneFlags(p.Flags) {
		w.drop(DropBadFlags)
		return
	}
	key, srcLow := keyOf(p)
	hash := w.proxy.table.hash.of(&key)
	s := w.proxy.table.stripe(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	slot, found := s.find(&key, hash)
	if !found {
		var ok bool
		if slot, ok = s.insert(&key, hash, w.proxy.evict); !ok {
			w.drop(DropTableFull)
			return
		}
	}
	f := &s.flows[slot]
	switch {
	case live(f.state) && !f.has(direct):
		w.drop(DropBadAck) // the server side of a spliced flow does not send a SYN
		return
	case live(f.state) && f.clientISN == p.Seq:
		w.touch(s, slot) // the same SYN again
	default:
		*f = flow{key: f.key, state: f.state, service: svc.index, created: w.now.since, flags: direct, clientISN: p.Seq, wscale: p.Options.WScale}
		f.set(clientLow, srcLow)
		c := &f.half[client]
		c.end, c.window, c.maxWindow = p.Seq+1, p.Window, uint32(p.Window)
		w.enter(s, slot, evHandshake)
	}
	w.out.forward(frame)
}

// calledBack takes over the record of an outbound connection that has ended for a client that connects the other way
// round, between the same ports, and says whether the segment in work, from the side that was called, is its cookie.
func (w *Worker) calledBack(s *stripe, slot uint32) bool {
	p, f := &w.pkt, &s.flows[slot]
	svc := w.proxy.policy.find(&p.Dst, p.DstPort)
	if svc == nil || svc.Mode == ModeOff {
		return false
	}
	valid, reason := w.checkCookie(svc)
	if reason != NumDropReasons {
		return false
	}
	w.open(s, slot, svc, f.from(true) == server, &valid)
	return true
}

// directOpening handles a segment of an outbound connection whose SYN-ACK has not come, or never came. All are forwarded.
func (w *Worker) directOpening(s *stripe, slot uint32, from side, frame []byte) {
	p, f := &w.pkt, &s.flows[slot]
	if f.state == StateOpening && from == server && isACK(p) && p.Ack == f.clientISN+1 && p.ChecksumOK() {
		switch {
		case isRST(p):
			w.enter(s, slot, evRST)
		case isSYN(p):
			c, v := &f.half[client], &f.half[server]
			c.ack = p.Seq + 1
			v.end, v.ack = p.Seq+1, p.Ack
			v.window, v.maxWindow = p.Window, uint32(p.Window)
			if f.wscale != WScaleNone && p.Options.WScale != WScaleNone {
				c.scale, c.promised = f.wscale, f.wscale
				v.scale, v.promised = p.Options.WScale, p.Options.WScale
			}
			f.set(opened, true)
			w.enter(s, slot, evSynAck)
		}
	}
	w.out.forward(frame)
}
