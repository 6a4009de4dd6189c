package proxy

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/stack"
)

// maxReleased bounds the payload of one frame that release sends: a superpacket of at most 65535 bytes in all.
const maxReleased = 1 << 15

// minSegment is the least payload of a segment that levee makes of held data, whatever MSS a server names (Linux's TCP_MIN_SND_MSS).
const minSegment = 48

// urgentOffset is where the urgent pointer is in a TCP header (RFC 9293 §3.1).
const urgentOffset = 18

// hold keeps what the client's segment in work carries until the server has answered, and says whether it carries anything. The
// server will acknowledge it, levee doesn't: what can't be held the client sends again.
func (w *Worker) hold(f *flow, svc *service) bool {
	p := &w.pkt
	if svc.EarlyData == 0 || f.has(timestamps) && !p.Options.Timestamps { // the server would drop it (RFC 7323 §3.2)
		return false
	}
	tcp := p.IP[p.L4:]
	s := earlySegment{
		offset: int(int32(p.Seq - (f.clientISN + 1))),
		data:   tcp[p.HeaderLen:],
		flags:  p.Flags, urgent: binary.BigEndian.Uint16(tcp[urgentOffset:]),
		trafficClass: p.TrafficClass(),
	}
	if before := -s.offset; before > 0 { // a keep-alive or window probe
		if before > len(s.data) {
			return false
		}
		s.offset, s.data = 0, s.data[before:]
		s.urgent -= uint16(min(before, int(s.urgent)))
	}
	if len(s.data) == 0 && s.flags&flagFIN == 0 {
		return false
	}
	switch w.proxy.early.hold(f.early(), s, svc.EarlyData) {
	case holdNew:
		w.count(svc).earlyHeld.inc()
		w.decide(VerdictHold)
	case holdKnown:
		w.drop(DropOpening)
	case holdFull:
		w.drop(DropEarlyFull)
	}
	return true
}

// release sends the server what it was too late for, right behind the acknowledgement of its SYN-ACK, which is in work: in the
// order of the stream and in segments that it takes, each with the flags it came with. What is beyond the server's window the client
// sends again. The chain is freed.
func (w *Worker) release(f *flow, head chunkRef, flowLabel uint32) {
	if head == 0 {
		return
	}
	pool, c := w.proxy.early, &f.half[client]
	size, window := w.segmentSize(f), int(w.pkt.Window)
	segment := w.toServer(f, flowLabel)
	for at := head; at != 0; {
		first := pool.at(at)
		bytes, flags, next := first.join(pool)
		if room := window - int(first.offset) - bytes; room < 0 {
			bytes += room
			flags &^= flagPSH | flagFIN
		} else if room == 0 {
			flags &^= flagFIN
		}
		if bytes < 0 || bytes == 0 && flags&flagFIN == 0 {
			break
		}
		segment.Seq = f.clientISN + 1 + seqnum.Value(first.offset)
		segment.Flags, segment.Urgent, segment.TrafficClass = flagACK|flags, first.urgent, first.trafficClass
		data := w.out.buildData(&segment, bytes, size)
		for piece := first; len(data) > 0; piece = pool.at(piece.next) {
			data = data[copy(data, piece.data[:piece.length]):]
		}
		c.bytes += uint64(bytes)
		c.end = segment.Seq + seqnum.Value(bytes)
		if flags&flagFIN != 0 {
			c.end++
			f.fins[client] = finSent
		}
		at = next
	}
	pool.drop(&head)
}

// join is what of a chain, from a piece on, goes into one frame: up to what the client's TCP has sent at once, as PSH tells. It returns how
// many bytes that is, the flags of all, and what follows.
func (c *chunk) join(pool *earlyPool) (bytes int, flags header.TCPFlags, next chunkRef) {
	bytes, flags, next = int(c.length), c.flags, c.next
	for flags == 0 && next != 0 {
		n := pool.at(next)
		if int(n.offset) != int(c.offset)+bytes || n.flags&flagURG != 0 || n.trafficClass != c.trafficClass || bytes+int(n.length) > maxReleased {
			break
		}
		bytes, flags, next = bytes+int(n.length), n.flags, n.next
	}
	return bytes, flags, next
}

// segmentSize is the payload, in bytes, of a full segment of the client: what both the server, in its SYN-ACK in work, and
// levee's promise allow (RFC 6691 §2).
func (w *Worker) segmentSize(f *flow) int {
	p := &w.pkt
	size := int(p.Options.MSS)
	if size == 0 {
		size = int(unsaidMSS(p.V6))
	}
	svc := w.serviceOf(f)
	size = min(size, int(svc.mss(p.V6, svc.Options.MSS)))
	if f.has(timestamps) {
		size -= lenTimestamps
	}
	return max(size, minSegment)
}

// lenTimestamps is the length in bytes of the timestamp option with its padding, as nearly all write it (RFC 7323 appendix A).
const lenTimestamps = 12

// toServer starts a segment that follows the server's SYN-ACK, which is in work. TSecr is exactly its TSval: Linux
// since 6.15 refuses anything else until its SYN-ACK timer has run out.
func (w *Worker) toServer(f *flow, flowLabel uint32) stack.Segment {
	c := &f.half[client]
	s := f.segmentTo(server)
	s.Seq, s.Ack, s.Flags = c.end, c.ack, flagACK
	s.Window = rescale(c.window, c.scale, c.promised)
	s.Timestamps, s.TSVal, s.TSEcr = f.has(timestamps), f.clientTSVal, w.pkt.Options.TSVal
	s.TrafficClass, s.FlowLabel = f.trafficClass, flowLabel
	return s
}
