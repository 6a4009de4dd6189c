package bench

import (
	"math"
	"slices"
	"time"
)

// spread is what repetitions of one measurement gave.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	// N repetitions; with 0 the rest means nothing.
	N int `json:"n"`
}

// spreadOf needs no order in values and leaves them as they are.
func spreadOf(values []float64) spread {
	n := len(values)
	if n == 0 {
		return spread{}
	}
	s := slices.Sorted(slices.Values(values))
	return spread{Median: (s[(n-1)/2] + s[n/2]) / 2, Min: s[0], Max: s[n-1], N: n}
}

// ratios divides each repetition of one by the same repetition of the other, so that what slowed the machine down for a while
// weighs on both. Where their numbers differ there are no pairs, and one ratio, of the medians, is all.
func ratios(values, to []float64) []float64 {
	if len(values) == 0 || len(to) == 0 {
		return nil
	}
	if len(values) != len(to) {
		values, to = []float64{spreadOf(values).Median}, []float64{spreadOf(to).Median}
	}
	var all []float64
	for i, v := range values {
		r := v / to[i]
		if math.IsNaN(r) || math.IsInf(r, 0) {
			return nil
		}
		all = append(all, r)
	}
	return all
}

// percentile is the least of the sorted durations that p of them, 0 < p ≤ 1, do not exceed; 0 if there are none.
func percentile(sorted []time.Duration, p float64) time.Duration {
	n := len(sorted)
	if n == 0 {
		return 0
	}
	rank := int(math.Ceil(p * float64(n)))
	return sorted[min(max(rank, 1), n)-1]
}
