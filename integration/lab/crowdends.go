package lab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// crowdEnds are a synthetic client and a synthetic server with the gateway between them, which read and write frames.
type crowdEnds struct {
	addr           [4]byte // the server's
	port           uint16
	client, server *crowdHost
	sinks          []*Sink
	// salt makes the sequence numbers of two crowds differ.
	salt  uint32
	begin time.Time

	// sending is held by whoever uses the client's sender.
	sending  sync.Mutex
	stopping atomic.Bool
	readers  sync.WaitGroup
	close    func() error
}

// crowdHost is one of a crowd's two ends.
type crowdHost struct {
	fd       int
	ethernet []byte
	sender   frameSender // of whoever begins something
	replies  frameSender // of the reader
	reader   *frameReader
}

// answerer appends a frame in reply to a segment, or leaves it empty.
type answerer func(in *crowdSegment, out []byte) []byte

// start opens both ends and hands what they receive to the answerers: segments with one of these flags. It ends with Close or with
// the lab.
func (c *crowdEnds) start(l *Lab, port uint16, flags byte, client, server answerer) error {
	c.addr, c.port = l.Servers[0].Link.Host.Addr4.As4(), port
	c.salt, c.begin = rand.Uint32(), time.Now()
	c.close = sync.OnceValue(c.closeOnce)
	if err := c.open(l.Attacker.Link, l.Servers[0].Link, flags); err != nil {
		return errors.Join(err, c.Close())
	}
	c.readers.Go(func() { c.read(c.client, client) })
	c.readers.Go(func() { c.read(c.server, server) })
	l.started.add(c.close)
	return nil
}

func (c *crowdEnds) open(client, server *Link, flags byte) error {
	var err error
	// The kernels there would answer with resets.
	for _, e := range []*End{&server.Host, &client.Host} {
		s, err := e.StartSink(c.port)
		if err != nil {
			return err
		}
		c.sinks = append(c.sinks, s)
	}
	if c.client, err = newCrowdHost(client, tcpSrcPortAt, c.port, flags); err != nil {
		return err
	}
	c.server, err = newCrowdHost(server, tcpDstPortAt, c.port, flags)
	return err
}

// newCrowdHost opens the sockets of one end. It receives only segments with the port at the offset, and with at least one
// of the flags.
func newCrowdHost(l *Link, offset uint32, port uint16, flags byte) (*crowdHost, error) {
	// Sockets for all protocols get frames ahead of the Sink, those for IP alone after it.
	fd, err := l.Host.frameSocket(htons(unix.ETH_P_ALL), crowdFilter(offset, port, flags))
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

// crowdFilter is a program of classic BPF (Linux's Documentation/networking/filter.rst).
func crowdFilter(offset uint32, port uint16, flags byte) []unix.SockFilter {
	const drop = 10
	// at is the number of instructions before this one.
	test := func(how uint16, value uint32, at uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | how | unix.BPF_K, Jf: drop - at - 1, K: value}
	}
	load := func(code uint16, at uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_LD | code, K: at} }
	return []unix.SockFilter{
		load(unix.BPF_H|unix.BPF_ABS, 12), test(unix.BPF_JEQ, ethIPv4, 1),
		load(unix.BPF_B|unix.BPF_ABS, ethLen+9), test(unix.BPF_JEQ, protoTCP, 3),
		{Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH, K: ethLen}, // the length of the IP header
		load(unix.BPF_H|unix.BPF_IND, ethLen+offset), test(unix.BPF_JEQ, uint32(port), 6),
		load(unix.BPF_B|unix.BPF_IND, ethLen+tcpFlagsAt), test(unix.BPF_JSET, uint32(flags), 8),
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
}

// read hands every segment that comes to answer, and sends its replies.
func (c *crowdEnds) read(h *crowdHost, answer answerer) {
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
		// What the link doesn't take is lost like any packet, and the client sends its own again.
		if replies > 0 {
			_, _ = h.replies.send(replies)
		}
	}
}

// synAck appends the server's answer to a SYN.
func (c *crowdEnds) synAck(in *crowdSegment, out []byte) []byte {
	return (&crowdSegment{
		src: in.dst, dst: in.src, srcPort: in.dstPort, dstPort: in.srcPort,
		// Any number will do, as long as a SYN that comes again gets the same.
		seq: ^in.seq, ack: in.seq + 1, flags: flagSYN | flagACK, window: 65535,
		handshake: true, stamped: in.stamped, tsval: c.clock(), tsecr: in.tsval,
	}).appendTo(append(out, c.server.ethernet...))
}

// clock is a timestamp clock in milliseconds. It starts at 1: a TSecr of 0 is no answer to anything.
func (c *crowdEnds) clock() uint32 { return uint32(time.Since(c.begin).Milliseconds()) + 1 }

// isn is the first sequence number of the i-th client.
func (c *crowdEnds) isn(i int) uint32 { return c.salt + uint32(i)*2654435761 }

// from starts a segment of the i-th client.
func (c *crowdEnds) from(i int) crowdSegment {
	addr, port := crowdAddr(i)
	return crowdSegment{
		src: addr, dst: c.addr, srcPort: port, dstPort: c.port, window: 512, tsval: c.clock(),
	}
}

// syn appends the SYN of connection i.
func (c *crowdEnds) syn(i int, out []byte) []byte {
	s := c.from(i)
	s.seq, s.flags, s.window, s.handshake, s.stamped = c.isn(i), flagSYN, window, true, true
	return s.appendTo(append(out, c.client.ethernet...))
}

// Close ends both ends. It may be called again.
func (c *crowdEnds) Close() error { return c.close() }

func (c *crowdEnds) closeOnce() (err error) {
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
