package proxytest

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/stack"
)

// Tracker watches both wires and judges whether each end of each looks like one sane TCP. It knows nothing of levee
// but where it is:
//
//	client ◀─ outer half ─▶ levee ◀─ inner half ─▶ server
//
// Of every segment whose checksum is right it checks, against what the other end of the same wire has sent, whatever
// became of that: its sequence number within the window that was ever offered, its payload the very bytes that the host behind
// has sent, its FIN at their end; its acknowledgement and SACK blocks of what was sent; TSecr a value that was sent, TSval not
// going back; segments no longer than the MSS; the options of SYN and SYN-ACK a choice from those that were offered, and
// nothing used later that is not among them. And of an ICMP error that it quotes what the host has sent.
type Tracker struct {
	// Faults are what did not fit, the first first. Not more than maxFaults are kept.
	Faults []Fault
	// Overruns counts segments of the hosts themselves that go beyond the window they were offered, as gVisor's sometimes do.
	// levee is not blamed for passing them on.
	Overruns int

	net *Network
	// back is how much TSval may go back, in milliseconds, because segments were overtaken before that hop.
	back  [NumHops]int32
	conns map[tuple][]*tracked
	// resets are the RSTs that the client and the server have sent.
	resets map[tuple]*[2][]seqnum.Value
}

// Fault is one segment that does not look sane.
type Fault struct {
	Packet Record
	What   string
}

// String is the segment and what is wrong with it.
func (f Fault) String() string { return fmt.Sprintf("%s: %v", f.What, &f.Packet) }

const maxFaults = 20

// tuple is the client's end and the server's.
type tuple struct{ client, server netip.AddrPort }

// tracked is one connection, named by the client's initial sequence number.
type tracked struct {
	isn     seqnum.Value
	streams [2]stream // what the client and the server have sent
	halves  [2]half   // outer and inner
}

// half is one wire's view. Its ends are the one that dials and the one that answers.
type half [2]end

// stream is the payload that a host has sent, and where its FIN is, or -1.
type stream struct {
	data []byte
	fin  int
	// excess is the number after the last byte that the host has sent beyond the window.
	excess uint32
	// resets are the sequence numbers of the host's RSTs on the tuple, those of connections before too.
	resets *[]seqnum.Value
}

// end is what one end of a half has shown of itself.
type end struct {
	offered bool // it has sent a SYN or SYN-ACK, with the options that follow
	mss     int
	wscale  uint8
	sack    bool
	ts      bool
	synWin  uint16

	offers []offer // all SYN-ACKs
	isn    seqnum.Value
	known  bool // which of their numbers is in use
	// highest is the number, from the initial one, after anything that it has sent; edge the same of the other end's
	// numbers up to which it has offered a window.
	highest, edge uint32
	tsvals        map[uint32]struct{}
	latest        uint32
	acked         bool // has sent more than its SYN
}

// offer is the numbers of a SYN-ACK: a cookie of another epoch has others.
type offer struct {
	isn   seqnum.Value
	tsval uint32
}

// Track starts a tracker. Hooks that are there already come before it, those that are added later behind it. overtaken
// says how late a packet can come on each wire.
func (n *Network) Track(overtaken [NumHops]time.Duration) *Tracker {
	t := &Tracker{net: n, conns: map[tuple][]*tracked{}, resets: map[tuple]*[2][]seqnum.Value{}}
	t.back[ToServer] = int32(overtaken[FromClient].Milliseconds())
	t.back[ToClient] = int32(overtaken[FromServer].Milliseconds())
	for hop := range n.Hooks {
		n.Hooks[hop] = append(n.Hooks[hop], func(p *Packet) Fate {
			t.see(p)
			return Fate{}
		})
	}
	return t
}

func (t *Tracker) fault(p *Packet, what string) {
	if len(t.Faults) < maxFaults {
		t.Faults = append(t.Faults, Fault{record(p, Fate{}), what})
	}
}

