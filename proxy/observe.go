package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/stack"
)

// Verdict is what became of a packet.
type Verdict uint8

// The verdicts. A packet has one: the first that applies, but a packet that is counted as dropped is VerdictDrop.
const (
	// verdictNone: not decided yet.
	verdictNone Verdict = iota
	// VerdictForward: a packet of a known connection, sent on, translated if it is proxied.
	VerdictForward
	// VerdictPass: sent on as it came; a PassReason says why.
	VerdictPass
	// VerdictDrop: it goes no further; a DropReason says why.
	VerdictDrop
	// VerdictAnswer: a SYN that was answered with a cookie.
	VerdictAnswer
	// VerdictRefuse: a SYN that was answered with a RST, because its port is known to be closed.
	VerdictRefuse
	// VerdictOpen: a valid cookie; levee sends the server a SYN.
	VerdictOpen
	// VerdictSplice: a server's SYN-ACK, which joins the two halves of a connection.
	VerdictSplice
	// VerdictHold: data of a client that are kept until its server has answered.
	VerdictHold
	// VerdictReply: anything else that levee answers itself, such as a late SYN-ACK of a client that has gone.
	VerdictReply
	// VerdictTake: a packet that was meant for levee and needs no answer, such as the RST of a client whose server has not answered.
	VerdictTake

	// NumVerdicts is one more than the last verdict.
	NumVerdicts
)

var verdictNames = [NumVerdicts]string{"", "forward", "pass", "drop", "answer", "refuse", "open", "splice", "hold", "reply", "take"}

// String returns the verdict's word.
func (v Verdict) String() string {
	if v < NumVerdicts {
		return verdictNames[v]
	}
	return "unknown"
}

// Verdicts are all verdicts.
func Verdicts() []Verdict {
	var all []Verdict
	for v := VerdictForward; v < NumVerdicts; v++ {
		all = append(all, v)
	}
	return all
}

// SnapLen is how many bytes of a packet a Decision holds at most: every header that TCP can have on IPv6 without extension
// headers, and the beginning of what follows.
const SnapLen = 192

// Decision is what levee did with one packet.
type Decision struct {
	// At is when the batch that the packet came in was read.
	At      time.Time
	Verdict Verdict
	// Drop says why for VerdictDrop, Pass for VerdictPass.
	Drop DropReason
	Pass PassReason
	// Service is that of the packet's destination, or else of its source; empty if neither end is protected.
	Service string
	// Src and Dst are unspecified, and the rest is 0, as far as the packet was too broken to tell.
	Src, Dst         stack.Addr
	SrcPort, DstPort uint16
	// Protocol is the IP protocol number. What follows is only for TCP: the numbers as they came, before any translation.
	Protocol uint8
	Flags    header.TCPFlags
	Seq, Ack seqnum.Value
	// Payload is TCP payload in bytes, Length the whole IP packet's. A superpacket counts as one.
	Payload, Length int
	// Captured bytes of Data are the beginning of the IP packet, as it came; none unless they were asked for.
	Captured int
	Data     [SnapLen]byte
}

// Reason is the word of the DropReason or PassReason, or empty.
func (d *Decision) Reason() string {
	switch d.Verdict {
	case VerdictDrop:
		return d.Drop.String()
	case VerdictPass:
		return d.Pass.String()
	}
	return ""
}

// Interest is what an Observer wants to see. Empty fields want everything.
type Interest struct {
	Verdicts []Verdict
	// Drops and Passes, if there are any of either, let only decisions with one of these reasons through.
	Drops  []DropReason
	Passes []PassReason
	// Service by name; Prefix that the source or the destination lies in.
	Service string
	Prefix  netip.Prefix
	// Rate is how many decisions a second are shown at most, 1 to MaxObserveRate, and as many may come at once.
	Rate int
	// Bytes asks for the packets' first bytes.
	Bytes bool
}

// Bounds of observing.
const (
	MaxObservers   = 8
	MaxObserveRate = 20000
	// ringSize is how many decisions of one worker wait to be read.
	ringSize = 512
)

// ErrTooManyObservers says that MaxObservers are at work already.
var ErrTooManyObservers = fmt.Errorf("%d observers are at work already: end one of them", MaxObservers)

// Observer sees samples of the decisions of all workers. It never makes a worker wait: what it is too slow for is
// counted and not shown. It belongs to one goroutine.
type Observer struct {
	proxy    *Proxy
	interest Interest
	verdicts [NumVerdicts]bool
	drops    [NumDropReasons]bool
	passes   [NumPassReasons]bool
	budget   bucket
	// rings are by worker.
	rings []ring
	shown uint64
}

// ring holds decisions between a worker, which never waits for its lock, and the observer.
type ring struct {
	// matched counts the worker's decisions that the observer wants, shown or not.
	matched atomic.Uint64
	// mu guards what follows.
	mu        sync.Mutex
	decisions []Decision
	first, n  int
	_         [64]byte // workers write to their own cache lines
}

