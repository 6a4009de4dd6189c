package proxy

import (
	"hash/maphash"
	"sync/atomic"
	"time"

	"levee/stack"
)

// A later fragment has no ports: nothing tells which flow, or whether any, it belongs to. Since a flood of them is as easily made as
// any, they pass without a limit only between two hosts of which a first fragment has passed a short while ago, in the same direction.
// Others may have overtaken the first: a few of them pass too, unless a flood takes their place. Then the sender repeats the packet.

// fragmentLife is how long first fragments are remembered: as long as hosts wait for the rest (RFC 8200 §4.5).
const fragmentLife = 60 * time.Second

// fragmentPlaces is how many pairs of hosts are remembered, fewer by those whose hashes collide: the later takes the place.
const fragmentPlaces = 1 << 12

// fragmentPairs remembers pairs of hosts, by a keyed hash. It is 64 KiB, and safe for concurrent use.
type fragmentPairs struct {
	seed maphash.Seed
	// early bounds those that come before the first.
	early  bucket
	places [fragmentPlaces]struct {
		// print of the pair and when a first fragment has passed last, since the Proxy's start. They may be of two pairs for
		// a moment, which lets a fragment pass or not that should not or should.
		print  atomic.Uint64
		passed atomic.Int64
	}
}

func newFragmentPairs() *fragmentPairs { return &fragmentPairs{seed: maphash.MakeSeed()} }

func (t *fragmentPairs) print(src, dst *stack.Addr) uint64 {
	return max(maphash.Comparable(t.seed, [2]stack.Addr{*src, *dst}), 1)
}

// admit notes that a first fragment has passed from src to dst.
func (t *fragmentPairs) admit(src, dst *stack.Addr, now time.Duration) {
	print := t.print(src, dst)
	p := &t.places[print%fragmentPlaces]
	p.passed.Store(int64(now))
	p.print.Store(print)
}

// admits says whether a later fragment may pass.
func (t *fragmentPairs) admits(src, dst *stack.Addr, now time.Duration) bool {
	print := t.print(src, dst)
	p := &t.places[print%fragmentPlaces]
	return p.print.Load() == print && now-time.Duration(p.passed.Load()) <= fragmentLife
}

// firstFragment notes that the packet in work passes, if it is a first fragment.
func (w *Worker) firstFragment() {
	if p := &w.pkt; p.FirstFragment {
		w.proxy.fragments.admit(&p.Src, &p.Dst, w.now.since)
	}
}

// earlyFragments is how many later fragments a second pass before a first one.
const earlyFragments = 100

// laterFragment handles a fragment without a TCP header.
func (w *Worker) laterFragment(frame []byte) {
	p := &w.pkt
	if p.MayCarryTCP() && (w.policy.proxies(&p.Dst) || w.policy.proxies(&p.Src)) &&
		!w.proxy.fragments.admits(&p.Src, &p.Dst, w.now.since) && !w.proxy.fragments.early.take(w.now.since, earlyFragments) {
		w.drop(DropLaterFragment)
		return
	}
	w.pass(PassFragment, frame)
}

// proxies says whether some port at an address has a service that isn't off.
func (p *policy) proxies(addr *stack.Addr) bool {
	candidates, _ := p.prefixes.Lookup(addr.Netip())
	for _, s := range candidates {
		if s.protected() {
			return true
		}
	}
	return false
}
