package main

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// colour is an SGR parameter of terminals (ECMA-48 §8.3.117).
type colour string

// The colours.
const (
	plain  colour = ""
	bold   colour = "1"
	red    colour = "31"
	green  colour = "32"
	yellow colour = "33"
)

// painter paints words if they go to a terminal, and the user hasn't asked for none (no-color.org).
type painter bool

func painterFor(w io.Writer) painter {
	return painter(isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb")
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// paint returns s in a colour.
func (p painter) paint(c colour, s string) string {
	if !bool(p) || c == plain {
		return s
	}
	return "\x1b[" + string(c) + "m" + s + "\x1b[0m"
}
