package daemon

import "time"

const (
	// pulseEvery is how often the workers are looked at.
	pulseEvery = 500 * time.Millisecond
	// hangAfter is for how long a worker must not have moved, with packets waiting for it, to count as hanging. A worker whose machine gives it no
	// time for as long as that would be no better off in another process.
	hangAfter = 10 * time.Second
	// pulseLate is after what time without a look the looks begin anew: the machine or this process stood still, and the workers with it.
	pulseLate = 4 * pulseEvery
)

// pulse judges by successive looks at the workers whether each still moves. It belongs to one goroutine.
type pulse struct {
	// beats are those of the latest look, at the time last.
	beats []uint64
	last  time.Time
	// still is for how long each worker has not moved.
	still []time.Duration
}

// look notes the workers' beats. Time that nobody looked counts for nobody: suspend, a machine that was held, a clock that jumps.
func (p *pulse) look(now time.Time, beats []uint64) {
	passed := now.Sub(p.last)
	if len(beats) != len(p.beats) || passed < 0 || passed > pulseLate {
		p.beats, p.still, p.last = append(p.beats[:0], beats...), make([]time.Duration, len(beats)), now
		return
	}
	for i, beat := range beats {
		if p.still[i] += passed; beat != p.beats[i] {
			p.still[i] = 0
		}
	}
	p.beats, p.last = append(p.beats[:0], beats...), now
}

// hanging is the first worker that hangs, given whether packets wait for one.
func (p *pulse) hanging(waiting func(worker int) bool) (worker int, still time.Duration, ok bool) {
	for i, still := range p.still {
		if still >= hangAfter && waiting(i) {
			return i, still, true
		}
	}
	return 0, 0, false
}

// lively says that every worker has moved lately, as of the latest look.
func (p *pulse) lively() bool {
	for _, still := range p.still {
		if still >= hangAfter/2 {
			return false
		}
	}
	return true
}
