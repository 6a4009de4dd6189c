package proxy

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/gaissmai/bart"
	"levee/stack"
)

// Whoever forges a source makes levee send to it. A SYN-ACK is no larger than its SYN and there is one for each, so that
// nobody gains by it; but levee shall not be a good place to hide behind either, nor fill the kernel's neighbour
// tables. It answers a source only within a budget of its network, a /24 or a /56. What counts is answers that came to nothing: a
// client that completes its handshake gives back what its SYN took, so that any number of
// real clients fit. Only what levee says unasked counts: a SYN-ACK, or a reset for a segment of no flow.

// Replies bounds what levee answers to sources that may be forged.
type Replies struct {
	// PerNetwork is how many answers a second each /24 or /56 gets that lead to no connection, and as many at once.
	PerNetwork int
	// Neighbours is how many addresses of a family that Config.Neighbours holds may be answered anew each second, and as many at once. One
	// that was answered a minute ago, or has completed a handshake in the last hour, is not new.
	Neighbours int
}

// Defaults and bounds of Replies.
const (
	// DefaultPerNetwork leaves the clients behind an address translator, whose round trips are below 200 ms, room for 5,000 new
	// connections a second; forged, it makes half a Mbit/s.
	DefaultPerNetwork = 1000
	// DefaultNeighbours: the kernel asks for a neighbour for 3 s (mcast_solicit × retrans_time_ms), so that 768 are unknown to it at a time, of
	// the 1024 of a family that it has room for (gc_thresh3); some more in the third second of a flood, by what may be answered at once.
	DefaultNeighbours = 256
	MaxReplyRate      = 100_000_000
)

// orDefault fills in what isn't said.
func (r Replies) orDefault() Replies {
	if r.PerNetwork == 0 {
		r.PerNetwork = DefaultPerNetwork
	}
	if r.Neighbours == 0 {
		r.Neighbours = DefaultNeighbours
	}
	return r
}

func (r Replies) validate() error {
	for _, n := range []int{r.PerNetwork, r.Neighbours} {
		if n < 1 || n > MaxReplyRate {
			return fmt.Errorf("replies at a rate of %d: use 1 to %d", n, MaxReplyRate)
		}
	}
	return nil
}

// place is what is special about where a source is.
type place uint8

const (
	_ place = iota // nothing
	// nearby: the gateway has to find its neighbour's link address before it can send.
	nearby
	// nowhere: no packet can come from there.
	nowhere
)

// noSources are what no packet may have as its source (RFC 6890; RFC 1122 §3.2.1.3, RFC 4291 §2.5 to §2.7). Link-local ones aren't
// forwarded.
var noSources = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/4"),
	netip.MustParsePrefix("255.255.255.255/32"),
	netip.MustParsePrefix("::/128"),
	netip.MustParsePrefix("::1/128"),
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("ff00::/8"),
}

// newPlaces compiles what is known of sources.
func newPlaces(cfg *Config) *bart.Table[place] {
	t := &bart.Table[place]{}
	for _, p := range noSources {
		t.Insert(p, nowhere)
	}
	for _, p := range cfg.Neighbours {
		t.Insert(p, nearby)
	}
	for _, p := range cfg.NoSources {
		t.Insert(p, nowhere)
	}
	// A server may connect to another by way of the gateway. From outside its address is forged, and the answer is one that it has
	// to put up with.
	for i := range cfg.Services {
		for _, p := range cfg.Services[i].Prefixes {
			t.Insert(p, nearby)
		}
	}
	return t
}

// replies is the state of Replies. It is safe for concurrent use.
type replies struct {
	networks *budget
	// neighbours has tokens by family for those of the gateway's neighbours that aren't in one of the following.
	neighbours [2]bucket
	// asked are neighbours that were answered a short while ago: the kernel knows them, or asks for them already. proven are those that
	// have completed a handshake; nobody can push them out by forging others.
	asked, proven *recent
}

const (
	// askedLife and provenLife are how long they are remembered, and askedRoom and provenRoom about how many.
	askedLife, provenLife = time.Minute, time.Hour
	askedRoom, provenRoom = 1 << 12, 1 << 14
)

