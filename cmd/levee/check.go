package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"levee/cmd/levee/config"
)

// checked is the answer of check in JSON.
type checked struct {
	File     string           `json:"file"`
	OK       bool             `json:"ok"`
	Problems []config.Problem `json:"problems"`
}

func newCheck(file *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say what is wrong with the configuration",
		Long:  "Read the configuration and name everything that is wrong with it, one line each. Nothing is changed and no privilege needed.",
	}
	output := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		_, err := config.Load(*file)
		var problems config.Problems
		if err != nil && !errors.As(err, &problems) {
			return err
		}
		if *output == formatJSON {
			answer := checked{File: *file, OK: err == nil, Problems: append([]config.Problem{}, problems...)}
			if err := writeJSON(cmd.OutOrStdout(), answer); err != nil {
				return err
			}
		} else {
			for _, p := range problems {
				complain(cmd.ErrOrStderr(), p)
			}
		}
		if err != nil {
			return errReported
		}
		if *output == formatText {
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: ok\n", *file)
		}
		return err
	}
	return cmd
}
