package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"levee/cmd/levee/config"
	"levee/cmd/levee/control"
	"levee/cmd/levee/metrics"
	"levee/proxy/cookie"
	"levee/routes"
	"levee/tunnel"
)

// inspectStart finds what a start would be refused for: files that aren't as they should be, a name and a port that others have.
func inspectStart(cfg *config.Config) (out []routes.Finding) {
	if checkPrivilege() != nil {
		return nil // who may not start levee can't tell what it may read
	}
	refused := func(what string, err error) {
		if err != nil {
			out = append(out, routes.Refusal(what, err))
		}
	}
	refused("state_dir", checkStateDir(cfg))
	refused("secret_file", cookie.CheckSecret(cfg.SecretFile))
	if runs(cfg) {
		return out // then the interface and the port are its own
	}
	refused("tun", tunnel.CheckName(cfg.TUN.Name))
	if cfg.Metrics.IsValid() {
		refused("metrics", metrics.Check(cfg.Metrics))
	}
	return out
}

// checkStateDir is checkState, also for a folder that a start would make.
func checkStateDir(cfg *config.Config) error {
	if err := checkState(cfg.StateDir); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		if err == nil {
			err = control.CheckSocket(cfg.SocketPath())
		}
		return err
	}
	parent := filepath.Dir(cfg.StateDir)
	for {
		fi, err := os.Stat(parent)
		if err == nil && !fi.IsDir() {
			err = syscall.ENOTDIR
		}
		if err == nil {
			err = unix.Access(parent, unix.W_OK)
		}
		if parent == "/" || !errors.Is(err, fs.ErrNotExist) {
			if err != nil {
				return fmt.Errorf("state_dir %s can't be made: %s: %w: set another", cfg.StateDir, parent, withoutPath(err))
			}
			return nil
		}
		parent = filepath.Dir(parent)
	}
}

// runs says whether a levee runs with this state_dir, or in this network namespace. One that hangs does as well.
func runs(cfg *config.Config) bool { return listens(cfg.SocketPath()) || listens(claimName) }

// listens says whether anybody does on a unix socket, as far as it can be told.
func listens(socket string) bool {
	c, err := net.DialTimeout("unix", socket, time.Second)
	if err == nil {
		_ = c.Close()
	}
	return !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR)
}

// Elsewhere is the process of a levee that runs in this network namespace with another state_dir than cfg's, where none does; 0 if that isn't so, or can't be told.
func Elsewhere(cfg *config.Config) (pid int) {
	if listens(cfg.SocketPath()) || !listens(claimName) {
		return 0
	}
	holder, err := holderOf(claimName)
	if err != nil || holder.Uid != 0 {
		return 0
	}
	f, err := openLock(cfg.StateDir, 0)
	if err == nil {
		defer f.Close()
		if readPID(f) == int(holder.Pid) {
			return 0 // it is starting, or ending
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	return int(holder.Pid)
}
