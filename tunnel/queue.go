package tunnel

import (
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"levee/stack"
)

// FrameSize is the capacity in bytes that each frame given to Recv must have: the header and the
// largest packet. The kernel hands a TUN no packet above 65535 bytes: a superpacket
// is limited by the interface's gso_max_size of 65536 exclusive, any other by its MTU.
const FrameSize = stack.VirtioLen + maxPacket

const maxPacket = 65535

// maxBatchBytes ends a batch of Recv, in bytes: a superpacket or two. A batch is read whole before its
// first frame is sent, and what is still in the core's nearest caches then is copied fastest. Against
// 256 KiB, bulk data took about a tenth less CPU for each byte, in two runs each on a 2-core VM.
const maxBatchBytes = 96 << 10

const (
	// sendWait is how long Send waits when the kernel has no room for a frame. It has none only
	// while an earlier write is still being carried through the stack, or after
	// someone lowered TUNSETSNDBUF.
	sendWait = time.Millisecond
	// sendTries is how often one call of Send waits; then it drops what the kernel refuses.
	sendTries = 4
)

// Queue is one queue of a Device. One worker owns it: Recv and Send are not to be called by
// two goroutines at the same time, except that one may be in Recv and one in Send.
// Stats may be called from anywhere.
type Queue struct {
	name string // for errors
	wake int    // the Device's eventfd

	// inUse is held for reading by Recv and Send and for writing to change fd, so that no
	// call can reach a stranger's descriptor under the same number.
	inUse  sync.RWMutex
	fd     int       // of the TUN, non-blocking; -1 while there is no interface
	file   io.Closer // the wireguard/tun device that owns fd, nil if fd is -1
	closed atomic.Bool

	errClosed, errGone error // made once: an error costs no allocation

	recvPoll [2]unix.PollFd // owned by Recv
	recvTime unix.Timespec  // owned by Recv
	sendPoll [2]unix.PollFd // owned by Send
	sendTime unix.Timespec  // owned by Send

	counters counters
}

// newQueue takes a non-blocking descriptor that file owns.
func newQueue(fd, wake int, file io.Closer, name string) *Queue {
	q := &Queue{
		name: name, wake: wake,
		errClosed: fmt.Errorf("%s: %w", name, os.ErrClosed),
		errGone:   fmt.Errorf("%s: %w", name, ErrGone),
	}
	q.attach(fd, file)
	return q
}

// attach makes a descriptor of the interface, which file owns, the queue's.
func (q *Queue) attach(fd int, file io.Closer) {
	q.inUse.Lock()
	defer q.inUse.Unlock()
	q.fd, q.file = fd, file
	q.recvPoll = [2]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(q.wake), Events: unix.POLLIN}}
	q.sendPoll = [2]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}, {Fd: int32(q.wake), Events: unix.POLLIN}}
}

// detach waits for Recv and Send to return and closes the descriptor; until the next attach they return ErrGone.
func (q *Queue) detach() error {
	q.inUse.Lock()
	defer q.inUse.Unlock()
	if q.file == nil {
		return nil
	}
	err := q.file.Close()
	q.fd, q.file = -1, nil
	return err
}

// Recv reads the frames that are waiting, at most one into each element of frames and
// at most two superpackets, or a little more in all, and reslices each to what it read. Every element must have a
// capacity of FrameSize. If none is waiting it waits at most the given time for the first;
// a wait of 0 or less doesn't wait. It returns how many it read: 0 without an error when the
// time has passed, and now and then before. The error matches os.ErrClosed after
// Device.Close, which wakes a Recv that waits, and ErrGone when the interface was deleted, until Device.Repair has made it again.
func (q *Queue) Recv(frames [][]byte, wait time.Duration) (int, error) {
	q.inUse.RLock()
	defer q.inUse.RUnlock()
	if q.closed.Load() {
		return 0, q.errClosed
	}
	if q.fd < 0 {
		return 0, q.errGone
	}
	n, err := q.drain(frames)
	if n > 0 || err != nil || wait <= 0 || len(frames) == 0 {
		return n, err
	}
	// poll(2) in the worker's own thread rather than the Go runtime's: that would park the
	// worker and wake it from another thread. (One run each on a 2-core VM, CPU per packet with
	// a deadline set for each wait: a flood 1.2 times, a packet each 20 µs 2.0 times, each 100 µs 1.6 times.)
	if err := ppoll(&q.recvPoll, &q.recvTime, wait); err != nil {
		return 0, fmt.Errorf("%s: wait for packets: %w", q.name, err)
	}
	if q.closed.Load() {
		return 0, q.errClosed
	}
	return q.drain(frames)
}

