package main

import (
	"bytes"

	"github.com/spf13/cobra"

	"levee/cmd/levee/config"
	"levee/cmd/levee/daemon"
	"levee/routes"
)

// applied is the answer of apply in JSON.
type applied struct {
	File string `json:"file"`
	// Steps are the differences that were put right; their texts say how it was.
	Steps []routes.Step `json:"steps"`
}

func newApply(file *string) *cobra.Command {
	var block bool
	cmd := &cobra.Command{
		Use:   "apply",
		Short: "Make this machine as planned, without a daemon",
		Long: "Make this machine as levee plan shows, without a daemon: the TUN, sysctls, the exemption from connection tracking,\n" +
			"routes and rules. levee run does the same by itself, and goes on with what is there. It is for what has to be in place\n" +
			"before: routes of your own into the TUN, or a gateway that forwards nothing unprotected. What differs is put right,\n" +
			"the rest isn't touched, and again there is nothing to do. If anything fails it is taken back. levee cleanup undoes it.\n\n" +
			"Until levee run nobody reads from the TUN: TCP and ICMP from and to the protected prefixes are forwarded as without levee,\n" +
			"or dropped, as routing.on_failure says; all of it, whatever the port, ssh to the servers and what they open themselves\n" +
			"included. With block it takes --block to begin that. Under a running daemon nothing is changed.",
	}
	cmd.Flags().BoolVar(&block, "block", false, "drop all TCP and ICMP of the protected prefixes until levee run, as routing.on_failure: block says")
	output := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := config.Load(*file)
		if err != nil {
			return err
		}
		steps, err := daemon.Apply(cfg, block)
		if err != nil {
			return err
		}
		if *output == formatJSON {
			return writeJSON(cmd.OutOrStdout(), applied{File: *file, Steps: append([]routes.Step{}, steps...)})
		}
		var b bytes.Buffer
		if len(steps) == 0 {
			writeAbout(&b, *file, "nothing differs from the plan")
		} else {
			writeAbout(&b, *file, "done; behind a # is how it was")
		}
		for _, s := range steps {
			writeStep(&b, s)
		}
		_, err = b.WriteTo(cmd.OutOrStdout())
		return err
	}
	return cmd
}
