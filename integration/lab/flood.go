package lab

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// FloodConfig bounds a flood.
type FloodConfig struct {
	// Target must be in ServerPrefix4 or ServerPrefix6.
	Target netip.AddrPort
	// Rate in SYNs per second, of which a busy machine may make less; 0 sends as fast as it goes.
	Rate int
	// Burst, if it isn't 0, is how many are sent at once, as fast as it goes; Rate is then their mean. At most MaxFloodCount.
	Burst int
	// Urgent lets the generator have a CPU whenever it wants one: like an attacker on a machine of his own, it doesn't wait
	// because the gateway is busy.
	Urgent bool
	// Count is how many SYNs are sent at most, 1 to MaxFloodCount.
	Count int
	// Duration is how long it goes on at most, up to MaxFloodDuration.
	Duration time.Duration
	// Kind is what is sent: SYNs unless it says otherwise.
	Kind FloodKind
	// Source is where the packets claim to come from, an address of a client, of the attacker or of SpoofedPrefix4 or SpoofedPrefix6; with port 0
	// from any port there. If it isn't valid they come from random addresses of the latter two.
	Source netip.AddrPort
	// Options of SYNs and SYN-ACKs.
	Options SYNOptions
}

// The hard bounds of one flood.
const (
	MaxFloodCount    = 200_000_000
	MaxFloodDuration = 2 * time.Minute
)

func (c FloodConfig) validate() error {
	if !ServerPrefix4.Contains(c.Target.Addr()) && !ServerPrefix6.Contains(c.Target.Addr()) {
		return fmt.Errorf("target %s is not a server of a lab (%s, %s)", c.Target, ServerPrefix4, ServerPrefix6)
	}
	if c.Kind >= numFloodKinds {
		return fmt.Errorf("kind %d is unknown", c.Kind)
	}
	if s := c.Source.Addr(); s.IsValid() && (s.Is4() != c.Target.Addr().Is4() || !slices.ContainsFunc(floodSources, func(p netip.Prefix) bool { return p.Contains(s) })) {
		return fmt.Errorf("source %s is not of a lab (%v), or of the other family than the target", s, floodSources)
	}
	if c.Count < 1 || c.Count > MaxFloodCount {
		return fmt.Errorf("count %d is not between 1 and %d", c.Count, MaxFloodCount)
	}
	if c.Duration <= 0 || c.Duration > MaxFloodDuration {
		return fmt.Errorf("duration %v is not between 0 and %v", c.Duration, MaxFloodDuration)
	}
	if c.Rate < 0 {
		return fmt.Errorf("rate %d is negative", c.Rate)
	}
	if c.Burst < 0 || c.Burst > MaxFloodCount || c.Burst > 0 && c.Rate == 0 {
		return fmt.Errorf("bursts of %d at a rate of %d", c.Burst, c.Rate)
	}
	return nil
}

// FloodResult is what a flood did.
type FloodResult struct {
	// Sent counts the SYNs that the link took, Refused the attempts to send that it didn't.
	Sent, Refused int
	Elapsed       time.Duration
}

// Rate is SYNs per second.
func (r FloodResult) Rate() float64 {
	if r.Elapsed <= 0 {
		return 0
	}
	return float64(r.Sent) / r.Elapsed.Seconds()
}

// Flood is a running flood.
type Flood struct {
	sent   atomic.Int64
	cancel context.CancelFunc
	done   chan struct{}
	// result and err are valid once done is closed.
	result FloodResult
	err    error
}

// StartFlood sends packets out of the host's end of the link until a bound is reached, ctx is done or
// Stop is called. It refuses every interface but a veth of the lab, in a namespace that the lab made.
func (l *Link) StartFlood(ctx context.Context, cfg FloodConfig) (*Flood, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("flood: %w", err)
	}
	fd, err := l.floodSocket()
	if err != nil {
		return nil, fmt.Errorf("flood: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.Duration)
	f := &Flood{cancel: cancel, done: make(chan struct{})}
	sender := newFloodSender(fd, newFloodTemplates(l, &cfg))
	forget := l.Host.Namespace.started.add(func() error { f.Stop(); return nil })
	go func() {
		defer forget()
		defer close(f.done)
		defer cancel()
		if cfg.Urgent {
			runtime.LockOSThread() // and never unlocked: the thread ends with the flood
			if f.err = hurry(); f.err != nil {
				f.err = errors.Join(f.err, unix.Close(fd))
				return
			}
		}
		begin := time.Now()
		f.err = f.send(ctx, sender, cfg)
		f.result.Sent, f.result.Elapsed = f.Sent(), time.Since(begin)
		f.err = errors.Join(f.err, unix.Close(fd))
	}()
	return f, nil
}

// Sent counts the SYNs sent so far.
func (f *Flood) Sent() int { return int(f.sent.Load()) }

// Done is closed when the flood has ended.
func (f *Flood) Done() <-chan struct{} { return f.done }

// Stop ends the flood and waits for its end.
func (f *Flood) Stop() (FloodResult, error) {
	f.cancel()
	return f.Wait()
}

// Wait waits until the flood has ended.
func (f *Flood) Wait() (FloodResult, error) {
	<-f.done
	return f.result, f.err
}

// hurry gives the calling thread precedence over all ordinary ones.
func hurry() error {
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, -20); err != nil {
		return fmt.Errorf("flood: raise the generator's priority: %w", err)
	}
	return nil
}

// send is the loop. That ctx is done is not an error.
func (f *Flood) send(ctx context.Context, s *floodSender, cfg FloodConfig) error {
	pace := newPacer(cfg.Rate)
	pace.burst = cfg.Burst
	for sent := 0; sent < cfg.Count && ctx.Err() == nil; {
		n := pace.due(sent, min(floodBatch, cfg.Count-sent))
		if n == 0 {
			time.Sleep(pace.pause())
			continue
		}
		n, err := s.send(n)
		sent += n
		f.sent.Store(int64(sent))
		switch {
		case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EAGAIN):
			f.result.Refused++
			time.Sleep(100 * time.Microsecond)
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("send %v: %w", cfg.Kind, err)
		}
	}
	return nil
}

// floodSocket opens a packet socket that sends out of the host's end.
func (l *Link) floodSocket() (int, error) { return l.Host.frameSocket(0, nil) }

// floodSources are the addresses that packets of a flood may claim to come from.
var floodSources = []netip.Prefix{
	SpoofedPrefix4, SpoofedPrefix6, ClientPrefix4, ClientPrefix6, AttackerPrefix4, AttackerPrefix6,
}

// floodSender sends batches of packets. One goroutine uses it.
type floodSender struct {
	frameSender
	// templates are those of the frames, in turn.
	templates []*floodTemplate
	rng       *rand.Rand
}

func newFloodSender(fd int, templates []*floodTemplate) *floodSender {
	s := &floodSender{templates: templates, rng: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))}
	s.init(fd)
	for i := range s.frames {
		s.setFrame(i, append([]byte(nil), s.template(i).frame...))
	}
	return s
}

func (s *floodSender) template(i int) *floodTemplate { return s.templates[i%len(s.templates)] }

// send makes and sends n packets, at most floodBatch, and returns how many the kernel took.
func (s *floodSender) send(n int) (int, error) {
	for i, frame := range s.frames[:n] {
		s.template(i).write(frame, s.rng)
	}
	return s.frameSender.send(n)
}
