package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"levee/cmd/levee/config"
	"levee/cmd/levee/daemon"
)

func newPlan(file *string) *cobra.Command {
	return &cobra.Command{
		Use:   "plan",
		Short: "Show what run would do to this machine, as commands",
		Long:  "Show what run would do to this machine as it is now, as commands that do the same by hand. Nothing is changed.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(*file)
			if err != nil {
				return err
			}
			layout, err := daemon.NewLayout(cfg)
			if err != nil {
				return err
			}
			_, err = io.WriteString(cmd.OutOrStdout(), fmt.Sprintf("# What levee run does with %s, as commands.\n%v", *file, layout))
			return err
		},
	}
}
