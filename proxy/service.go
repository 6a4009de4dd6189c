package proxy

import (
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"levee/proxy/cookie"
	"levee/proxy/servers"
)

// service is the configuration of a Service, which never changes, and the state that goes with its name. A reload makes another
// service, with the same state.
type service struct {
	Service
	state *serviceState
	lists *lists
	mtu   int
	// removedIn is the generation of the first policy whose configuration has it no longer, 0 while it is configured. Nothing new is then
	// protected, but its flows go on as before, and so do clients that were sent a cookie.
	removedIn uint64
}

func newService(cfg *Config, from *Service, state *serviceState) *service {
	s := &service{Service: *from, state: state, lists: newLists(from), mtu: cfg.MTU}
	if cfg.SharedSecret {
		s.Options.Learn &^= servers.WScale
	}
	return s
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
	// serverWindow is about the smallest window, in bytes, with which its servers begin (see learnWindow).
	serverWindow atomic.Uint32
	// flows in the table, those only remembered not counted; records counts all of them.
	flows, records atomic.Int64
	// counters of each worker, by its id. The slice is set before a worker sees the service.
	counters []*serviceCounters
}

func newServiceState(name string, index uint16, workers int) *serviceState {
	s := &serviceState{name: name, index: index}
	s.serverWindow.Store(DefaultEarlyData)
	for range workers {
		s.counters = append(s.counters, new(serviceCounters))
	}
	return s
}

// protected says that new connections are levee's business.
func (s *service) protected() bool { return s != nil && s.Mode != ModeOff }

// whyPassed is why packets of a service that isn't protected pass.
func (s *service) whyPassed() PassReason {
	if s == nil || s.removedIn != 0 {
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

// firstWindow is the window, in bytes, that a SYN-ACK tells a client: what it may send before the server has answered. 0 makes the client
// wait for the server's own, as does a pool that fills up.
func (s *service) firstWindow(pool *earlyPool) uint16 {
	if s.EarlyData == 0 || !pool.inviting() {
		return 0
	}
	return uint16(min(uint32(s.EarlyData), s.state.serverWindow.Load()))
}

// learnWindow learns from the window of a server's SYN-ACK. A client must not be told more than the server will take: for
// what is beyond it would wait in vain. A smaller window counts at once, a larger one little by little.
func (s *serviceState) learnWindow(window uint16) {
	w, known := uint32(window), s.serverWindow.Load()
	switch {
	case w < known:
		s.serverWindow.Store(w)
	case w > known:
		s.serverWindow.Store(known + (w-known+15)/16)
	}
}