// Waiting says whether a frame waits for Recv. It may be called from anywhere.
func (q *Queue) Waiting() bool {
	if !q.inUse.TryRLock() {
		return false // it is being closed
	}
	defer q.inUse.RUnlock()
	fds := []unix.PollFd{{Fd: int32(q.fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 1 && fds[0].Revents&unix.POLLIN != 0 && !q.closed.Load()
}

// drain reads until nothing is waiting, the frames are used up or the batch is large enough.
func (q *Queue) drain(frames [][]byte) (int, error) {
	n, bytes := 0, 0
	var failed error
	for range frames { // a frame that is dropped uses up a turn, which bounds the loop
		if bytes >= maxBatchBytes {
			break
		}
		if cap(frames[n]) < FrameSize {
			panic("tunnel: a frame given to Recv has less capacity than FrameSize")
		}
		frame := frames[n][:FrameSize]
		length, err := rawRead(q.fd, frame)
		if err == unix.EAGAIN || err == unix.EINTR {
			break
		}
		if err != nil {
			failed = q.readError(err)
			break
		}
		frame = frame[:length]
		if length <= stack.VirtioLen {
			q.counters.recvShort.Add(1)
			continue
		}
		if truncated(frame) {
			q.counters.recvOversize.Add(1)
			continue
		}
		frames[n] = frame
		n++
		bytes += length
	}
	if n > 0 {
		q.counters.batches.Add(1)
		q.counters.recvFrames.Add(uint64(n))
		q.counters.recvBytes.Add(uint64(bytes))
		return n, nil // an error that lasts comes back with the next call
	}
	return 0, failed
}

func (q *Queue) readError(err error) error {
	if err == unix.EBADFD {
		return q.errGone
	}
	return fmt.Errorf("%s: read: %w", q.name, err)
}

// truncated reports whether the packet of a frame that fills its buffer was cut off by it:
// read(2) does not say so. The kernel should never send one (see FrameSize).
func truncated(frame []byte) bool {
	if len(frame) < FrameSize {
		return false
	}
	packet := frame[stack.VirtioLen:]
	if packet[0]>>4 == 6 {
		const header = 40 // the payload length of IPv6 leaves out the header
		return int(packet[4])<<8|int(packet[5]) != maxPacket-header
	}
	return int(packet[2])<<8|int(packet[3]) != maxPacket
}

// Send writes each frame as one packet, in order, and keeps none. The kernel carries the
// packet through its whole forwarding path before the write returns. A frame that it
// refuses is counted in Stats and skipped. The error matches os.ErrClosed after
// Device.Close and ErrGone when the interface was deleted; the frames that are left are lost.
func (q *Queue) Send(frames [][]byte) error {
	q.inUse.RLock()
	defer q.inUse.RUnlock()
	if q.closed.Load() {
		return q.errClosed
	}
	if q.fd < 0 {
		return q.errGone
	}
	sent, bytes := uint64(0), uint64(0)
	tries := sendTries
	var failed error
	for _, frame := range frames {
		err := q.write(frame, &tries)
		if err == nil {
			sent++
			bytes += uint64(len(frame))
			continue
		}
		if err == unix.EBADFD {
			failed = q.errGone
			break
		}
		q.counters.refused[refusalOf(err)].Add(1)
	}
	q.counters.sentFrames.Add(sent)
	q.counters.sentBytes.Add(bytes)
	return failed
}

// write makes one write(2), and repeats it when the kernel says that it may work later; tries is
// what is left for the whole call of Send.
func (q *Queue) write(frame []byte, tries *int) error {
	if len(frame) <= stack.VirtioLen {
		return errShort
	}
	if len(frame) > FrameSize {
		return errOversize
	}
	for {
		_, err := rawWrite(q.fd, frame)
		if err != unix.EAGAIN && err != unix.EINTR || *tries == 0 {
			return err
		}
		*tries--
		if err == unix.EAGAIN && !q.closed.Load() {
			if err := ppoll(&q.sendPoll, &q.sendTime, sendWait); err != nil {
				return err
			}
		}
	}
}

// ppoll waits until one of the descriptors is ready or the time has passed. Linux writes the
// time that is left back to timeout, so that a wait goes on after a signal (the Go runtime
// sends some to its threads) without a look at the clock.
func ppoll(fds *[2]unix.PollFd, timeout *unix.Timespec, wait time.Duration) error {
	*timeout = unix.NsecToTimespec(int64(wait))
	for {
		_, err := unix.Ppoll(fds[:], timeout, nil)
		if err != unix.EINTR {
			return err
		}
	}
}
