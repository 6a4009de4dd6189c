package daemon

import (
	"slices"
	"sync"
	"time"

	"levee/cmd/levee/control"
)

// repair is a kind of thing that others change and levee puts right.
type repair uint8

const (
	repairTUN repair = iota
	repairRouting
	repairNotrack
	repairSysctls
	repairInterfaces
	numRepairs
)

// String is the word in status and metrics.
func (r repair) String() string {
	return [...]string{repairTUN: "tun", repairRouting: "routing", repairNotrack: "notrack", repairSysctls: "sysctls", repairInterfaces: "interfaces"}[r]
}

const (
	// rememberGone is for how long an interface that is down, or has disappeared, keeps its rules if nobody has named it.
	rememberGone = 2 * time.Minute
	// saidMost is how many lines of the log each kind of repair may have in saidEvery: somebody may change a thing back each time.
	saidMost  = 10
	saidEvery = time.Minute
)

// mending is what is known about the repairs of a run.
type mending struct {
	// changed is told that something may have happened.
	changed chan struct{}

	// mu guards what follows.
	mu          sync.Mutex
	repairs     [numRepairs]uint64
	problems    []string
	unprotected bool
	// gone are interfaces of the plan that are down or don't exist, and since when. forget is when the next of them has been so for long.
	gone   map[string]time.Time
	forget time.Time

	// said belongs to the one that repairs: how many lines there were since when.
	said [numRepairs]struct {
		since time.Time
		lines int
	}
}

func newMending() mending {
	return mending{changed: make(chan struct{}, 1), gone: make(map[string]time.Time)}
}

// notice has what levee has set up looked at. It may be called at any time.
func (d *daemon) notice() {
	select {
	case d.mending.changed <- struct{}{}:
	default:
	}
}

func (m *mending) protected() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.unprotected
}

func (m *mending) report() control.Kernel {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := control.Kernel{Problems: append([]string{}, m.problems...), Repairs: make(map[string]uint64)}
	for r, n := range m.repairs {
		k.Repairs[repair(r).String()] = n
	}
	return k
}

// set makes problems those that there are, and returns the ones that weren't there before, and those that are over.
func (m *mending) set(problems []string, unprotected bool) (added, over []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range problems {
		if !slices.Contains(m.problems, p) {
			added = append(added, p)
		}
	}
	for _, p := range m.problems {
		if !slices.Contains(problems, p) {
			over = append(over, p)
		}
	}
	m.problems, m.unprotected = problems, unprotected
	return added, over
}

// count counts a repair and says how the log is to tell of it: not at all, or with the remark that it stays silent from now on.
func (m *mending) count(r repair, now time.Time) (say, last bool) {
	m.mu.Lock()
	m.repairs[r]++
	m.mu.Unlock()
	s := &m.said[r]
	if s.lines == 0 || now.Sub(s.since) >= saidEvery {
		s.since, s.lines = now, 0
	}
	s.lines++
	return s.lines <= saidMost, s.lines == saidMost
}

// miss notes which interfaces of the plan are down or don't exist.
func (m *mending) miss(names []string, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name := range m.gone {
		if !slices.Contains(names, name) {
			delete(m.gone, name)
		}
	}
	for _, name := range names {
		if _, known := m.gone[name]; !known {
			m.gone[name] = now
		}
	}
	m.forget = time.Time{}
	for _, since := range m.gone {
		if at := since.Add(rememberGone); at.After(now) && (m.forget.IsZero() || at.Before(m.forget)) {
			m.forget = at
		}
	}
}

// forgotten says that an interface has been gone for so long that its rules go too.
func (m *mending) forgotten(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	since, gone := m.gone[name]
	return gone && time.Since(since) >= rememberGone
}

// due says whether there is one more of these since the latest look.
func (m *mending) due(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.forget.IsZero() && !now.Before(m.forget)
}
