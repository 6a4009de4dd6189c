package proxy

import (
	"net/netip"
	"time"

	"levee/proxy/flood"
	"levee/proxy/servers"
	"levee/stack"
)

// Explanation is what a Proxy knows about one pair of ends, and what it would do with a SYN from the one to the other.
type Explanation struct {
	// Service is the one that protects the server; empty if none does. ClientService is the one that protects the client's end.
	Service, ClientService string
	// Mode is that of Service, or of ClientService if there is none.
	Mode Mode
	// Flow is the record of the connection between these two ends, if there is Recorded one.
	Flow     FlowInfo
	Recorded bool
	// Server is what is known of the server.
	Server servers.Known
	// Promise is what the SYN-ACK tells a client that offers everything: its MSS in bytes is never 0. Window is its first window in bytes.
	Promise Options
	Window  uint16
	// Replies is how many answers there are for the client now; zero where the SYN needs none.
	Replies RepliesLeft
	// Watched says that floods of the service are looked for, DestinationEngaged that there is one of this server's address and port: a service of
	// ModeAuto answers SYNs to it with cookies, one of ModeMonitor would. Engagement is the whole service's.
	Watched, DestinationEngaged bool
	Engagement                  Engagement
	// Verdict on a sound SYN, and why if it is VerdictDrop or VerdictPass. VerdictForward means that the connection is tracked but not proxied.
	Verdict Verdict
	Drop    DropReason
	Pass    PassReason
}

// Explain says what a SYN from client to server would meet. It changes nothing and counts nothing. The rates
// of verified and bypass_rate are not asked: what would be beyond one is explained as if it were within.
func (p *Proxy) Explain(now time.Time, client, server netip.AddrPort) Explanation {
	at, policy := p.instant(now), p.policy.Load()
	src, dst := stack.AddrFrom(client.Addr()), stack.AddrFrom(server.Addr())
	e := Explanation{Server: p.servers.Find(&servers.Key{Addr: dst, Port: server.Port()}, at.unix)}
	e.Flow, e.Recorded = p.flowBetween(at, &src, client.Port(), &dst, server.Port())
	svc, other := policy.find(&dst, server.Port()), policy.find(&src, client.Port())
	if other != nil {
		e.ClientService, e.Mode = other.Name, other.Mode
	}
	if svc != nil {
		e.Service, e.Mode = svc.Name, svc.Mode
	}
	if e.Watched = svc.watched(); e.Watched {
		e.Engagement = svc.engagement(p.start)
		e.DestinationEngaged = p.floods.Engaged(svc.state.watch, &flood.Destination{Addr: dst, Port: server.Port()})
	}
	refused := svc.protected() && p.refusal(svc, &src, at.since) != NumDropReasons
	switch {
	case e.Watched && svc.lets(refused, e.DestinationEngaged):
		e.Verdict, e.Pass = VerdictPass, PassHandshake
	case !svc.protected() && other.protected() && other.Mode == ModeMonitor && src == dst:
		e.Verdict, e.Pass = VerdictPass, PassMonitored
	case (svc.protected() || other.protected()) && src == dst:
		e.Verdict, e.Drop = VerdictDrop, DropLand
	case svc.protected():
		p.explainProtected(&e, policy, svc, &src, &dst, server.Port(), at)
	case other.protected():
		e.Verdict = VerdictForward
		if e.Recorded && !e.Flow.Direct && live(e.Flow.State) {
			e.Verdict, e.Drop = VerdictDrop, DropBadAck
		}
	default:
		e.Verdict, e.Pass = VerdictPass, svc.whyPassed()
	}
	return e
}

// explainProtected is about a SYN to a service that is protected, in the order of Worker.checkedSYN.
func (p *Proxy) explainProtected(e *Explanation, policy *policy, svc *service, src, dst *stack.Addr, port uint16, at instant) {
	promise := p.promise(svc, dst, port, at.unix)
	e.Promise = promise.Options
	e.Promise.MSS = svc.mss(!dst.Is4(), e.Promise.MSS)
	e.Window = svc.firstWindow(p.early, promise.window)
	refusal := p.refusal(svc, src, at.since)
	place, _ := policy.places.Lookup(src.Netip())
	switch {
	case refusal != NumDropReasons:
		e.Verdict, e.Drop = VerdictDrop, refusal
	case svc.lists.of(src) == allowed:
		e.Verdict, e.Pass = VerdictPass, PassAllowed
	case p.verified.knows(sourceOf(src, svc), at.since, svc.Verified):
		e.Verdict, e.Pass = VerdictPass, PassVerified
	default:
		if e.Replies, refusal = p.repliesLeft(src, place, at.since, &policy.replies); refusal != NumDropReasons {
			e.Verdict, e.Drop = VerdictDrop, refusal
			return
		}
		e.Verdict, e.Drop = svc.ClosedPorts.refusal(promise.state)
	}
}

// flowBetween returns the record of the connection between two ends.
func (p *Proxy) flowBetween(at instant, a *stack.Addr, aPort uint16, b *stack.Addr, bPort uint16) (info FlowInfo, found bool) {
	key, _ := keyOfEnds(a, aPort, b, bPort)
	hash := p.table.hash.of(&key)
	s := p.table.stripe(hash)
	s.mu.Lock()
	slot, found := s.find(&key, hash)
	var f flow
	if found {
		f = s.flows[slot]
	}
	s.mu.Unlock()
	if found {
		info = p.info(&f, at)
	}
	return info, found
}
