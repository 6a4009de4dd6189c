package main

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"levee/cmd/levee/control"
)

// defaultFlowLimit is what a person can be shown; programs get all.
const defaultFlowLimit = 1000

func newFlows(file *string) *cobra.Command {
	cmd := &cobra.Command{Use: "flows", Short: "List the connections"}
	output := addOutput(cmd)
	var filter control.Filter
	cmd.Flags().IntVar(&filter.Limit, "limit", defaultFlowLimit, "at most this `number`, 0 for all; without it, all for json")
	cmd.Flags().StringVar(&filter.Service, "service", "", "only those of the service with this `name`")
	cmd.Flags().StringVar(&filter.State, "state", "", "only those in this `state`: "+strings.Join(control.States(), ", "))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if filter.Limit < 0 {
			return misused("--limit %d: use 1 or more, or 0 for all", filter.Limit)
		}
		if filter.State != "" && !slices.Contains(control.States(), filter.State) {
			return misused("--state %q: use one of %s", filter.State, strings.Join(control.States(), ", "))
		}
		if *output == formatJSON && !cmd.Flags().Changed("limit") {
			filter.Limit = 0
		}
		client, err := daemonOf(*file)
		if err != nil {
			return err
		}
		list := func(f control.Filter, yield func(control.Flow) error) error {
			return client.Flows(cmd.Context(), f, yield)
		}
		if *output == formatJSON {
			return writeFlowsJSON(cmd.OutOrStdout(), filter, list)
		}
		more, err := writeFlows(cmd.OutOrStdout(), filter, list)
		if more && err == nil {
			_, err = fmt.Fprintf(cmd.ErrOrStderr(), "There are more than %d: use --limit 0 for all.\n", filter.Limit)
		}
		return err
	}
	return cmd
}

// lister calls yield for each flow that the filter chooses.
type lister func(f control.Filter, yield func(control.Flow) error) error

// writeFlowsJSON writes an array as its elements arrive.
func writeFlowsJSON(w io.Writer, filter control.Filter, list lister) error {
	return writeArray(w, func(yield func(control.Flow) error) error { return list(filter, yield) })
}

// alignedRows is how many rows of a long table are aligned, and held, at a time.
const alignedRows = 1000

// writeFlows writes a table and says whether there was more than the limit.
func writeFlows(w io.Writer, filter control.Filter, list lister) (more bool, err error) {
	b := bufio.NewWriter(w)
	table := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "CLIENT\tSERVER\tSERVICE\tSTATE\tAGE\tIDLE\tCLIENT BYTES\tSERVER BYTES")
	limit := filter.Limit
	if limit > 0 {
		filter.Limit++ // one more tells whether there are more
	}
	rows := 0
	err = list(filter, func(f control.Flow) error {
		if limit > 0 && rows == limit {
			more = true
			return nil
		}
		rows++
		_, err := fmt.Fprintf(table, "%v\t%v\t%s\t%s\t%s\t%s\t%d\t%d\n", f.Client, f.Server, f.Service, f.State,
			age(f.AgeSeconds), age(f.IdleSeconds), f.ClientBytes, f.ServerBytes)
		if err == nil && rows%alignedRows == 0 {
			err = table.Flush()
		}
		return err
	})
	if err != nil {
		return false, err
	}
	if err := table.Flush(); err != nil {
		return false, err
	}
	return more, b.Flush()
}

// age writes seconds with the two largest units that matter: 0.3s, 12s, 5m12s, 3h5m, 4d3h.
func age(seconds float64) string {
	s := int64(seconds)
	switch {
	case s < 10:
		return fmt.Sprintf("%.1fs", seconds)
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%ds", s/60, s%60)
	case s < 24*3600:
		return fmt.Sprintf("%dh%dm", s/3600, s/60%60)
	}
	return fmt.Sprintf("%dd%dh", s/(24*3600), s/3600%24)
}
