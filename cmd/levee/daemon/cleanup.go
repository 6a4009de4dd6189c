package daemon

import (
	"errors"
	"fmt"
	"io/fs"

	"levee/cmd/levee/config"
	"levee/cmd/levee/flowfile"
	"levee/routes"
)

// Cleanup takes away what a daemon that could not do so itself has left, and returns one line for
// each thing done or left alone. It refuses while a daemon is at work here. It may be called again.
func Cleanup(cfg config.Config) ([]string, error) {
	if err := checkPrivilege(); err != nil {
		return nil, err
	}
	var claims undo
	defer func() {
		for _, c := range claims {
			_ = c.do()
		}
	}()
	folder, err := claimFolder(cfg.StateDir, false)
	switch {
	case err == nil:
		claims.add("", folder.Close)
	case !errors.Is(err, fs.ErrNotExist): // without the folder there is nothing to restore, but maybe rules
		return nil, explainHeld(err)
	}
	namespace, err := claimNamespace()
	if err != nil {
		return nil, explainHeld(err)
	}
	claims.add("", namespace.Close)
	done, err := routes.Cleanup(routes.Config{TUN: cfg.TUN.Name}, sysctlFile(cfg.StateDir))
	removed, failed := flowfile.Remove(cfg.StateDir)
	for _, path := range removed {
		done = append(done, "removed "+path)
	}
	return done, errors.Join(err, failed)
}

func explainHeld(err error) error {
	var held *heldError
	if errors.As(err, &held) {
		return fmt.Errorf("%w: stop it, and it cleans up by itself", err)
	}
	return err
}
