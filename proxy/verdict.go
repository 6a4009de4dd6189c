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
	// DropNoFlow: a segment of no flow that can't open one.
	DropNoFlow
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

	// NumPassReasons is the number of reasons.
	NumPassReasons
)

var passNames = [NumPassReasons]string{
	PassNoService: "no_service",
	PassModeOff:   "mode_off",
	PassNotTCP:    "not_tcp",
	PassBypass:    "bypass",
	PassFragment:  "fragment",
}

// String returns the reason's word, in snake case.
func (r PassReason) String() string {
	if r < NumPassReasons {
		return passNames[r]
	}
	return "unknown"
}
