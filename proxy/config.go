package proxy

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"levee/proxy/cookie"
	"levee/proxy/flood"
	"levee/proxy/servers"
)

// Mode says what happens to new connections toward a service.
type Mode uint8

// The modes of a service.
const (
	// ModeOff forwards every packet as it is; nothing is tracked.
	ModeOff Mode = iota
	// ModeAlways answers every SYN with a cookie.
	ModeAlways
	// ModeAuto lets handshakes pass to the servers as they are, and answers SYNs with cookies only where and for as long as there is a
	// flood, as Service.Engage says.
	ModeAuto
	// ModeMonitor decides as ModeAuto does, but only counts what would be done: every packet passes as it is. A packet
	// without ports is dropped all the same if another service at its addresses would have it so: see monitor.go.
	ModeMonitor
)

// modeWords are what the configuration says.
var modeWords = [...]string{ModeOff: "off", ModeAlways: "always", ModeAuto: "auto", ModeMonitor: "monitor"}

// String returns the mode's word in the configuration.
func (m Mode) String() string {
	if int(m) < len(modeWords) {
		return modeWords[m]
	}
	return fmt.Sprintf("mode(%d)", uint8(m))
}

// ParseMode is the inverse of Mode.String.
func ParseMode(s string) (Mode, error) {
	if m := slices.Index(modeWords[:], s); m >= 0 {
		return Mode(m), nil
	}
	return 0, fmt.Errorf("%q is not a mode: use auto, always, monitor or off", s)
}

// watches says that floods are looked for, and handshakes pass while there is none.
func (m Mode) watches() bool { return m == ModeAuto || m == ModeMonitor }

// PortRange is the TCP ports First to Last, both included.
type PortRange struct{ First, Last uint16 }