func (t *Tracker) see(p *Packet) {
	s := seen{Packet: p, up: p.Hop == FromClient || p.Hop == ToServer, original: p.Hop == FromClient || p.Hop == FromServer}
	if p.Hop == ToServer || p.Hop == FromServer {
		s.half = 1
	}
	if !s.up {
		s.from = 1
	}
	switch {
	case p.Kind == stack.KindOther:
		t.quoted(p)
		return
	case p.Kind != stack.KindTCP || !p.TCP.Partial && !p.TCP.ChecksumOK():
		return // corrupted: nobody will heed it
	}
	key := tuple{netip.AddrPortFrom(p.TCP.Src.Netip(), p.TCP.SrcPort), netip.AddrPortFrom(p.TCP.Dst.Netip(), p.TCP.DstPort)}
	if !s.up {
		key.client, key.server = key.server, key.client
	}
	conns := t.conns[key]
	if p.Is(header.TCPFlagSyn) && s.up {
		t.syn(&s, key)
		return
	}
	if resets := t.resets[key]; resets != nil && s.original && p.Has(header.TCPFlagRst) {
		resets[s.from] = append(resets[s.from], p.TCP.Seq)
	}
	// Late segments may be of a connection before.
	what := "no connection"
	for i := len(conns) - 1; i >= 0; i-- {
		why := s.fits(conns[i], t.back[p.Hop], t.net.direct)
		if why == "" {
			if s.beyond {
				t.Overruns++
				st := &conns[i].streams[s.from]
				st.excess = max(st.excess, uint32(p.TCP.End()-conns[i].halves[s.half][s.from].isn))
			}
			s.learn(conns[i])
			return
		}
		if i == len(conns)-1 {
			what = why
		} else {
			what += "; or of one before: " + why
		}
	}
	t.fault(p, what)
}

// syn judges a SYN of the client or of levee.
func (t *Tracker) syn(s *seen, key tuple) {
	p := &s.TCP
	conns := t.conns[key]
	var c *tracked
	for i, other := range conns {
		if other.isn == p.Seq {
			c = conns[i]
			continue
		}
		if c != nil && !t.net.direct && s.half == 1 && other.halves[1][0].offered {
			t.fault(s.Packet, "SYN of a connection that another has replaced")
			return
		}
	}
	if c == nil {
		if s.Hop != FromClient {
			t.fault(s.Packet, "SYN with an initial sequence number that no client has used")
			return
		}
		c = &tracked{isn: p.Seq}
		if t.resets[key] == nil {
			t.resets[key] = &[2][]seqnum.Value{}
		}
		for i := range c.streams {
			c.streams[i].fin, c.streams[i].resets = -1, &t.resets[key][i]
		}
		t.conns[key] = append(conns, c)
	}
	e, o := &c.halves[s.half][0], &p.Options
	switch first := &c.halves[0][0]; {
	case e.offered && (int(o.MSS) != e.mss || o.WScale != e.wscale || o.SACKPermitted != e.sack || o.Timestamps != e.ts):
		t.fault(s.Packet, "SYN sent again with other options")
	case e.acked && !t.net.direct && s.half == 1:
		t.fault(s.Packet, "SYN after the handshake")
	case int(o.MSS) > first.mss && first.offered || o.SACKPermitted && !first.sack && first.offered ||
		o.Timestamps && !first.ts && first.offered || first.offered && o.WScale != first.wscale && o.WScale != stack.WScaleNone && s.half == 1 && first.wscale == stack.WScaleNone:
		t.fault(s.Packet, "SYN with options that the client has not offered")
	case o.Timestamps && o.TSEcr != 0:
		t.fault(s.Packet, "SYN with a TSecr")
	}
	e.offer(p)
	e.isn, e.known, e.highest = p.Seq, true, max(e.highest, 1)
}

// offer notes what a SYN or SYN-ACK says.
func (e *end) offer(p *stack.Packet) {
	o := &p.Options
	e.offered, e.mss, e.wscale, e.sack, e.ts, e.synWin = true, int(o.MSS), o.WScale, o.SACKPermitted, o.Timestamps, p.Window
	e.edge = max(e.edge, 1+uint32(p.Window))
	e.stamp(p)
}

func (e *end) stamp(p *stack.Packet) {
	if !p.Options.Timestamps {
		return
	}
	if e.tsvals == nil {
		e.tsvals = map[uint32]struct{}{}
		e.latest = p.Options.TSVal
	}
	e.tsvals[p.Options.TSVal] = struct{}{}
	if int32(p.Options.TSVal-e.latest) > 0 {
		e.latest = p.Options.TSVal
	}
}

// quoted judges an ICMP error on the last wire to a host.
func (t *Tracker) quoted(p *Packet) {
	var q stack.Quote
	if p.Hop != ToServer && p.Hop != ToClient || !q.Parse(&p.TCP) {
		return
	}
	key := tuple{netip.AddrPortFrom(q.Src.Netip(), q.SrcPort), netip.AddrPortFrom(q.Dst.Netip(), q.DstPort)}
	side := 0
	if p.Hop == ToServer {
		key.client, key.server, side = key.server, key.client, 1
	}
	for _, c := range t.conns[key] {
		if e := &c.halves[side][side]; e.known && uint32(q.Seq-e.isn) < e.highest {
			return
		}
	}
	t.fault(p, "ICMP error that quotes what its receiver has not sent")
}

