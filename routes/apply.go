package routes

import (
	"errors"
	"fmt"
	"slices"
)

// Apply makes the kernel as planned: it deletes what is left over from an earlier run, sets the sysctls, brings
// the TUN up and adds the routes and then the rules, the loop breaker first. What is there already stays, so that
// applying a plan twice, or after a crash, interrupts nothing.
//
// It changes nothing if something of somebody else's is in the way. On any later error it deletes everything
// with levee's tag and restores the sysctls.
func (p *Plan) Apply() error {
	p.report = nil
	if p.cfg.StateFile == "" {
		return errors.New("no file to keep the old values of sysctls in: set Config.StateFile")
	}
	k, err := openKernel()
	if err != nil {
		return err
	}
	defer k.close()
	live, diff, state, err := p.compare(k)
	if err == nil {
		err = p.refused(&live)
	}
	if err != nil {
		return err
	}
	if err := p.change(k, &live, &diff, state); err != nil {
		w := withdraw(k, &live, state, p.cfg.StateFile)
		p.report = w.kept
		if diff.TUNDown {
			w.errs = append(w.errs, k.setDown(p.cfg.TUN)...)
		}
		if undo := oneError(w.errs); undo != nil {
			return fmt.Errorf("%w (and it could not be undone: %w)", err, undo)
		}
		return err
	}
	return nil
}

// compare reads what there is and says what the plan lacks of it. It is an error if that can't be made.
func (p *Plan) compare(k *kernel) (live Live, diff Diff, state *saved, err error) {
	if live, err = k.read(&p.cfg); err != nil {
		return live, diff, nil, err
	}
	diff = p.Diff(live)
	if err = p.impossible(&diff); err != nil {
		return live, diff, nil, err
	}
	state, err = loadSaved(p.cfg.StateFile)
	return live, diff, state, err
}

// impossible says what is missing of what others have to make.
func (p *Plan) impossible(diff *Diff) error {
	if diff.TUNMissing {
		return fmt.Errorf("interface %s does not exist: open the TUN before its routes are added", p.cfg.TUN)
	}
	for _, s := range diff.Sysctls {
		if s.Missing {
			// A device has IPv6 settings only if it can carry IPv6's smallest packet (RFC 8200 §5).
			return fmt.Errorf("sysctl %s does not exist: if the MTU of %s is below 1280, raise tun.mtu", sysctlName(s.Key), p.cfg.TUN)
		}
	}
	return nil
}

func (p *Plan) change(k *kernel, live *Live, diff *Diff, state *saved) error {
	if err := p.deleteStale(k, live); err != nil {
		return err
	}
	if err := p.setExemption(live, diff); err != nil {
		return err
	}
	return p.add(k, live, diff, state)
}

// deleteStale deletes what carries levee's tag and isn't the plan's.
func (p *Plan) deleteStale(k *kernel, live *Live) error {
	fs := families(live)
	_, errs := k.deleteOwnRules(fs, func(r Rule) bool { return slices.Contains(p.rules, r) })
	_, more := k.deleteOwnRoutes(fs, live, func(r Route) bool { return slices.ContainsFunc(p.routes, r.equal) })
	return oneError(append(errs, more...))
}

// setExemption makes the exemption from connection tracking as planned.
func (p *Plan) setExemption(live *Live, diff *Diff) error {
	switch {
	case diff.NotrackMissing:
		return p.exempt.install()
	case diff.NotrackStale:
		_, errs := deleteExemption(live)
		return oneError(errs)
	}
	return nil
}

