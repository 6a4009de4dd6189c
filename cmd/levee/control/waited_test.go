package control

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"levee/proxy"
)

// changed counts what changes something.
type changed struct {
	*fake
	count atomic.Int32
}

func (c *changed) Reload() ([]string, error) { c.count.Add(1); return nil, nil }
func (c *changed) Upgrade(string) (Upgrade, func(), error) {
	c.count.Add(1)
	return Upgrade{}, func() {}, nil
}
func (c *changed) Drain(time.Duration) error { c.count.Add(1); return nil }
func (c *changed) CancelDrain() error        { c.count.Add(1); return nil }
func (c *changed) Kill(context.Context, netip.AddrPort, netip.AddrPort) (bool, error) {
	c.count.Add(1)
	return true, nil
}

// A daemon that hung changes nothing for those who have given up meanwhile, and does again for who waits.
func TestNothingChangedForTheGone(t *testing.T) {
	source := &changed{fake: &fake{flows: 3, drains: []Drain{{State: Drained}}}}
	path := filepath.Join(t.TempDir(), "control.sock")
	s, err := Listen(path, source, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	client := NewClient(path)
	asks := map[string]func(context.Context) error{
		"reload":  func(ctx context.Context) error { _, err := client.Reload(ctx); return err },
		"upgrade": func(ctx context.Context) error { _, err := client.Upgrade(ctx, "/levee"); return err },
		"drain": func(ctx context.Context) error {
			return client.Drain(ctx, time.Second, func(Drain) error { return nil })
		},
		"cancel": func(ctx context.Context) error { _, err := client.CancelDrain(ctx); return err },
		"kill": func(ctx context.Context) error {
			_, err := client.Kill(ctx, Filter{State: proxy.StateOpen.String()})
			return err
		},
	}
	for name, ask := range asks {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if err := ask(ctx); !errors.As(err, new(*NoAnswer)) {
			t.Errorf("%s of a daemon that hangs: %v", name, err)
		}
		cancel()
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()
	time.Sleep(200 * time.Millisecond) // for the five that are waiting in the socket
	if n := source.count.Load(); n != 0 {
		t.Errorf("%d of what was given up was done", n)
	}
	for name, ask := range asks {
		source.count.Store(0)
		if err := ask(t.Context()); err != nil || source.count.Load() != 1 {
			t.Errorf("%s of a daemon that answers: %v, done %d times", name, err, source.count.Load())
		}
	}
	// Who has closed its half only is waiting for the answer.
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	source.count.Store(0)
	if _, err := io.WriteString(c, "POST /v1/reload HTTP/1.1\r\nHost: levee\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if answer, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || answer.StatusCode != http.StatusOK || source.count.Load() != 1 {
		t.Errorf("half closed: %v, %v, done %d times", answer, err, source.count.Load())
	}
	if err := errors.Join(s.Close(), <-done); err != nil {
		t.Error(err)
	}
}
