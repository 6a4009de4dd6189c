package routes

import (
	"context"
	"net/netip"
	"testing"
	"time"
)

// TestWatchesEnd: a watch ends as soon as it is told to, not when it would have looked by itself. An upgrade waits for it.
func TestWatchesEnd(t *testing.T) {
	// With waits of a quarter of a second each these take four times as long.
	const times, most = 40, 2500 * time.Millisecond
	enterNamespace(t)
	for name, watch := range map[string]func(ctx context.Context) error{
		"rules and routes": func(ctx context.Context) error {
			Watch(ctx, func(netip.Prefix) bool { return true }, func() {}, func(err error) { t.Error(err) })
			return nil
		},
		"connection tracking": func(ctx context.Context) error {
			return WatchTracking(ctx, func() {})
		},
	} {
		begin := time.Now()
		for range times {
			ctx, cancel := context.WithCancel(t.Context())
			stop := inNamespaceOf(t, func() error { return watch(ctx) })
			time.Sleep(time.Millisecond) // most are waiting by then
			cancel()
			must(t, stop())
		}
		if took := time.Since(begin); took > most {
			t.Errorf("%s: %d watches ended after %v", name, times, took)
		}
	}
}
