package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"levee/cmd/levee/control"
)

func newReload(file *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Make the daemon read its configuration again",
		Long: "Make the daemon read its configuration again, wait until it has, and say what changed. If anything is wrong\n" +
			"nothing changes. Open connections go on whatever becomes of their service.",
	}
	output := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		// A file that doesn't lead to the daemon would be refused there.
		client, err := daemonOf(*file)
		if err != nil {
			return fmt.Errorf("nothing is changed: %w", err)
		}
		reloaded, err := client.Reload(cmd.Context())
		var unanswered *control.NoAnswer
		if errors.As(err, &unanswered) {
			return fmt.Errorf("outcome unknown, levee status will have it: %w", err)
		}
		if err != nil {
			return fmt.Errorf("nothing is changed: %w", err)
		}
		if *output == formatJSON {
			return writeJSON(cmd.OutOrStdout(), reloaded)
		}
		if len(reloaded.Changes) == 0 {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "nothing has changed")
			return err
		}
		for _, change := range reloaded.Changes {
			if _, err := fmt.Fprintln(cmd.OutOrStdout(), change); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}
