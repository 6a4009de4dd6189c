package main

import (
	"io"
	"strings"

	"github.com/spf13/cobra"

	"levee/cmd/levee/config"
)

// execute runs one command line and returns its exit code.
func execute(args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(append([]string{}, args...)) // never nil, which means those of the process
	root.SetOut(stdout)
	root.SetErr(stderr)
	return exit(root.Execute(), stderr)
}

// newRoot makes the command tree. It is made anew for each command line: flags keep their values.
func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "levee",
		Short:         "A SYN proxy for Linux gateways",
		SilenceErrors: true, // exit tells them, in one line
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs, // so that an unknown verb comes here
	}
	root.RunE = func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return misused("no verb: use one of %s", verbs(root))
		}
		return misused("unknown verb %q: use one of %s", args[0], verbs(root))
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return misused("%w: see %s --help", valueError(err), cmd.CommandPath())
	})
	file := root.PersistentFlags().StringP("config", "c", config.DefaultFile, "configuration `file`")
	for _, verb := range []*cobra.Command{
		newRun(file), newCheck(file), newPlan(file), newApply(file), newCleanup(file), newStatus(file), newFlows(file), newServers(file), newReload(file), newUpgrade(file), newDrain(file), newExplain(file), newObserve(file), newCapture(file), newTop(file), newDebug(file), newVersion(), newMan(),
	} {
		if verb.Args == nil {
			verb.Args = noArguments
		}
		root.AddCommand(verb)
	}
	completeNothing(root)
	return root
}

func verbs(root *cobra.Command) string {
	var names []string
	for _, c := range root.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return strings.Join(names, ", ")
}

func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return misused("%s takes no argument %q: see %s --help", cmd.CommandPath(), args[0], cmd.CommandPath())
	}
	return nil
}
