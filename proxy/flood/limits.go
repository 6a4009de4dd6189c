package flood

import (
	"fmt"
	"time"
)

// Limits say when a destination is engaged. 0 for either number means that it is learned.
type Limits struct {
	// HalfOpen is how many handshakes with a destination may be unfinished, up to MaxHalfOpen.
	HalfOpen int
	// SYNRate is how many SYNs a destination may get in one second, up to MaxSYNRate.
	SYNRate int
	// Hold is for how long less than half of both must be seen before a destination is let go. Servers forget the handshakes of a flood
	// after about a minute (Linux: 63 s).
	Hold time.Duration
}

// Bounds and defaults of Limits.
const (
	// MaxHalfOpen is what can be counted well: more than any server's queue of half-open connections holds.
	MaxHalfOpen = 1 << 16
	MaxSYNRate  = 10_000_000
	// DefaultHold is about as long as servers keep half-open connections.
	DefaultHold      = time.Minute
	MinHold, MaxHold = time.Second, 24 * time.Hour
)

// Lifetime is how long a handshake counts as half-open that is neither finished nor refused: as long as Linux keeps it, sending its SYN-ACK
// again after 1, 3, 7, 15 and 31 s (net.ipv4.tcp_synack_retries = 5).
const Lifetime = 64 * time.Second

// Spread is how many times the limits of a destination all destinations of a service may reach together, those not counted that are
// engaged themselves; or more, if more has been learned to be usual.
const Spread = 8

// Learned limits are multiples of the rate of finished handshakes that the busiest destination of a service has seen in nearly every hour of
// a week, the two busiest left out: neither forged SYNs nor a flood that lasts for hours change them. A handshake rarely takes longer
// than half a second, by which the second follows (Little's law).
const (
	rateFactor     = 4
	halfOpenFactor = 2
	// Floors: what no server minds, and half of the shortest queue of half-open connections in common use (128), so that forged handshakes leave
	// room for those of levee's own.
	floorSYNRate  = 1000
	floorHalfOpen = 64
)

// limits are Limits with both numbers known.
type limits struct {
	halfOpen, synRate uint32
	hold              time.Duration
	// whole is the half-open limit of the service as a whole.
	whole uint32
}

// resolve puts what is learned in the place of what isn't configured. busiest is usual for the busiest destination.
func (l Limits) resolve(busiest uint32) limits {
	learned := learnedLimits(busiest)
	r := limits{halfOpen: uint32(l.HalfOpen), synRate: uint32(l.SYNRate), hold: l.Hold}
	if r.halfOpen == 0 {
		r.halfOpen = min(max(floorHalfOpen, learned.halfOpen), MaxHalfOpen)
	}
	if r.synRate == 0 {
		r.synRate = min(max(floorSYNRate, learned.synRate), MaxSYNRate)
	}
	return r
}

// spread is the limits of a whole service, for which total is usual.
func (l limits) spread(total uint32) limits {
	learned := learnedLimits(total)
	l.halfOpen = min(max(Spread*l.halfOpen, learned.halfOpen), MaxHalfOpen)
	l.synRate = max(Spread*l.synRate, learned.synRate)
	return l
}

func learnedLimits(usual uint32) limits {
	return limits{halfOpen: halfOpenFactor * min(usual, MaxHalfOpen), synRate: rateFactor * min(usual, MaxSYNRate)}
}

// Validate says what is wrong with the limits.
func (l Limits) Validate() error {
	switch {
	case l.HalfOpen < 0 || l.HalfOpen > MaxHalfOpen:
		return fmt.Errorf("half-open limit %d: use 1 to %d, or 0 to learn it", l.HalfOpen, MaxHalfOpen)
	case l.SYNRate < 0 || l.SYNRate > MaxSYNRate:
		return fmt.Errorf("SYN rate limit %d: use 1 to %d, or 0 to learn it", l.SYNRate, MaxSYNRate)
	case l.Hold < MinHold || l.Hold > MaxHold:
		return fmt.Errorf("hold time %s: use %s to %s", l.Hold, MinHold, MaxHold)
	}
	return nil
}
