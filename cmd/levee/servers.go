package main

import (
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"levee/cmd/levee/control"
)

func newServers(file *string) *cobra.Command {
	cmd := &cobra.Command{Use: "servers", Short: "List what is known of the servers"}
	output := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client, err := daemonOf(*file)
		if err != nil {
			return err
		}
		all := func(yield func(control.Learned) error) error { return client.Servers(cmd.Context(), yield) }
		if *output == formatJSON {
			return writeArray(cmd.OutOrStdout(), "servers", all)
		}
		return writeServers(cmd.OutOrStdout(), all)
	}
	return cmd
}

// writeServers writes a table.
func writeServers(w io.Writer, all func(yield func(control.Learned) error) error) error {
	t := newTable(w, 1, "SERVER", "STATE", "MSS", "WSCALE", "SACK", "TS", "ECN", "SOURCE", "AGE")
	err := all(func(s control.Learned) error {
		return t.add(s.Server.String(), s.State, knownNumber(s.MSS, 0), knownNumber(s.WScale, -1), yesNo(s.SACK), yesNo(s.Timestamps), yesNo(s.ECN),
			s.Source, age(s.AgeSeconds))
	})
	if err != nil {
		return err
	}
	return t.end()
}

// knownNumber is a number, or none for the value that means none, or - for what isn't known.
func knownNumber(n *int, none int) string {
	switch {
	case n == nil:
		return "-"
	case *n == none:
		return "none"
	}
	return strconv.Itoa(*n)
}

func yesNo(b *bool) string {
	switch {
	case b == nil:
		return "-"
	case *b:
		return "yes"
	}
	return "no"
}
