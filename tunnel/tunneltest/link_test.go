package tunneltest

import (
	"bytes"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"levee/stack"
	"levee/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// link is proxy.Link; tunnel and proxy don't import each other.
type link interface {
	Recv(frames [][]byte, wait time.Duration) (int, error)
	Send(frames [][]byte) error
}

var (
	_ link = (*Link)(nil)
	_ link = (*tunnel.Queue)(nil)
)

// The number is written twice so that tests of proxy need not import tunnel.
const _ = uint(FrameSize-tunnel.FrameSize) + uint(tunnel.FrameSize-FrameSize)

func newFrames(n int) [][]byte {
	frames := make([][]byte, n)
	for i := range frames {
		frames[i] = make([]byte, FrameSize)
	}
	return frames
}

func frameOf(s string) []byte { return append(make([]byte, stack.VirtioLen), s...) }

func TestPipe(t *testing.T) {
	a, b := Pipe(8)
	if err := a.Send([][]byte{frameOf("one"), frameOf("two"), frameOf("three")}); err != nil {
		t.Fatal(err)
	}
	frames := newFrames(2)
	n, err := b.Recv(frames, 0)
	if n != 2 || err != nil {
		t.Fatalf("Recv = %d, %v; want the two frames it has room for", n, err)
	}
	if !bytes.Equal(frames[0], frameOf("one")) || !bytes.Equal(frames[1], frameOf("two")) {
		t.Errorf("got %q and %q", frames[0], frames[1])
	}
	if n, err := b.Recv(frames, 0); n != 1 || err != nil || !bytes.Equal(frames[0], frameOf("three")) {
		t.Errorf("Recv = %d, %v, %q; want the third frame", n, err, frames[0])
	}
	if n, err := a.Recv(frames, 0); n != 0 || err != nil {
		t.Errorf("Recv of the sender = %d, %v; want nothing", n, err)
	}
}

func TestInjectAndTake(t *testing.T) {
	l := New(1)
	if !l.Inject(frameOf("in")) {
		t.Fatal("Inject found no room in an empty link")
	}
	if l.Inject(frameOf("more")) {
		t.Error("Inject found room in a full link")
	}
	frames := newFrames(4)
	if n, err := l.Recv(frames, 0); n != 1 || err != nil {
		t.Fatalf("Recv = %d, %v; want 1", n, err)
	}
	sent := frameOf("out")
	if err := l.Send([][]byte{sent, frameOf("too many"), frameOf(""), make([]byte, FrameSize+1)}); err != nil {
		t.Fatal(err)
	}
	sent[stack.VirtioLen] = 'X' // the link must have kept a copy
	if got, ok := l.Take(0); !ok || !bytes.Equal(got, frameOf("out")) {
		t.Errorf("Take = %q, %v", got, ok)
	}
	if got, ok := l.Take(0); ok {
		t.Errorf("Take = %q, want nothing", got)
	}
	if l.Dropped() != 4 {
		t.Errorf("%d frames dropped, want 4", l.Dropped())
	}
}

func TestRecvWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(1)
		start := time.Now()
		if n, err := l.Recv(newFrames(1), time.Second); n != 0 || err != nil {
			t.Fatalf("Recv = %d, %v; want nothing", n, err)
		}
		if waited := time.Since(start); waited != time.Second {
			t.Errorf("waited %v, want 1s", waited)
		}
		time.AfterFunc(time.Second, func() { l.Inject(frameOf("late")) })
		if n, err := l.Recv(newFrames(2), time.Hour); n != 1 || err != nil {
			t.Errorf("Recv = %d, %v; want the frame that came late", n, err)
		}
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(1)
		time.AfterFunc(time.Second, func() { l.Close(); l.Close() })
		if n, err := l.Recv(newFrames(1), time.Hour); n != 0 || !errors.Is(err, os.ErrClosed) {
			t.Errorf("a waiting Recv = %d, %v; want os.ErrClosed", n, err)
		}
		l.Inject(frameOf("left over"))
		if n, err := l.Recv(newFrames(1), 0); n != 0 || !errors.Is(err, os.ErrClosed) {
			t.Errorf("Recv = %d, %v; want os.ErrClosed", n, err)
		}
		if err := l.Send(nil); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Send = %v, want os.ErrClosed", err)
		}
	})
}

func TestSmallFramePanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	New(1).Recv([][]byte{make([]byte, FrameSize-1)}, 0)
}
