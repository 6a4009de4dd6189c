package lab

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// MaxCrowd is the most connections of a Crowd.
const MaxCrowd = 1 << 21

// Crowd opens many IPv4 connections through the gateway without a socket for any of them: a client in the
// attacker's namespace, with the addresses of SpoofedPrefix4, and a server in the first server's, both of which
// read and write frames and keep a few bytes of each connection. Nobody sends again what gets lost but the
// client its SYN. The connections stay open in the gateway when the crowd has gone.
type Crowd struct {
	crowdEnds

	// For each connection, what the server's SYN-ACK said: written before answered is set.
	acks, stamps []uint32
	stamped      []bool
	answered     []atomic.Bool
	// accepted connections are those whose SYN has reached the server.
	accepted []atomic.Bool
	// next is the connection whose turn it is in Send.
	next int
}

// StartCrowd prepares for up to size connections to a port of the first server, where nothing else listens. A lab with an
// attacker has room for one crowd at each port. It ends with Close or with the lab.
func (l *Lab) StartCrowd(port uint16, size int) (*Crowd, error) {
	if l.Attacker == nil || port == 0 || size < 1 || size > MaxCrowd {
		return nil, fmt.Errorf("a crowd needs an attacker's namespace, a port, and 1 to %d connections, not %d", MaxCrowd, size)
	}
	c := &Crowd{
		acks: make([]uint32, size), stamps: make([]uint32, size), stamped: make([]bool, size),
		answered: make([]atomic.Bool, size), accepted: make([]atomic.Bool, size),
	}
	if err := c.crowdEnds.start(l, port, flagSYN, c.answerSYNACK, c.answerSYN); err != nil {
		return nil, fmt.Errorf("start a crowd: %w", err)
	}
	return c, nil
}

// answerSYNACK completes a connection on the client's side.
func (c *Crowd) answerSYNACK(in *crowdSegment, out []byte) []byte {
	i, ok := crowdIndex(in.dst, in.dstPort)
	if !ok || i >= len(c.acks) || in.ack != c.isn(i)+1 {
		return nil
	}
	// A connection that the server hasn't got takes the latest answer: an earlier cookie may be too old by now.
	if !c.isOpen(i) {
		c.acks[i], c.stamps[i], c.stamped[i] = in.seq+1, in.tsval, in.stamped
		c.answered[i].Store(true)
	}
	return c.ack(i, out)
}

// answerSYN accepts a connection on the server's side.
func (c *Crowd) answerSYN(in *crowdSegment, out []byte) []byte {
	if i, ok := crowdIndex(in.src, in.srcPort); ok && i < len(c.accepted) {
		c.accepted[i].Store(true)
	}
	return c.synAck(in, out)
}

// ack appends an ACK without payload on connection i, which was answered.
func (c *Crowd) ack(i int, out []byte) []byte {
	s := c.from(i)
	s.seq, s.ack, s.flags = c.isn(i)+1, c.acks[i], flagACK
	s.stamped, s.tsecr = c.stamped[i], c.stamps[i]
	return s.appendTo(append(out, c.client.ethernet...))
}

// isOpen says whether both ends have the connection. The gateway may still have to hear of it.
func (c *Crowd) isOpen(i int) bool { return c.answered[i].Load() && c.accepted[i].Load() }

const (
	// crowdPatience is how long Open waits for answers that are on their way before it sends a SYN again.
	crowdPatience = 1500 * time.Millisecond
	// crowdPasses is how often it sends each SYN at most.
	crowdPasses = 5
)

// Open opens the first n connections, those that aren't yet, at rate connections a second. It returns when
// the client and the server have them all.
func (c *Crowd) Open(ctx context.Context, n, rate int) error {
	if n < 1 || n > len(c.acks) || rate < 1 {
		return fmt.Errorf("open %d connections at %d a second: use 1 to %d, at 1 or more", n, rate, len(c.acks))
	}
	c.sending.Lock()
	defer c.sending.Unlock()
	for range crowdPasses {
		var missing []int
		for i := range n {
			if !c.isOpen(i) {
				missing = append(missing, i)
			}
		}
		if len(missing) == 0 {
			return nil
		}
		if _, err := c.send(ctx, rate, len(missing), func(k int, out []byte) []byte { return c.syn(missing[k], out) }); err != nil {
			return fmt.Errorf("open connections: %w", err)
		}
		for deadline := time.Now().Add(crowdPatience); c.Opened(n) < n && time.Now().Before(deadline) && ctx.Err() == nil; {
			time.Sleep(10 * time.Millisecond)
		}
	}
	if got := c.Opened(n); got < n {
		return fmt.Errorf("%d of %d connections were opened, after sending each SYN %d times", got, n, crowdPasses)
	}
	return nil
}

// Opened counts those of the first n connections that both ends have.
func (c *Crowd) Opened(n int) (open int) {
	for i := range n {
		if c.isOpen(i) {
			open++
		}
	}
	return open
}

// Send sends count segments without payload from the clients to the server, at rate a second: one on each of the first n
// connections, which are open, in turn, going on where the last Send ended. It returns how many the link took.
func (c *Crowd) Send(ctx context.Context, n, rate, count int) (sent int, err error) {
	if n < 1 || n > len(c.acks) || rate < 1 || count < 1 || count > MaxFloodCount {
		return 0, fmt.Errorf("send %d segments on %d connections at %d a second", count, n, rate)
	}
	c.sending.Lock()
	defer c.sending.Unlock()
	first := c.next
	sent, err = c.send(ctx, rate, count, func(k int, out []byte) []byte { return c.ack((first+k)%n, out) })
	c.next = (first + sent) % n
	if err != nil {
		return sent, fmt.Errorf("send on connections: %w", err)
	}
	return sent, nil
}

// send sends count frames that write makes. Its error may be ctx's.
func (c *Crowd) send(ctx context.Context, rate, count int, write func(k int, out []byte) []byte) (sent int, err error) {
	s := &c.client.sender
	pace := newPacer(rate)
	for sent < count {
		if ctx.Err() != nil {
			return sent, context.Cause(ctx)
		}
		if c.stopping.Load() {
			return sent, errors.New("the crowd was closed")
		}
		n := pace.due(sent, min(floodBatch, count-sent))
		if n == 0 {
			time.Sleep(pace.pause())
			continue
		}
		for i := range n {
			s.setFrame(i, write(sent+i, s.frames[i][:0]))
		}
		n, err := s.send(n)
		sent += n
		switch {
		case err == nil, errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EAGAIN):
			time.Sleep(100 * time.Microsecond)
		default:
			return sent, err
		}
	}
	return sent, nil
}

// Arrived counts the segments of all kinds that have reached the server.
func (c *Crowd) Arrived() (int, error) { return c.sinks[0].Packets() }
