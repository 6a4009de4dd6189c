package prober

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/seqnum"

	"levee/proxy/servers"
	"levee/stack"
)

// Outcome is what became of a probe.
type Outcome uint8

// The outcomes.
const (
	// Answered with a SYN-ACK.
	Answered Outcome = iota
	// Refused with a RST.
	Refused
	// Silent: neither.
	Silent
	// Unsent: the kernel had no way to the server, or no longer, or gives an error for what comes back.
	Unsent
	// Skipped: too many were waiting.
	Skipped

	// NumOutcomes is the number of outcomes.
	NumOutcomes
)

var outcomeNames = [NumOutcomes]string{"answered", "refused", "silent", "unsent", "skipped"}

// String returns the outcome's word.
func (o Outcome) String() string {
	if o < NumOutcomes {
		return outcomeNames[o]
	}
	return "unknown"
}

const (
	// maxWaiting bounds the requests that wait for their turn, for each question.
	maxWaiting = 1024
	// tries is how many SYNs a server gets, one each wait; that is less than a Table waits before it asks again.
	tries = 2
	wait  = 1500 * time.Millisecond
	// checks is how many times as fast as others requests are served that ask WhetherClosed. Each comes of a client with a valid
	// cookie whose own SYN has just gone to that port, so that they are no more than clients cause anyway.
	checks = 10
)

// Table takes what is found out, see servers.Table.
type Table interface {
	Answered(k *servers.Key, now int64, a *servers.Answer, from servers.Source) (probe bool)
	ProbeFailed(k *servers.Key, now int64, how servers.State)
}

// Prober sends probes. Ask and Count may be called from anywhere.
type Prober struct {
	queues  [servers.NumQuestions]queue
	counts  [NumOutcomes]atomic.Uint64
	sockets *sockets
	// deaf is at how many sockets answers may have been missed: the latest that the kernel gave there was an error.
	deaf atomic.Int32
	// transmit sends the SYN of a probe.
	transmit func(k *servers.Key, isn seqnum.Value) error

	// pending belongs to Run.
	pending map[servers.Key]*probe
}

// queue is the requests that ask one question.
type queue struct {
	requests chan servers.Key
	// interval is from one probe to the next.
	interval time.Duration
}

// probe is one server's.
type probe struct {
	isn  seqnum.Value
	left int // SYNs
	due  time.Time
}

// New opens the sockets, which needs CAP_NET_RAW. rate is the most probes a second, see also checks.
func New(rate int) (*Prober, error) {
	s, err := openSockets()
	if err != nil {
		return nil, fmt.Errorf("open sockets for probes: %w", err)
	}
	p := &Prober{sockets: s, transmit: s.send, pending: make(map[servers.Key]*probe)}
	for q := range p.queues {
		p.queues[q] = queue{make(chan servers.Key, maxWaiting), time.Second / time.Duration(rate)}
	}
	p.queues[servers.WhetherClosed].interval /= checks
	return p, nil
}

// Ask wants a server probed. It never blocks, and allocates nothing.
func (p *Prober) Ask(k servers.Key, why servers.Question) {
	select {
	case p.queues[why].requests <- k:
	default:
		p.counts[Skipped].Add(1)
	}
}

// Count is how many probes had an outcome.
func (p *Prober) Count(o Outcome) uint64 { return p.counts[o].Load() }

// Close is for a Prober that is not run.
func (p *Prober) Close() error { return p.sockets.close() }

// Run sends what is asked for and tells the table, until ctx is done; then it closes the sockets. No error of theirs ends it before.
func (p *Prober) Run(ctx context.Context, table Table) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var receivers sync.WaitGroup
	answers := make(chan answer, 16)
	for _, c := range p.sockets.conns() {
		receivers.Go(func() { p.receive(ctx, c, answers) })
	}
	p.loop(ctx, table, answers)
	err := p.sockets.close() // which ends the others
	receivers.Wait()
	return err
}

