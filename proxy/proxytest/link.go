package proxytest

import (
	"os"
	"slices"
	"time"
)

// maxQueued bounds the frames that wait for a worker.
const maxQueued = 1 << 16

// link is the proxy.Link of one worker.
type link struct {
	waiting [][]byte
	send    func(frame []byte)
	closed  bool
}

// Recv implements proxy.Link. It never waits: time does not pass in it.
func (l *link) Recv(frames [][]byte, _ time.Duration) (int, error) {
	if l.closed {
		return 0, os.ErrClosed
	}
	n := min(len(frames), len(l.waiting))
	for i, frame := range l.waiting[:n] {
		frames[i] = frames[i][:copy(frames[i], frame)]
	}
	l.waiting = slices.Delete(l.waiting, 0, n)
	return n, nil
}

// Send implements proxy.Link.
func (l *link) Send(frames [][]byte) error {
	for _, frame := range frames {
		l.send(slices.Clone(frame))
	}
	return nil
}
