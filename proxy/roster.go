package proxy

import "fmt"

// maxServices is how many services records can tell apart: those of the configuration and those that were removed while
// they had flows.
const maxServices = 1 << 16

// roster gives services their state and index, and keeps both for as long as a record can refer to them:
//
//	admitted ── removed from the configuration ──▶ retired ── no record, no cookie ──▶ resting ── every worker knows ──▶ free
//	    ▲                                             │
//	    └───────────── configured again ──────────────┘
//
// An index may be given to another service only when no worker looks it up in a policy that meant the former one. Proxy.mu guards a roster.
type roster struct {
	// states has those admitted and retired, by name.
	states map[string]*serviceState
	// resting are indices with the generation of the first policy without them, the oldest first; free may be given away, and those
	// from fresh on have never been.
	resting []restingIndex
	free    []uint16
	fresh   int
	// workers is how many workers there are.
	workers int
}

type restingIndex struct {
	index      uint16
	generation uint64
}

func newRoster() *roster { return &roster{states: make(map[string]*serviceState)} }

// room says whether that many services more can be admitted by these names. Indices rest until every worker has seen
// the generation.
func (r *roster) room(services []Service, seen uint64) error {
	for len(r.resting) > 0 && r.resting[0].generation <= seen {
		r.free = append(r.free, r.resting[0].index)
		r.resting = r.resting[1:]
	}
	room := len(r.free) + maxServices - r.fresh
	for i := range services {
		if _, known := r.states[services[i].Name]; known {
			continue
		}
		if room--; room < 0 {
			return fmt.Errorf("service %s: there are connections of %d other services, in the configuration and removed from it: wait until some end, or restart",
				services[i].Name, len(r.states))
		}
	}
	return nil
}

// admit returns the state of the service of this name, which has room.
func (r *roster) admit(name string) *serviceState {
	if s := r.states[name]; s != nil {
		return s
	}
	index := uint16(r.fresh)
	if n := len(r.free); n > 0 {
		index, r.free = r.free[n-1], r.free[:n-1]
	} else {
		r.fresh++
	}
	s := newServiceState(name, index, r.workers)
	r.states[name] = s
	return s
}

// retire returns the services that the former policy has and the configuration of the next has not, as far as they are needed still. The others are
// forgotten. Every worker has seen a policy of the generation seen or later.
func (r *roster) retire(former, next *policy, now instant, seen uint64) (retired []*service) {
	kept := make(map[*serviceState]bool, len(next.services))
	for _, s := range next.services {
		kept[s.state] = true
	}
	for _, s := range former.indexed {
		switch {
		case s == nil || kept[s.state]:
		case s.removedIn == 0:
			gone := *s
			gone.Mode, gone.isLeft, gone.removedIn = ModeOff, true, next.generation
			retired = append(retired, &gone)
		case s.removedIn <= seen && s.state.records.Load() == 0 && !now.outstanding(&s.state.gate):
			delete(r.states, s.Name)
			r.resting = append(r.resting, restingIndex{s.state.index, next.generation})
		default:
			retired = append(retired, s)
		}
	}
	return retired
}

// join makes room for the counters of another worker.
func (r *roster) join() {
	r.workers++
	for _, s := range r.states {
		s.counters = append(s.counters, new(serviceCounters))
	}
}
