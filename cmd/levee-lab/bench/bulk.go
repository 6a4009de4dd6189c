package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"levee/integration/lab"
)

// stream is a TCP connection that one end fills as fast as it goes.
type stream struct {
	sender, receiver int
	// received bytes; the receiver writes it.
	received atomic.Int64
}

// end is the socket of one end: the sender's or the receiver's.
func (s *stream) end(sends bool) *int {
	if sends {
		return &s.sender
	}
	return &s.receiver
}

// bulk is a number of streams under way.
type bulk struct {
	streams []*stream
	threads sync.WaitGroup
}

// bulkChunk is how much a call sends or receives at most, in bytes. The hosts copy it as any program's would be: sendfile(2)
// and MSG_TRUNC in place of copies made no clear difference.
const bulkChunk = 256 << 10

// startBulk connects a client to a server flows times, and sends up, toward the server, or down.
func startBulk(client, server *lab.Namespace, addr netip.AddrPort, flows int, up bool) (b *bulk, err error) {
	b = &bulk{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start bulk transfer: %w", err), b.stop())
		}
	}()
	listener := -1
	if err := server.Do(func() (err error) { listener, err = listen(addr, peerTimeout); return err }); err != nil {
		return b, err
	}
	defer func() { err = errors.Join(err, unix.Close(listener)) }()
	for range flows {
		s := &stream{sender: -1, receiver: -1}
		b.streams = append(b.streams, s)
		if err := client.Do(func() (err error) { *s.end(up), err = dial(addr, peerTimeout); return err }); err != nil {
			return b, err
		}
	}
	// Only now: what stands between may take a second to complete a connection, and so it does all of them at once. Which
	// sender and which receiver make a stream doesn't matter.
	for _, s := range b.streams {
		if *s.end(!up), err = accept(listener); err != nil {
			return b, fmt.Errorf("accept: %w", err)
		}
	}
	for _, s := range b.streams {
		b.threads.Go(s.send)
		b.threads.Go(s.receive)
	}
	return b, nil
}

func (s *stream) send() {
	buf := make([]byte, bulkChunk)
	for writeFull(s.sender, buf) == nil {
	}
}

func (s *stream) receive() {
	buf := make([]byte, bulkChunk)
	for {
		n, err := unix.Read(s.receiver, buf)
		switch {
		case err == unix.EINTR:
		case err != nil || n == 0:
			return
		default:
			s.received.Add(int64(n))
		}
	}
}

// received is the bytes of all streams so far.
func (b *bulk) received() (sum int64) {
	for _, s := range b.streams {
		sum += s.received.Load()
	}
	return sum
}

// least is the bytes of the stream that got least.
func (b *bulk) least() int64 {
	n := b.streams[0].received.Load()
	for _, s := range b.streams {
		n = min(n, s.received.Load())
	}
	return n
}

func (b *bulk) stop() (err error) {
	for _, s := range b.streams {
		for _, fd := range []int{s.sender, s.receiver} {
			if fd >= 0 {
				// Wakes whoever uses it; the peer may have ended the connection already.
				_ = unix.Shutdown(fd, unix.SHUT_RDWR)
			}
		}
	}
	b.threads.Wait()
	for _, s := range b.streams {
		for _, fd := range []int{s.sender, s.receiver} {
			if fd >= 0 {
				err = errors.Join(err, unix.Close(fd))
			}
		}
	}
	return err
}

// bulkRuns are the transfers of one repetition.
var bulkRuns = []struct {
	id, name string
	flows    int
	up       bool
}{
	{"up-1", "to the server, 1 flow", 1, true}, {"down-1", "to the client, 1 flow", 1, false},
	{"up-8", "to the server, 8 flows", 8, true}, {"down-8", "to the client, 8 flows", 8, false},
}

// runBulk measures throughput and CPU per byte, both ways, of one flow and of eight.
func (b *bench) runBulk(ctx context.Context, id contenderID) (expect seen, err error) {
	type result struct{ gbps, cpu float64 }
	var results []result
	for _, r := range bulkRuns {
		bytes, u, err := b.transfer(ctx, r.flows, r.up)
		if err != nil {
			return expect, fmt.Errorf("%s: %w", r.id, err)
		}
		expect.connections += uint64(r.flows)
		gigabytes := float64(bytes) / 1e9
		results = append(results, result{8 * gigabytes / u.wall.Seconds(), u.busy.Seconds() / gigabytes})
	}
	for i, r := range bulkRuns {
		b.report.add("bulk-"+r.id, id, results[i].gbps)
		b.report.add("bulk-cpu-"+r.id, id, results[i].cpu)
	}
	return expect, nil
}

// transfer fills flows connections and measures a window of it.
func (b *bench) transfer(ctx context.Context, flows int, up bool) (bytes int64, u usage, err error) {
	t, err := startBulk(b.near.Namespace, b.server.Namespace, b.nextPort(), flows, up)
	if err != nil {
		return 0, u, err
	}
	defer func() { err = errors.Join(err, t.stop()) }()
	if err := sleep(ctx, b.length.settle); err != nil {
		return 0, u, err
	}
	before, bytesBefore := cpuMark{}, t.received()
	if before, err = markCPU(); err != nil {
		return 0, u, err
	}
	if err := sleep(ctx, b.length.bulk); err != nil {
		return 0, u, err
	}
	after, bytesAfter := cpuMark{}, t.received()
	if after, err = markCPU(); err != nil {
		return 0, u, err
	}
	if t.least() == 0 {
		return 0, u, errors.New("a flow moved nothing")
	}
	return bytesAfter - bytesBefore, after.since(before), nil
}
