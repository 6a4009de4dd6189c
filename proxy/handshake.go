package proxy

import (
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/proxy/cookie"
	"levee/proxy/servers"
	"levee/stack"
)

// synRetries is how often a SYN to the server is sent again: after 1, 2 and 4 s (RFC 6298 §5). When 8 s more have
// passed the client gets a RST.
const synRetries = 3

// synTimeout is how long levee waits for an answer to its SYN number tries.
func synTimeout(tries uint8) tick { return ticks(time.Second << tries) }

// MSS of a host that doesn't say (RFC 9293 §3.7.1).
const (
	defaultMSS4 = 536
	defaultMSS6 = 1220
)

// answer replies to a client's SYN with a cookie. Nothing is stored. The options are
// those of the client that the service promises, so that the SYN-ACK is never larger than the SYN plus padding.
func (w *Worker) answer(svc *service) {
	p := &w.pkt
	promise := w.proxy.promise(svc, &p.Dst, p.DstPort, w.now.unix)
	if w.refuse(svc, promise.state) {
		return
	}
	offer := &p.Options
	// What is learned is always asked of the server, or else it would be learned only once.
	o := cookie.Options{
		MSS:    offer.MSS,
		WScale: WScaleNone,
		SACK:   offer.SACKPermitted && (promise.SACK || promise.Learn.Has(servers.SACK)),
	}
	reply := stack.Segment{
		Src: p.Dst, Dst: p.Src, SrcPort: p.DstPort, DstPort: p.SrcPort,
		Ack:           p.Seq + 1, // data on the SYN is not acknowledged: the client sends it again
		Flags:         flagSYN | flagACK,
		Window:        svc.firstWindow(w.proxy.early, promise.window),
		WScale:        WScaleNone,
		SACKPermitted: offer.SACKPermitted && promise.SACK,
	}
	if offer.MSS == 0 {
		o.MSS = unsaidMSS(p.V6)
	} else {
		reply.MSS = svc.mss(p.V6, promise.MSS)
	}
	if promise.WScale != WScaleNone || promise.Learn.Has(servers.WScale) {
		o.WScale = offer.WScale
		if o.WScale != WScaleNone {
			reply.WScale = promise.WScale
		}
	}
	tuple := cookie.Tuple{
		Client: p.Src, Server: p.Dst, ClientPort: p.SrcPort, ServerPort: p.DstPort, Context: promise.WScale,
	}
	if promise.Timestamps && offer.Timestamps {
		// An AccECN SYN (RFC 9768) sets both bits too, and falls back to what a classic server answers.
		o.ECN = promise.ECN && p.Flags.Contains(flagECE|flagCWR)
		isn, tsval := w.maker.IssueTS(w.now.unix, &tuple, uint32(p.Seq), o)
		reply.Seq = seqnum.Value(isn)
		reply.Timestamps, reply.TSVal, reply.TSEcr = true, tsval, offer.TSVal
		if o.ECN {
			reply.Flags |= flagECE
		}
	} else {
		reply.Seq = seqnum.Value(w.maker.Issue(w.now.unix, &tuple, uint32(p.Seq), o))
	}
	svc.state.gate.Issued(w.now.unix)
	w.count(svc).synReceived.inc()
	w.proxy.roundTrips.sent(uint32(reply.Seq), w.now.since)
	w.decide(VerdictAnswer)
	w.out.build(&reply)
}

// checkCookie says whether the packet carries a valid cookie. If not, the reason says why; otherwise it is NumDropReasons.
func (w *Worker) checkCookie(svc *service) (returned, DropReason) {
	p := &w.pkt
	switch {
	case p.Flags&(flagSYN|flagRST) != 0 || !isACK(p) || !w.outstanding(svc):
		return returned{}, strayReason(p)
	case p.FirstFragment:
		return returned{}, DropFragment
	case !p.ChecksumOK():
		return returned{}, DropBadChecksum
	}
	tuple := cookie.Tuple{Client: p.Src, Server: p.Dst, ClientPort: p.SrcPort, ServerPort: p.DstPort}
	a := cookie.Ack{
		Seq: uint32(p.Seq), Ack: uint32(p.Ack),
		Timestamps: p.Options.Timestamps, TSEcr: p.Options.TSEcr,
	}
	promise := w.proxy.promise(svc, &p.Dst, p.DstPort, w.now.unix)
	told := [4]uint8{promise.WScale, promise.before, promise.WScale, promise.WScale}
	if w.now.tick < svc.told.until {
		told[2], told[3] = w.formerlyTold(svc, &p.Dst, p.DstPort)
	}
	for i, scale := range told {
		if slices.Contains(told[:i], scale) {
			continue
		}
		tuple.Context = scale
		valid, ok := w.maker.Check(w.now.unix, &tuple, a)
		if !ok && w.now.former != w.now.unix {
			valid, ok = w.formerMaker.Check(w.now.former, &tuple, a)
		}
		if ok {
			return returned{valid, scale}, NumDropReasons
		}
	}
	return returned{}, DropCookieInvalid
}

