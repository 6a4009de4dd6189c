package proxy

import (
	"slices"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"levee/proxy/cookie"
	"levee/proxy/flood"
	"levee/proxy/servers"
)

// service is the configuration of a Service, which never changes, and the state that goes with its name. A reload makes another
// service, with the same state.
type service struct {
	Service
	state *serviceState
	lists *lists
	mtu   int
	// isLeft: the configuration has it no longer, or not at these addresses and ports. Nothing new is protected, its Mode is ModeOff.
	isLeft bool
	// removedIn is the generation of the first policy whose configuration has no service of this name, 0 while it is configured.
	removedIn uint64
	// honoured is until when cookies may come back that were issued before a reload ended the protection.
	honoured tick
	// since is when the protection of these addresses and ports began: connections that are older are unknown.
	since time.Duration
	// told is what clients were told before a reload changed it.
	told formerScale
}

// formerScale is how clients were told the window scale of their servers before a reload: one for all, or each server's own.
type formerScale struct {
	until   tick // cookies from then may come back; 0: there are none
	wscale  uint8
	learned bool
}

// newService makes the service that follows the former one of the same name, which is nil if there is none, at the time now.
func newService(cfg *Config, from *Service, state *serviceState, former *service, now instant) *service {
	s := &service{Service: *from, state: state, lists: newLists(from), mtu: cfg.MTU, since: now.since}
	if cfg.SharedSecret {
		s.Options.Learn &^= servers.WScale
	}
	if former == nil {
		return s
	}
	s.honoured, s.told = former.honoured, former.told
	if former.protected() {
		if s.honoured = now.tick + cookieLifetime; s.samePlace(former) {
			s.since = former.since
		}
	}
	learned := s.Options.Learn.Has(servers.WScale)
	switch was := former.Options.Learn.Has(servers.WScale); {
	case was != learned, !learned && s.Options.WScale != former.Options.WScale:
		s.told = formerScale{now.tick + cookieLifetime, former.Options.WScale, was}
	}
	return s
}

// withdrawn is what remains of a service where it protects nothing any longer.
func (s *service) withdrawn(now instant) *service {
	w := *s
	w.Mode, w.isLeft = ModeOff, true
	if s.protected() {
		w.honoured = now.tick + cookieLifetime
	}
	return &w
}

// samePlace says whether two services have the same addresses and ports.
func (s *service) samePlace(o *service) bool {
	return slices.Equal(s.Prefixes, o.Prefixes) && slices.Equal(s.Ports, o.Ports)
}

// serviceState is what the workers share about a service. It belongs to the service's name, whatever its configuration becomes.
type serviceState struct {
	name string
	// index stands for the service in records.
	index uint16
	// gate is open while cookies are outstanding.
	gate cookie.Gate
	// bypassed bounds the SYNs that go to the servers as they are.
	bypassed bucket
	// spared bounds those of them that stay half-open there, for their servers to repeat their SYN-ACKs.
	spared bucket
	// serverWindow is about the smallest window, in bytes, with which its servers begin: for those of which nothing is known.
	serverWindow atomic.Uint32
	// watch is what is known of floods.
	watch *flood.Watch
	// flows in the table, those only remembered not counted; records counts all of them.
	flows, records atomic.Int64
	// counters of each worker, by its id. The slice is set before a worker sees the service.
	counters []*serviceCounters
}

func newServiceState(name string, index uint16, workers int) *serviceState {
	s := &serviceState{name: name, index: index, watch: flood.NewWatch(name)}
	s.serverWindow.Store(DefaultEarlyData)
	for range workers {
		s.counters = append(s.counters, new(serviceCounters))
	}
	return s
}

// protected says that new connections are levee's business.
func (s *service) protected() bool { return s != nil && s.Mode != ModeOff }

// watched says that floods of the service are looked for.
func (s *service) watched() bool { return s != nil && s.Mode.watches() }

// whyPassed is why packets of a service that isn't protected pass.
func (s *service) whyPassed() PassReason {
	if s == nil || s.isLeft {
		return PassNoService
	}
	return PassModeOff
}

// mss is the largest segment, in bytes, that levee promises a client: what the server promises, if that is known, but never more
// than fits the links it knows (RFC 6691).
func (s *service) mss(v6 bool, promised uint16) uint16 {
	headers := header.IPv4MinimumSize + header.TCPMinimumSize
	if v6 {
		headers = header.IPv6MinimumSize + header.TCPMinimumSize
	}
	most := uint16(s.mtu - headers)
	if promised != 0 {
		return min(promised, most)
	}
	return most
}

// firstWindow is the window, in bytes, that a SYN-ACK tells a client: what it may send before the server, which begins with another one, has
// answered. 0 makes the client wait for the server's own, as does a pool that fills up.
func (s *service) firstWindow(pool *earlyPool, server uint16) uint16 {
	if s.EarlyData == 0 || !pool.inviting() {
		return 0
	}
	return uint16(min(s.EarlyData, int(server)))
}

// learnWindow learns from the window of a SYN-ACK of one of its servers.
func (s *serviceState) learnWindow(window uint16) {
	known := uint16(s.serverWindow.Load())
	if next := servers.NextWindow(known, window); next != known {
		s.serverWindow.Store(uint32(next))
	}
}
