package daemon

import "log/slog"

// undo is what has to be taken back, in the order in which it was made.
type undo []undoStep

type undoStep struct {
	what string
	do   func() error
}

func (u *undo) add(what string, do func() error) { *u = append(*u, undoStep{what, do}) }

// run takes everything back, the last first. It goes on after an error, logs it and says that there was one.
func (u *undo) run(log *slog.Logger) (failed bool) {
	for len(*u) > 0 {
		last := (*u)[len(*u)-1]
		*u = (*u)[:len(*u)-1]
		log.Debug("undoing", "what", last.what)
		if err := last.do(); err != nil {
			failed = true
			log.Error("could not undo", "what", last.what, "error", err)
		}
	}
	return failed
}
