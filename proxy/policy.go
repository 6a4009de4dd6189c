package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"

	"github.com/gaissmai/bart"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"levee/proxy/cookie"
	"levee/proxy/servers"
	"levee/stack"
)

// Validate says what is wrong with the configuration, every fault at once.
func (c *Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Capacity < 1 || c.Capacity > MaxCapacity {
		bad("capacity %d: use 1 to %d", c.Capacity, MaxCapacity)
	}
	if c.IdleTimeout <= 0 || c.TransitoryTimeout <= 0 {
		bad("time-outs %s and %s: they must be positive", c.IdleTimeout, c.TransitoryTimeout)
	}
	if c.MTU < MinMTU || c.MTU > MaxMTU {
		bad("MTU %d: use %d to %d", c.MTU, MinMTU, MaxMTU)
	}
	if c.EarlyPool < 0 || c.EarlyPool > MaxEarlyPool {
		bad("pool of %d bytes for early data: use 0 to %d", c.EarlyPool, MaxEarlyPool)
	}
	for i := range c.Services {
		s := &c.Services[i]
		if s.Name == "" || len(s.Prefixes) == 0 {
			bad("service %d: it needs a name and a prefix", i)
		}
		for _, prefix := range s.Prefixes {
			if !prefix.IsValid() || prefix != prefix.Masked() || prefix.Addr().Is4In6() {
				bad("service %s: prefix %s: write it masked, IPv4 as IPv4", s.Name, prefix)
			}
		}
		for _, r := range s.Ports {
			if r.First == 0 || r.First > r.Last {
				bad("service %s: ports %s: use 1 to 65535, the smaller first", s.Name, r)
			}
		}
		if s.Options.WScale > header.MaxWndScale && s.Options.WScale != WScaleNone {
			bad("service %s: window scale %d: use 0 to %d", s.Name, s.Options.WScale, header.MaxWndScale)
		}
		if s.BypassRate < 0 || s.BypassRate > MaxBypassRate {
			bad("service %s: bypass rate %d: use 0 to %d", s.Name, s.BypassRate, MaxBypassRate)
		}
		if s.EarlyData < 0 || s.EarlyData > MaxEarlyData {
			bad("service %s: early data of %d bytes: use 0 to %d", s.Name, s.EarlyData, MaxEarlyData)
		}
		for j := range i {
			if prefix, ok := s.overlaps(&c.Services[j]); ok {
				bad("services %s and %s both have %s with the same port", c.Services[j].Name, s.Name, prefix)
			}
		}
	}
	return errors.Join(errs...)
}

// overlaps says whether an address and port can belong to both services, and in which prefix.
func (s *Service) overlaps(o *Service) (netip.Prefix, bool) {
	if !portsOverlap(s.Ports, o.Ports) {
		return netip.Prefix{}, false
	}
	for _, a := range s.Prefixes {
		for _, b := range o.Prefixes {
			if a.Overlaps(b) {
				if a.Bits() < b.Bits() {
					a = b
				}
				return a, true
			}
		}
	}
	return netip.Prefix{}, false
}

func portsOverlap(a, b []PortRange) bool {
	if len(a) == 0 || len(b) == 0 {
		return true
	}
	for _, x := range a {
		for _, y := range b {
			if x.First <= y.Last && y.First <= x.Last {
				return true
			}
		}
	}
	return false
}

// policy is the services, compiled for lookup. It does not change after newPolicy.
type policy struct {
	services []*service
	// prefixes leads to every service that has the prefix or one that contains it.
	prefixes bart.Table[[]*service]
}

// service is a Service and what the workers share about it.
type service struct {
	Service
	index uint16
	// gate is open while cookies are outstanding.
	gate cookie.Gate
	// bypassed bounds the SYNs that go to the servers as they are.
	bypassed bucket
	// serverWindow is about the smallest window, in bytes, with which its servers begin (see learnWindow).
	serverWindow atomic.Uint32
	// flows in the table, those only remembered not counted.
	flows atomic.Int64
	mtu   int
}

func newPolicy(cfg *Config) *policy {
	p := &policy{}
	for i := range cfg.Services {
		s := &service{Service: cfg.Services[i], index: uint16(i), mtu: cfg.MTU}
		s.serverWindow.Store(DefaultEarlyData)
		if cfg.SharedSecret {
			s.Options.Learn &^= servers.WScale
		}
		p.services = append(p.services, s)
	}
	for _, s := range p.services {
		for _, prefix := range s.Prefixes {
			if _, done := p.prefixes.Get(prefix); done {
				continue
			}
			var candidates []*service
			for _, c := range p.services {
				for _, other := range c.Prefixes {
					if other.Bits() <= prefix.Bits() && other.Contains(prefix.Addr()) {
						candidates = append(candidates, c)
						break
					}
				}
			}
			p.prefixes.Insert(prefix, candidates)
		}
	}
	return p
}

// largestEarly is the most bytes that any service holds of a client.
func (p *policy) largestEarly() int {
	n := 0
	for _, s := range p.services {
		n = max(n, s.EarlyData)
	}
	return n
}

// find is the service of a server's address and port, or nil. Validate sees to it that there is at most one.
func (p *policy) find(addr *stack.Addr, port uint16) *service {
	candidates, _ := p.prefixes.Lookup(addr.Netip())
	for _, s := range candidates {
		if s.hasPort(port) {
			return s
		}
	}
	return nil
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
	return uint16(min(uint32(s.EarlyData), s.serverWindow.Load()))
}

// learnWindow learns from the window of a server's SYN-ACK. A client must not be told more than the server will take: for
// what is beyond it would wait in vain. A smaller window counts at once, a larger one little by little.
func (s *service) learnWindow(window uint16) {
	w, known := uint32(window), s.serverWindow.Load()
	switch {
	case w < known:
		s.serverWindow.Store(w)
	case w > known:
		s.serverWindow.Store(known + (w-known+15)/16)
	}
}

// cookieEpochs is how many epochs a cookie may live through: the one it was issued in and the next.
const cookieEpochs = 2

// cookieLifetime is after how many ticks every cookie issued until now has surely expired (see ticks).
const cookieLifetime = tick(cookieEpochs*cookie.EpochSeconds*ticksPerSecond) + 1
