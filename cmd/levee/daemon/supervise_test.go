package daemon

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"levee/cmd/levee/control"
)

// TestWatchdogHungry: while a worker doesn't move the watchdog is not fed, and the status line goes on.
func TestWatchdogHungry(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "30000")
	t.Setenv("WATCHDOG_PID", "")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var lively atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		supervisor{slog.New(slog.DiscardHandler)}.watch(ctx, lively.Load, func() string { return "fine" })
	}()
	next := func() string {
		b := make([]byte, 4096)
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := c.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	for range 3 {
		if got := next(); got != "STATUS=fine" {
			t.Errorf("hungry: told %q", got)
		}
	}
	lively.Store(true)
	for range 10 { // one may have been on its way
		if strings.Contains(next(), "WATCHDOG=1") {
			break
		}
	}
	if got := next(); got != "STATUS=fine\nWATCHDOG=1" {
		t.Errorf("fed: told %q", got)
	}
	cancel()
	<-done
}

func TestSummary(t *testing.T) {
	calm := control.Status{Services: []control.Service{{Name: "web"}}, Flows: control.Flows{Open: 2, Closing: 1}, Configuration: control.Configuration{LastReloadSuccessful: true}}
	flooded := calm
	flooded.Services = []control.Service{{Name: "web", FloodSeconds: 5, Rates: control.Rates{Syn: 12345, CookieValid: 20, Opened: 19}}, {Name: "ssh"}}
	flooded.Configuration.LastReloadSuccessful = false
	draining := calm
	draining.Drain = &control.Drain{}
	for _, tt := range []struct {
		status control.Status
		want   string
	}{
		{calm, "1 service, 3 connections"},
		{draining, "1 service, 3 connections; draining"},
		{flooded, "2 services, 3 connections; FLOOD on web: 12345 SYNs a second, 19 of 20 clients connected; the latest reload failed"},
	} {
		if got := summary(tt.status); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}
