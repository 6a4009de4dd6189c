package proxy

import (
	"fmt"
	"hash/maphash"
	"sync"
	"time"
)

// Verified says what a service lets sources do that have proved lately that they exist: a source is an IPv4 address or an IPv6 /64,
// and its proof a completed handshake. Such a source may shake hands with the servers themselves, so that it keeps
// all its options and waits for nothing. Somebody who forges its address gains the same: Rate SYNs a second that reach the
// server, for each source that he knows of.
type Verified struct {
	// TTL is how long a proof lasts. Each further one renews it.
	TTL time.Duration
	// Rate is how many connections a second a source may open this way, and as many at once; others get a cookie. 0 lets none.
	Rate int
}

// Defaults and bounds of Verified.
const (
	DefaultVerifiedTTL = 10 * time.Minute
	MaxVerifiedTTL     = 24 * time.Hour
	MaxVerifiedRate    = 1000
)

func (v Verified) validate() error {
	if v.Rate < 0 || v.Rate > MaxVerifiedRate || v.Rate > 0 && (v.TTL <= 0 || v.TTL > MaxVerifiedTTL) {
		return fmt.Errorf("verified for %s at a rate of %d: use up to %s and 0 to %d", v.TTL, v.Rate, MaxVerifiedTTL, MaxVerifiedRate)
	}
	return nil
}

// verifiedSets and verifiedWays make room for 65,536 sources in 2 MiB. When a set is full, the source that has proved itself
// longest ago makes room. It then gets cookies like any other.
const verifiedSets, verifiedWays = 1 << 14, 4

// verifiedSources remembers which sources have proved themselves, by a keyed hash of 64 bits. It is safe for concurrent use.
type verifiedSources struct {
	seed maphash.Seed
	sets [verifiedSets]verifiedSet
}

type verifiedSet struct {
	mu sync.Mutex
	// ways is guarded by mu.
	ways [verifiedWays]verifiedSource
}

// verifiedSource is free if its print is 0.
type verifiedSource struct {
	print uint64
	// proved is when it did so last, since the Proxy's start.
	proved time.Duration
	opened bucket
}

func newVerifiedSources() *verifiedSources { return &verifiedSources{seed: maphash.MakeSeed()} }

func (t *verifiedSources) find(s source) (print uint64, set *verifiedSet) {
	print = maphash.Comparable(t.seed, s)
	return max(print, 1), &t.sets[print%verifiedSets]
}

// prove notes that a source has proved itself.
func (t *verifiedSources) prove(s source, now time.Duration) {
	print, set := t.find(s)
	set.mu.Lock()
	defer set.mu.Unlock()
	oldest := &set.ways[0]
	for i := range set.ways {
		way := &set.ways[i]
		if way.print == print {
			way.proved = now
			return
		}
		if way.print == 0 || oldest.print != 0 && way.proved < oldest.proved {
			oldest = way
		}
	}
	oldest.print, oldest.proved = print, now
	oldest.opened.full.Store(0)
}

// admit says whether a source may open a connection by itself, and takes a token for it.
func (t *verifiedSources) admit(s source, now time.Duration, v Verified) bool {
	if v.Rate == 0 {
		return false
	}
	print, set := t.find(s)
	set.mu.Lock()
	defer set.mu.Unlock()
	for i := range set.ways {
		if way := &set.ways[i]; way.print == print {
			return now-way.proved <= v.TTL && way.opened.take(now, v.Rate)
		}
	}
	return false
}

// knows says whether a source that has proved itself may do without a cookie, as far as its rate goes.
func (t *verifiedSources) knows(s source, now time.Duration, v Verified) bool {
	if v.Rate == 0 {
		return false
	}
	print, set := t.find(s)
	set.mu.Lock()
	defer set.mu.Unlock()
	for i := range set.ways {
		if way := &set.ways[i]; way.print == print {
			return now-way.proved <= v.TTL
		}
	}
	return false
}

// prove notes that the source of the packet in work exists: it has returned what only the addressee of a SYN-ACK can know.
func (w *Worker) prove(svc *service) {
	if svc.Verified.Rate > 0 {
		w.proxy.verified.prove(sourceOf(&w.pkt.Src, svc), w.now.since)
	}
}
