package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"levee/cmd/levee/control"
)

// Exit codes.
const (
	exitGood    = 0
	exitFailed  = 1
	exitMisused = 2
)

// misuse is an error of whoever typed the command line.
type misuse struct{ error }

func misused(format string, args ...any) error { return misuse{fmt.Errorf(format, args...)} }

// errReported is a failure that has been told in full already.
var errReported = errors.New("reported")

// exit tells the error, if there is one, in one line and returns the code for it.
func exit(err error, stderr io.Writer) int {
	if err == nil {
		return exitGood
	}
	if errors.Is(err, errReported) {
		return exitFailed
	}
	complain(stderr, err)
	var m misuse
	var b control.BadRequest
	if errors.As(err, &m) || errors.As(err, &b) {
		return exitMisused
	}
	return exitFailed
}

// complain writes one line; if stderr is gone too there is nobody to tell.
func complain(stderr io.Writer, err error) {
	_, _ = fmt.Fprintf(stderr, "levee: %s\n", strings.Join(strings.FieldsFunc(err.Error(), isLineEnd), "; "))
}

func isLineEnd(r rune) bool { return r == '\n' || r == '\r' }
