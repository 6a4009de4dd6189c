package tunneltest

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"levee/stack"
)

// FrameSize is the capacity that Recv asks of each frame, in bytes: the same as tunnel.FrameSize.
const FrameSize = stack.VirtioLen + 65535

// Link is one end of an in-memory link. It has the Recv and Send of tunnel.Queue; all methods
// may be called at the same time.
type Link struct {
	in, out chan []byte // each frame belongs to the channel's reader
	closed  chan struct{}
	once    sync.Once
	dropped atomic.Uint64
}

// Pipe makes two ends: what one sends, the other receives. Each direction holds at most
// depth frames and drops more, as a TUN's ring does.
func Pipe(depth int) (a, b *Link) {
	ab, ba := make(chan []byte, depth), make(chan []byte, depth)
	return &Link{in: ba, out: ab, closed: make(chan struct{})},
		&Link{in: ab, out: ba, closed: make(chan struct{})}
}

// New makes one end alone, for a test that plays the kernel: Inject what the worker is to
// receive, and Take what it sent.
func New(depth int) *Link {
	l, _ := Pipe(depth)
	return l
}

// Inject queues a copy of the frame for Recv. It reports false if there was no room.
func (l *Link) Inject(frame []byte) bool { return l.put(l.in, frame) }

// Take returns the next frame that Send was given, waiting at most the given time for it. The
// frame is the caller's. It reports false if there was none.
func (l *Link) Take(wait time.Duration) ([]byte, bool) { return l.get(l.out, wait) }

// Dropped returns how many frames found no room, in Send and Inject.
func (l *Link) Dropped() uint64 { return l.dropped.Load() }

// Recv is tunnel.Queue's.
func (l *Link) Recv(frames [][]byte, wait time.Duration) (int, error) {
	n := 0
	for n < len(frames) {
		if l.isClosed() {
			return 0, errClosed()
		}
		if cap(frames[n]) < FrameSize {
			panic("tunneltest: a frame given to Recv has less capacity than FrameSize")
		}
		if n > 0 {
			wait = 0 // only the first frame is waited for
		}
		frame, ok := l.get(l.in, wait)
		if !ok {
			break
		}
		frames[n] = append(frames[n][:0], frame...)
		n++
	}
	if n == 0 && l.isClosed() {
		return 0, errClosed()
	}
	return n, nil
}

// Send is tunnel.Queue's: a frame without a packet or longer than FrameSize is dropped.
func (l *Link) Send(frames [][]byte) error {
	if l.isClosed() {
		return errClosed()
	}
	for _, frame := range frames {
		l.put(l.out, frame)
	}
	return nil
}

// Close makes Recv, also one that waits, and Send return an error that matches
// os.ErrClosed. The other end of a Pipe stays open; Take still returns what was sent.
func (l *Link) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *Link) put(to chan []byte, frame []byte) bool {
	if len(frame) > stack.VirtioLen && len(frame) <= FrameSize {
		select {
		case to <- append([]byte(nil), frame...):
			return true
		default:
		}
	}
	l.dropped.Add(1)
	return false
}

func (l *Link) get(from chan []byte, wait time.Duration) ([]byte, bool) {
	select {
	case frame := <-from:
		return frame, true
	default:
	}
	if wait <= 0 {
		return nil, false
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case frame := <-from:
		return frame, true
	case <-l.closed:
		return nil, false
	case <-timer.C:
		return nil, false
	}
}

func (l *Link) isClosed() bool {
	select {
	case <-l.closed:
		return true
	default:
		return false
	}
}

func errClosed() error { return fmt.Errorf("in-memory link: %w", os.ErrClosed) }
