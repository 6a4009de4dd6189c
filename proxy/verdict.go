package proxy

// DropReason says why a packet went no further. The words are the label values of
// levee_drops_total and the keys of "drops" in levee status.
type DropReason uint8

// The reasons, each with what it takes to see it.
const (
	// DropTruncated: shorter than its headers say.
	DropTruncated DropReason = iota
	// DropBadIP: the IP header or IPv6 extension header chain makes no sense.
	DropBadIP
	// DropBadTCP: data offset below 5 or beyond the packet.
	DropBadTCP
	// DropBadOptions: a TCP option of length 0 or 1 or beyond the header.
	DropBadOptions
	// DropBadFlags: SYN+FIN, SYN+RST, FIN+RST, none at all, or without ACK where one is due.
	DropBadFlags
	// DropBadChecksum: TCP checksum wrong on a packet that levee would answer or act on.
	DropBadChecksum
	// DropLand: source and destination address are the same, whatever the ports.
	DropLand
	// DropFragment: a fragment that can't be proxied: a SYN, an unproxied handshake or a header too short.
	DropFragment
	// DropCookieInvalid: an ACK of no flow whose cookie is wrong or too old.
	DropCookieInvalid
	// DropNoFlow: an ACK or data of no flow, while no cookie is outstanding or from a server.
	DropNoFlow
	// DropNoFlowSYNACK, DropNoFlowFIN and DropNoFlowRST: such segments of no flow. A FIN may have had a wrong cookie.
	DropNoFlowSYNACK
	DropNoFlowFIN
	DropNoFlowRST
	// DropLaterFragment: a fragment without a TCP header, between hosts of which no first fragment has passed lately, beyond a few.
	DropLaterFragment
	// DropDenied: a SYN, or a segment of no flow, from a source that the service denies.
	DropDenied
	// DropNoSource: a SYN or other segment that would be answered, from an address that nobody can have.
	DropNoSource
	// DropReplyBudget: the same, beyond what the source's network may be answered for nothing.
	DropReplyBudget
	// DropNeighbours: the same, from a neighbour of the gateway's that is new, beyond how many may be.
	DropNeighbours
	// DropSourceFlows and DropSourceRate: a new connection beyond the service's PerSource.
	DropSourceFlows
	DropSourceRate
	// DropReplay: a replayed or late handshake ACK of the connection that a flow has replaced.
	DropReplay
	// DropOpening: a client's segment that came before its server answered, and has nothing to hold or nothing that isn't held; or one that
	// has no place in the handshake of a connection that isn't proxied.
	DropOpening
	// DropEarlyFull: a client's segment that came before its server answered, some of which there was no room to hold; the client sends it
	// again.
	DropEarlyFull
	// DropTableFull: no room for a new flow.
	DropTableFull
	// DropBypassRate: a SYN with TCP-MD5, TCP-AO or an MPTCP join, beyond the service's BypassRate.
	DropBypassRate
	// DropBadAck: a server's segment that doesn't fit levee's SYN.
	DropBadAck
	// DropICMP: an ICMP error about no segment that can be under way, or about levee's own SYN if it ends nothing.
	DropICMP
	// DropClosed: a SYN to a port that is known to be closed, of a service that drops such.
	DropClosed
	// DropSilent: a SYN to a port that is known not to answer.
	DropSilent

	// NumDropReasons is the number of reasons.
	NumDropReasons
)

var dropNames = [NumDropReasons]string{
	DropTruncated:     "truncated",
	DropBadIP:         "bad_ip",
	DropBadTCP:        "bad_tcp",
	DropBadOptions:    "bad_options",
	DropBadFlags:      "bad_flags",
	DropBadChecksum:   "bad_checksum",
	DropLand:          "land",
	DropFragment:      "fragment",
	DropCookieInvalid: "cookie_invalid",
	DropNoFlow:        "no_flow",
	DropNoFlowSYNACK:  "no_flow_syn_ack",
	DropNoFlowFIN:     "no_flow_fin",
	DropNoFlowRST:     "no_flow_rst",
	DropLaterFragment: "later_fragment",
	DropDenied:        "denied",
	DropNoSource:      "no_source",
	DropReplyBudget:   "reply_budget",
	DropNeighbours:    "neighbours",
	DropSourceFlows:   "source_flows",
	DropSourceRate:    "source_rate",
	DropReplay:        "replay",
	DropOpening:       "opening",
	DropEarlyFull:     "early_full",
	DropTableFull:     "table_full",
	DropBypassRate:    "bypass_rate",
	DropBadAck:        "bad_ack",
	DropICMP:          "icmp",
	DropClosed:        "closed",
	DropSilent:        "silent",
}

// String returns the reason's word, in snake case.
func (r DropReason) String() string {
	if r < NumDropReasons {
		return dropNames[r]
	}
	return "unknown"
}

// PassReason says why a packet was forwarded as it came.
type PassReason uint8

// The reasons.
const (
	// PassNoService: neither end is a protected server.
	PassNoService PassReason = iota
	// PassModeOff: the service's mode is off.
	PassModeOff
	// PassNotTCP: not TCP, nor an ICMP error about a server's segment.
	PassNotTCP
	// PassBypass: a SYN with TCP-MD5, TCP-AO or an MPTCP join, which only the server can answer, or with an MSS that no cookie can say.
	PassBypass
	// PassFragment: a later fragment, which has no TCP header to translate.
	PassFragment
	// PassAllowed: from a source that the service allows, a SYN or a segment of no flow; or to it from a server.
	PassAllowed
	// PassVerified: a SYN from a source that has proved itself.
	PassVerified
	// PassUnknown: a segment of no flow, of a service that lets such pass.
	PassUnknown
	// PassGrace: a segment of no flow, during the grace after a start.
	PassGrace
	// PassHandshake: a SYN of a service that is watched for floods, to a destination without one, or that is only monitored.
	PassHandshake
	// PassMonitored: a packet that would be dropped if its service were not only monitored.
	PassMonitored

	// NumPassReasons is the number of reasons.
	NumPassReasons
)

var passNames = [NumPassReasons]string{
	PassNoService: "no_service",
	PassModeOff:   "mode_off",
	PassNotTCP:    "not_tcp",
	PassBypass:    "bypass",
	PassFragment:  "fragment",
	PassAllowed:   "allowed",
	PassVerified:  "verified",
	PassUnknown:   "unknown",
	PassGrace:     "grace",
	PassHandshake: "handshake",
	PassMonitored: "monitored",
}

// String returns the reason's word, in snake case.
func (r PassReason) String() string {
	if r < NumPassReasons {
		return passNames[r]
	}
	return "unknown"
}
