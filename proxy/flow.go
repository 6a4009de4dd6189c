package proxy

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/stack"
)

// side is one end of a flow, and the direction of the packets it sends.
type side uint8

const (
	client side = iota
	server
)

// peer is the other side.
func (s side) peer() side { return 1 - s }

// flowFlags are facts about a flow that do not change after its handshake.
type flowFlags uint8

const (
	// clientLow: the client is the low end of the key.
	clientLow flowFlags = 1 << iota
	// timestamps, sack, ecn: promised to the client and asked of the server.
	timestamps
	sack
	ecn
	// opened: the server's SYN-ACK has come, so the deltas and halves mean something.
	opened
	// direct: the two hosts shook hands with each other; nothing is translated.
	direct
	// signed: the hosts of this direct flow heed only segments with a signature (RFC 2385, RFC 5925).
	signed
	// challenged: the latest SYN to the server was sent because of a challenge ACK.
	challenged

	// abandoned: the client of this direct flow has reset it while it was opening, or acknowledged what the server has then sent again. Such a flow
	// has no use for challenged.
	abandoned = challenged
	// outbound: whoever accepted this direct flow was no protected server then, so one had opened it. Such a flow has no use for sack. Flow files of
	// versions that didn't know of it have none, which is no mistake: those flows go on to count for their servers until they end.
	outbound = sack
	// bypassed: the SYN of this direct flow passed within its service's BypassRate. Such a flow has no use for ecn.
	bypassed = ecn
)

// flow is everything levee knows of one connection: one record for both directions, without pointers, so that
// a million of them cost the garbage collector nothing. A test pins its size.
//
// Sequence numbers are those the sender of a segment used on the server's side of levee: the
// client's, which levee leaves alone, and the server's own, before Δ.
type flow struct {
	key   flowKey
	flags flowFlags
	state State
	// service is the index of the service in the policy.
	service uint16
	// tries counts SYNs to the server after the first.
	tries uint8
	// wscale is the client's window scale, as its cookie told: what levee's SYN offers the server.
	wscale uint8
	// trafficClass is for levee's SYN: the DSCP of the client's ACK.
	trafficClass uint8
	// former is the fingerprint of the cookie of the incarnation that this one replaced: late segments that carry it
	// open nothing.
	former fingerprint
	// fins is what each side waits for with its FIN, once opened.
	fins [2]finMark

	// clientISN is C, and cookie K, of the drawing in doc.go. In a direct flow cookie and tries are something else: see direct.go.
	clientISN, cookie seqnum.Value
	// clientTSVal is the client's latest TSval.
	clientTSVal uint32
	// delta is K - S; until the server has answered it is the flow label of the client's ACK, for levee's SYN.
	// tsDelta is what the server's timestamps need to continue from the TSval of the cookie; until the server's
	// first is known it is that TSval itself.
	delta, tsDelta uint32

	// lastSeen is when the last packet of either side passed, or while opening when the last SYN was sent.
	lastSeen tick
	// created is when the cookie was accepted, since the Proxy's start.
	created time.Duration

	half [2]half
}

// fingerprint is the low 24 bits of a cookie, all of them MAC: two cookies of one tuple hardly ever have the same.
type fingerprint [3]uint8

func fingerprintOf(cookie seqnum.Value) fingerprint {
	return fingerprint{uint8(cookie), uint8(cookie >> 8), uint8(cookie >> 16)}
}

// half is what one side has shown of itself.
type half struct {
	// bytes of payload sent, retransmissions included.
	bytes uint64
	// end is the highest sequence number after anything it sent; ack the highest it acknowledged.
	end, ack seqnum.Value
	// maxWindow is the largest window it offered, in bytes.
	maxWindow uint32
	// window is the field of its latest segment, as it wrote it. The server's is needed by nobody: see mss.
	window uint16
	// scale is the shift its windows are written with, promised the one that its peer
	// was told they are written with: levee rescales from one to the other.
	scale, promised uint8
}

// mss is the client's MSS in bytes, as its cookie told, for levee's SYN. It is kept where the server's window will be.
func (f *flow) mss() *uint16 { return &f.half[server].window }

func (f *flow) has(flag flowFlags) bool { return f.flags&flag != 0 }

func (f *flow) set(flag flowFlags, on bool) {
	if on {
		f.flags |= flag
	}
}

// evictable says that the flow makes room for a new one if the table is full: it is only remembered, or a direct
// one whose handshake is not over.
func (f *flow) evictable() bool { return f.state.Ended() || f.has(direct) && f.state == StateOpening }

// from says which side sent a packet, given whether its source is the low end of the key.
func (f *flow) from(srcLow bool) side {
	if srcLow == f.has(clientLow) {
		return client
	}
	return server
}

