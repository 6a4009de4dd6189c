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
// attempt to go on: a worker's records may be half written, and the next process drops that one and goes on with the others. Connections are
// worth more than the report of a crash that may never be: if it can't be kept, levee says so and runs.
func (d *daemon) keepCrash() error {
	path, previous := filepath.Join(d.cfg.StateDir, crashName), filepath.Join(d.cfg.StateDir, crashedName)
	if crashed(path) {
		if err := os.Rename(path, previous); err != nil {
			d.log.Error("levee has crashed before: please report it, and remove the report, or the next crash leaves none", "report", path, "error", err)
			return nil
		}
		d.log.Error("levee has crashed before: please report it", "report", previous)
	}
	if err := d.openCrash(path); err != nil {
		d.log.Warn("a crash would leave no report", "report", path, "error", withoutPath(err))
	}
	return nil
}

func (d *daemon) openCrash(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "levee %s, started %s\n", d.version, d.start.Format(time.RFC3339))
	if err == nil {
		err = debug.SetCrashOutput(f, debug.CrashOptions{})
	}
	_ = f.Close()
	if err != nil {
		return errors.Join(err, os.Remove(path))
	}
	d.undo.add("crash report", func() error {
		return errors.Join(debug.SetCrashOutput(nil, debug.CrashOptions{}), os.Remove(path))
	})
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
