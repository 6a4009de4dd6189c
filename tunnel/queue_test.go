package tunnel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"levee/stack"
)

// newPair makes a queue on one end of a socket pair that keeps packets apart, as a TUN does,
// and returns the other end. It needs no root, and can be full.
func newPair(t *testing.T) (q *Queue, peer int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	q = newQueue(fds[0], wake, closer(fds[0]), "test queue")
	t.Cleanup(func() {
		_ = q.detach()
		unix.Close(fds[1])
		unix.Close(wake)
	})
	return q, fds[1]
}

type closer int

func (c closer) Close() error { return unix.Close(int(c)) }

func put(t *testing.T, fd int, message []byte) {
	t.Helper()
	if _, err := unix.Write(fd, message); err != nil {
		t.Fatal(err)
	}
}

func TestRecvBatch(t *testing.T) {
	q, peer := newPair(t)
	for _, s := range []string{"0123456789one", "0123456789", "0123456789two", "x", "0123456789three"} {
		put(t, peer, []byte(s))
	}
	frames := newFrames(3)
	frames[0] = frames[0][:0] // only the capacity counts
	n, err := q.Recv(frames, time.Minute)
	if n != 2 || err != nil {
		t.Fatalf("Recv = %d, %v; want 2 frames out of 3 messages, one of them short", n, err)
	}
	if !bytes.HasSuffix(frames[0], []byte("one")) || !bytes.HasSuffix(frames[1], []byte("two")) {
		t.Errorf("got %q and %q", frames[0], frames[1])
	}
	n, err = q.Recv(frames, time.Minute)
	if n != 1 || err != nil || !bytes.HasSuffix(frames[0], []byte("three")) {
		t.Errorf("Recv = %d, %v, %q", n, err, frames[0])
	}
	if n, err := q.Recv(nil, time.Minute); n != 0 || err != nil {
		t.Errorf("Recv without frames = %d, %v", n, err)
	}
	want := QueueStats{Batches: 2, RecvFrames: 3, RecvBytes: 13 + 13 + 15, RecvShort: 2}
	if got := q.Stats(); got != want {
		t.Errorf("counters %+v, want %+v", got, want)
	}
}

// TestWaiting: what waits is seen, while somebody else is in Recv too, and nothing once the queue is closed.
func TestWaiting(t *testing.T) {
	q, peer := newPair(t)
	if q.Waiting() {
		t.Error("something waits at first")
	}
	put(t, peer, []byte("0123456789one"))
	for range 2 { // looking takes nothing away
		if !q.Waiting() {
			t.Error("nothing waits after a message")
		}
	}
	if n, err := q.Recv(newFrames(1), time.Minute); n != 1 || err != nil || q.Waiting() {
		t.Errorf("Recv = %d, %v, and something waits: %t", n, err, q.Waiting())
	}
	received := make(chan error)
	go func() {
		_, err := q.Recv(newFrames(1), time.Minute)
		received <- err
	}()
	for range 100 {
		_ = q.Waiting()
	}
	put(t, peer, []byte("0123456789two"))
	if err := <-received; err != nil {
		t.Error(err)
	}
	put(t, peer, []byte("0123456789three"))
	q.closed.Store(true)
	if q.Waiting() {
		t.Error("something waits in a closed queue")
	}
}

// A packet longer than a frame can hold must not pass for a whole one.
func TestRecvDropsTruncated(t *testing.T) {
	v4 := func(length uint16) []byte {
		frame := make([]byte, FrameSize)
		frame[stack.VirtioLen] = 0x45
		binary.BigEndian.PutUint16(frame[stack.VirtioLen+2:], length)
		return frame
	}
	v6 := func(payload uint16) []byte {
		frame := make([]byte, FrameSize)
		frame[stack.VirtioLen] = 0x60
		binary.BigEndian.PutUint16(frame[stack.VirtioLen+4:], payload)
		return frame
	}
	tests := []struct {
		name    string
		message []byte
		whole   bool
	}{
		{"largest IPv4", v4(65535), true},
		{"largest IPv6 that fits", v6(65535 - 40), true},
		{"IPv4 beyond its length field", append(v4(0), 1), false},
		{"largest IPv6", append(v6(65535), make([]byte, 40)...), false},
		{"jumbogram", append(v6(0), make([]byte, 1000)...), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			q, peer := newPair(t)
			put(t, peer, tt.message)
			put(t, peer, []byte("0123456789next"))
			frames := newFrames(2)
			n, err := q.Recv(frames, 0)
			if err != nil {
				t.Fatal(err)
			}
			wantFrames, wantOversize := 2, uint64(0)
			if !tt.whole {
				wantFrames, wantOversize = 1, 1
			}
			if got := q.Stats().RecvOversize; n != wantFrames || got != wantOversize {
				t.Errorf("%d frames, %d oversize; want %d and %d", n, got, wantFrames, wantOversize)
			}
			if tt.whole && len(frames[0]) != FrameSize {
				t.Errorf("frame of %d bytes", len(frames[0]))
			}
		})
	}
}