func newReplies() replies {
	return replies{networks: newBudget(), asked: newRecent(askedRoom), proven: newRecent(provenRoom)}
}

// tokens are those of a neighbour's family.
func (r *replies) tokens(a *stack.Addr) *bucket {
	if a.Is4() {
		return &r.neighbours[0]
	}
	return &r.neighbours[1]
}

// known says whether a neighbour is not new.
func (r *replies) known(a *stack.Addr, now time.Duration) bool {
	return r.proven.within(a, &stack.Addr{}, now, provenLife) || r.asked.within(a, &stack.Addr{}, now, askedLife)
}

// mayReach says whether a neighbour may be answered, at a rate of those that are new.
func (r *replies) mayReach(a *stack.Addr, now time.Duration, rate int) bool {
	if r.known(a, now) {
		return true
	}
	if !r.tokens(a).take(now, rate) {
		return false
	}
	r.asked.note(a, &stack.Addr{}, now)
	return true
}

// reached notes that a neighbour exists.
func (r *replies) reached(a *stack.Addr, now time.Duration, rate int) {
	if !r.proven.within(a, &stack.Addr{}, now, provenLife) {
		r.tokens(a).give(rate)
	}
	r.proven.note(a, &stack.Addr{}, now)
}

// from is where the packet in work claims to come from.
func (w *Worker) from() place {
	at, _ := w.policy.places.Lookup(w.pkt.Src.Netip())
	return at
}

// mayReply says whether the source of the packet in work gets an answer. If not, the packet is counted as dropped.
func (w *Worker) mayReply() bool {
	src, r, limit := &w.pkt.Src, &w.proxy.replies, &w.policy.replies
	switch w.from() {
	case nowhere:
		w.drop(DropNoSource)
		return false
	case nearby:
		if !r.mayReach(src, w.now.since, limit.Neighbours) {
			w.drop(DropNeighbours)
			return false
		}
	}
	if !r.networks.take(networkOf(src), w.now.since, limit.PerNetwork) {
		w.drop(DropReplyBudget)
		return false
	}
	return true
}

// RepliesLeft is how many answers there are for a source now, of what Replies allows.
type RepliesLeft struct {
	// Network is the source's; it is answered PerNetwork times a second for nothing, and ToNetwork times now.
	Network               netip.Prefix
	ToNetwork, PerNetwork int
	// NewNeighbour says that the source is a neighbour that is new: of Neighbours a second, ToNeighbours are answered now.
	NewNeighbour             bool
	ToNeighbours, Neighbours int
}

// repliesLeft says what mayReply would find, without taking any of it, and why it would drop the packet; NumDropReasons if it wouldn't.
func (p *Proxy) repliesLeft(src *stack.Addr, at place, now time.Duration, limit *Replies) (RepliesLeft, DropReason) {
	r, network := &p.replies, networkOf(src)
	bits := 8 * network6
	if src.Is4() {
		bits = 8 * (network4 - 12)
	}
	left := RepliesLeft{Network: netip.PrefixFrom(network.prefix.Netip(), bits), PerNetwork: limit.PerNetwork, Neighbours: limit.Neighbours}
	left.ToNetwork = r.networks.left(network, now, limit.PerNetwork)
	left.ToNeighbours = r.tokens(src).left(now, limit.Neighbours)
	left.NewNeighbour = at == nearby && !r.known(src, now)
	switch {
	case at == nowhere:
		return left, DropNoSource
	case left.NewNeighbour && left.ToNeighbours == 0:
		return left, DropNeighbours
	case left.ToNetwork == 0:
		return left, DropReplyBudget
	}
	return left, NumDropReasons
}

// replied notes that an answer to the source of the packet in work has come to something.
func (w *Worker) replied() {
	src, r, limit := &w.pkt.Src, &w.proxy.replies, &w.policy.replies
	if w.from() == nearby {
		r.reached(src, w.now.since, limit.Neighbours)
	}
	r.networks.give(networkOf(src), limit.PerNetwork)
}
