package lab

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// ChurnConfig says how connections come and go.
type ChurnConfig struct {
	// Port of the first server, where nothing else listens.
	Port uint16
	// Flows is how many connections there are once Fill is done, 1 to MaxCrowd.
	Flows int
	// Window is how many handshakes and farewells are under way at once, at most: 1 to MaxChurnWindow.
	Window int
	// ResetEvery makes one connection in so many end with a RST of the client instead of a FIN of each side; 0: none.
	ResetEvery int
}

// MaxChurnWindow is the largest ChurnConfig.Window.
const MaxChurnWindow = 1 << 16

func (cfg ChurnConfig) validate() error {
	if cfg.Port == 0 || cfg.Flows < 1 || cfg.Flows > MaxCrowd || cfg.Window < 1 || cfg.Window > MaxChurnWindow || cfg.ResetEvery < 0 {
		return fmt.Errorf("a churn needs a port, 1 to %d flows and a window of 1 to %d: %+v", MaxCrowd, MaxChurnWindow, cfg)
	}
	return nil
}

// ChurnCounts are those of a Churn since its start.
type ChurnCounts struct {
	// Opened connections are those whose SYN the server has received, and its answer the client; Closed those that got the
	// other side's FIN for theirs; Reset those whose RST has reached the server.
	Opened, Closed, Reset int
	// Retried counts SYNs, FINs and RSTs that were sent again, Refused connections that the gateway has reset, and Unopened
	// and Unclosed those that were given up.
	Retried, Refused, Unopened, Unclosed int
}

// Failures are the connections that did not end as they should.
func (c ChurnCounts) Failures() int { return c.Refused + c.Unopened + c.Unclosed }

// Churn opens IPv4 connections through the gateway and replaces the oldest by new ones, as fast as the path takes them, like a Crowd
// without a socket for any of them. Every connection has an address and port that none had before, up to billions of
// them. Both sides send again what gets no answer. The ends live as those of a Crowd do.
type Churn struct {
	crowdEnds
	cfg   ChurnConfig
	slots []churnSlot
	// Connections are numbered as they are begun: next is the one to open, oldest the one to close.
	next, oldest int
	waiting      churnQueue
	// begun counts openings and closings; what is under way is these less what ended.
	begun int

	opened, closed, reset                atomic.Int64
	retried, refused, unopened, unclosed atomic.Int64
	// ended counts openings and closings that have come to an end of whatever kind.
	ended atomic.Int64
}

const (
	// churnPatience is how long an answer may take before a segment is sent again, and churnTries how often it is sent.
	churnPatience = 1500 * time.Millisecond
	churnTries    = 6
	// churnSlack is how many windows of connections there is room for beyond those that are open, since some take longer to
	// close than those after them.
	churnSlack = 4
)

// StartChurn prepares for connections; none is opened yet.
func (l *Lab) StartChurn(cfg ChurnConfig) (*Churn, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if l.Attacker == nil {
		return nil, errors.New("a churn needs an attacker's namespace")
	}
	c := &Churn{cfg: cfg, slots: make([]churnSlot, cfg.Flows+churnSlack*cfg.Window)}
	if err := c.start(l, cfg.Port, flagSYN|flagFIN|flagRST, c.clientReceives, c.serverReceives); err != nil {
		return nil, fmt.Errorf("start a churn: %w", err)
	}
	return c, nil
}

// Counts may be called at any time.
func (c *Churn) Counts() ChurnCounts {
	return ChurnCounts{
		Opened: int(c.opened.Load()), Closed: int(c.closed.Load()), Reset: int(c.reset.Load()),
		Retried: int(c.retried.Load()), Refused: int(c.refused.Load()), Unopened: int(c.unopened.Load()), Unclosed: int(c.unclosed.Load()),
	}
}

// Fill opens connections until there are as many as was asked for, those given up included.
func (c *Churn) Fill(ctx context.Context) error {
	return c.run(ctx, func() (open, close bool) { return c.next-c.oldest < c.cfg.Flows, false })
}

// Turn closes the oldest connection and opens a new one, again and again until the time has passed, and then waits for those under way.
func (c *Churn) Turn(ctx context.Context, d time.Duration) error {
	end := time.Now().Add(d)
	return c.run(ctx, func() (open, close bool) {
		full := c.next-c.oldest >= c.cfg.Flows
		return !full, full && time.Now().Before(end)
	})
}

// Drain closes all connections.
func (c *Churn) Drain(ctx context.Context) error {
	return c.run(ctx, func() (open, close bool) { return false, c.oldest < c.next })
}

// run begins what want says comes next, as long as the window has room, until it wants nothing more and nothing is under
// way. Its error may be ctx's.
func (c *Churn) run(ctx context.Context, want func() (open, close bool)) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	s := &c.client.sender
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if c.stopping.Load() {
			return errors.New("the churn was closed")
		}
		n := c.again(time.Now(), s)
		wanted := false
		for n < floodBatch && c.begun-int(c.ended.Load()) < c.cfg.Window {
			open, close := want()
			if wanted = open || close; !wanted {
				break
			}
			frame, ok := c.step(close, s.frames[n][:0])
			if !ok {
				break
			}
			if len(frame) > 0 {
				s.setFrame(n, frame)
				n++
			}
		}
		switch {
		case n > 0:
			if err := c.flush(s, n); err != nil {
				return err
			}
		case !wanted && c.begun == int(c.ended.Load()):
			return nil
		default:
			time.Sleep(churnPause)
		}
	}
}

// churnPause is how long the client waits when the window is full: a few dozen packets' time.
const churnPause = 100 * time.Microsecond

// flush sends the first n frames. What the link doesn't take is sent again later like anything that gets lost.
func (c *Churn) flush(s *frameSender, n int) error {
	_, err := s.send(n)
	switch {
	case err == nil, errors.Is(err, unix.EINTR):
	case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EAGAIN):
		time.Sleep(churnPause)
	default:
		return fmt.Errorf("send a churn's segments: %w", err)
	}
	return nil
}
