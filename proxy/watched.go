package proxy

import (
	"levee/proxy/flood"
	"levee/proxy/servers"
)

// In ModeAuto and ModeMonitor the hosts shake hands with each other as long as there is no flood. Of a SYN nothing is kept but a
// few bits that it counts by (see package flood): anybody can send one. The server's SYN-ACK, which nobody can forge who does not sit
// behind levee, begins a direct flow (see direct.go), and so does any other segment of the server's that acknowledges something: its connection
// is from before the start, or its record had to make room. So levee knows the open connections when a flood begins, and
// what belongs to none of them can then be dropped.
//
// The record of such a flow does not know the client's SYN. What a SYN-ACK doesn't tell is the client's window scale; the
// largest there is takes its place, which makes the bounds of plausible wider and changes nothing that passes.
//
// While a destination is engaged its SYNs are answered with cookies and what is of no flow is dropped, as in ModeAlways. Handshakes that
// had begun before go on: their records are there, and a client whose SYN was answered by both the server and levee
// acknowledges either. One whose client has still not answered when the server sends its SYN-ACK again is ended at the server, whose queue
// those would fill for a minute (see freesServer).

// handshake counts a SYN toward a watched service and lets it pass unless its destination is engaged. It says whether it passed.
func (w *Worker) handshake(svc *service, frame []byte) bool {
	p := &w.pkt
	refused, engaged := w.proxy.refusal(svc, &p.Src, w.now.since) != NumDropReasons, false
	if !refused { // otherwise no server sees it, so it is no part of a flood
		key, _ := keyOf(p)
		to := flood.Destination{Addr: p.Dst, Port: p.DstPort}
		engaged = w.proxy.floods.SYN(svc.state.watch, &to, w.proxy.table.hash.of(&key), w.now.since)
	}
	if !svc.lets(refused, engaged) {
		return false
	}
	switch {
	case refused, engaged && faultOf(p) != NumDropReasons:
		w.count(svc).wouldDrop.inc()
	case engaged:
		w.count(svc).wouldAnswer.inc()
	}
	w.count(svc).synPassed.inc()
	w.firstFragment()
	w.pass(PassHandshake, frame)
	return true
}

// lets says whether a watched service lets a SYN pass that is refused or not (see Proxy.refusal), to a destination that is engaged or not.
func (s *service) lets(refused, engaged bool) bool {
	return s.Mode == ModeMonitor || !engaged && !refused
}

// passUnknown lets a segment of no flow pass toward a watched service unless its destination is engaged. It says whether it passed.
func (w *Worker) passUnknown(svc *service, frame []byte) bool {
	if w.engaged(svc) || svc.lists.of(&w.pkt.Src) == denied {
		if svc.Mode == ModeAuto {
			return false
		}
		w.count(svc).wouldDrop.inc()
	}
	w.firstFragment()
	w.pass(PassUnknown, frame)
	return true
}

// engaged says whether the destination of the packet in work, of a watched service, is engaged.
func (w *Worker) engaged(svc *service) bool {
	to := flood.Destination{Addr: w.pkt.Dst, Port: w.pkt.DstPort}
	return w.proxy.floods.Engaged(svc.state.watch, &to)
}

// fromServer handles a segment of no flow that comes from a server of a watched service. It passes, and begins a flow if it shows that the server
// has a connection.
func (w *Worker) fromServer(s *stripe, key *flowKey, hash uint64, srcLow bool, svc *service, frame []byte) {
	p := &w.pkt
	if isRST(p) {
		w.proxy.floods.Refused(hash)
	}
	synAck := isSYN(p) && isACK(p) && saneFlags(p.Flags) && !p.FirstFragment && p.ChecksumOK()
	if synAck {
		if slot, ok := s.insert(key, hash, w.evict); ok {
			w.passedHandshake(s, slot, svc, !srcLow)
			w.out.forward(frame)
			return
		}
	} else if saneFlags(p.Flags) && !p.FirstFragment && isACK(p) && !isSYN(p) && !isRST(p) {
		w.proxy.floods.Refused(hash) // its handshake was not seen to end
		w.adopt(s, key, hash, srcLow, svc)
	}
	w.firstFragment()
	w.pass(PassUnknown, frame)
}

