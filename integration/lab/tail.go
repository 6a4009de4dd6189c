package lab

import (
	"bytes"
	"fmt"
	"sync"
)

// Tail keeps the end of what is written to it, at least tailSize bytes of it and at most twice as
// many. The zero value is ready; it may be used by several goroutines.
type Tail struct {
	mu      sync.Mutex
	buf     []byte
	dropped int
}

const tailSize = 64 << 10

// Write never fails.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if extra := len(t.buf) - tailSize; extra > tailSize {
		t.dropped += extra
		t.buf = append(t.buf[:0], t.buf[extra:]...)
	}
	return len(p), nil
}

// String is what is kept, after a note of how much is not.
func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dropped == 0 {
		return string(t.buf)
	}
	return fmt.Sprintf("(%d bytes before this were left out)\n%s", t.dropped, bytes.ToValidUTF8(t.buf, nil))
}
