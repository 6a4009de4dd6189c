package daemon

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// stuckEnv has this test's process get stuck.
const stuckEnv = "LEVEE_TEST_STUCK"

// TestEndAfter: the kernel ends a process in which Go can't do anything any longer.
func TestEndAfter(t *testing.T) {
	if os.Getenv(stuckEnv) != "" {
		stuck(t)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), self, "-test.run=^TestEndAfter$")
	c.Env = append(os.Environ(), stuckEnv+"=1")
	begin := time.Now()
	out, err := c.CombinedOutput()
	var ended *exec.ExitError
	if !errors.As(err, &ended) || ended.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("%v after %v: %s", err, time.Since(begin), out)
	}
}

// stuck waits in a system call that Go's scheduler doesn't know of, on its only thread that may run Go.
func stuck(t *testing.T) {
	if err := endAfter(300 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	long := unix.Timespec{Sec: 20}
	for {
		_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&long)), uintptr(unsafe.Pointer(&long)), 0)
	}
}

// TestThreadReport says something of a thread that is there, and of one that isn't.
func TestThreadReport(t *testing.T) {
	for _, thread := range []int{unix.Getpid(), 0} {
		if text := threadReport(thread); len(text) < len("its thread 0") {
			t.Errorf("thread %d: %q", thread, text)
		}
	}
}
