package proxy

import (
	"fmt"
	"sync/atomic"
	"time"
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
// There is one danger. A server whose queue of half-open connections is full keeps the client's window scale and SACK in the
// timestamp of a SYN cookie, and a TSecr of 0 says that there is neither. So nothing of this is done toward a server that has many
// SYNs to answer.
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

// maxUnmeasured is how many connections may be opening toward a server if another is to be unmeasured. The queues of servers are longer:
// few programs ask for less than 128.
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

// answerTime is how soon the answer to levee's second SYN has come, at the latest: what comes later is a SYN-ACK that the server sends again, after a
// second at least (RFC 6298 §2), because the acknowledgement was lost.
const answerTime = 900 * time.Millisecond

// sendSYNs sends levee's SYN to the server, once or twice.
func (w *Worker) sendSYNs(f *flow, svc *service) {
	w.sendSYN(f)
	if svc.ServerAck == AckUnmeasured && w.proxy.opening.of(f).Load() <= maxUnmeasured {
		f.half[server].scale = sentTwice
		w.sendSYN(f)
	}
}

// sentTwice is in place of the server's window scale, while the server has not answered, if levee has sent its SYN twice.
const sentTwice = 1

// answersSecond says whether a SYN-ACK on an opened flow answers levee's second SYN.
func (w *Worker) answersSecond(f *flow) bool {
	return w.serviceOf(f).ServerAck == AckUnmeasured && w.now.since-f.created < answerTime
}
