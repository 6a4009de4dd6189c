package main

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"levee/cmd/levee/config"
	"levee/cmd/levee/daemon"
	"levee/routes"
)

// checked is the answer of check in JSON.
type checked struct {
	File     string           `json:"file"`
	OK       bool             `json:"ok"`
	Problems []config.Problem `json:"problems"`
	// Host is what was found on the machine; empty too if it wasn't looked at, because of --config-only or problems.
	Host []routes.Finding `json:"host"`
}

func newCheck(file *string) *cobra.Command {
	var configOnly bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say what is wrong with the configuration and with this machine",
		Long: "Read the configuration and name everything that is wrong with it, one line each, so far as no fault hides another. If it is\n" +
			"good, look at this machine and name what keeps levee from working (errors) or from working well (warnings), each with the\n" +
			"command that mends it. Nothing is changed. Without root it sees less, and says so. Only errors make the exit code 1.",
	}
	cmd.Flags().BoolVar(&configOnly, "config-only", false, "look at the configuration alone")
	output := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := config.Load(*file)
		var problems config.Problems
		if err != nil && !errors.As(err, &problems) {
			return err
		}
		var host []routes.Finding
		if err == nil && !configOnly {
			if host, err = daemon.Inspect(cfg); err != nil {
				return err
			}
		}
		good := len(problems) == 0 && !slices.ContainsFunc(host, func(f routes.Finding) bool { return f.Fatal })
		if *output == formatJSON {
			answer := checked{File: *file, OK: good, Problems: append([]config.Problem{}, problems...), Host: append([]routes.Finding{}, host...)}
			if err := writeJSON(cmd.OutOrStdout(), answer); err != nil {
				return err
			}
		} else if err := writeChecked(cmd, *file, problems, host); err != nil {
			return err
		}
		if !good {
			return errReported
		}
		return nil
	}
	return cmd
}

// writeChecked tells errors on the standard error and the rest on the standard output.
func writeChecked(cmd *cobra.Command, file string, problems config.Problems, host []routes.Finding) error {
	for _, p := range problems {
		complain(cmd.ErrOrStderr(), p)
	}
	if len(problems) > 0 {
		return nil
	}
	if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: ok\n", file); err != nil {
		return err
	}
	for _, f := range host {
		w, word := cmd.OutOrStdout(), "warning"
		if f.Fatal {
			w, word = cmd.ErrOrStderr(), "error"
		}
		if _, err := io.WriteString(w, fmt.Sprintf("%s: %s: %s\n    %s\n", word, f.What, f.Text, f.Remedy)); err != nil {
			return err
		}
	}
	return nil
}
