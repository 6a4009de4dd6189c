package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/gaissmai/bart"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"levee/proxy/cookie"
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
	if len(c.Services) > maxServices {
		bad("%d services: use at most %d", len(c.Services), maxServices)
	}
	if c.Grace < 0 || c.Grace > MaxGrace {
		bad("grace of %s: use 0 to %s", c.Grace, MaxGrace)
	}
	if err := c.Replies.orDefault().validate(); err != nil {
		bad("%w", err)
	}
	for _, prefix := range slices.Concat(c.Neighbours, c.NoSources) {
		if !canonical(prefix) {
			bad("prefix %s of sources: write it masked, IPv4 as IPv4", prefix)
		}
	}
	names := make(map[string]bool)
	for i := range c.Services {
		s := &c.Services[i]
		if names[s.Name] {
			bad("two services are called %s: give each a name of its own", s.Name)
		}
		names[s.Name] = true
		if s.Name == "" || len(s.Prefixes) == 0 {
			bad("service %d: it needs a name and a prefix", i)
		}
		for _, prefix := range s.Prefixes {
			if !canonical(prefix) {
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
		if s.Mode.watches() {
			if err := s.Engage.Validate(); err != nil {
				bad("service %s: %w", s.Name, err)
			}
		}
		if s.EarlyData < 0 || s.EarlyData > MaxEarlyData {
			bad("service %s: early data of %d bytes: use 0 to %d", s.Name, s.EarlyData, MaxEarlyData)
		}
		for _, err := range []error{s.validateLists(), s.Verified.validate(), s.PerSource.validate()} {
			if err != nil {
				bad("service %s: %w", s.Name, err)
			}
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

// policy is the configuration as packets meet it, compiled for lookup. It never changes: a reload makes another, and each worker
// takes the latest at the beginning of a batch.
type policy struct {
	// services are those of the configuration, in its order.
	services []*service
	// indexed are the services that records may refer to, by index: those above and those that have been removed (see roster). nil where
	// there is none.
	indexed []*service
	// left are former services, with addresses or ports that no service of that name has now, to which cookies may still come back.
	left []*service
	// prefixes leads to every service that has the prefix or one that contains it, those left last.
	prefixes bart.Table[[]*service]
	// places is what is special about sources, and replies how much those are answered that may be forged.
	places  *bart.Table[place]
	replies Replies
	// grace is for how long after its protection began (see service.since) segments of no flow to a service pass.
	grace time.Duration
	// idle and remembered are how long an open flow lasts without packets, and one that has ended or, if outbound, has no answer.
	idle, remembered tick
	// generation counts policies.
	generation uint64
}

// newPolicy compiles the policy that follows a former one at the time now. The roster is brought up to date. Every worker has seen a policy of the
// generation seen or later.
func newPolicy(cfg *Config, former *policy, r *roster, now instant, seen uint64) *policy {
	p := &policy{
		idle:       ticks(cfg.IdleTimeout),
		remembered: max(ticks(cfg.TransitoryTimeout), cookieLifetime),
		generation: former.generation + 1,
		places:     newPlaces(cfg),
		replies:    cfg.Replies.orDefault(),
		grace:      cfg.Grace,
	}
	for i := range cfg.Services {
		state := r.admit(cfg.Services[i].Name)
		p.services = append(p.services, newService(cfg, &cfg.Services[i], state, former.of(state.index), now))
	}
	p.left = leftOf(former, p, now)
	for _, s := range slices.Concat(p.services, r.retire(former, p, now, seen)) {
		p.index(s)
	}
	p.compile()
	return p
}

// index has records refer to a service.
func (p *policy) index(s *service) {
	if need := int(s.state.index) + 1; need > len(p.indexed) {
		p.indexed = append(p.indexed, make([]*service, need-len(p.indexed))...)
	}
	p.indexed[s.state.index] = s
}

// maxLeft bounds the services that are left, should a reload follow upon another.
const maxLeft = 4096

// leftOf finds what clients of the former policy may return cookies for, where the next one has not the same service.
func leftOf(former, next *policy, now instant) (left []*service) {
	has := func(list []*service, s *service) bool {
		return slices.ContainsFunc(list, func(o *service) bool { return o.state == s.state && o.samePlace(s) })
	}
	for _, s := range former.services {
		if !has(next.services, s) {
			left = append(left, s.withdrawn(now))
		}
	}
	for _, s := range former.left {
		if now.tick < s.honoured && len(left) < maxLeft && !has(next.services, s) && !has(left, s) {
			left = append(left, s)
		}
	}
	return left
}

// compile fills prefixes.
func (p *policy) compile() {
	var exact bart.Table[[]*service]
	for _, s := range slices.Concat(p.services, p.left) {
		for _, prefix := range s.Prefixes {
			here, _ := exact.Get(prefix)
			if !slices.Contains(here, s) {
				exact.Insert(prefix, append(here, s))
			}
		}
	}
	for prefix := range exact.All() {
		var candidates, left []*service
		for _, list := range exact.Supernets(prefix) {
			for _, s := range list {
				to := &candidates
				if s.isLeft {
					to = &left
				}
				if !slices.Contains(*to, s) {
					*to = append(*to, s)
				}
			}
		}
		p.prefixes.Insert(prefix, append(candidates, left...))
	}
}

// find is the service of a server's address and port, or nil. Validate sees to it that there is at most one; it comes before any that
// is left.
func (p *policy) find(addr *stack.Addr, port uint16) *service {
	candidates, _ := p.prefixes.Lookup(addr.Netip())
	for _, s := range candidates {
		if s.hasPort(port) {
			return s
		}
	}
	return nil
}

// of is the service that a record's index means, or nil if this policy doesn't know it.
func (p *policy) of(index uint16) *service {
	if int(index) < len(p.indexed) {
		return p.indexed[index]
	}
	return nil
}

// proxies says whether some port at an address is protected.
func (p *policy) proxies(addr *stack.Addr) bool {
	candidates, _ := p.prefixes.Lookup(addr.Netip())
	return slices.ContainsFunc(candidates, (*service).protected)
}

// cookieEpochs is how many epochs a cookie may live through: the one it was issued in and the next.
const cookieEpochs = 2

// cookieLifetime is after how many ticks every cookie issued until now has surely expired (see ticks).
const cookieLifetime = tick(cookieEpochs*cookie.EpochSeconds*ticksPerSecond) + 1
