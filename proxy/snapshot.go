package proxy

import (
	"net/netip"
	"time"
)

// Snapshot is the counters of a Proxy at one moment: plain sums over its workers.
// Every counter only grows, except the numbers of flows.
type Snapshot struct {
	// Flows in the table by state, and the most it can hold.
	Flows    [NumStates]int
	Capacity int
	// Evicted counts flows that were forgotten before their time, because the table was full: they had ended, or were outbound ones
	// that nobody had answered.
	Evicted uint64
	// EarlyUsed and EarlySize are the bytes of the pool of early data: in use, and there are.
	EarlyUsed, EarlySize int
	Services             []ServiceSnapshot
	// Drops by reason; Passed counts packets that were forwarded unchanged because no flow or
	// rule of ours concerned them, by reason.
	Drops  [NumDropReasons]uint64
	Passed [NumPassReasons]uint64
	// Handshake is the time servers took from levee's first SYN to their SYN-ACK.
	Handshake Histogram
	// ClientHandshake is the time clients took from levee's SYN-ACK to their ACK: of a sample, see roundTrips.
	ClientHandshake Histogram
	// Workers holds how many packets each worker has received and sent, in the order the workers were made.
	Workers []WorkerSnapshot
}

// ServiceSnapshot is one service's counters. The first five are those of /proc/net/stat/synproxy.
type ServiceSnapshot struct {
	Name string
	Mode Mode
	// SynReceived counts SYNs answered with a cookie.
	SynReceived uint64
	// CookieValid and CookieInvalid count the ACKs that were checked against the cookies.
	CookieValid, CookieInvalid uint64
	// CookieRetrans counts SYNs to the server sent again.
	CookieRetrans uint64
	// ConnReopened counts valid ACKs on a tuple that still had a record: a new incarnation.
	ConnReopened uint64
	// Opened counts flows whose server answered; Refused those it reset; Unreachable those that an ICMP error ended, because
	// there is no way to the server; TimedOut those that were left without an answer.
	Opened, Refused, Unreachable, TimedOut uint64
	// EarlyHeld counts the clients' segments that were held until the server had answered.
	EarlyHeld uint64
	// Mismatched counts flows that were reset because the server does not do timestamps or ECN, which the
	// service's options promise.
	Mismatched uint64
	// ServerCookies counts flows whose server answered with a SYN cookie (see ServerAck), as one does that has no room for half-open connections.
	ServerCookies uint64
	// ClosedReset counts SYNs that got a RST because their port is known to be closed.
	ClosedReset uint64
	// Allowed and Denied count packets that the service's lists decided about, Verified SYNs that passed because their source has proved
	// itself.
	Allowed, Denied, Verified uint64
	// UnknownReset counts segments of no flow that got a RST; Adopted connections that were there before levee, and are tracked.
	UnknownReset, Adopted uint64
	// SynPassed counts SYNs that went to the server as they were, because there was no flood or it was only monitored.
	SynPassed uint64
	// HalfOpenReset counts handshakes that levee ended at the server, because their SYN passed before a flood was noticed, or within BypassRate
	// like too many others, and the client has not answered for a second.
	HalfOpenReset uint64
	// WouldAnswer counts SYNs that would have been answered with a cookie, had the service not only been monitored; WouldDrop
	// packets that would have been dropped, segments of no flow only unless they had a cookie.
	WouldAnswer, WouldDrop uint64
	// Engagement is what is made of its floods, or only noted of a monitored service.
	Engagement
	// Flows in the table now, of any state, those remembered after their end not counted.
	Flows int
}

// WorkerSnapshot is one worker's traffic, in frames and bytes of IP packet.
type WorkerSnapshot struct {
	Received, Sent           uint64
	ReceivedBytes, SentBytes uint64
}

// HandshakeBuckets are the upper bounds of Histogram's buckets, in seconds; the last bucket has none.
var HandshakeBuckets = [...]float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}

// Histogram counts observations, not cumulated, by the bounds of HandshakeBuckets.
type Histogram struct {
	Buckets [len(HandshakeBuckets) + 1]uint64
	// Sum of the observations.
	Sum time.Duration
}

// FlowInfo describes one flow for people.
type FlowInfo struct {
	// Client opened the connection, Server accepted it.
	Client, Server netip.AddrPort
	Service        string
	State          State
	// Direct: the two hosts shook hands with each other; levee only looks on.
	Direct bool
	// Age since the client's cookie was accepted, Idle since the last packet, within a quarter of a second.
	Age, Idle time.Duration
	// Delta is added to the server's sequence numbers on their way to the client, TSDelta to
	// its timestamps, once the server has answered.
	Delta, TSDelta uint32
	// ClientBytes and ServerBytes are payload bytes sent by each side, retransmissions included.
	ClientBytes, ServerBytes uint64
}
