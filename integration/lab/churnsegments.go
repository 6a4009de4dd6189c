package lab

import "time"

func (c *Churn) slot(i int) *churnSlot { return &c.slots[i%len(c.slots)] }

// resets says how the client ends connection i.
func (c *Churn) resets(i int) bool {
	return c.cfg.ResetEvery > 0 && i%c.cfg.ResetEvery == 0
}

// step begins the next opening or the next closing, and appends its segment to out, which stays empty if the oldest
// connection has ended already. ok is false if nothing can be begun yet.
func (c *Churn) step(close bool, out []byte) (frame []byte, ok bool) {
	i := c.next
	if close {
		i = c.oldest
	}
	s := c.slot(i)
	if !close {
		if !s.free() {
			return nil, false
		}
		s.begin(i)
		c.next++
	} else {
		marks := s.marks(i)
		if marks&churnEnded != 0 {
			c.oldest++
			return nil, true
		}
		if marks&churnOpen != churnOpen {
			return nil, false
		}
		if _, ok := s.mark(i, churnClosing, churnOpen); !ok {
			return nil, true // it ended just now
		}
		c.oldest++
	}
	c.begun++
	w := churnWait{connection: i, closing: close, tries: 1, since: time.Now()}
	c.waiting.push(w)
	return c.segment(&w, out), true
}

// segment appends what a connection begins or ends with.
func (c *Churn) segment(w *churnWait, out []byte) []byte {
	switch i := w.connection; {
	case !w.closing:
		return c.syn(i, out)
	case c.resets(i):
		return c.established(i, flagRST|flagACK, out)
	default:
		return c.established(i, flagFIN|flagACK, out)
	}
}

// again puts segments that have waited too long for an answer into the sender's first frames, and returns how many. Those that were sent
// often enough are given up.
func (c *Churn) again(now time.Time, s *frameSender) (n int) {
	for n < floodBatch && !c.waiting.empty() {
		w := c.waiting.first()
		slot := c.slot(w.connection)
		marks := slot.marks(w.connection)
		done := marks&churnEnded != 0 || !w.closing && marks&churnOpen == churnOpen
		if !done && now.Sub(w.since) < churnPatience {
			break
		}
		if !done && w.tries == churnTries {
			if !slot.giveUp(w.connection, marks) {
				continue // something came just now
			}
			given := &c.unopened
			if w.closing {
				given = &c.unclosed
			}
			given.Add(1)
			c.ended.Add(1)
			done = true
		}
		c.waiting.pop()
		if done {
			continue
		}
		w.tries, w.since = w.tries+1, now
		c.waiting.push(w)
		c.retried.Add(1)
		s.setFrame(n, c.segment(&w, s.frames[n][:0]))
		n++
	}
	return n
}

// established appends a segment without payload on connection i, whose SYN was answered.
func (c *Churn) established(i int, flags byte, out []byte) []byte {
	answer := c.slot(i).answer.Load()
	s := c.from(i)
	s.seq, s.ack, s.flags = c.isn(i)+1, uint32(answer>>32), flags
	s.tsecr = uint32(answer)
	s.stamped = s.tsecr != 0
	return s.appendTo(append(out, c.client.ethernet...))
}

// clientReceives is the client's end.
func (c *Churn) clientReceives(in *crowdSegment, out []byte) []byte {
	i, ok := crowdIndex(in.dst, in.dstPort)
	if !ok || in.ack != c.isn(i)+1 && in.ack != c.isn(i)+2 {
		return nil
	}
	s := c.slot(i)
	switch {
	case in.flags&flagRST != 0:
		if was, ok := s.mark(i, churnEnded, 0); ok {
			c.refused.Add(1)
			if was&churnOpen != churnOpen || was&churnClosing != 0 {
				c.ended.Add(1) // something was under way
			}
		}
		return nil
	case in.flags&flagSYN != 0:
		marks := s.marks(i)
		if marks&churnEnded != 0 {
			return nil
		}
		// A connection that the server hasn't got takes the latest answer: an earlier cookie may be too old by now.
		if marks&churnOpen != churnOpen {
			s.answer.Store(uint64(in.seq+1)<<32 | uint64(in.tsval))
			c.complete(i, churnAnswered)
		}
		return c.established(i, flagACK, out)
	default: // FIN
		if _, ok := s.mark(i, churnEnded, churnClosing); ok {
			c.closed.Add(1)
			c.ended.Add(1)
		}
		return (&crowdSegment{
			src: in.dst, dst: in.src, srcPort: in.dstPort, dstPort: in.srcPort, window: 512,
			seq: in.ack, ack: in.seq + 1, flags: flagACK, stamped: in.stamped, tsval: c.clock(), tsecr: in.tsval,
		}).appendTo(append(out, c.client.ethernet...))
	}
}

// serverReceives is the server's end. It keeps nothing: its numbers are in what the client acknowledges.
func (c *Churn) serverReceives(in *crowdSegment, out []byte) []byte {
	i, ok := crowdIndex(in.src, in.srcPort)
	if !ok {
		return nil
	}
	switch {
	case in.flags&flagRST != 0:
		if c.resets(i) {
			if _, ok := c.slot(i).mark(i, churnEnded, churnClosing); ok {
				c.reset.Add(1)
				c.ended.Add(1)
			}
		}
		return nil
	case in.flags&flagSYN != 0:
		c.complete(i, churnAccepted)
		return c.synAck(in, out)
	default: // FIN, answered with the server's own
		return (&crowdSegment{
			src: in.dst, dst: in.src, srcPort: in.dstPort, dstPort: in.srcPort, window: 512,
			seq: in.ack, ack: in.seq + 1, flags: flagFIN | flagACK, stamped: in.stamped, tsval: c.clock(), tsecr: in.tsval,
		}).appendTo(append(out, c.server.ethernet...))
	}
}

// complete notes that one end has the connection, and counts it if that makes both.
func (c *Churn) complete(i int, mark uint64) {
	if now, ok := c.slot(i).mark(i, mark, 0); ok && now&churnOpen == churnOpen {
		c.opened.Add(1)
		c.ended.Add(1)
	}
}