// outstanding says whether cookies of the service may still come back. Those that an earlier process or another
// node issued are not known. If a reload has ended the protection, those count that came before it.
func (w *Worker) outstanding(svc *service) bool {
	if !svc.protected() {
		return w.now.tick < svc.honoured && w.now.outstanding(&svc.state.gate)
	}
	return w.now.tick-w.proxy.began < cookieLifetime || w.proxy.cfg.SharedSecret || w.now.outstanding(&svc.state.gate)
}

// open makes the flow at slot a new connection, whose client has sent a valid cookie in the packet in work, and
// sends the SYN to the server. Payload is held, as far as there is room; levee acknowledges none.
func (w *Worker) open(s *stripe, slot uint32, svc *service, srcLow bool, valid *returned) {
	p, f := &w.pkt, &s.flows[slot]
	w.count(svc).cookieValid.inc()
	if d, ok := w.proxy.roundTrips.returned(valid.ISN, w.now.since); ok {
		w.counters.clients.observe(d)
	}
	w.replied()
	w.prove(svc)
	w.decide(VerdictOpen)
	// Whatever an earlier connection left in the record goes; its state is enter's business.
	s.rewrite(slot)
	w.forget(f)
	w.assign(f, svc)
	*f = flow{
		key: f.key, state: f.state, service: svc.state.index, created: w.now.since,
		clientISN: seqnum.Value(valid.ClientISN), cookie: seqnum.Value(valid.ISN),
		wscale:       valid.Options.WScale,
		trafficClass: p.TrafficClass() &^ ecnMask, delta: p.FlowLabel(),
	}
	*f.mss() = valid.Options.MSS
	f.set(clientLow, srcLow)
	f.set(timestamps, p.Options.Timestamps)
	f.set(sack, valid.Options.SACK)
	f.set(ecn, valid.Options.ECN)
	if p.Options.Timestamps {
		f.tsDelta, f.clientTSVal = valid.TSVal, p.Options.TSVal
	}
	c := &f.half[client]
	c.end, c.window = f.clientISN+1, p.Window
	if f.wscale != WScaleNone && valid.told != WScaleNone {
		c.scale = f.wscale
		f.half[server].promised = valid.told
	}
	c.maxWindow = uint32(p.Window) << c.scale
	w.finished(svc, f)
	w.enter(s, slot, evHandshake)
	s.rewritten()
	w.sendSYNs(f, svc)
	*f.sent() = f.clientISN + 1
	f.noteSent(p)
	w.hold(f, svc)
}

// ecnMask is the ECN field of the traffic class (RFC 3168 §5); a SYN is not ECN-capable (§6.1.1).
const ecnMask = 3

// sendSYN sends levee's SYN to the server.
func (w *Worker) sendSYN(f *flow) {
	syn := f.syn()
	w.out.build(&syn)
}

// syn is levee's SYN to the server: what the client's own was, as far as the cookie tells, and the
// client's window, which a SYN carries unscaled (RFC 7323 §2.2).
func (f *flow) syn() stack.Segment {
	syn := f.segmentTo(server)
	syn.Seq = f.clientISN
	syn.Flags = flagSYN
	if f.has(ecn) {
		syn.Flags |= flagECE | flagCWR
	}
	syn.Window = rescale(f.half[client].window, f.half[client].scale, 0)
	syn.MSS, syn.WScale, syn.SACKPermitted = *f.mss(), f.wscale, f.has(sack)
	syn.Timestamps, syn.TSVal = f.has(timestamps), f.clientTSVal
	syn.TrafficClass, syn.FlowLabel = f.trafficClass, f.delta
	return syn
}

// fromClientOpening handles a client's segment while the server has not answered. Nothing is acknowledged, but payload
// is held, as far as there is room.
func (w *Worker) fromClientOpening(s *stripe, slot uint32) {
	p, f := &w.pkt, &s.flows[slot]
	switch {
	case isRST(p):
		if (p.Seq == f.half[client].end || p.Seq == *f.sent()) && p.ChecksumOK() {
			// The server's answer, if one comes, gets a RST.
			w.enter(s, slot, evRST)
			return
		}
	case p.Ack != f.cookie+1:
		if w.reopen(s, slot) {
			return
		}
	case p.ChecksumOK():
		// The latest window and timestamp, for the ACK to the server.
		c := &f.half[client]
		c.window, c.maxWindow = p.Window, max(c.maxWindow, uint32(p.Window)<<c.scale)
		if p.Options.Timestamps {
			f.clientTSVal = p.Options.TSVal
		}
		f.noteSent(p)
		if w.hold(f, w.serviceOf(f)) {
			return
		}
	}
	w.drop(DropOpening)
}

