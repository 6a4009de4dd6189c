package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	exitGood    = 0
	exitFailed  = 1
	exitMisused = 2
)

func main() {
	// Whatever asks us to end, the lab is taken down in order; a second signal ends us at once, and
	// the kernel takes it down.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop)
	os.Exit(execute(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// execute runs one command line and returns its exit code.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitGood
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("interrupted: %w", err)
	}
	fmt.Fprintf(stderr, "levee-lab: %v\n", err)
	if m := (misuse{}); errors.As(err, &m) {
		return exitMisused
	}
	return exitFailed
}

// misuse is an error of whoever typed the command line.
type misuse struct{ error }

func (m misuse) Unwrap() error { return m.error }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:               "levee-lab",
		Short:             "Networks out of namespaces to try levee on",
		SilenceErrors:     true, // execute tells them
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		Args:              cobra.ArbitraryArgs, // so that an unknown verb comes here
		RunE: func(_ *cobra.Command, args []string) error {
			return misuse{fmt.Errorf("no such verb %q: use demo, up, bench, churn, floods, engage or night-call", args)}
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return misuse{fmt.Errorf("%w: see %s --help", err, cmd.CommandPath())}
	})
	for _, verb := range []*cobra.Command{newDemo(), newUp(), newBench(), newChurn(), newFloods(), newEngage(), newNightCall()} {
		verb.Args = func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return misuse{fmt.Errorf("%s takes no argument %q: see %s --help", cmd.CommandPath(), args[0], cmd.CommandPath())}
			}
			return nil
		}
		root.AddCommand(verb)
	}
	return root
}