// Observe begins to look at decisions. The caller calls Close in the end.
func (p *Proxy) Observe(interest Interest) (*Observer, error) {
	if interest.Rate < 1 || interest.Rate > MaxObserveRate {
		return nil, fmt.Errorf("rate %d: use 1 to %d", interest.Rate, MaxObserveRate)
	}
	if interest.Prefix.IsValid() && interest.Prefix != interest.Prefix.Masked() {
		return nil, errors.New("the prefix is not masked")
	}
	o := &Observer{proxy: p, interest: interest}
	for _, v := range interest.Verdicts {
		o.verdicts[v] = true
	}
	for _, r := range interest.Drops {
		o.drops[r] = true
	}
	for _, r := range interest.Passes {
		o.passes[r] = true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	o.rings = make([]ring, len(p.workers))
	for i := range o.rings {
		o.rings[i].decisions = make([]Decision, ringSize)
	}
	var others []*Observer
	if now := p.observers.Load(); now != nil {
		others = *now
	}
	if len(others) >= MaxObservers {
		return nil, ErrTooManyObservers
	}
	all := append(slices.Clone(others), o)
	p.observers.Store(&all)
	return o, nil
}

// Close ends the observation.
func (o *Observer) Close() {
	p := o.proxy
	p.mu.Lock()
	defer p.mu.Unlock()
	left := slices.DeleteFunc(slices.Clone(*p.observers.Load()), func(x *Observer) bool { return x == o })
	if len(left) == 0 {
		p.observers.Store(nil) // workers look no further
		return
	}
	p.observers.Store(&left)
}

// Read appends the decisions that wait, in the order of time, and returns the extended slice.
func (o *Observer) Read(into []Decision) []Decision {
	before := len(into)
	for i := range o.rings {
		r := &o.rings[i]
		r.mu.Lock()
		for ; r.n > 0; r.n-- {
			into = append(into, r.decisions[r.first])
			r.first = (r.first + 1) % ringSize
		}
		r.mu.Unlock()
	}
	o.shown += uint64(len(into) - before)
	slices.SortStableFunc(into[before:], func(a, b Decision) int { return a.At.Compare(b.At) })
	return into
}

// Counts says how many decisions Read has returned, and how many there were to return.
func (o *Observer) Counts() (shown, matched uint64) {
	for i := range o.rings {
		matched += o.rings[i].matched.Load()
	}
	return o.shown, max(matched, o.shown)
}

// wants says whether the observer wants a decision to be shown.
func (o *Observer) wants(d *Decision) bool {
	in := &o.interest
	if len(in.Verdicts) > 0 && !o.verdicts[d.Verdict] {
		return false
	}
	if len(in.Drops)+len(in.Passes) > 0 &&
		!(d.Verdict == VerdictDrop && o.drops[d.Drop] || d.Verdict == VerdictPass && o.passes[d.Pass]) {
		return false
	}
	if in.Service != "" && in.Service != d.Service {
		return false
	}
	return !in.Prefix.IsValid() || in.Prefix.Contains(d.Src.Netip()) || in.Prefix.Contains(d.Dst.Netip())
}

// put shows the observer a decision of a worker, if there is room and time.
func (o *Observer) put(worker int, since time.Duration, d *Decision) {
	r := &o.rings[worker]
	r.matched.Add(1)
	if !o.budget.take(since, o.interest.Rate) || !r.mu.TryLock() {
		return
	}
	if r.n < ringSize {
		slot := &r.decisions[(r.first+r.n)%ringSize]
		*slot = *d
		if !o.interest.Bytes {
			slot.Captured, slot.Data = 0, [SnapLen]byte{}
		}
		r.n++
	}
	r.mu.Unlock()
}

// decide notes what becomes of the packet in work: the first that is said counts.
func (w *Worker) decide(v Verdict) {
	if w.verdict == verdictNone {
		w.verdict = v
	}
}

// observed handles a packet while somebody looks on.
func (w *Worker) observed(observers []*Observer, frame []byte) {
	d := &w.decision
	*d = Decision{At: w.proxy.start.Add(w.now.since)}
	if len(frame) > stack.VirtioLen {
		d.Captured = copy(d.Data[:], frame[stack.VirtioLen:])
		d.Length = len(frame) - stack.VirtioLen
	}
	w.pkt = stack.Packet{}
	w.verdict = verdictNone
	frames, built := len(w.out.frames), w.out.used
	w.packet(frame)
	p := &w.pkt
	switch {
	case w.verdict != verdictNone:
		d.Verdict, d.Drop, d.Pass = w.verdict, w.dropped, w.passed
	case w.out.used > built:
		d.Verdict = VerdictReply
	case len(w.out.frames) > frames:
		d.Verdict = VerdictForward
	default:
		d.Verdict = VerdictTake
	}
	d.Src, d.Dst, d.Protocol = p.Src, p.Dst, p.Protocol
	if p.HeaderLen > 0 { // of TCP
		d.SrcPort, d.DstPort, d.Flags, d.Payload = p.SrcPort, p.DstPort, p.Flags, p.PayloadLen
		d.Seq, d.Ack = numbers(d.Data[:d.Captured], p.L4)
	}
	svc := w.policy.find(&p.Dst, p.DstPort)
	if svc == nil {
		svc = w.policy.find(&p.Src, p.SrcPort)
	}
	if svc != nil {
		d.Service = svc.Name
	}
	for _, o := range observers {
		if o.wants(d) && w.id < len(o.rings) {
			o.put(w.id, w.now.since, d)
		}
	}
}

// numbers are the sequence and acknowledgement numbers of a packet as it came: those in Worker.pkt may have been translated. They are 0 if they
// lie beyond its first bytes.
func numbers(ip []byte, l4 int) (seq, ack seqnum.Value) {
	if len(ip) < l4+header.TCPMinimumSize {
		return 0, 0
	}
	tcp := header.TCP(ip[l4:])
	return seqnum.Value(tcp.SequenceNumber()), seqnum.Value(tcp.AckNumber())
}
