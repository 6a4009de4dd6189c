package proxy

import (
	"sync/atomic"
	"time"
)

// bucket is a token bucket in one number, for several workers: when it would be full again if nothing more were taken.
type bucket struct{ full atomic.Int64 }

// take takes a token at the time now, since the Proxy's start, from a bucket that gains rate tokens a second and holds as many,
// and says whether there was one.
func (b *bucket) take(now time.Duration, rate int) bool {
	if rate <= 0 {
		return false
	}
	each := int64(time.Second) / int64(rate)
	for {
		full := b.full.Load()
		next := max(full, int64(now)) + each
		if next > int64(now)+each*int64(rate) {
			return false
		}
		if b.full.CompareAndSwap(full, next) {
			return true
		}
	}
}

// empty says whether there is no token to take.
func (b *bucket) empty(now time.Duration, rate int) bool {
	each := int64(time.Second) / int64(max(rate, 1))
	return rate <= 0 || max(b.full.Load(), int64(now))+each > int64(now)+each*int64(rate)
}

// left is how many tokens there are to take.
func (b *bucket) left(now time.Duration, rate int) int {
	each := int64(time.Second) / int64(rate)
	return int((int64(now) + each*int64(rate) - max(b.full.Load(), int64(now))) / each)
}

// give returns a token to a bucket that gains rate tokens a second. A full one holds no more for it.
func (b *bucket) give(rate int) {
	if rate > 0 {
		b.full.Add(-int64(time.Second) / int64(rate))
	}
}
