package proxy

import (
	"cmp"
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Restored says what a Proxy found in its FlowState.
type Restored struct {
	// Flows go on, those that have ended and are only remembered included. Unserved of them belong to no service any more, as after a
	// reload that has removed it. Direct ones of no service aren't counted: they go on without levee.
	Flows, Unserved int
	// Rewritten were being rewritten when the process before ended: see stripe.rewrite. Senseless are no flows that levee can have
	// written: the memory was changed by somebody else.
	Rewritten, Senseless int
}

// Restored is what this Proxy has gone on with.
func (p *Proxy) Restored() Restored { return p.restored }

// restore makes flows of the records that an earlier process left in the table, and empties those that aren't. now is the present tick.
// Its time is that of one look at each record, and about 100 ns for each flow.
func (p *Proxy) restore(now instant) {
	policy := p.policy.Load()
	var ended []uint32 // of one stripe
	for i := range p.table.stripes {
		s := &p.table.stripes[i]
		s.wheel.now = now.tick
		ended = ended[:0]
		for j := range s.flows {
			f, slot := &s.flows[j], uint32(j)
			if f.state == StateFree {
				continue
			}
			hash := p.table.hash.of(&f.key)
			svc := policy.serving(f)
			unserved := svc == nil
			if unserved && !f.has(direct) {
				svc = p.removed(policy, now)
			}
			_, twice := s.find(&f.key, hash)
			switch {
			case *s.mark == slot+1:
				p.restored.Rewritten++
				f.state = StateFree
				continue
			case !f.sane(now) || twice || p.table.stripe(hash) != s:
				p.restored.Senseless++
				f.state = StateFree
				continue
			case svc == nil:
				f.state = StateFree
				continue
			case unserved:
				p.restored.Unserved++
			}
			p.restored.Flows++
			f.service = svc.state.index
			svc.state.records.Add(1)
			if f.state == StateOpening && f.flags&(direct|opened) == 0 {
				*f.early() = 0 // what was held is gone: the client sends it again
			}
			s.enlist(slot, hash)
			s.links.unlink(slot)
			s.states[StateFree]--
			s.states[f.state]++
			if live(f.state) {
				svc.state.flows.Add(1)
			}
			if f.proven() {
				p.count(f, 1)
			}
			if f.state == StateOpening && !f.has(direct) {
				p.opening.of(f).Add(1)
			}
			if f.evictable() {
				ended = append(ended, slot)
			} else {
				s.arm(slot, policy.due(f))
			}
		}
		s.rewritten()
		slices.SortFunc(ended, func(a, b uint32) int { return cmp.Compare(s.flows[a].lastSeen, s.flows[b].lastSeen) })
		for _, slot := range ended {
			s.bury(slot)
		}
	}
}

// removed is the service of flows whose own was removed before this process began, by a name that none can have. It is nil if there are too many
// services for another. Nobody has the policy yet.
func (p *Proxy) removed(policy *policy, now instant) *service {
	const name = ""
	if state := p.roster.states[name]; state != nil {
		return policy.of(state.index)
	}
	from := Service{Name: name, Mode: ModeOff}
	if p.roster.room([]Service{from}, 0) != nil {
		return nil
	}
	s := newService(&p.cfg, &from, p.roster.admit(name), nil, now)
	s.isLeft, s.removedIn = true, policy.generation
	policy.index(s)
	return s
}

// sane says whether levee can have written this record until now. It doesn't find every damage, but none that
// would keep the table from working.
func (f *flow) sane(now instant) bool {
	k := &f.key
	if f.state >= NumStates || !lessEnd(&k.low, k.lowPort, &k.high, k.highPort) || f.lastSeen > now.tick || f.created > now.since {
		return false
	}
	for i := range f.half {
		if h := &f.half[i]; h.scale > header.MaxWndScale || h.promised > header.MaxWndScale {
			return false
		}
	}
	return f.created >= 0 && (f.wscale <= header.MaxWndScale || f.wscale == WScaleNone)
}

// serving is the service of a flow that another process has tracked, or nil: that of its server, or of the protected host
// that opened it.
func (p *policy) serving(f *flow) *service {
	k := &f.key
	low, high := p.find(&k.low, k.lowPort), p.find(&k.high, k.highPort)
	server, client := high, low
	if !f.has(clientLow) {
		server, client = low, high
	}
	if server == nil && f.has(direct) {
		return client
	}
	return server
}

// zero is the time of tick 0, given that of the start.
func (s *FlowState) zero(now time.Time) time.Time { return now.Add(s.header().Zero - s.Monotonic) }