func (p *Prober) loop(ctx context.Context, table Table, answers <-chan answer) {
	var turns [servers.NumQuestions]*time.Timer
	var next [servers.NumQuestions]<-chan servers.Key // nil until it is their turn
	for q := range turns {
		turns[q] = time.NewTimer(0)
		defer turns[q].Stop()
	}
	begin := func(k servers.Key, q servers.Question) {
		if p.begin(table, &k, time.Now()) {
			next[q] = nil
			turns[q].Reset(p.queues[q].interval)
		}
	}
	expire := time.NewTicker(wait / 4)
	defer expire.Stop()
	const learn, check = servers.WhatItDoes, servers.WhetherClosed
	for {
		select {
		case <-ctx.Done():
			return
		case <-turns[learn].C:
			next[learn] = p.queues[learn].requests
		case <-turns[check].C:
			next[check] = p.queues[check].requests
		case k := <-next[learn]:
			begin(k, learn)
		case k := <-next[check]:
			begin(k, check)
		case a := <-answers:
			p.answered(table, &a)
		case now := <-expire.C:
			p.expire(table, now)
		}
	}
}

// begin sends the first SYN of a probe, unless there is one already, and says whether it did.
func (p *Prober) begin(table Table, k *servers.Key, now time.Time) bool {
	if p.pending[*k] != nil {
		return false
	}
	var isn [4]byte
	_, _ = rand.Read(isn[:]) // never fails
	q := &probe{isn: seqnum.Value(binary.BigEndian.Uint32(isn[:])), left: tries}
	if !p.send(k, q, now) {
		p.unsent(table, k, now)
		return false
	}
	p.pending[*k] = q
	return true
}

func (p *Prober) send(k *servers.Key, q *probe, now time.Time) bool {
	q.left--
	q.due = now.Add(wait)
	return p.transmit(k, q.isn) == nil
}

func (p *Prober) unsent(table Table, k *servers.Key, now time.Time) {
	p.counts[Unsent].Add(1)
	table.ProbeFailed(k, now.Unix(), servers.Unknown)
}

func (p *Prober) expire(table Table, now time.Time) {
	for k, q := range p.pending {
		switch {
		case now.Before(q.due):
		case q.left > 0:
			if !p.send(&k, q, now) {
				delete(p.pending, k)
				p.unsent(table, &k, now)
			}
		case p.deaf.Load() != 0:
			delete(p.pending, k)
			p.unsent(table, &k, now)
		default:
			delete(p.pending, k)
			p.counts[Silent].Add(1)
			table.ProbeFailed(&k, now.Unix(), servers.Silent)
		}
	}
}

func (p *Prober) answered(table Table, a *answer) {
	q := p.pending[a.from]
	if q == nil || a.ack != q.isn+1 {
		return // not to us, or forged
	}
	delete(p.pending, a.from)
	now := time.Now().Unix()
	if a.reset {
		p.counts[Refused].Add(1)
		table.ProbeFailed(&a.from, now, servers.Closed)
		return
	}
	p.counts[Answered].Add(1)
	table.Answered(&a.from, now, &a.what, servers.Probe)
}

// answer is a segment that a server sent to the prober's port.
type answer struct {
	from  servers.Key
	ack   seqnum.Value
	reset bool
	what  servers.Answer
}

// deafness is the wait after an error, which may be there again at once.
const deafness = 100 * time.Millisecond

// receive hands on answers until the socket is closed. No other error ends it: servers would be taken for silent.
func (p *Prober) receive(ctx context.Context, c *net.IPConn, answers chan<- answer) {
	// The IPv6 header that is missing in front makes one parser do for both families.
	buffer := make([]byte, fakeHeader+maxSegment)
	deaf := false
	for {
		n, from, err := c.ReadFromIP(buffer[fakeHeader:])
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if failed := err != nil; failed != deaf {
			if deaf = failed; deaf {
				p.deaf.Add(1)
			} else {
				p.deaf.Add(-1)
			}
		}
		if deaf {
			select {
			case <-time.After(deafness):
				continue
			case <-ctx.Done():
				return
			}
		}
		addr, ok := netip.AddrFromSlice(from.IP)
		if !ok {
			continue
		}
		if a, ok := parse(buffer[:fakeHeader+n], stack.AddrFrom(addr.Unmap())); ok {
			select {
			case answers <- a:
			case <-ctx.Done():
				return
			}
		}
	}
}
