package proxy

import (
	"fmt"
	"sync/atomic"
	"time"

	"levee/proxy/servers"
	"levee/stack"
)

// ServerAck says how levee acknowledges a server's SYN-ACK.
//
// The client that a server is about to talk to is far away, and levee, which acknowledges its SYN-ACK, is near. A server that takes the
// time between the two for the round trip is wrong about its connection from the start. BBR above all keeps the shortest round trip
// of ten seconds, and sends no more at once than the bandwidth times that; and loss probes go out long before an answer could have come.
//
// By Karn's algorithm (RFC 6298 §3) a host doesn't measure what it has sent twice, unless a timestamp tells which of the two was
// acknowledged. With AckUnmeasured levee therefore sends its SYN twice, so that the server repeats its SYN-ACK, and
// acknowledges it with a TSecr of 0, which is no timestamp's echo (RFC 7323 §3.2) and which servers accept. The first round trip
// that the server measures is then one to the client.
//
// There is one danger. A server whose queue of half-open connections is full, or that has no such queue, keeps the client's options in the timestamp of a
// SYN cookie. A TSecr of 0 says that there are none, and Linux goes on with other timestamps than those of its SYN-ACK: the client takes half of such
// connections' segments for old ones. Its queue may be full of what didn't come through levee, or of what did before a flood was noticed, and
// may be short. So levee's second SYN lacks an option. A server that remembers the first repeats its SYN-ACK as it was, one
// that remembers nothing answers to the second alone. Levee waits for that, some microseconds if the server repeats SYN-ACKs at all; until
// that is known, and whenever in doubt, it acknowledges exactly.
//
// The price: where the first SYN is lost between levee and the server, nobody waits for it to be sent again, but the connection goes without that option.
type ServerAck uint8

const (
	// AckImmediate acknowledges at once and exactly.
	AckImmediate ServerAck = iota
	// AckUnmeasured acknowledges at once, but so that the server does not take it for the client's round trip.
	AckUnmeasured
)

// String returns the word in the configuration.
func (a ServerAck) String() string {
	switch a {
	case AckImmediate:
		return "immediate"
	case AckUnmeasured:
		return "unmeasured"
	}
	return fmt.Sprintf("server_ack(%d)", uint8(a))
}

// ParseServerAck is the inverse of ServerAck.String.
func ParseServerAck(s string) (ServerAck, error) {
	for _, a := range []ServerAck{AckImmediate, AckUnmeasured} {
		if s == a.String() {
			return a, nil
		}
	}
	return 0, fmt.Errorf("%q is not known: use immediate or unmeasured", s)
}

// maxUnmeasured is how many connections may be opening toward a server if another is to be unmeasured: one that has many SYNs to answer is
// spared the second.
const maxUnmeasured = 64

// openings counts connections that are opening, by server. Servers with the same number share a counter.
type openings [256]atomic.Int32

// of is the counter of a flow's server.
func (o *openings) of(f *flow) *atomic.Int32 {
	addr, port := &f.key.high, f.key.highPort
	if !f.has(clientLow) {
		addr, port = &f.key.low, f.key.lowPort
	}
	return &o[addr[15]^addr[14]^addr[13]^uint8(port)^uint8(port>>8)]
}

// repeatTime is less than what a server waits before it sends a SYN-ACK again of itself: a second at least (RFC 6298 §2), as it comes by here. What comes
// sooner answers levee's second SYN.
const repeatTime = 900 * time.Millisecond

// How far the handshake with a server is to which levee has sent its SYN twice. That is in place of the server's window scale until it is known.
const (
	// sentTwice: not answered yet.
	sentTwice = 1 + iota
	// answeredOnce: the first SYN-ACK has come, and will be acknowledged when the second has.
	answeredOnce
)

// sendSYNs sends levee's SYN to the server, once or twice.
func (w *Worker) sendSYNs(f *flow, svc *service) {
	w.sendSYN(f)
	if svc.ServerAck != AckUnmeasured || w.proxy.opening.of(f).Load() > maxUnmeasured || !f.discerning() {
		return
	}
	f.half[server].scale = sentTwice
	second := f.syn()
	switch f.spared() {
	case servers.SACK:
		second.SACKPermitted = false
	case servers.WScale:
		second.WScale = WScaleNone
	}
	w.out.build(&second)
}

// discerning says whether the SYN has an option that the second can lack, or needs none.
func (f *flow) discerning() bool { return !f.has(timestamps) || f.spared() != 0 }

// spared is the option that levee's second SYN lacks, or 0 if it is like the first.
func (f *flow) spared() servers.Features {
	switch {
	case !f.has(timestamps): // there is nothing that must come back
		return 0
	case f.has(sack):
		return servers.SACK
	case f.wscale != WScaleNone:
		return servers.WScale
	}
	return 0
}

// unasked is the option of which a SYN-ACK that lacks it says nothing, or 0: it may answer the second SYN alone, because the first was lost.
func (f *flow) unasked() servers.Features {
	if f.half[server].scale == sentTwice {
		return f.spared()
	}
	return 0
}

// answersFirst says whether a SYN-ACK has what answers the option that the second SYN lacks.
func (f *flow) answersFirst(o *stack.Options) bool {
	if f.spared() == servers.SACK {
		return o.SACKPermitted
	}
	return o.WScale != WScaleNone
}

// awaitsSecond says whether the SYN-ACK in work isn't to be acknowledged, because another will come.
func (w *Worker) awaitsSecond(s *stripe, slot uint32) bool {
	p, f := &w.pkt, &s.flows[slot]
	how := &f.half[server].scale
	if !f.has(timestamps) || !p.Options.Timestamps {
		return false
	}
	k := f.serverKey()
	switch first := f.answersFirst(&p.Options); {
	case *how == sentTwice && first && w.proxy.servers.Find(&k, w.now.unix).Repeats:
		*how, f.lastSeen = answeredOnce, w.now.tick
		s.arm(slot, w.due(f))
		return true
	case *how == answeredOnce && !first: // a SYN cookie: the whole SYN has to be answered last
		*how = 0
		w.count(w.serviceOf(f)).serverCookies.inc()
		w.sendSYN(f)
		return true
	}
	return false
}

// unrepeated notes, when a flow is due, that the server has not repeated its SYN-ACK, if that is so. It won't be waited for again.
func (w *Worker) unrepeated(f *flow) {
	if f.half[server].scale == answeredOnce {
		k := f.serverKey()
		w.proxy.servers.Repeats(&k, false)
	}
	f.half[server].scale = 0
}

// secondTime is how long levee waits for the second SYN-ACK.
const secondTime = 200 * time.Millisecond

// repeated notes that a SYN-ACK on an opened flow answers levee's second SYN, and says whether it does.
func (w *Worker) repeated(f *flow) bool {
	if w.serviceOf(f).ServerAck != AckUnmeasured || w.now.since-f.created >= repeatTime {
		return false
	}
	k := f.serverKey()
	w.proxy.servers.Repeats(&k, true)
	return true
}
