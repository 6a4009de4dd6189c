//go:build levee_hang

package daemon

import (
	"bytes"
	"os"
	"time"

	"levee/proxy"
	"levee/tunnel"
)

// In this build, which only tests make, a worker hangs as soon as it receives hangWords, if the file that hangOnceEnv names isn't there yet;
// it makes that first, so that the next process doesn't.
const (
	hangWords   = "this worker is to hang here"
	hangOnceEnv = "LEVEE_HANG_ONCE"
)

func linkOf(queue *tunnel.Queue) proxy.Link { return hangingLink{queue} }

type hangingLink struct{ *tunnel.Queue }

// Recv implements proxy.Link.
func (l hangingLink) Recv(frames [][]byte, wait time.Duration) (int, error) {
	n, err := l.Queue.Recv(frames, wait)
	for _, frame := range frames[:n] {
		if !bytes.Contains(frame, []byte(hangWords)) {
			continue
		}
		f, err := os.OpenFile(os.Getenv(hangOnceEnv), os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			continue
		}
		_ = f.Close()
		for { // busy, as in an endless loop
		}
	}
	return n, err
}
