package proxy

import (
	"hash/maphash"
	"sync/atomic"
	"time"

	"levee/stack"
)

// source names whoever a packet claims to come from, for a service or for all of them: an address cut to a prefix. Who
// holds an IPv4 address, or an IPv6 /64 (RFC 7934 §3: a host may use any number of its addresses), is one source.
type source struct {
	prefix  stack.Addr
	service uint32
}

// allServices stands for the service of a source whose account all services share.
const allServices = maxServices

// Lengths in bytes of what makes a source, in IPv4-mapped form for IPv4: a host, and the network that a site is given
// (RFC 6177 for the /56).
const (
	host4, host6       = 16, 8
	network4, network6 = 15, 7
)

// sourceOf cuts an address, and networkOf to what a site has.
func sourceOf(a *stack.Addr, svc *service) source {
	return source{cut(a, host4, host6), uint32(svc.state.index)}
}

func networkOf(a *stack.Addr) source { return source{cut(a, network4, network6), allServices} }

func cut(a *stack.Addr, bytes4, bytes6 int) (prefix stack.Addr) {
	n := bytes6
	if a.Is4() {
		n = bytes4
	}
	copy(prefix[:n], a[:n])
	return prefix
}

// The two tables below account for sources without keeping them: anybody can make up sources, and a table of them
// would be filled with those. Each source has two places, by a keyed hash, one in each of two rows, which it
// shares with others (a count-min sketch). What counts is the better of its two places: a source is
// treated worse than it deserves only if others have used up both. If a share x of the places is used up, that happens to
// x² of the sources; nobody outside knows whom to share with.

// rowBits is log2 of the places of a row of a budget: a flood of 1,000,000 SYNs a second from sources all over takes 15 a
// second of each.
const rowBits = 16

// budget gives every source a token bucket. It is 1 MiB of memory, whatever the number of sources, and safe for concurrent use.
type budget struct {
	seed maphash.Seed
	rows [2][1 << rowBits]bucket
}

func newBudget() *budget { return &budget{seed: maphash.MakeSeed()} }

func (b *budget) places(s source) (first, second *bucket) {
	h := maphash.Comparable(b.seed, s)
	const mask = 1<<rowBits - 1
	return &b.rows[0][h&mask], &b.rows[1][h>>32&mask]
}

// take takes a token of the source's, of which it gains rate a second and has as many at most. A source whose places change hands may
// get twice as many for once.
func (b *budget) take(s source, now time.Duration, rate int) bool {
	first, second := b.places(s)
	one, other := first.take(now, rate), second.take(now, rate)
	return one || other
}

// empty says whether the source has no token to take.
func (b *budget) empty(s source, now time.Duration, rate int) bool {
	first, second := b.places(s)
	return first.empty(now, rate) && second.empty(now, rate)
}

// left is how many tokens the source has to take.
func (b *budget) left(s source, now time.Duration, rate int) int {
	first, second := b.places(s)
	return max(first.left(now, rate), second.left(now, rate))
}

// give returns a token.
func (b *budget) give(s source, rate int) {
	first, second := b.places(s)
	first.give(rate)
	second.give(rate)
}

// tally counts what sources have. What it says is never too small. It is safe for concurrent use.
type tally struct {
	seed maphash.Seed
	rows [2][]atomic.Int32
	mask uint64
}

// minTally is the least number of places in a row.
const minTally = 1024

// newTally makes a tally of at most so many things: in 2 to 4 bytes for each, and with 4 in a place on average when all
// are there.
func newTally(most int) *tally {
	n := minTally
	for n < most/4 {
		n *= 2
	}
	t := &tally{seed: maphash.MakeSeed(), mask: uint64(n - 1)}
	for i := range t.rows {
		t.rows[i] = make([]atomic.Int32, n)
	}
	return t
}

func (t *tally) add(s source, n int32) {
	h := maphash.Comparable(t.seed, s)
	t.rows[0][h&t.mask].Add(n)
	t.rows[1][h>>32&t.mask].Add(n)
}

// of is how many there are of a source, or a few more.
func (t *tally) of(s source) int {
	h := maphash.Comparable(t.seed, s)
	return int(min(t.rows[0][h&t.mask].Load(), t.rows[1][h>>32&t.mask].Load()))
}
