package control

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"
	"time"
)

// TestUpgrade: the answer is out before the upgrade begins, and a refusal is told.
func TestUpgrade(t *testing.T) {
	began := make(chan string, 1)
	f := &fake{}
	client, _ := serve(t, f)
	f.began = func(program string) { began <- program }
	u, err := client.Upgrade(t.Context(), "/usr/sbin/levee & co")
	if want := (Upgrade{Program: "/usr/sbin/levee & co", Version: "v2", Converts: true}); err != nil || u != want {
		t.Errorf("%+v, %v", u, err)
	}
	if program := <-began; program != u.Program {
		t.Errorf("began with %q", program)
	}
	f.refusal = errors.New("no")
	if _, err := client.Upgrade(t.Context(), ""); err == nil || err.Error() != "no" {
		t.Errorf("refused: %v", err)
	}
	if len(began) != 0 {
		t.Error("it began all the same")
	}
}

// TestUpgradeEndsServer: a client gets its answer even if the server ends at once.
func TestUpgradeEndsServer(t *testing.T) {
	for range 20 {
		f := &fake{}
		client, path := serve(t, f)
		closed := make(chan struct{})
		f.began = func(string) {
			_ = os.Remove(path)
			close(closed)
		}
		if _, err := client.Upgrade(t.Context(), "/x"); err != nil {
			t.Fatal(err)
		}
		<-closed
	}
}

// TestDrain: lines come until the last state, and whenever that changes.
func TestDrain(t *testing.T) {
	f := &fake{drains: []Drain{
		{State: Draining, Connections: 3, Seconds: 0.1},
		{State: Draining, Connections: 2, Seconds: 0.2}, // too early for a line
		{State: Draining, Connections: 2, Seconds: 1.2},
		{State: Drained, Seconds: 1.3},
	}}
	client, _ := serve(t, f)
	var got []Drain
	if err := client.Drain(t.Context(), 90*time.Second, func(d Drain) error {
		got = append(got, d)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if want := []Drain{f.line(0.1, 3), f.line(1.2, 2), {State: Drained, Seconds: 1.3}}; !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
	if f.asked != 90*time.Second {
		t.Errorf("asked for %v", f.asked)
	}
	if d, err := client.CancelDrain(t.Context()); err != nil || d.State != Drained {
		t.Errorf("cancelled: %+v, %v", d, err)
	}
	f.refusal = errors.New("no")
	if err := client.Drain(t.Context(), 0, func(Drain) error { return nil }); err == nil || err.Error() != "no" {
		t.Errorf("refused: %v", err)
	}
	if _, err := client.CancelDrain(t.Context()); err == nil || err.Error() != "no" {
		t.Errorf("refused: %v", err)
	}
}

func (f *fake) line(seconds float64, connections int) Drain {
	return Drain{State: Draining, Connections: connections, Seconds: seconds}
}

// TestDrainLeft: who doesn't look on any longer leaves the server as it was.
func TestDrainLeft(t *testing.T) {
	f := &fake{drains: []Drain{{State: Draining, Connections: 1}}}
	client, _ := serve(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	if err := client.Drain(ctx, 0, func(Drain) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestPID is this process's own.
func TestPID(t *testing.T) {
	client, _ := serve(t, &fake{})
	if pid, err := client.PID(t.Context()); err != nil || pid != os.Getpid() {
		t.Errorf("%d, %v", pid, err)
	}
}
