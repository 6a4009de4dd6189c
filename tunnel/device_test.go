package tunnel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestOpenAndClose(t *testing.T) {
	ns := newNamespace(t)
	for _, tt := range []struct {
		queues, txQueueLen, wantTxQueueLen int
	}{
		{1, 0, DefaultTxQueueLen},
		{4, 1000, 1000},
		{MaxQueues, 1, 1},
	} {
		t.Run(fmt.Sprint(tt.queues), func(t *testing.T) {
			before := descriptors(t)
			links := ns.names(t)
			d := ns.open(t, Config{Name: "levee0", MTU: 1400, Queues: tt.queues, TxQueueLen: tt.txQueueLen})
			if len(d.Queues()) != tt.queues {
				t.Errorf("%d queues, want %d", len(d.Queues()), tt.queues)
			}
			if d.Name() != "levee0" {
				t.Errorf("name %q", d.Name())
			}
			if got := d.Offload().String(); got != "csum,tso4,tso6,ecn" {
				t.Errorf("offload %s", got)
			}
			l := ns.find(t, "levee0").(*netlink.Tuntap)
			if l.MTU != 1400 || l.TxQLen != tt.wantTxQueueLen || l.Flags&unix.IFF_UP != 0 || l.NonPersist != true {
				t.Errorf("MTU %d, txqueuelen %d, flags %v, not persistent %v; want 1400, %d, down, true",
					l.MTU, l.TxQLen, l.Flags, l.NonPersist, tt.wantTxQueueLen)
			}
			ns.up(t, "levee0") // which is when the kernel gives an interface its default discipline
			disciplines, err := ns.link.QdiscList(l)
			if err != nil {
				t.Fatal(err)
			}
			if len(disciplines) != 1 || disciplines[0].Type() != "noqueue" {
				t.Errorf("queueing disciplines %v, want only noqueue", disciplines)
			}
			if err := d.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
			if after := ns.names(t); after != links {
				t.Errorf("links after close %s, before %s", after, links)
			}
			if after := descriptors(t); after != before {
				t.Errorf("%d descriptors after close, %d before", after, before)
			}
			if _, err := d.Stats(); !errors.Is(err, os.ErrClosed) {
				t.Errorf("Stats after close: %v, want os.ErrClosed", err)
			}
		})
	}
}

// The Go runtime must not be woken for packets (see handOver).
func TestQueuesAreNotPolledByTheRuntime(t *testing.T) {
	ns := newNamespace(t)
	d := ns.open(t, Config{Name: "levee0", MTU: 1500, Queues: 3})
	infos, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		t.Fatal(err)
	}
	watched := map[int]bool{}
	for _, path := range infos {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // closed meanwhile
		}
		for line := range strings.Lines(string(b)) {
			var fd int
			if n, _ := fmt.Sscanf(line, "tfd: %d", &fd); n == 1 {
				watched[fd] = true
			}
		}
	}
	if len(watched) == 0 {
		t.Fatal("found no epoll at all")
	}
	for i, q := range d.Queues() {
		if watched[q.fd] {
			t.Errorf("queue %d is registered with the runtime's epoll", i)
		}
	}
}

func TestCloseWakesRecv(t *testing.T) {
	ns := newNamespace(t)
	d := ns.open(t, Config{Name: "levee0", MTU: 1500, Queues: 3})
	ns.quiet(t, "levee0")
	ns.up(t, "levee0")

	results := make(chan error)
	for _, q := range d.Queues() {
		go func() {
			n, err := q.Recv(newFrames(1), time.Minute)
			if n != 0 {
				err = fmt.Errorf("received %d frames", n)
			}
			results <- err
		}()
	}
	for _, q := range d.Queues() { // until all are in Recv
		for q.inUse.TryLock() {
			q.inUse.Unlock()
			runtime.Gosched()
		}
	}
	start := time.Now()
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	for range d.Queues() {
		if err := <-results; !errors.Is(err, os.ErrClosed) {
			t.Errorf("Recv: %v, want os.ErrClosed", err)
		}
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
	q := d.Queues()[0]
	if _, err := q.Recv(newFrames(1), time.Minute); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Recv after close: %v, want os.ErrClosed", err)
	}
	if err := q.Send([][]byte{make([]byte, 100)}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Send after close: %v, want os.ErrClosed", err)
	}
	if err := d.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

func TestDeletedUnderUs(t *testing.T) {
	ns := newNamespace(t)
	d := ns.open(t, Config{Name: "levee0", MTU: 1500, Queues: 2})
	ns.quiet(t, "levee0")
	ns.up(t, "levee0")
	q := d.Queues()[1]
	waiting := make(chan error)
	go func() {
		deadline := time.Now().Add(10 * time.Second)
		for time.Now().Before(deadline) {
			if _, err := q.Recv(newFrames(1), time.Minute); err != nil {
				waiting <- err
				return
			}
		}
		waiting <- errors.New("no error in 10 s")
	}()
	for q.inUse.TryLock() { // until it is in Recv
		q.inUse.Unlock()
		runtime.Gosched()
	}
	if err := ns.link.LinkDel(ns.find(t, "levee0")); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; !errors.Is(err, ErrGone) {
		t.Errorf("waiting Recv: %v, want ErrGone", err)
	}
	wantOneLine(t, d.Queues()[0].Send([][]byte{ipv4UDP()}), "levee0 queue 0", "deleted")
	for i, q := range d.Queues() {
		if _, err := q.Recv(newFrames(1), time.Minute); !errors.Is(err, ErrGone) {
			t.Errorf("queue %d: Recv: %v, want ErrGone", i, err)
		}
		if err := q.Send([][]byte{ipv4UDP()}); !errors.Is(err, ErrGone) {
			t.Errorf("queue %d: Send: %v, want ErrGone", i, err)
		}
	}
	if _, err := d.Stats(); !errors.Is(err, ErrGone) {
		t.Errorf("Stats: %v, want ErrGone", err)
	}
	if err := d.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}
