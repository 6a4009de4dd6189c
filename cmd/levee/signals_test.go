package main

import (
	"log/slog"
	"syscall"
	"testing"
	"time"
)

func TestSecondSignalEndsAtOnce(t *testing.T) {
	died := make(chan int, 1)
	ctx, _, stop := onSignals(t.Context(), catchSignals(), slog.New(slog.DiscardHandler), func(code int) { died <- code })
	defer stop()
	signal := func() {
		if err := syscall.Kill(syscall.Getpid(), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	signal()
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the first signal doesn't end the context")
	}
	signal() // as the first once more
	select {
	case <-died:
		t.Fatal("the first signal ends the process")
	case <-time.After(onceMore + 100*time.Millisecond):
	}
	signal()
	select {
	case code := <-died:
		if code != exitFailed {
			t.Errorf("exit code %d, want %d", code, exitFailed)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the second signal does nothing")
	}
}
