package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The watchdog ends the process when a worker hangs: with the stacks of all in the crash report, and in the middle of whatever the others do.
// The next process goes on with the connections. It takes no lock that a worker could hold.

// watchdog is what it knows of the workers.
type watchdog struct {
	// threads are those of the workers, by their number, 0 where one hasn't begun.
	threads []atomic.Int64
	// sawLively is when every worker had moved lately, by the monotonic clock, since the daemon's start.
	sawLively atomic.Int64
}

// watchWorkers looks at the workers until it is undone.
func (d *daemon) watchWorkers() error {
	queues := d.device.Queues()
	d.background("watchdog", func(ctx context.Context) {
		var p pulse
		var beats []uint64
		every := time.NewTicker(pulseEvery)
		defer every.Stop()
		for {
			now := time.Now()
			beats = beats[:0]
			for _, w := range d.workers {
				beats = append(beats, w.Beat())
			}
			p.look(now, beats)
			if p.lively() {
				d.watchdog.sawLively.Store(int64(now.Sub(d.start)))
			}
			if worker, still, ok := p.hanging(func(i int) bool { return queues[i].Waiting() }); ok {
				d.hang(worker, still)
			}
			select {
			case <-ctx.Done():
				return
			case <-every.C:
			}
		}
	})
	return nil
}

// Lively says that every worker has moved lately: what a supervisor's watchdog may be told. It is false too while nothing watches them.
func (d *daemon) Lively() bool {
	saw := time.Duration(d.watchdog.sawLively.Load())
	return saw > 0 && time.Since(d.start)-saw <= pulseLate
}

// hangTimeout is how long the report may take: stacks are only to be had of goroutines that can be stopped.
const hangTimeout = 5 * time.Second

// hang reports and ends the process.
func (d *daemon) hang(worker int, still time.Duration) {
	armed := endAfter(hangTimeout)
	path := filepath.Join(d.cfg.StateDir, crashName)
	d.log.Error("a worker hangs: ending, the next levee run goes on with the connections", "worker", worker, "still", still, "report", path, "killed_in_any_case", armed == nil)
	if f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0); err == nil {
		fmt.Fprintf(f, "worker %d has not moved for %v, with packets waiting for it\n%s\n", worker, still, threadReport(int(d.watchdog.threads[worker].Load())))
		stacks := make([]byte, 1<<20)
		_, _ = f.Write(stacks[:runtime.Stack(stacks, true)])
		_ = f.Close()
	}
	os.Exit(1)
}

// threadReport is what the kernel says of a thread that may be in a system call.
func threadReport(thread int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "its thread %d", thread)
	for _, name := range []string{"syscall", "wchan", "stack"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/%s", thread, name))
		if err == nil && len(text) > 0 {
			fmt.Fprintf(&b, "\n%s: %s", name, strings.TrimSpace(string(text)))
		}
	}
	return b.String()
}

// endAfter has the kernel kill this process when so much time has passed, whatever becomes of Go's scheduler: stopping the world to look at
// stacks takes for ever if a thread can't be stopped.
func endAfter(d time.Duration) error {
	event := struct {
		value  uintptr
		signal int32
		notify int32
		_      [48]byte
	}{signal: int32(unix.SIGKILL)} // notify 0 is SIGEV_SIGNAL: to the process
	var timer int32
	if _, _, err := unix.Syscall(unix.SYS_TIMER_CREATE, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&event)), uintptr(unsafe.Pointer(&timer))); err != 0 {
		return err
	}
	at := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}
	if _, _, err := unix.Syscall6(unix.SYS_TIMER_SETTIME, uintptr(timer), 0, uintptr(unsafe.Pointer(&at)), 0, 0, 0); err != 0 {
		return err
	}
	return nil
}
