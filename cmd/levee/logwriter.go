package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// logPatience is how long, in milliseconds, the log's reader may keep levee waiting before a line is lost; logLine is what a pipe that takes anything
// takes at once (PIPE_BUF).
const (
	logPatience = 100
	logLine     = 4096
)

// logWriter writes lines to a file whose reader may stall: a terminal that was stopped, a pipe that nobody empties. That must not stop levee, so such lines are lost, and how
// many is told with the next that isn't. It is for one goroutine at a time, as slog's handlers write.
type logWriter struct {
	to   *os.File
	lost int
}

// logTo returns a writer of w's that never waits for long.
func logTo(w io.Writer) io.Writer {
	if f, ok := w.(*os.File); ok {
		return &logWriter{to: f}
	}
	return w
}

// Write implements io.Writer for whole lines.
func (w *logWriter) Write(line []byte) (int, error) {
	patience := logPatience
	if w.lost > 0 {
		patience = 0
	}
	for rest := line; len(rest) > 0; {
		if !w.ready(patience) {
			w.lost++
			return len(line), nil
		}
		if w.lost > 0 {
			lost := w.lost
			w.lost = 0
			if _, err := fmt.Fprintf(w.to, "levee: nobody has read the log: %d lines are lost\n", lost); err != nil {
				return 0, err
			}
			continue
		}
		n, err := w.to.Write(rest[:min(len(rest), logLine)])
		if rest = rest[n:]; err != nil {
			return len(line) - len(rest), err
		}
	}
	return len(line), nil
}

// ready says whether the file takes logLine bytes within so many milliseconds.
func (w *logWriter) ready(patience int) bool {
	for {
		fds := []unix.PollFd{{Fd: int32(w.to.Fd()), Events: unix.POLLOUT}}
		n, err := unix.Poll(fds, patience)
		if !errors.Is(err, unix.EINTR) {
			return n > 0 || err != nil // an error is for Write to find
		}
	}
}
