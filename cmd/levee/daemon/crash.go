package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// crashName is where the Go runtime puts what it says when it ends the process, besides standard error; crashedName is the latest that
	// an earlier process has left.
	crashName   = "crash"
	crashedName = "crash.previous"
)

// keepCrash sees to it that a panic, which ends the process whichever goroutine it is in, leaves its report in state_dir. There is no
// attempt to go on: a worker's records may be half written, and the next process drops that one and goes on with the others.
func (d *daemon) keepCrash() error {
	path, previous := filepath.Join(d.cfg.StateDir, crashName), filepath.Join(d.cfg.StateDir, crashedName)
	if crashed(path) {
		if err := os.Rename(path, previous); err != nil {
			return fmt.Errorf("crash report %s: %w", path, err)
		}
		d.log.Error("levee has crashed before: please report it", "report", previous)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if errors.Is(err, unix.ENOSPC) {
		return d.withoutCrashReport(err)
	}
	if err != nil {
		return fmt.Errorf("crash report %s: %w: remove it or set another state_dir", path, withoutPath(err))
	}
	_, err = fmt.Fprintf(f, "levee %s, started %s\n", d.version, d.start.Format(time.RFC3339))
	if errors.Is(err, unix.ENOSPC) {
		return errors.Join(d.withoutCrashReport(err), f.Close(), os.Remove(path))
	}
	err = errors.Join(err, debug.SetCrashOutput(f, debug.CrashOptions{}), f.Close())
	if err != nil {
		return fmt.Errorf("crash report %s: %w", path, err)
	}
	d.undo.add("crash report", func() error {
		return errors.Join(debug.SetCrashOutput(nil, debug.CrashOptions{}), os.Remove(path))
	})
	return nil
}

// withoutCrashReport: connections are worth more than the report of a crash that may never be.
func (d *daemon) withoutCrashReport(err error) error {
	d.log.Warn("a crash would leave no report", "state_dir", d.cfg.StateDir, "error", withoutPath(err))
	return nil
}

// crashed says whether there is more in a crash report than its first line.
func crashed(path string) bool {
	f, err := openState(path)
	if err != nil || f == nil {
		return false
	}
	defer f.Close()
	b, _ := io.ReadAll(io.LimitReader(f, crashLook)) // what can't be read is no report of levee's
	_, rest, _ := bytes.Cut(b, []byte{'\n'})
	return len(rest) > 0
}

// crashLook is more than the first line of a crash report, and all that is read of one.
const crashLook = 4096
