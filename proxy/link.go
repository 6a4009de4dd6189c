package proxy

import "time"

// Link carries frames (a virtio_net_hdr and an IP packet, see package stack) between a
// worker and the kernel. tunnel's queue is one; the in-memory network of the tests is another.
// One worker owns a Link: its methods are never called at the same time.
type Link interface {
	// Recv reads frames that are waiting, at most one for each element of frames, and
	// reslices frames[i] (whose capacity it may use whole) to what it read. If none is waiting
	// it waits at most the given time for the first. It returns how many it read;
	// 0 without an error means that the time passed or that the reader was woken.
	// After Close it returns an error that matches os.ErrClosed.
	Recv(frames [][]byte, wait time.Duration) (int, error)

	// Send writes each frame as one packet, in order. It only reads the frames, and keeps none.
	// A frame that the kernel refuses is counted by the link and skipped: one bad
	// packet must not stop the queue. The error is for failures of the link itself.
	Send(frames [][]byte) error
}
