package main

import (
	"errors"
	"fmt"

	"levee/cmd/levee/config"
	"levee/cmd/levee/control"
	"levee/cmd/levee/daemon"
)

// daemonOf finds the daemon through its configuration. Of that only state_dir matters here: a file that became
// broken after the daemon read it, be it no YAML at all, must not hide how the daemon is doing.
func daemonOf(file string) (*control.Client, error) {
	cfg, err := config.Load(file)
	var problems config.Problems
	if err != nil && (!errors.As(err, &problems) || problems.LostStateDir()) {
		return nil, err
	}
	if pid := daemon.Elsewhere(&cfg); pid != 0 {
		return nil, fmt.Errorf("no daemon on %s: levee (pid %d) runs with another state_dir, which can't change meanwhile: write what it was, or restart levee", cfg.SocketPath(), pid)
	}
	return control.NewClient(cfg.SocketPath()), nil
}