// fromServerOpening handles what a server answers to levee's SYN (RFC 9293 §3.10.7.3).
func (w *Worker) fromServerOpening(s *stripe, slot uint32) {
	p, f := &w.pkt, &s.flows[slot]
	switch {
	case !isACK(p):
		w.drop(DropBadAck)
	case !p.ChecksumOK():
		w.drop(DropBadChecksum)
	case p.Ack != f.clientISN+1:
		w.challenged(f)
	case isRST(p):
		w.count(w.serviceOf(f)).refused.inc()
		w.unanswered(f, servers.Closed)
		w.resetClient(f)
		w.enter(s, slot, evRST)
	case isSYN(p):
		if !w.awaitsSecond(s, slot) {
			w.establish(s, slot)
		}
	default:
		w.drop(DropBadAck)
	}
}

// challenged answers a segment that acknowledges something other than levee's SYN: the server still has an earlier
// connection of this tuple (RFC 5961 §4.2, RFC 6191). The RST that any host in SYN-SENT would send
// ends that one; the SYN goes out again at once, where a host would wait for its timer. That may happen once for each SYN of the
// timer, which runs on: the segment may be forged.
func (w *Worker) challenged(f *flow) {
	if isRST(&w.pkt) || f.has(challenged) {
		w.drop(DropBadAck)
		return
	}
	f.set(challenged, true)
	f.half[server].scale = 0
	w.resetServer(f)
	w.sendSYN(f)
}

// establish splices the two halves at the server's SYN-ACK.
func (w *Worker) establish(s *stripe, slot uint32) {
	p, f := &w.pkt, &s.flows[slot]
	isn := p.Seq
	if w.learn(f) != 0 {
		// The client was promised what the server doesn't do, and can't be told otherwise now.
		w.count(w.serviceOf(f)).mismatched.inc()
		rst := f.segmentTo(server)
		rst.Seq, rst.Ack, rst.Flags = f.clientISN+1, isn+1, flagRST|flagACK
		w.out.build(&rst)
		w.resetClient(f)
		w.enter(s, slot, evGiveUp)
		return
	}
	svc := w.serviceOf(f)
	svc.state.learnWindow(p.Window)
	cookieTSVal, flowLabel, early := f.tsDelta, f.delta, *f.early()
	s.rewrite(slot)
	f.delta = uint32(f.cookie - isn)
	if f.has(timestamps) {
		f.tsDelta = cookieTSVal - p.Options.TSVal
	}
	c, v := &f.half[client], &f.half[server]
	c.ack = isn + 1
	v.end, v.ack = isn+1, f.clientISN+1
	exact := v.scale != answeredOnce
	v.scale = 0
	// The client may have been told a larger window than the server's.
	v.window, v.maxWindow = p.Window, max(uint32(p.Window), uint32(svc.EarlyData))
	if f.wscale != WScaleNone && p.Options.WScale != WScaleNone {
		v.scale, c.promised = p.Options.WScale, f.wscale
	}
	f.set(opened, true)

	w.ackServer(f, flowLabel, exact)
	w.release(f, early, flowLabel)
	update := f.segmentTo(client)
	update.Seq, update.Ack, update.Flags = f.cookie+1, f.clientISN+1, flagACK
	update.Window = rescale(p.Window, 0, v.promised)
	update.TrafficClass, update.FlowLabel = p.TrafficClass()&^ecnMask, p.FlowLabel()
	update.Timestamps, update.TSVal, update.TSEcr = f.has(timestamps), cookieTSVal, f.clientTSVal
	w.out.build(&update)

	w.count(w.serviceOf(f)).opened.inc()
	w.decide(VerdictSplice)
	w.counters.servers.observe(w.now.since - f.created)
	w.enter(s, slot, evSynAck)
	s.rewritten()
}

// ackServer acknowledges the SYN-ACK in work for the client, with its timestamp if that is to be exact (see ServerAck).
func (w *Worker) ackServer(f *flow, flowLabel uint32, exact bool) {
	ack := w.toServer(f, flowLabel)
	if !exact {
		ack.TSEcr = 0
	}
	w.out.build(&ack)
}

// resetClient ends the client's half of a flow whose server half never opened.
func (w *Worker) resetClient(f *flow) {
	rst := f.segmentTo(client)
	rst.Seq, rst.Ack, rst.Flags = f.cookie+1, f.clientISN+1, flagRST|flagACK
	w.out.build(&rst)
}
