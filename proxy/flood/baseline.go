package flood

import "slices"

// Hours is how many hours a Baseline knows: a week, so that the busiest hour of the busiest day is among them.
const Hours = 7 * 24

// Baseline is how busy a service usually is: of each hour of the last week, the most handshakes that were finished in a second.
// The zero value knows nothing.
type Baseline struct {
	// Hour is the latest that is known, in hours since 1970; Peaks has that of hour h at h modulo Hours, plus 1 so that 0 means that the hour isn't
	// known.
	Hour  int64
	Peaks [Hours]uint32
}

// Observe notes that at the time unix, in seconds, so many handshakes were finished in a second, and says whether that changes anything.
func (b *Baseline) Observe(unix int64, rate uint32) (changed bool) {
	hour := unix / 3600
	rate = min(rate, MaxSYNRate)
	if hour == b.Hour && hour >= 0 && b.Peaks[hour%Hours] > rate {
		return false
	}
	if hour < 0 || hour < b.Hour-Hours {
		*b = Baseline{} // the clock was set back by more than is known
	}
	for b.Hour < hour {
		b.Hour = max(b.Hour+1, hour-Hours+1)
		b.Peaks[b.Hour%Hours] = 0
	}
	p := &b.Peaks[b.Hour%Hours]
	*p = max(*p, rate+1)
	return true
}

// Hours that don't count, because what was busy in them need not be usual: of each hundred known hours so many, and the busiest two at least. A
// rush that lasts for less than an hour lies in two hours at most, and so changes nothing once two others are known, on the first day either.
// Of fewer than four hours half don't count: which of them are usual nobody can tell yet.
const (
	unusual      = 5
	unusualFirst = 2
)

// Rate is the most handshakes that were finished in a second in nearly every hour that is known, or 0.
func (b *Baseline) Rate() uint32 {
	var sorted [Hours]uint32
	known := sorted[:0]
	for _, p := range b.Peaks {
		if p != 0 {
			known = append(known, p-1)
		}
	}
	n := len(known)
	if n == 0 {
		return 0
	}
	slices.Sort(known)
	return known[n-1-max(n*unusual/100, min(unusualFirst, n/2))]
}