// anew says whether the server's segment in work is a SYN-ACK to a client's SYN that passed, and not one of the handshake that the flow
// knows. A flow that levee is about to open has other business.
func (w *Worker) anew(f *flow, from side) (*service, bool) {
	p := &w.pkt
	if from != server || !isSYN(p) || f.state == StateOpening && !f.has(direct) {
		return nil, false
	}
	svc := w.policy.find(&p.Src, p.SrcPort)
	if !svc.watched() || w.policy.find(&p.Dst, p.DstPort).protected() {
		return nil, false
	}
	known := p.Ack == f.clientISN+1 || f.has(direct) && f.state == StateOpening && f.answered(p.Ack)
	return svc, !known || f.has(direct) && f.state.Ended()
}

// passedHandshake makes the record at slot a direct flow that begins with the server's SYN-ACK in work.
func (w *Worker) passedHandshake(s *stripe, slot uint32, svc *service, clientIsLow bool) {
	p, f := &w.pkt, &s.flows[slot]
	w.forget(f)
	former := fingerprint{}
	if f.state != StateFree && !f.has(direct) {
		former = fingerprintOf(f.cookie) // late segments of it are no new connection
	}
	if live(f.state) {
		w.enter(s, slot, evRST)
	}
	w.assign(f, svc)
	*f = flow{
		key: f.key, state: f.state, service: svc.state.index, created: w.now.since, flags: direct | opened, former: former,
		clientISN: p.Ack - 1, cookie: p.Ack - 1, wscale: WScaleNone,
	}
	f.set(clientLow, clientIsLow)
	f.set(signed, p.Options.Signed)
	f.set(timestamps, p.Options.Timestamps)
	c, v := &f.half[client], &f.half[server]
	*c = half{end: p.Ack, ack: p.Seq + 1, maxWindow: 1 << 16}
	*v = half{end: p.Seq + 1, ack: p.Ack, window: p.Window, maxWindow: uint32(p.Window)}
	if p.Options.WScale != WScaleNone {
		f.wscale, c.scale, c.promised = unknownScale, unknownScale, unknownScale
		v.scale, v.promised = p.Options.WScale, p.Options.WScale
	}
	f.tries = f.wscale
	w.learnPassed()
	w.enter(s, slot, evHandshake)
}

// learnPassed notes what a SYN-ACK shows that answers a client's own SYN: what the server does. What it doesn't do may not have been asked for.
func (w *Worker) learnPassed() {
	p := &w.pkt
	does := servers.MSS
	if p.Options.WScale != WScaleNone {
		does |= servers.WScale
	}
	if p.Options.SACKPermitted {
		does |= servers.SACK
	}
	if p.Options.Timestamps {
		does |= servers.Timestamps
	}
	if p.Flags&(flagECE|flagCWR) == flagECE {
		does |= servers.ECN
	}
	k := servers.Key{Addr: p.Src, Port: p.SrcPort}
	a := servers.Answer{Asked: does, Does: does, MSS: p.Options.MSS, WScale: p.Options.WScale, Window: p.Window}
	if w.proxy.servers.Answered(&k, w.now.unix, &a, servers.Traffic) {
		w.proxy.cfg.Probe(k, servers.WhatItDoes)
	}
}

// finished notes that the client of a handshake with a watched service is there.
func (w *Worker) finished(svc *service, f *flow) {
	if !svc.watched() {
		return
	}
	k := f.serverKey()
	to := flood.Destination{Addr: k.Addr, Port: k.Port}
	w.proxy.floods.Finished(svc.state.watch, &to, w.proxy.table.hash.of(&f.key), w.now.since)
}

// watch looks after the floods in every tick.
func (w *Worker) watch() {
	if w.id == 0 && w.watchedAt != w.now.tick {
		w.watchedAt = w.now.tick
		w.proxy.floods.Tick(w.now.since, w.now.unix)
	}
}

// watched is the services whose floods are looked for.
func (p *policy) watched() []flood.Service {
	var all []flood.Service
	for _, s := range p.services {
		if s.watched() {
			all = append(all, flood.Service{Watch: s.state.watch, Limits: s.Engage, Monitored: s.Mode == ModeMonitor})
		}
	}
	return all
}
