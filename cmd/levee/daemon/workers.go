package daemon

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"levee/tunnel"
)

// startWorkers runs one worker for each queue, each on a thread of its own. The first
// failure is sent to failed. The returned function stops them and waits.
func (d *daemon) startWorkers() (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	var group errgroup.Group
	// All before the first runs, as NewWorker asks.
	for _, queue := range d.device.Queues() {
		d.workers = append(d.workers, d.proxy.NewWorker(linkOf(queue)))
	}
	d.watchdog.threads = make([]atomic.Int64, len(d.workers))
	// A worker that comes back from waiting must never queue for its share of Go's scheduler behind other workers:
	// who runs is the kernel's to decide. The two more are for everything else that the daemon does.
	if n := len(d.workers) + 2; runtime.GOMAXPROCS(0) < n {
		runtime.GOMAXPROCS(n)
	}
	for i, worker := range d.workers {
		group.Go(func() error {
			// Never unlocked: nothing else is to run on the thread of a busy worker.
			runtime.LockOSThread()
			d.watchdog.threads[i].Store(int64(unix.Gettid()))
			err := worker.Run(ctx)
			for errors.Is(err, tunnel.ErrGone) {
				d.notice()
				if !sleep(ctx, gonePause) {
					return nil
				}
				err = worker.Run(ctx)
			}
			if err == nil && ctx.Err() == nil {
				err = errors.New("ended by itself")
			}
			if err != nil {
				err = fmt.Errorf("worker %d: %w", i, err)
				d.fail(err)
			}
			return err
		})
	}
	return func() error {
		cancel()
		_ = d.device.Wake() // otherwise they end a little later
		done := make(chan struct{})
		go func() {
			_ = group.Wait() // the errors went to fail
			close(done)
		}()
		select {
		case <-done:
			return nil
		case <-time.After(stopTimeout):
			return fmt.Errorf("the workers did not end within %v", stopTimeout)
		}
	}
}

// gonePause is how long a worker waits for a TUN that somebody has deleted before it looks again.
const gonePause = 10 * time.Millisecond

// stopTimeout bounds the wait for workers that were told to end; closing the TUN comes next and wakes them too.
const stopTimeout = 2 * time.Second

// drain waits until the workers have carried what was in the TUN when the rules went: nothing new arrives.
func (d *daemon) drain() {
	const (
		pause = 10 * time.Millisecond
		most  = 50 // pauses
		quiet = 2  // pauses without a packet
	)
	received := func() (n uint64) {
		for _, w := range d.proxy.Snapshot().Workers {
			n += w.Received
		}
		return n
	}
	last, still := received(), 0
	for range most {
		time.Sleep(pause)
		now := received()
		if still++; now != last {
			still = 0
		}
		if last = now; still >= quiet {
			return
		}
	}
}