// seen is a segment in work: on which half, from which of its ends, and whether a host has sent it, not levee.
type seen struct {
	*Packet
	half, from   int
	up, original bool
	// beyond: a host's own segment goes beyond the window, if nothing else is wrong with it.
	beyond bool
}

// fits says what is wrong with a segment if it is one of c; "" if nothing. back is how much TSval may go back; direct that levee
// is not there.
func (s *seen) fits(c *tracked, back int32, direct bool) string {
	p, o := &s.TCP, &s.TCP.Options
	me, peer := &c.halves[s.half][s.from], &c.halves[s.half][1-s.from]
	if !peer.offered && s.from == 1 {
		return "an answer to nothing"
	}
	ackOK := func() bool {
		n := uint32(p.Ack - peer.isn)
		return n >= 1 && n <= peer.highest
	}
	switch p.Flags & (header.TCPFlagSyn | header.TCPFlagRst) {
	case header.TCPFlagSyn:
		switch _, sent := peer.tsvals[o.TSEcr]; {
		case s.from == 0:
			return "a SYN-ACK from the client"
		case p.Ack != peer.isn+1:
			return "a SYN-ACK that acknowledges no SYN"
		case o.Timestamps && !peer.ts, o.SACKPermitted && !peer.sack, o.WScale != stack.WScaleNone && peer.wscale == stack.WScaleNone:
			return "a SYN-ACK with options that were not offered"
		case o.Timestamps && !sent:
			return fmt.Sprintf("a SYN-ACK with TSecr %d, which was not sent", o.TSEcr)
		case me.known && me.isn != p.Seq && peer.acked && !s.original && !direct:
			return "a SYN-ACK with another initial sequence number"
		}
		return ""
	case header.TCPFlagRst:
		if p.Flags.Contains(header.TCPFlagAck) && peer.known && !ackOK() {
			return fmt.Sprintf("a RST that acknowledges %d, of %d sent", uint32(p.Ack-peer.isn), peer.highest)
		}
		if !me.known {
			return ""
		}
		if n := uint32(p.Seq - me.isn); n > max(peer.edge, me.highest)+1 && p.Seq != 0 && !s.late(c, n) {
			return fmt.Sprintf("a RST at %d, beyond the window, which ends at %d", n, peer.edge)
		}
		return ""
	}
	if !me.known && !me.chooseNext(p.Seq) {
		if direct && !s.original && p.PayloadLen == 0 {
			return "" // an answer to a repeated SYN can come through where the SYN-ACK was lost
		}
		return "a segment before the handshake"
	}
	isn := me.isn
	if !peer.known && !peer.choose(p.Ack) {
		return "an acknowledgement of no SYN-ACK"
	}
	at, n := uint32(p.Seq-isn), uint32(p.PayloadLen)
	size := n
	if v := stack.DecodeVirtio(s.Frame); v.GSOType != stack.GSONone {
		size = uint32(v.GSOSize)
	}
	_, sent := peer.tsvals[o.TSEcr]
	beyond := n > 1 && at+n > peer.edge || n == 1 && at+n > peer.edge+1 // one byte is a probe
	s.beyond = beyond && s.original
	switch {
	case !p.Flags.Contains(header.TCPFlagAck):
		return "a segment without ACK"
	case at > 1<<31:
		return fmt.Sprintf("at %d, before the beginning", int32(at))
	case n > 1 && at == 0:
		return "payload in place of the SYN"
	case beyond && !s.original && at+n > c.streams[s.from].excess:
		return fmt.Sprintf("payload up to %d, beyond the window, which ends at %d", at+n, peer.edge)
	case !ackOK():
		return fmt.Sprintf("acknowledges %d, of %d sent", int32(p.Ack-peer.isn), peer.highest)
	case o.Timestamps != (me.ts && peer.ts):
		return fmt.Sprintf("timestamps: %t, agreed: %t", o.Timestamps, me.ts && peer.ts)
	case o.Timestamps && !sent:
		return fmt.Sprintf("TSecr %d, which was not sent", o.TSEcr)
	case o.Timestamps && int32(me.latest-o.TSVal) > back:
		return fmt.Sprintf("TSval %d after %d", o.TSVal, me.latest)
	case size > uint32(peer.mss):
		return fmt.Sprintf("a segment of %d bytes for an MSS of %d", size, peer.mss)
	}
	for _, b := range sackBlocks(p.IP[p.L4+header.TCPMinimumSize : p.L4+p.HeaderLen]) {
		start, stop := uint32(b.Start-peer.isn), uint32(b.End-peer.isn)
		switch {
		case !me.sack || !peer.sack:
			return "SACK that was not agreed upon"
		case start < 1 || start >= stop || stop > peer.highest:
			return fmt.Sprintf("SACK of %d to %d, of %d sent", int32(start), int32(stop), peer.highest)
		}
	}
	return s.content(&c.streams[s.from], at, n)
}

