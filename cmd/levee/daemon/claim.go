package daemon

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"levee/routes"
)

// heldError says that another levee is at work here.
type heldError struct {
	pid  int // 0 if it isn't known
	what string
}

func (e *heldError) Error() string {
	pid := "unknown"
	if e.pid > 0 {
		pid = strconv.Itoa(e.pid)
	}
	return fmt.Sprintf("another levee (pid %s) %s", pid, e.what)
}

// claimFolder takes the lock of a state_dir, and makes the folder first if mayMake says so. The kernel gives the
// lock back when the process ends, however it ends; the file stays.
func claimFolder(dir string, mayMake bool) (io.Closer, error) {
	if mayMake {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("state_dir %s can't be made: %w: set another", dir, withoutPath(err))
		}
	}
	if err := checkFolder(dir); err != nil {
		return nil, err
	}
	f, err := openLock(dir, os.O_CREATE)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		held := &heldError{pid: readPID(f), what: "uses state_dir " + dir}
		_ = f.Close()
		return nil, held
	}
	if err == nil {
		err = writePID(f)
		if errors.Is(err, unix.ENOSPC) {
			err = nil // it is for messages only
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock state_dir: %w", err)
	}
	return f, nil
}

// openLock opens the file whose lock is a state_dir's.
func openLock(dir string, flags int) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK|flags, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock state_dir: %s: %w: remove it or set another state_dir", path, withoutPath(err))
	}
	return f, nil
}

// checkState says why a start would refuse what is in a state_dir, but for the flow file. It changes nothing.
func checkState(dir string) error {
	if err := checkFolder(dir); err != nil {
		return err
	}
	f, err := openLock(dir, 0)
	switch {
	case err == nil:
		_ = f.Close()
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return routes.CheckStateFile(sysctlFile(dir))
}

// checkFolder refuses folders in which others could put files in the place of levee's: root restores what is
// in there.
func checkFolder(dir string) error {
	fi, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("state_dir %s: %w", dir, withoutPath(err))
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	switch {
	case !fi.IsDir():
		return fmt.Errorf("state_dir %s is not a folder: remove it or set another", dir)
	case fi.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("state_dir %s can be written to by others (%v): set one that is levee's own", dir, fi.Mode())
	case ok && st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("state_dir %s belongs to another user (uid %d): set one that is levee's own", dir, st.Uid)
	}
	return nil
}

// withoutPath is err without the path, which the message has already.
func withoutPath(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

func readPID(f *os.File) int {
	b := make([]byte, 32)
	n, _ := f.ReadAt(b, 0)
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	return pid
}

func writePID(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// claimName is bound in the abstract namespace of unix(7), of which every network namespace has its own: there
// can be only one holder in each, and none after a crash.
const claimName = "@levee/routing"

// claimNamespace makes this the only levee that touches the routing of the network namespace: each takes rules
// with levee's tag for its own, whatever its state_dir.
func claimNamespace() (io.Closer, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: claimName, Net: "unix"})
	if err == nil {
		return l, nil
	}
	if !errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("claim the network namespace: %w", err)
	}
	holder, err := holderOf(claimName)
	if err != nil {
		return nil, fmt.Errorf("another process holds the socket %s of this network namespace, and can't be asked who it is: %w", claimName, err)
	}
	// Any user can bind an abstract name: somebody who may not touch the routing must not keep us from it.
	if holder.Uid != 0 && int(holder.Uid) != os.Geteuid() {
		return io.NopCloser(nil), nil
	}
	return nil, &heldError{pid: int(holder.Pid), what: "manages the routing of this network namespace"}
}

// holderOf asks the kernel who listens on a unix socket.
func holderOf(name string) (*unix.Ucred, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	return cred, failed
}