// String returns the range as the configuration writes it: "80" or "8000-8100".
func (r PortRange) String() string {
	if r.First == r.Last {
		return fmt.Sprint(r.First)
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

func (r PortRange) contains(p uint16) bool { return r.First <= p && p <= r.Last }

// WScaleNone is the window scale of a host that does not do window scaling (RFC 7323 §2.2).
const WScaleNone = cookie.WScaleNone

// DefaultWScale is promised to clients when Options.WScale is not set: what Linux offers with its
// default buffers. A wrong guess costs nothing, because every window is rescaled.
const DefaultWScale = 7

// Options is what levee promises clients on behalf of the servers of a service.
type Options struct {
	// MSS in bytes for IPv4 and IPv6; 0 means what the MTU of the TUN allows.
	MSS uint16
	// WScale is the window scale shift, 0 to 14, or WScaleNone to promise no scaling.
	WScale uint8
	// SACK promises selective acknowledgements (RFC 2018).
	SACK bool
	// Timestamps promises the timestamp option (RFC 7323 §3). A server that then turns out
	// not to do it costs that client its connection, so promise it only where it is known.
	Timestamps bool
	// ECN promises explicit congestion notification (RFC 3168) to clients that do timestamps: only
	// their cookie has room for it.
	ECN bool
	// Learn is what is promised as the server itself does it, once that is known. Until then the fields above are promised, except that
	// WScale is then Servers' and not read.
	Learn servers.Features
}

// DefaultOptions is right for any server, if not the best for each.
func DefaultOptions() Options { return Options{WScale: DefaultWScale, SACK: true} }

// Service is a set of server addresses and ports that are treated alike.
type Service struct {
	Name string
	// Prefixes of the servers, masked, of either family, at least one.
	Prefixes []netip.Prefix
	// Ports of the servers; empty means all.
	Ports []PortRange
	Mode  Mode
	// Engage says what is a flood, for ModeAuto and ModeMonitor.
	Engage  flood.Limits
	Options Options
	// ClosedPorts says what becomes of SYNs to ports that are known not to answer.
	ClosedPorts ClosedPorts
	// BypassRate is how many SYNs a second may go to the servers as they are, because they carry TCP-MD5, TCP-AO or an
	// MPTCP join and can't be proxied, or an MSS smaller than a cookie can say (cookie.RoundMSS); as many may come at once. 0 lets none through.
	// Those whose clients don't answer stay half-open at the servers for a second, and longer if they are few.
	BypassRate int
	// EarlyData is how many bytes a client may send before its server has answered, 0 to MaxEarlyData. They are held until then. 0
	// makes clients wait for a window of the server's.
	EarlyData int
	// ServerAck is how the servers' SYN-ACKs are acknowledged.
	ServerAck ServerAck
	// Allow holds the sources that shake hands with the servers themselves, and whose segments of no flow pass; Deny those that open no
	// connection. The longest prefix counts; they are masked, and none is in both.
	Allow, Deny []netip.Prefix
	// Verified says what sources may do that have proved lately that they exist.
	Verified Verified
	// PerSource bounds what one source can have.
	PerSource PerSource
	// Unknown says what becomes of segments of no flow.
	Unknown Unknown
}

func (s *Service) hasPort(p uint16) bool {
	return len(s.Ports) == 0 || slices.ContainsFunc(s.Ports, func(r PortRange) bool { return r.contains(p) })
}

// Config is everything a Proxy needs to know. The zero value of a field has no meaning unless it is said.
type Config struct {
	Services []Service
	// Capacity is the largest number of flows, open or remembered, 1 to MaxCapacity.
	Capacity int
	// IdleTimeout ends open flows without packets (RFC 5382 REQ-5 asks for 2 h 4 min at least). A half-closed one is as
	// open as any: for that RFC a connection closes when both sides have sent a FIN.
	IdleTimeout time.Duration
	// TransitoryTimeout forgets flows that have ended, by FINs of both sides or by a RST, and outbound ones without an answer
	// (RFC 5382 REQ-5 and RFC 7857 §2: 4 min at least). It counts from the last packet, and for no less than a cookie's lifetime,
	// so that a replayed handshake ACK opens nothing.
	TransitoryTimeout time.Duration
	// MTU in bytes of the smallest link that the proxied packets cross, the TUN included: the bound
	// of the MSS that is promised.
	MTU int
	// Grace is for how long after the start segments of no flow pass, as connections may have been there before: those whose server still
	// has them are then tracked as direct flows. 0 is not at all.
	Grace time.Duration
	// Replies bounds answers to sources that may be forged; where it is 0 the default counts.
	Replies Replies
	// Neighbours are prefixes whose hosts the gateway's links lead to directly, if all together hold more addresses than are worth a thought:
	// of all that claim to be there only so many are answered. The services' own prefixes are always among them. NoSources are
	// prefixes that nothing can come from, such as broadcast addresses and networks behind the servers' links.
	Neighbours, NoSources []netip.Prefix
	// EarlyPool is how many bytes of memory there are for early data of all services, 0 to MaxEarlyPool; 0 holds none.
	EarlyPool int
	// Memory gives the flow table and the pool of early data their memory, each in one piece: zeroed, aligned to a cache line, and there
	// for as long as the Proxy. nil means Go's heap. Memory in huge pages makes lookups among many flows about twice as fast.
	Memory func(bytes int) ([]byte, error)
	// State, if not nil, holds the flows in place of Memory, and those of an earlier Proxy, with which this one goes on. New refuses one that
	// it can't go on with, see FlowState.Check.
	State *FlowState
	// Secret is the master secret of the cookies.
	Secret cookie.Secret
	// SharedSecret says that other nodes use the secret too: ACKs are then checked even if this one has issued no cookie lately. The window
	// scale is then not learned, because another node may not know what this one has promised.
	SharedSecret bool
	// Servers is what is known of the servers; nil means a small table of the Proxy's own.
	Servers *servers.Table
	// Probe asks for a probe of a server, whose result goes to Servers; it must not block. It is called only if Servers asks for it.
	Probe func(servers.Key, servers.Question)
}

// largestEarly is the most bytes that a service may hold of a client.
func (c *Config) largestEarly() int {
	if c.EarlyPool == 0 {
		return 0
	}
	return MaxEarlyData
}

// Defaults and bounds of Config.
const (
	DefaultCapacity          = 1 << 20
	DefaultIdleTimeout       = 2*time.Hour + 4*time.Minute
	DefaultTransitoryTimeout = 4 * time.Minute
	// DefaultGrace is time for most connections to show a segment; MaxGrace bounds how long floods of segments pass.
	DefaultGrace, MaxGrace = 2 * time.Minute, 24 * time.Hour
	// DefaultBypassRate is plenty for routers and MPTCP clients, and no flood to any server; MaxBypassRate is what can be counted.
	DefaultBypassRate, MaxBypassRate = 10, 1_000_000
	// DefaultEarlyData holds the first request of nearly every client. MaxEarlyData is the largest window of a SYN-ACK (RFC 7323 §2.2).
	DefaultEarlyData, MaxEarlyData = 16 << 10, 65535
	// DefaultEarlyPool holds DefaultEarlyData of 4,000 clients at once; MaxEarlyPool bounds it to 1 GiB.
	DefaultEarlyPool, MaxEarlyPool = 64 << 20, 1 << 30
	// MaxCapacity bounds the flow table to about 8 GB.
	MaxCapacity = 1 << 26
	// MinMTU is IPv6's smallest link (RFC 8200 §5); MaxMTU is the longest IP packet.
	MinMTU, MaxMTU = 1280, 65535
)
