package proxy

import (
	"context"
	"testing"
	"time"
)

// hangLink has a worker wait for ever, in Recv, once it is told to.
type hangLink struct {
	hang    chan struct{}
	release chan struct{}
}

func (l *hangLink) Recv([][]byte, time.Duration) (int, error) {
	select {
	case <-l.hang:
		<-l.release
	case <-time.After(time.Millisecond):
	}
	return 0, nil
}

func (l *hangLink) Send([][]byte) error { return nil }

// TestBeat: the number of a worker changes while it moves, without any packet, and stays when it doesn't.
func TestBeat(t *testing.T) {
	r := newRig(t, DefaultOptions())
	p, err := New(r.proxy.cfg, r.now)
	if err != nil {
		t.Fatal(err)
	}
	links := []*hangLink{{make(chan struct{}), make(chan struct{})}, {make(chan struct{}), make(chan struct{})}}
	var workers []*Worker
	for _, l := range links {
		workers = append(workers, p.NewWorker(l))
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, len(workers))
	for _, w := range workers {
		go func() { done <- w.Run(ctx) }()
	}
	moves := func(worker int, from uint64) bool {
		for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if workers[worker].Beat() != from {
				return true
			}
		}
		return false
	}
	for w := range workers {
		if !moves(w, workers[w].Beat()) {
			t.Errorf("worker %d doesn't move", w)
		}
	}
	close(links[1].hang)
	still := workers[1].Beat()
	for deadline := time.Now().Add(5 * time.Second); ; {
		time.Sleep(50 * time.Millisecond)
		now := workers[1].Beat()
		if now == still {
			break
		}
		if still = now; time.Now().After(deadline) {
			t.Fatal("a worker that hangs moves")
		}
	}
	if !moves(0, workers[0].Beat()) {
		t.Error("the other doesn't move any longer")
	}
	close(links[1].release)
	if !moves(1, still) {
		t.Error("it doesn't move again")
	}
	cancel()
	for range workers {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestSpliced counts what levee translates, and nothing else.
func TestSpliced(t *testing.T) {
	r := newRig(t, DefaultOptions())
	if n := r.proxy.Spliced(); n != 0 {
		t.Errorf("%d at first", n)
	}
	r.open()
	s := &r.proxy.table.stripes[0]
	for i, x := range []struct {
		state State
		flags flowFlags
	}{
		{StateOpening, 0}, {StateClientClosed, opened}, {StateServerClosed, opened}, // these are
		{StateTimeWait, opened}, {StateReset, opened}, {StateOpen, opened | direct}, {StateOpening, direct},
	} {
		k := key(i)
		slot, _ := s.insert(&k, s.hash.of(&k), r.worker.evict)
		s.flows[slot].flags = x.flags
		s.setState(slot, x.state)
	}
	if n := r.proxy.Spliced(); n != 4 {
		t.Errorf("%d, not 4", n)
	}
}
