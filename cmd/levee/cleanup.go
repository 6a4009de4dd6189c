package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"levee/cmd/levee/config"
	"levee/cmd/levee/daemon"
)

func newCleanup(file *string) *cobra.Command {
	var unlessFailed bool
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Undo what a daemon that was killed has left",
		Long: "Take away every rule and route with levee's tag, restore the sysctls and remove the TUN, as after a daemon that\n" +
			"was killed. It may be repeated, needs no good configuration, and refuses to work under a running daemon.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if unlessFailed && serviceFailed(os.Getenv("SERVICE_RESULT")) {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "levee has failed: what it has left is for the next levee run to go on with")
				return err
			}
			cfg, err := config.Load(*file)
			if errors.Is(err, fs.ErrNotExist) && cmd.Flags().Changed("config") {
				return err // a file that was asked for by name
			}
			if err != nil {
				complain(cmd.ErrOrStderr(), fmt.Errorf("%w; cleaning up %s and %s all the same", err, cfg.TUN.Name, cfg.StateDir))
			}
			report, err := daemon.Cleanup(cfg)
			if err == nil && len(report) == 0 {
				report = []string{"nothing to clean up"}
			}
			for _, line := range report {
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), line); err != nil {
					return err
				}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&unlessFailed, "unless-failed", false, "under systemd, for ExecStopPost: do nothing if levee has failed and is to be started again")
	return cmd
}

// serviceFailed says whether systemd starts the service again, with the connections that were open. result is what systemd.exec(5) says of $SERVICE_RESULT: a
// time-out counts as one of the end, after which nobody starts it.
func serviceFailed(result string) bool {
	return result != "" && result != "success" && result != "timeout"
}
