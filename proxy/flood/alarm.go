package flood

import (
	"math"
	"time"
)

// Cause is what engaged a destination.
type Cause uint8

// The causes.
const (
	// ByHalfOpen: too many handshakes were half-open.
	ByHalfOpen Cause = iota
	// BySYNRate: too many SYNs came in one second.
	BySYNRate
)

// String returns the cause's word, which is that of the limit in the configuration.
func (c Cause) String() string {
	if c == ByHalfOpen {
		return "half_open"
	}
	return "syn_rate"
}

// alarm counts the SYNs to a destination or a service and decides whether it is engaged. Time is since the Detector's zero.
type alarm struct {
	// second is the one that syns and proven count in: SYNs, and handshakes that were finished.
	second       uint32
	syns, proven uint32
	// rate and finished are the same of the second before.
	rate, finished uint32

	engaged bool
	// fresh says that it has been engaged since the latest Tick.
	fresh bool
	cause Cause
	// noisy is when the rate was last at half its limit or above, while engaged.
	noisy time.Duration
	// unproven is how many SYNs have not been followed by a proof, while engaged, with a half-life of the hold time and of
	// no more than the limit.
	unproven float64
}

func secondOf(now time.Duration) uint32 { return uint32(now / time.Second) }

// roll begins a new second if it is time. A clock that is behind another's counts as that one.
func (a *alarm) roll(now time.Duration, l limits) {
	second := secondOf(now)
	if second <= a.second {
		return
	}
	elapsed := second - a.second
	if a.engaged {
		a.unproven = min(max(a.unproven+float64(a.syns)-float64(a.proven), 0), float64(l.halfOpen))
		a.unproven *= math.Exp2(-float64(elapsed) / l.hold.Seconds())
	}
	a.rate, a.finished = 0, 0
	if elapsed == 1 {
		a.rate, a.finished = a.syns, a.proven
	}
	a.second, a.syns, a.proven = second, 0, 0
}

// engage begins to answer SYNs with cookies.
func (a *alarm) engage(now time.Duration, l limits, c Cause) {
	a.engaged, a.fresh, a.cause, a.noisy, a.unproven = true, true, c, now, float64(l.halfOpen)
}

// calm notes how noisy it is, while engaged, and says whether it has been calm for long enough.
func (a *alarm) calm(now time.Duration, l limits) bool {
	if 2*max(a.rate, a.syns) >= l.synRate {
		a.noisy = now
	}
	return now-a.noisy >= l.hold && 2*a.unproven <= float64(l.halfOpen)
}
