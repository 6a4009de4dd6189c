package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"

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
			return writeArray(cmd.OutOrStdout(), all)
		}
		return writeServers(cmd.OutOrStdout(), all)
	}
	return cmd
}

// writeArray writes a JSON array as its elements arrive.
func writeArray[T any](w io.Writer, all func(yield func(T) error) error) error {
	b := bufio.NewWriter(w)
	separator := "[\n"
	err := all(func(v T) error {
		text, err := json.Marshal(v)
		if err != nil {
			return err
		}
		_, _ = b.WriteString(separator) // bufio keeps its first error
		separator = ",\n"
		_, err = b.Write(text)
		return err
	})
	if err != nil {
		_ = b.Flush() // what has come; without the closing bracket it can't pass for all
		return err
	}
	if separator == "[\n" {
		_, _ = b.WriteString("[]\n")
	} else {
		_, _ = b.WriteString("\n]\n")
	}
	return b.Flush()
}

// writeServers writes a table.
func writeServers(w io.Writer, all func(yield func(control.Learned) error) error) error {
	b := bufio.NewWriter(w)
	table := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "SERVER\tSTATE\tMSS\tWSCALE\tSACK\tTIMESTAMPS\tECN\tSOURCE\tAGE")
	rows := 0
	err := all(func(s control.Learned) error {
		rows++
		_, err := fmt.Fprintf(table, "%v\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Server, s.State,
			knownNumber(s.MSS, 0), knownNumber(s.WScale, -1), yesNo(s.SACK), yesNo(s.Timestamps), yesNo(s.ECN), s.Source, age(s.AgeSeconds))
		if err == nil && rows%alignedRows == 0 {
			err = table.Flush()
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := table.Flush(); err != nil {
		return err
	}
	return b.Flush()
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
