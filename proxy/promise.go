package proxy

import (
	"levee/proxy/cookie"
	"levee/proxy/servers"
	"levee/stack"
)

// ClosedPorts says what a SYN gets whose server is known not to answer.
type ClosedPorts uint8

// The choices.
const (
	// ClosedAccept answers it like any other; the client is reset when the server has refused again.
	ClosedAccept ClosedPorts = iota
	// ClosedReset shows the client what the server would: a RST for a port that refuses, nothing for one that is silent.
	ClosedReset
	// ClosedDrop drops it.
	ClosedDrop
)

// closedPortsWords are what the configuration says.
var closedPortsWords = [...]string{ClosedAccept: "accept", ClosedReset: "reset", ClosedDrop: "drop"}

// String returns the choice's word in the configuration.
func (c ClosedPorts) String() string {
	if int(c) < len(closedPortsWords) {
		return closedPortsWords[c]
	}
	return "unknown"
}

// ParseClosedPorts is the inverse of ClosedPorts.String.
func ParseClosedPorts(s string) (ClosedPorts, bool) {
	for c, word := range closedPortsWords {
		if s == word {
			return ClosedPorts(c), true
		}
	}
	return 0, false
}

// promise is what the clients of a server are told.
type promise struct {
	// Options are those of its service, and in place of those that are learned what is known.
	Options
	// before is a window scale that may have been told a short while ago instead.
	before uint8
	// window, in bytes, is about what the server begins with.
	window uint16
	// state says whether it answers at all.
	state servers.State
}

// promise looks up what is known of a server at a Unix time.
func (p *Proxy) promise(svc *service, addr *stack.Addr, port uint16, unix int64) promise {
	o := promise{Options: svc.Options, before: svc.Options.WScale, window: uint16(svc.state.serverWindow.Load())}
	if o.Learn == 0 && svc.ClosedPorts == ClosedAccept && svc.EarlyData == 0 {
		return o
	}
	known := p.servers.Find(&servers.Key{Addr: *addr, Port: port}, unix)
	o.state = known.State
	if known.Knows != 0 {
		o.window = known.Window
	}
	learned := func(f servers.Features, promised *bool) {
		if (o.Learn & known.Knows).Has(f) {
			*promised = known.Does.Has(f)
		}
	}
	learned(servers.SACK, &o.SACK)
	learned(servers.Timestamps, &o.Timestamps)
	learned(servers.ECN, &o.ECN)
	if o.Learn.Has(servers.WScale) {
		o.WScale, o.before = known.Told, known.Before
	}
	if (o.Learn & known.Knows).Has(servers.MSS) {
		if o.MSS = known.MSS; o.MSS == 0 {
			o.MSS = unsaidMSS(!addr.Is4())
		}
	}
	return o
}

// unsaidMSS is the MSS of a host that doesn't say.
func unsaidMSS(v6 bool) uint16 {
	if v6 {
		return defaultMSS6
	}
	return defaultMSS4
}

// formerlyTold are the window scales that clients of a server may have been told before a reload.
func (w *Worker) formerlyTold(svc *service, addr *stack.Addr, port uint16) (scale, before uint8) {
	if !svc.told.learned {
		return svc.told.wscale, svc.told.wscale
	}
	known := w.proxy.servers.Find(&servers.Key{Addr: *addr, Port: port}, w.now.unix)
	return known.Told, known.Before
}

// returned is a cookie that has come back, and the window scale that its client was told. Cookies are bound to that scale (cookie.Tuple.Context): it
// may be another one by the time they come back.
type returned struct {
	cookie.Valid
	told uint8
}

// refusal is what a SYN gets whose server is in a state: VerdictAnswer, VerdictRefuse, or VerdictDrop and why.
func (c ClosedPorts) refusal(state servers.State) (Verdict, DropReason) {
	switch {
	case c == ClosedAccept:
	case state == servers.Closed && c == ClosedReset:
		return VerdictRefuse, NumDropReasons
	case state == servers.Closed:
		return VerdictDrop, DropClosed
	case state == servers.Silent:
		return VerdictDrop, DropSilent
	}
	return VerdictAnswer, NumDropReasons
}

// refuse treats a SYN whose server is known not to answer, and says whether that is all there is to do.
func (w *Worker) refuse(svc *service, state servers.State) bool {
	p := &w.pkt
	switch verdict, reason := svc.ClosedPorts.refusal(state); verdict {
	case VerdictRefuse:
		// What a host without a listener answers (RFC 9293 §3.10.7.1): no longer than the SYN, and one for each.
		w.count(svc).closedReset.inc()
		w.decide(VerdictRefuse)
		w.out.build(&stack.Segment{
			Src: p.Dst, Dst: p.Src, SrcPort: p.DstPort, DstPort: p.SrcPort,
			Ack: p.End(), Flags: flagRST | flagACK, WScale: WScaleNone,
		})
	case VerdictDrop:
		w.drop(reason)
	default:
		return false
	}
	return true
}

// serverKey names the server of a flow.
func (f *flow) serverKey() servers.Key {
	if f.has(clientLow) {
		return servers.Key{Addr: f.key.high, Port: f.key.highPort}
	}
	return servers.Key{Addr: f.key.low, Port: f.key.lowPort}
}

// learn notes what the server's SYN-ACK in work shows, and what it doesn't do of what the client was promised.
func (w *Worker) learn(f *flow) (lacks servers.Features) {
	p := &w.pkt
	a := servers.Answer{Asked: servers.MSS, MSS: p.Options.MSS, WScale: p.Options.WScale, Window: p.Window}
	for _, x := range [...]struct {
		feature     servers.Features
		asked, does bool
	}{
		{servers.WScale, f.wscale != WScaleNone, p.Options.WScale != WScaleNone},
		{servers.SACK, f.has(sack), p.Options.SACKPermitted},
		{servers.Timestamps, f.has(timestamps), p.Options.Timestamps},
		{servers.ECN, f.has(ecn), p.Flags&(flagECE|flagCWR) == flagECE},
	} {
		if x.asked {
			a.Asked |= x.feature
			if x.does {
				a.Does |= x.feature
			}
		}
	}
	a.Asked &^= f.unasked() &^ a.Does
	k := f.serverKey()
	if w.proxy.servers.Answered(&k, w.now.unix, &a, servers.Traffic) {
		w.proxy.cfg.Probe(k, servers.WhatItDoes)
	}
	// The client can be kept from using neither; SACK and window scales can be reconciled.
	if lacks = (a.Asked &^ a.Does) & (servers.Timestamps | servers.ECN); lacks != 0 {
		w.proxy.servers.Denied(&k, w.now.unix, lacks)
	}
	return lacks
}

// unanswered notes that the server of a flow has refused levee's SYN or not answered it.
func (w *Worker) unanswered(f *flow, how servers.State) {
	k := f.serverKey()
	if w.proxy.servers.Refused(&k, w.now.unix, how) {
		w.proxy.cfg.Probe(k, servers.WhetherClosed)
	}
}