// late says whether a RST is the host's own, of a connection before, for the receiver to ignore: it comes after the next one was
// opened, and so is translated like that one's.
func (s *seen) late(c *tracked, n uint32) bool {
	sender := &c.halves[s.from][s.from] // the host: its own half, its own end
	return !s.original && sender.known && slices.ContainsFunc(*c.streams[s.from].resets, func(v seqnum.Value) bool {
		return uint32(v-sender.isn) == n
	})
}

// content compares payload and FIN with what the host behind has sent, or, if the segment is the host's, with what it sent before.
func (s *seen) content(st *stream, at, n uint32) string {
	payload := s.TCP.IP[s.TCP.L4+s.TCP.HeaderLen:]
	fin := s.TCP.Flags.Contains(header.TCPFlagFin)
	if n == 1 && !fin && len(st.data) >= int(at) {
		n = 0 // a window probe repeats the number before, with any byte
	}
	if n > 0 {
		offset := int(at - 1)
		known := st.data[min(offset, len(st.data)):min(offset+int(n), len(st.data))]
		switch {
		case !bytes.Equal(known, payload[:len(known)]):
			return fmt.Sprintf("other payload at %d than before", at)
		case !s.original && len(known) < int(n):
			return fmt.Sprintf("payload up to %d, of %d that the host has sent", at+n, len(st.data)+1)
		case s.original && offset > len(st.data):
			return fmt.Sprintf("payload from %d on, with a gap after %d", at, len(st.data)+1)
		case st.fin >= 0 && offset+int(n) > st.fin:
			return "payload after the FIN"
		}
	}
	if at := int(at + n - 1); fin && (st.fin >= 0 && at != st.fin || st.fin < 0 && !s.original || s.original && at < len(st.data)) {
		return fmt.Sprintf("FIN at %d, where it is not", at+1)
	}
	return ""
}

// choose finds the initial sequence number that an acknowledgement is about, among those offered.
func (e *end) choose(ack seqnum.Value) bool {
	const far = 1 << 24 // bytes, more than any connection has
	for _, o := range e.offers {
		if n := uint32(ack - o.isn); n >= 1 && n < far {
			e.isn, e.known, e.latest = o.isn, true, o.tsval
			return true
		}
	}
	return false
}

// chooseNext is choose for an answer to a repeated SYN: a segment that begins right behind the SYN-ACK.
func (e *end) chooseNext(seq seqnum.Value) bool {
	return len(e.offers) > 0 && e.offers[len(e.offers)-1].isn+1 == seq && e.choose(seq)
}

// learn takes note of a segment that fits.
func (s *seen) learn(c *tracked) {
	p := &s.TCP
	me, peer := &c.halves[s.half][s.from], &c.halves[s.half][1-s.from]
	switch p.Flags & (header.TCPFlagSyn | header.TCPFlagRst) {
	case header.TCPFlagSyn:
		me.offer(p)
		me.offers = append(me.offers, offer{p.Seq, p.Options.TSVal})
		me.highest = max(me.highest, 1)
		return
	case header.TCPFlagRst:
		return
	}
	me.stamp(p)
	if !me.known || !peer.known {
		return
	}
	me.acked = true
	if n := uint32(p.End() - me.isn); n < 1<<31 {
		me.highest = max(me.highest, n)
	}
	window := uint32(p.Window)
	if me.wscale != stack.WScaleNone && peer.wscale != stack.WScaleNone {
		window <<= me.wscale
	}
	me.edge = max(me.edge, uint32(p.Ack-peer.isn)+window)
	if !s.original {
		return
	}
	st := &c.streams[s.from]
	payload := p.IP[p.L4+p.HeaderLen:]
	if offset := int(int32(p.Seq - me.isn - 1)); len(payload) > 0 && offset >= 0 && offset+len(payload) > len(st.data) {
		st.data = append(st.data, payload[len(st.data)-offset:]...)
	}
	if p.Flags.Contains(header.TCPFlagFin) {
		st.fin = len(st.data)
	}
}