func TestRecvPanicsOnSmallFrame(t *testing.T) {
	q, _ := newPair(t)
	defer func() {
		if s, _ := recover().(string); s != "tunnel: a frame given to Recv has less capacity than FrameSize" {
			t.Errorf("panic %q", s)
		}
	}()
	q.Recv([][]byte{make([]byte, FrameSize-1)}, 0)
}

func TestRecvWaits(t *testing.T) {
	q, peer := newPair(t)
	frames := newFrames(1)
	for _, wait := range []time.Duration{-time.Second, 0, 100 * time.Nanosecond, 30 * time.Millisecond} {
		start := time.Now()
		if n, err := q.Recv(frames, wait); n != 0 || err != nil {
			t.Errorf("Recv = %d, %v; want nothing", n, err)
		}
		if waited := time.Since(start); waited < wait {
			t.Errorf("waited %v, want %v", waited, wait)
		}
	}
	time.AfterFunc(20*time.Millisecond, func() { unix.Write(peer, []byte("0123456789late")) })
	if n, err := q.Recv(frames, time.Minute); n != 1 || err != nil {
		t.Errorf("Recv = %d, %v; want the frame that came late", n, err)
	}
}

// Signals, with which the Go runtime preempts its threads, don't cut a wait short.
func TestRecvWaitsThroughSignals(t *testing.T) {
	q, _ := newPair(t)
	const wait = 200 * time.Millisecond
	thread := make(chan int)
	waited := make(chan time.Duration)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		thread <- unix.Gettid()
		start := time.Now()
		if n, err := q.Recv(newFrames(1), wait); n != 0 || err != nil {
			t.Errorf("Recv = %d, %v; want nothing", n, err)
		}
		waited <- time.Since(start)
	}()
	tid := <-thread
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for signals := 0; ; {
		select {
		case <-ticker.C:
			if err := unix.Tgkill(os.Getpid(), tid, unix.SIGURG); err != nil {
				t.Fatal(err)
			}
			signals++
		case d := <-waited:
			if d < wait || d > 10*wait {
				t.Errorf("waited %v through %d signals, want %v", d, signals, wait)
			}
			return
		}
	}
}

// When the kernel has no room, Send waits a little and then drops, and keeps the order.
func TestSendIsBounded(t *testing.T) {
	q, peer := newPair(t)
	frame := make([]byte, 1000)
	batch := make([][]byte, 4096)
	for i := range batch {
		batch[i] = frame
	}
	start := time.Now()
	if err := q.Send(batch); err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	s := q.Stats()
	full := s.Refused[RefusedFull]
	if s.SentFrames == 0 || full == 0 || s.SentFrames+full != uint64(len(batch)) {
		t.Errorf("sent %d, dropped %d of %d", s.SentFrames, full, len(batch))
	}
	if least := sendTries * sendWait; took < least || took > 100*least {
		t.Errorf("took %v, want %v and a little more", took, least)
	}

	// With a reader that makes room, nothing is dropped: Send waits for it.
	buf := make([]byte, 2000)
	unix.Read(peer, buf)
	unix.Read(peer, buf)
	time.AfterFunc(sendWait/2, func() {
		for {
			if _, err := unix.Read(peer, buf); err != nil {
				return
			}
		}
	})
	if err := q.Send(batch[:4]); err != nil {
		t.Fatal(err)
	}
	if got := q.Stats(); got.SentFrames != s.SentFrames+4 {
		t.Errorf("sent %d more, want 4: %+v", got.SentFrames-s.SentFrames, got)
	}
}

func TestRefusalNames(t *testing.T) {
	seen := map[string]bool{}
	for r := range NumRefusals {
		if name := r.String(); name == "" || seen[name] {
			t.Errorf("refusal %d is called %q", r, name)
		} else {
			seen[name] = true
		}
	}
	if got := NumRefusals.String(); got != "unknown" {
		t.Errorf("a number out of range is called %q", got)
	}
	if got := refusalOf(errors.New("something else")); got != RefusedOther {
		t.Errorf("an unknown error is %v", got)
	}
}
