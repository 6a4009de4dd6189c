package proxy_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// summary gathers outcomes.
type summary struct {
	start time.Time

	mu                  sync.Mutex // guards the rest
	seeds               int
	failures            []uint64
	overruns, lingering int
	slowest             []outcome
	broken              [2]map[string]int
	talks               int
	late                [2][]lateness // with levee, and without but with other draws
	clean               []lateness
	tidy                []outlier // the latest on clean wires
	outliers            []outlier
	control             int
	earlier             [2]int // as late is late
	compared            int
}

// lateness is by how much a conversation took longer than without levee.
type lateness time.Duration

type outlier struct {
	seed   uint64
	talk   int
	by     time.Duration
	reason string
	clean  bool
}

// initialRTO is the first retransmission time-out of every host (RFC 6298 §2.1).
const initialRTO = time.Second

// bound is how much later than without levee a conversation may end: one server round trip and one retransmission time-out. Where early
// data find no room they are lost to the client, which begins again slowly after its time-out (RFC 5681 §3.1): some more of its round trips.
func (sc *scenario) bound() time.Duration {
	bound := 2*sc.cfg.ServerLatency + initialRTO
	if sc.cfg.Proxy.EarlyPool <= smallPool {
		bound += 8 * sc.cfg.ClientLatency
	}
	return bound
}

func (s *summary) add(o outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seeds++
	s.overruns += o.overruns
	s.lingering += o.lingering
	s.slowest = append(s.slowest, o)
	slices.SortFunc(s.slowest, func(a, b outcome) int { return cmp.Compare(b.cost, a.cost) })
	s.slowest = s.slowest[:min(len(s.slowest), 5)]
	if o.failed {
		s.failures = append(s.failures, o.seed)
		return
	}
	for i := range s.broken {
		if s.broken[i] == nil {
			s.broken[i] = map[string]int{}
		}
	}
	for i := range o.sc.talks {
		s.talks++
		plain, levee, control := o.runs[0][i], o.runs[1][i], o.runs[2][i]
		for j, d := range []*dialogue{plain, levee} {
			if d.broken != "" {
				s.broken[j][d.broken]++
			}
		}
		if plain.broken != "" || plain.end.aborts() {
			continue
		}
		s.compared++
		by := levee.took() - plain.took()
		if levee.broken != "" || by > o.sc.bound() {
			s.outliers = append(s.outliers, outlier{o.seed, i, by, o.reason(i), o.sc.clean})
		}
		if levee.broken == "" {
			s.late[0] = append(s.late[0], lateness(by))
			if o.sc.clean {
				s.clean = append(s.clean, lateness(by))
				s.tidy = append(s.tidy, outlier{o.seed, i, by, "", true})
			}
		}
		for j, by := range []time.Duration{by, control.took() - plain.took()} {
			if by < -o.sc.bound() {
				s.earlier[j]++
			}
		}
		if by := control.took() - plain.took(); control.broken != "" || by > o.sc.bound() {
			s.control++
		}
		if control.broken == "" {
			s.late[1] = append(s.late[1], lateness(control.took()-plain.took()))
		}
	}
}

// reason is where a conversation lost time with levee. It sorts outliers for whoever looks at their traces; it proves no cause.
func (o *outcome) reason(i int) string {
	plain, levee := o.runs[0][i], o.runs[1][i]
	opening := (levee.opened - levee.dialed) - (plain.opened - plain.dialed)
	switch {
	case levee.broken != "" && levee.server == nil:
		return "the server's half was never opened: " + levee.broken
	case levee.broken != "":
		return "broken: " + levee.broken
	case opening > o.sc.bound() && i < len(o.lostAcks) && o.lostAcks[i]:
		return "in the handshake, an ACK to levee lost"
	case opening > o.sc.bound():
		return "in the handshake, no ACK to levee lost"
	}
	return "after the handshake"
}

func (s *summary) report(t *testing.T) {
	quantiles := func(l []lateness) string {
		if len(l) == 0 {
			return "none"
		}
		slices.Sort(l)
		var b strings.Builder
		for _, q := range []float64{0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1} {
			fmt.Fprintf(&b, " %g%%: %v", q*100, time.Duration(l[int(q*float64(len(l)-1))]).Round(time.Millisecond))
		}
		return b.String()
	}
	t.Logf("%d seeds in %v, %d conversations; failed: %d %v", s.seeds, time.Since(s.start).Round(time.Millisecond), s.talks, len(s.failures), s.failures)
	t.Logf("gave up or were reset, without levee: %v", s.broken[0])
	t.Logf("gave up or were reset, with levee: %v", s.broken[1])
	t.Logf("segments of gVisor's beyond its peer's window: %d", s.overruns)
	t.Logf("flows that only their time-out ended, on wires that lose: %d", s.lingering)
	t.Logf("%d compared; more than a server round trip and %v later: %d with levee, %d without it but with other draws; that much earlier: %d and %d",
		s.compared, initialRTO, len(s.outliers), s.control, s.earlier[0], s.earlier[1])
	t.Logf("later with levee:              %s", quantiles(s.late[0]))
	t.Logf("later without, other draws:    %s", quantiles(s.late[1]))
	t.Logf("later with levee, clean wires: %s", quantiles(s.clean))
	reasons := map[string][]outlier{}
	for _, o := range s.outliers {
		reasons[o.reason] = append(reasons[o.reason], o)
	}
	for reason, list := range reasons {
		slices.SortFunc(list, func(a, b outlier) int { return cmp.Compare(b.by, a.by) })
		text := ""
		for _, o := range list[:min(len(list), 12)] {
			text += fmt.Sprintf(" %d/%d %v", o.seed, o.talk, o.by.Round(time.Millisecond))
		}
		t.Logf("outliers: %d: %s:%s", len(list), reason, text)
	}
	slices.SortFunc(s.tidy, func(a, b outlier) int { return cmp.Compare(b.by, a.by) })
	for _, o := range s.tidy[:min(len(s.tidy), 5)] {
		t.Logf("latest on clean wires: %d/%d %v", o.seed, o.talk, o.by.Round(time.Millisecond))
	}
	for _, o := range s.slowest {
		t.Logf("slowest: seed %d took %v of real time", o.seed, o.cost.Round(time.Millisecond))
	}
}