// minAckWindow is how far back, in bytes, an acknowledgement or a quoted segment may be at least: it allows for windows that
// were larger than any we saw (netfilter's MAXACKWINCONST).
const minAckWindow = 66000

// maxUnseen is how many bytes of a segment levee may not have seen: of one in fragments it sees the first.
const maxUnseen = 1 << 16

// plausible says whether a segment from side s, whose acknowledgement is ack in the numbers of the record, can belong to this
// incarnation of the connection: its data within the window its receiver ever offered, its
// acknowledgement within what the peer has sent (the bounds of netfilter's tcp_in_window()), or a segment
// beyond what levee has seen of that. Without the latter a flow whose last segment came in fragments would be out of step for good.
func (f *flow) plausible(s side, p *stack.Packet, ack seqnum.Value) bool {
	from, to := &f.half[s], &f.half[s.peer()]
	lowest := from.end - seqnum.Value(max(to.maxWindow, 1))
	highest := to.ack + seqnum.Value(max(to.maxWindow, 1))
	if p.End().LessThan(lowest) || highest.LessThan(p.Seq) {
		return false
	}
	if !isACK(p) {
		return true
	}
	oldest := to.end - seqnum.Value(max(from.maxWindow, minAckWindow))
	return oldest.LessThanEq(ack) && ack.LessThanEq(to.end+maxUnseen)
}

// inFlight says whether a sequence number of side s, as it sent it, can be of a segment that is on its way: within what it has sent,
// or an acknowledgement at the end of it, and no longer ago than its receiver's window.
func (f *flow) inFlight(s side, seq seqnum.Value) bool {
	end := f.half[s].end
	return !seq.LessThan(end-seqnum.Value(max(f.half[s.peer()].maxWindow, minAckWindow))) && seq.LessThanEq(end)
}

// unexpected says whether a client's segment looks like the last of a handshake and isn't what its flow would bring next: an
// acknowledgement without data whose sequence number isn't where the client's data ended. Keep-alives and old duplicates are
// that, and rarely the handshake of a new incarnation whose numbers are near the old one's.
func (f *flow) unexpected(p *stack.Packet) bool {
	return p.PayloadLen == 0 && p.Flags&^header.TCPFlagPsh == flagACK && p.Seq != f.half[client].end
}

// ordinary says whether a plausible segment of side s goes on where levee is: behind what s has sent, and acknowledging no more than
// levee has seen of its peer. What does not may be damaged, and is worth the look at its checksum that would cost too much for every
// segment: levee repeats what it learns in segments of its own.
func (f *flow) ordinary(s side, p *stack.Packet, ack seqnum.Value) bool {
	const near = 1 << 16 // of a clock in milliseconds: a minute
	return p.Seq.LessThanEq(f.half[s].end) && ack.LessThanEq(f.half[s.peer()].end) &&
		(s == server || !p.Options.Timestamps || p.Options.TSVal-f.clientTSVal < near)
}

// observe learns from a plausible segment of side s.
func (f *flow) observe(s side, p *stack.Packet, ack seqnum.Value) {
	f.markFIN(s, p)
	h := &f.half[s]
	h.bytes += uint64(p.PayloadLen)
	if end := p.End(); h.end.LessThan(end) {
		h.end = end
	}
	if isACK(p) && h.ack.LessThan(ack) {
		h.ack = ack
		if peer := &f.half[s.peer()]; peer.end.LessThan(ack) {
			peer.end, f.fins[s.peer()] = ack, finNone
		}
	}
	h.window = p.Window
	h.maxWindow = max(h.maxWindow, uint32(p.Window)<<h.scale)
	if s == client && p.Options.Timestamps {
		f.clientTSVal = p.Options.TSVal
	}
}

// exactReset says whether a RST of side s carries the sequence number that its receiver expects next
// (RFC 5961 §3.2): the last it acknowledged, or the end of what s has sent, which it may not
// have acknowledged yet. Any other RST is for the receiver to judge.
func (f *flow) exactReset(s side, p *stack.Packet) bool {
	return p.Seq == f.half[s.peer()].ack || p.Seq == f.half[s].end
}

// segmentTo starts a segment of levee's own toward side s.
func (f *flow) segmentTo(s side) stack.Segment {
	k := &f.key
	if s == f.from(true) { // the low end receives
		return stack.Segment{
			Src: k.high, Dst: k.low, SrcPort: k.highPort, DstPort: k.lowPort, WScale: WScaleNone,
		}
	}
	return stack.Segment{
		Src: k.low, Dst: k.high, SrcPort: k.lowPort, DstPort: k.highPort, WScale: WScaleNone,
	}
}
