package daemon

import "log/slog"

// undo is what has to be taken back, in the order in which it was made.
type undo []undoStep

type undoStep struct {
	what string
	do   func() error
	// leave, if not nil, is done instead where the connections are to outlive the process.
	leave func() error
}

func (u *undo) add(what string, do func() error) { *u = append(*u, undoStep{what: what, do: do}) }

// addLasting adds what the next process goes on with, unless this one stops in order: leave, or nothing if it is nil, is then done.
func (u *undo) addLasting(what string, do, leave func() error) {
	if leave == nil {
		leave = func() error { return nil }
	}
	*u = append(*u, undoStep{what, do, leave})
}

// run takes everything back, the last first, but for what lasts if that is to stay. It goes on after an error, logs it and says that
// there was one.
func (u *undo) run(log *slog.Logger, stay bool) (failed bool) {
	for len(*u) > 0 {
		last := (*u)[len(*u)-1]
		*u = (*u)[:len(*u)-1]
		do := last.do
		if stay && last.leave != nil {
			do = last.leave
		}
		log.Debug("undoing", "what", last.what)
		if err := do(); err != nil {
			failed = true
			log.Error("could not undo", "what", last.what, "error", err)
		}
	}
	return failed
}
