package tunnel

import (
	"errors"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Refusal is why a frame given to Send did not reach the kernel's network stack.
type Refusal uint8

const (
	RefusedInvalid  Refusal = iota // EINVAL: not IP, or a virtio header that does not fit the packet
	RefusedDown                    // EIO: the link is down
	RefusedFull                    // EAGAIN, for longer than Send waits
	RefusedMemory                  // ENOMEM or ENOBUFS
	RefusedShort                   // the frame holds no packet; the kernel was not asked
	RefusedOversize                // the frame is longer than FrameSize; the kernel was not asked
	RefusedOther                   // any other errno
	NumRefusals                    // how many there are
)

var refusalNames = [NumRefusals]string{
	RefusedInvalid: "invalid", RefusedDown: "down", RefusedFull: "full", RefusedMemory: "memory",
	RefusedShort: "short", RefusedOversize: "oversize", RefusedOther: "other",
}

// String returns one lower-case word, fit for a metric's label.
func (r Refusal) String() string {
	if r < NumRefusals {
		return refusalNames[r]
	}
	return "unknown"
}

// What write returns for a frame that it doesn't show to the kernel.
var (
	errShort    = errors.New("frame without a packet")
	errOversize = errors.New("frame longer than FrameSize")
)

func refusalOf(err error) Refusal {
	switch err {
	case unix.EINVAL:
		return RefusedInvalid
	case unix.EIO:
		return RefusedDown
	case unix.EAGAIN, unix.EINTR:
		return RefusedFull
	case unix.ENOMEM, unix.ENOBUFS:
		return RefusedMemory
	case errShort:
		return RefusedShort
	case errOversize:
		return RefusedOversize
	}
	return RefusedOther
}

// QueueStats counts what one queue has moved since it was opened. Frames count a superpacket
// once; bytes include the virtio headers.
type QueueStats struct {
	Batches      uint64 // calls of Recv that returned frames
	RecvFrames   uint64
	RecvBytes    uint64
	RecvShort    uint64 // frames without a packet, dropped
	RecvOversize uint64 // frames cut off at FrameSize, dropped

	SentFrames uint64 // that the kernel accepted
	SentBytes  uint64
	Refused    [NumRefusals]uint64 // that it did not
}

// counters are written by the queue's worker and read by anyone.
type counters struct {
	batches, recvFrames, recvBytes, recvShort, recvOversize atomic.Uint64
	sentFrames, sentBytes                                   atomic.Uint64
	refused                                                 [NumRefusals]atomic.Uint64
}

// Stats returns the counters. Each is exact, but they are not read at one instant.
func (q *Queue) Stats() QueueStats {
	c := &q.counters
	s := QueueStats{
		Batches: c.batches.Load(), RecvFrames: c.recvFrames.Load(), RecvBytes: c.recvBytes.Load(),
		RecvShort: c.recvShort.Load(), RecvOversize: c.recvOversize.Load(),
		SentFrames: c.sentFrames.Load(), SentBytes: c.sentBytes.Load(),
	}
	for i := range c.refused {
		s.Refused[i] = c.refused[i].Load()
	}
	return s
}
