package daemon

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"levee/cmd/levee/config"
	"levee/routes"
	"levee/tunnel"
)

// Apply makes the machine as planned without a daemon, as a start would, and leaves it so for the next: the TUN, sysctls, the exemption from connection tracking, routes and rules.
// It returns the differences that it has put right, none if there were none. Where one can't be, all are as before, but for sysctls if something of levee's was there
// already; Cleanup restores these.
//
// Nobody reads from the TUN afterwards. With routing.on_failure: block that drops all TCP and ICMP of the services' prefixes, so that Apply begins it only if mayBlock says so. It changes
// nothing under a daemon, and makes an error of a difference there.
func Apply(cfg config.Config, mayBlock bool) ([]routes.Step, error) {
	if err := checkPrivilege(); err != nil {
		return nil, err
	}
	claimed, held := claims(cfg)
	defer func() {
		for _, c := range claimed {
			_ = c.Close()
		}
	}()
	layout, err := NewLayout(cfg)
	if err != nil {
		return nil, err
	}
	steps, _, err := layout.Differences()
	if err != nil || len(steps) == 0 {
		return nil, err
	}
	if held != nil {
		return nil, explainApply(held)
	}
	for _, s := range steps {
		if s.Command == "" {
			return nil, errors.New(s.Text)
		}
	}
	again := slices.ContainsFunc(layout.live.Rules, routes.Rule.Own)
	if layout.Routes != nil && !cfg.Routing.Bypass && !mayBlock && !(again && layout.live.Blocks()) {
		return nil, fmt.Errorf("nothing reads from %s: until levee run, all TCP and ICMP of the protected prefixes, whatever the port, would be dropped (routing.on_failure: block): "+
			"start levee run, which does all this, or say --block if that is meant", layout.TUN.Name)
	}
	if err := layout.apply(again); err != nil {
		return nil, err
	}
	return steps, nil
}

// claims is for a look at what a daemon has made, too: with an error it holds what it could get.
func claims(cfg config.Config) (held []io.Closer, err error) {
	folder, err := claimFolder(cfg.StateDir, true)
	if err != nil {
		return nil, err
	}
	held = append(held, folder)
	if !cfg.Routing.Manage {
		return held, nil
	}
	namespace, err := claimNamespace()
	if err != nil {
		return held, err
	}
	return append(held, namespace), nil
}

func explainApply(err error) error {
	var held *heldError
	if errors.As(err, &held) {
		return fmt.Errorf("%w: it puts right by itself what others change: run levee reload for a changed file, or stop it first", err)
	}
	return err
}

// apply makes the TUN, if it isn't as it should be, and what hangs on it. again: something of levee's is there.
func (l *Layout) apply(again bool) error {
	made, err := l.leaveTUN()
	if err != nil {
		return err
	}
	switch {
	case l.Routes == nil:
		err = linkUp(l.TUN.Name)
	case again: // what is in both goes on
		err = l.Routes.Update()
	default:
		err = l.Routes.Apply()
	}
	if err != nil && made {
		if undo := l.removeTUN(); undo != nil {
			return fmt.Errorf("%w (and it could not be undone: %w)", err, undo)
		}
	}
	return err
}

// leaveTUN makes the TUN as Open does, and leaves it before there is a rule that leads into it: what is sent there while somebody has it open who doesn't read is
// lost. Where there are rules already that is so for the moment that it takes.
func (l *Layout) leaveTUN() (made bool, err error) {
	live, err := tunnel.Look(l.TUN.Name)
	if err != nil || live.Exists && len(l.TUN.Diff(live)) == 0 {
		return false, err
	}
	device, err := tunnel.Open(l.aside())
	if err != nil {
		return false, err
	}
	return !device.Attached(), device.Leave()
}

func (l *Layout) removeTUN() error {
	device, err := tunnel.Open(l.aside())
	if err != nil {
		return err
	}
	return device.Close()
}

// aside is the TUN for somebody who doesn't read from it.
func (l *Layout) aside() tunnel.Config {
	cfg := l.TUN
	cfg.Queues, cfg.Steering = 1, false
	return cfg
}