// add makes what the kernel lacks.
func (p *Plan) add(k *kernel, live *Live, diff *Diff, state *saved) error {
	// On disk before the first change: a kill at any time leaves what Cleanup needs.
	state.record(p.sysctls, live, p.cfg.TUN)
	if err := state.write(p.cfg.StateFile); err != nil {
		return err
	}
	for _, s := range diff.Sysctls {
		if err := writeSysctl(s.Key, s.Want); err != nil {
			return err
		}
	}
	if diff.TUNDown {
		if err := k.setUp(p.cfg.TUN); err != nil {
			return err
		}
	}
	for _, r := range diff.MissingRoutes {
		if err := k.addRoute(r); err != nil {
			return err
		}
	}
	for _, r := range diff.MissingRules {
		if err := k.addRule(r); err != nil {
			return err
		}
	}
	return nil
}

// Update makes the kernel as planned while an earlier plan of the same TUN, table and priorities is in force: first it adds what is new, then it deletes what
// is of no use any longer, so that nothing in both is interrupted. On an error all of the earlier plan's rules are there still, and none of the new; sysctls that are
// set already stay until Remove. What somebody else has put in the plan's way meanwhile is left alone (Diff.Foreign), and is no reason to leave traffic unprotected.
func (p *Plan) Update() error {
	k, err := openKernel()
	if err != nil {
		return err
	}
	defer k.close()
	live, diff, state, err := p.compare(k)
	if err != nil {
		return err
	}
	fs := families(&live)
	err = p.add(k, &live, &diff, state)
	if err == nil {
		err = p.setExemption(&live, &diff)
	}
	if err != nil {
		_, errs := k.deleteOwnRules(fs, func(r Rule) bool { return !slices.Contains(diff.MissingRules, r) })
		_, more := k.deleteOwnRoutes(fs, &live, func(r Route) bool { return !slices.ContainsFunc(diff.MissingRoutes, r.equal) })
		if undo := oneError(append(errs, more...)); undo != nil {
			return fmt.Errorf("%w (and it could not be undone: %w)", err, undo)
		}
		return err
	}
	return p.deleteStale(k, &live)
}

// Remove takes the plan back: rules, then routes, then sysctls. What is gone already is no error. The TUN stays
// as it is, for package tunnel to take away. It goes on after an error, and may be called again.
func (p *Plan) Remove() error {
	p.report = nil
	if p.cfg.StateFile == "" {
		return errors.New("no file to restore the old values of sysctls from: set Config.StateFile")
	}
	k, err := openKernel()
	if err != nil {
		return err
	}
	defer k.close()
	w := withdrawAll(k, &p.cfg)
	p.report = w.kept
	return oneError(w.errs)
}

// withdrawal is what came of taking levee's objects out of the kernel.
type withdrawal struct {
	done []string // the commands that would have done the same
	kept []string // what was left alone, and why
	errs []error
}

// withdrawAll withdraws with what can still be read: an unreadable state file must not keep rules in place.
func withdrawAll(k *kernel, cfg *Config) withdrawal {
	live, err := k.read(cfg)
	if err != nil {
		return withdrawal{errs: []error{err}}
	}
	state, err := loadSaved(cfg.StateFile)
	w := withdraw(k, &live, state, cfg.StateFile)
	if err != nil {
		w.errs = append(w.errs, err)
	}
	return w
}

// withdraw deletes everything with levee's tag and restores the sysctls of state, which may be nil.
func withdraw(k *kernel, live *Live, state *saved, path string) withdrawal {
	var w withdrawal
	note := func(done []string, errs []error) {
		w.done = append(w.done, done...)
		w.errs = append(w.errs, errs...)
	}
	fs := families(live)
	note(k.deleteOwnRules(fs, func(Rule) bool { return false }))
	note(k.deleteOwnRoutes(fs, live, func(Route) bool { return false }))
	note(deleteExemption(live))
	if state == nil {
		return w
	}
	restored, kept, errs := state.restore()
	note(restored, errs)
	w.kept = kept
	if err := state.write(path); err != nil {
		w.errs = append(w.errs, err)
	}
	return w
}

// oneError makes one line of several errors.
func oneError(errs []error) error {
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	}
	return fmt.Errorf("%w (and %d more errors)", errs[0], len(errs)-1)
}
