package lab

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
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
	addr           [4]byte // the server's
	port           uint16
	client, server *crowdHost
	sinks          []*Sink
	// salt makes the sequence numbers of two crowds differ.
	salt  uint32
	begin time.Time

	// For each connection, what the server's SYN-ACK said: written before answered is set.
	acks, stamps []uint32
	stamped      []bool
	answered     []atomic.Bool
	// accepted connections are those whose SYN has reached the server.
	accepted []atomic.Bool
	// next is the connection whose turn it is in Send.
	next int
	// sending is held by Open and Send, which share the client's sender.
	sending sync.Mutex

	stopping atomic.Bool
	readers  sync.WaitGroup
	close    func() error
}

// crowdHost is one of a crowd's two ends.
type crowdHost struct {
	fd       int
	ethernet []byte
	sender   frameSender // of Open and Send
	replies  frameSender // of the reader
	reader   *frameReader
}

// StartCrowd prepares for up to size connections to a port of the first server, where nothing else listens. A lab with an
// attacker has room for one crowd at each port. It ends with Close or with the lab.
func (l *Lab) StartCrowd(port uint16, size int) (*Crowd, error) {
	if l.Attacker == nil || port == 0 || size < 1 || size > MaxCrowd {
		return nil, fmt.Errorf("a crowd needs an attacker's namespace, a port, and 1 to %d connections, not %d", MaxCrowd, size)
	}
	c := &Crowd{
		addr: l.Servers[0].Link.Host.Addr4.As4(), port: port, salt: rand.Uint32(), begin: time.Now(),
		acks: make([]uint32, size), stamps: make([]uint32, size), stamped: make([]bool, size),
		answered: make([]atomic.Bool, size), accepted: make([]atomic.Bool, size),
	}
	c.close = sync.OnceValue(c.closeOnce)
	err := c.start(l.Attacker.Link, l.Servers[0].Link)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start a crowd: %w", err), c.Close())
	}
	l.started.add(c.close)
	return c, nil
}

func (c *Crowd) start(client, server *Link) error {
	var err error
	// The kernels there would answer with resets.
	for _, e := range []*End{&server.Host, &client.Host} {
		s, err := e.StartSink(c.port)
		if err != nil {
			return err
		}
		c.sinks = append(c.sinks, s)
	}
	if c.client, err = newCrowdHost(client, tcpSrcPortAt, c.port, flagSYN|flagACK); err != nil {
		return err
	}
	if c.server, err = newCrowdHost(server, tcpDstPortAt, c.port, flagSYN); err != nil {
		return err
	}
	c.readers.Go(func() { c.read(c.client, c.answerSYNACK) })
	c.readers.Go(func() { c.read(c.server, c.answerSYN) })
	return nil
}

// newCrowdHost opens the sockets of one end. It receives only segments with the port at the offset, and with exactly
// these flags of SYN and ACK.
func newCrowdHost(l *Link, offset uint32, port uint16, flags byte) (*crowdHost, error) {
	// Sockets for all protocols get frames ahead of the Sink, those for IP alone after it.
	fd, err := l.Host.frameSocket(htons(unix.ETH_P_ALL), handshakeFilter(offset, port, flags))
	if err != nil {
		return nil, err
	}
	// The reader looks up now and then whether it is to stop.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}); err != nil {
		return nil, errors.Join(fmt.Errorf("set a time-out: %w", err), unix.Close(fd))
	}
	h := &crowdHost{fd: fd, reader: newFrameReader(fd)}
	h.ethernet = append(append([]byte(nil), l.Gateway.HardwareAddr...), l.Host.HardwareAddr...)
	h.ethernet = append(h.ethernet, ethIPv4>>8, ethIPv4&0xff)
	for _, s := range []*frameSender{&h.sender, &h.replies} {
		s.init(fd)
		for i := range s.frames {
			s.frames[i] = make([]byte, 0, maxCrowdFrame)
		}
	}
	return h, nil
}

// handshakeFilter is a program of classic BPF (Linux's Documentation/networking/filter.rst).
func handshakeFilter(offset uint32, port uint16, flags byte) []unix.SockFilter {
	const drop = 11
	// at is the number of instructions before this one.
	equal := func(value uint32, at uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: drop - at - 1, K: value}
	}
	load := func(code uint16, at uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_LD | code, K: at} }
	return []unix.SockFilter{
		load(unix.BPF_H|unix.BPF_ABS, 12), equal(ethIPv4, 1),
		load(unix.BPF_B|unix.BPF_ABS, ethLen+9), equal(protoTCP, 3),
		{Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH, K: ethLen}, // the length of the IP header
		load(unix.BPF_H|unix.BPF_IND, ethLen+offset), equal(uint32(port), 6),
		load(unix.BPF_B|unix.BPF_IND, ethLen+tcpFlagsAt),
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: flagSYN | flagACK}, equal(uint32(flags), 9),
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
}

// read hands every segment that comes to answer, which appends a frame in reply or leaves it empty.
func (c *Crowd) read(h *crowdHost, answer func(in *crowdSegment, out []byte) []byte) {
	for !c.stopping.Load() {
		n, err := h.reader.receive()
		if err != nil {
			// Time-outs, signals, and an interface that goes down; the socket itself stays until we end.
			continue
		}
		replies := 0
		for _, frame := range h.reader.frames[:n] {
			var in crowdSegment
			if !in.parse(frame) {
				continue
			}
			if out := answer(&in, h.replies.frames[replies][:0]); len(out) > 0 {
				h.replies.setFrame(replies, out)
				replies++
			}
		}
		// What the link doesn't take is lost like any packet, and the client sends its SYN again.
		if replies > 0 {
			_, _ = h.replies.send(replies)
		}
	}
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
	return (&crowdSegment{
		src: in.dst, dst: in.src, srcPort: in.dstPort, dstPort: in.srcPort,
		// Any number will do, as long as a SYN that comes again gets the same.
		seq: ^in.seq, ack: in.seq + 1, flags: flagSYN | flagACK, window: 65535,
		handshake: true, stamped: in.stamped, tsval: c.clock(), tsecr: in.tsval,
	}).appendTo(append(out, c.server.ethernet...))
}

// clock is a timestamp clock in milliseconds. It starts at 1: a TSecr of 0 is no answer to anything.
func (c *Crowd) clock() uint32 { return uint32(time.Since(c.begin).Milliseconds()) + 1 }

func (c *Crowd) isn(i int) uint32 { return c.salt + uint32(i)*2654435761 }

// from starts a segment of the i-th client.
func (c *Crowd) from(i int) crowdSegment {
	addr, port := crowdAddr(i)
	return crowdSegment{
		src: addr, dst: c.addr, srcPort: port, dstPort: c.port, window: 512, tsval: c.clock(),
	}
}

// syn appends the SYN of connection i.
func (c *Crowd) syn(i int, out []byte) []byte {
	s := c.from(i)
	s.seq, s.flags, s.window, s.handshake, s.stamped = c.isn(i), flagSYN, window, true, true
	return s.appendTo(append(out, c.client.ethernet...))
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

// Close ends the crowd. It may be called again.
func (c *Crowd) Close() error { return c.close() }

func (c *Crowd) closeOnce() (err error) {
	c.stopping.Store(true)
	c.sending.Lock()
	defer c.sending.Unlock()
	c.readers.Wait()
	for _, h := range []*crowdHost{c.client, c.server} {
		if h != nil {
			err = errors.Join(err, unix.Close(h.fd))
		}
	}
	for _, s := range c.sinks {
		err = errors.Join(err, s.Stop())
	}
	return err
}
