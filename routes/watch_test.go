package routes

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// TestWatchesEnd: a watch ends as soon as it is told to, not when it would have looked by itself. An upgrade waits for it.
func TestWatchesEnd(t *testing.T) {
	// With waits of a quarter of a second each these take four times as long.
	const times, most = 40, 2500 * time.Millisecond
	enterNamespace(t)
	for name, watch := range map[string]func(ctx context.Context) error{
		"rules and routes": func(ctx context.Context) error {
			Watch(ctx, func(int, netip.Prefix) bool { return true }, func() {}, func(err error) { t.Error(err) })
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

// TestWatchPersists: after an error a watch begins anew, tells of it once until it works, and of the next one again.
func TestWatchPersists(t *testing.T) {
	var said []string
	note := func(what string) { said = append(said, what) }
	tries := []struct {
		works bool
		err   error
	}{{true, errors.New("a")}, {false, errors.New("b")}, {false, errors.New("c")}, {true, errors.New("d")}, {true, nil}, {true, errors.New("never")}}
	n := 0
	persist(t.Context(), 0, func(changed func()) error {
		try := tries[n]
		n++
		if try.works {
			changed()
		}
		return try.err
	}, func() { note("changed") }, func(err error) { note(err.Error()) })
	if got, want := fmt.Sprint(said), "[changed a changed d changed]"; got != want {
		t.Errorf("it said %s, want %s", got, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	said = nil
	persist(ctx, time.Hour, func(func()) error {
		cancel()
		return errors.New("it is to end")
	}, func() { note("changed") }, func(error) {})
	if len(said) > 0 {
		t.Errorf("it said %s", said)
	}
}

// TestWatchOverrun: when the kernel had more to say than it could keep, something may have changed.
func TestWatchOverrun(t *testing.T) {
	enterGateway(t)
	ctx, cancel := context.WithCancel(t.Context())
	begun, goOn := make(chan struct{}), make(chan struct{})
	calls := make(chan struct{}, 1000)
	first := true
	stop := inNamespaceOf(t, func() error {
		return watch(ctx, func(int, netip.Prefix) bool { return false }, func() {
			if first {
				first = false
				close(begun)
				<-goOn
				return
			}
			calls <- struct{}{}
		})
	})
	defer func() {
		cancel()
		must(t, stop())
	}()
	<-begun
	srv0, err := netlink.LinkByName("srv0")
	must(t, err)
	// None of these matters, and they are more than a socket's buffer holds.
	for range 4000 {
		r := &netlink.Route{LinkIndex: srv0.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("198.18.0.0/15")), Gw: net.IPv4(192, 0, 2, 2)}
		must(t, netlink.RouteAdd(r))
		must(t, netlink.RouteDel(r))
	}
	close(goOn)
	select {
	case <-calls:
	case <-time.After(10 * time.Second):
		t.Error("nothing is told")
	}
}
