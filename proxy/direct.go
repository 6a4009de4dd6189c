package proxy

// outbound handles a SYN that a protected server sends to somebody else: the connection is tracked, so that the
// answers are not taken for strays, and nothing is translated. In such a flow the client of the record is the one
// who opened it, here the protected server.
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
		if slot, ok = s.insert(&key, hash); !ok {
			w.drop(DropTableFull)
			return
		}
	}
	f := &s.flows[slot]
	if live(f.state) {
		if !f.has(direct) {
			w.drop(DropBadAck) // the server side of a spliced flow does not send a SYN
			return
		}
	} else {
		*f = flow{key: f.key, state: f.state, service: svc.index, created: w.now.since, flags: direct, clientISN: p.Seq}
		f.set(clientLow, srcLow)
		w.enter(s, slot, evHandshake)
	}
	if f.state == StateOpening {
		c := &f.half[client]
		f.clientISN, f.wscale = p.Seq, p.Options.WScale
		c.end, c.window, c.maxWindow = p.Seq+1, p.Window, uint32(p.Window)
	}
	w.touch(s, slot)
	w.out.forward(frame)
}

// directOpening handles a segment of an outbound connection whose SYN-ACK has not come. All are forwarded.
func (w *Worker) directOpening(s *stripe, slot uint32, from side, frame []byte) {
	p, f := &w.pkt, &s.flows[slot]
	if from == server && isACK(p) && p.Ack == f.clientISN+1 {
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
