package main

import (
	"errors"

	"levee/cmd/levee/config"
	"levee/cmd/levee/control"
)

// daemonOf finds the daemon through its configuration. Of that only state_dir matters here: a file that became
// broken after the daemon read it, be it no YAML at all, must not hide how the daemon is doing.
func daemonOf(file string) (*control.Client, error) {
	cfg, err := config.Load(file)
	var problems config.Problems
	if err != nil && (!errors.As(err, &problems) || problems.LostStateDir()) {
		return nil, err
	}
	return control.NewClient(cfg.SocketPath()), nil
}
