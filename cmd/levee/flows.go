package main

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"levee/cmd/levee/control"
)

// defaultFlowLimit is what a person can be shown; programs get all.
const defaultFlowLimit = 1000

func newFlows(file *string) *cobra.Command {
	cmd := newFlowsList(file)
	cmd.Use, cmd.Short = "flows", "List, watch or end connections"
	cmd.Long = "List the connections, as levee flows list does, or watch or kill them."
	cmd.Example = ""
	bare := cmd.Args
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 && args[0] != "tcp" {
			return misused("unknown verb %q of flows: use one of %s", args[0], verbs(cmd))
		}
		return bare(cmd, args)
	}
	cmd.AddCommand(newFlowsList(file), newFlowsWatch(file), newFlowsKill(file))
	return cmd
}

func newFlowsList(file *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list [tcp CLIENT:PORT SERVER:PORT]",
		Short: "List connections",
		Long: "List the connections that the filters choose, the one between two ends in either order, or all. Those that have ended are\n" +
			"remembered for a while, and listed too.",
		Example: "  levee flows list --state open --client 203.0.113.0/24\n" +
			"  levee flows list tcp 203.0.113.7:40000 192.0.2.10:443 -o json",
	}
	output := addOutput(cmd)
	filter := addFilter(cmd, file)
	cmd.Flags().IntVar(&filter.Limit, "limit", defaultFlowLimit, "at most this `number`, 0 for all; without it, all for json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := filter.check(); err != nil {
			return err
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
			return writeArray(cmd.OutOrStdout(), "flows", func(yield func(control.Flow) error) error { return list(filter.Filter, yield) })
		}
		more, err := writeFlows(cmd.OutOrStdout(), filter.Filter, list)
		if more && err == nil {
			_, err = fmt.Fprintf(cmd.ErrOrStderr(), "There are more than %d: use --limit 0 for all.\n", filter.Limit)
		}
		return err
	}
	return cmd
}

// flowFilter is a filter as flags and arguments.
type flowFilter struct {
	control.Filter
	port portValue
}

// addFilter gives a verb the flags that choose flows, and the arguments that choose one.
func addFilter(cmd *cobra.Command, file *string) *flowFilter {
	f := &flowFilter{}
	flags := cmd.Flags()
	flags.Var((*wordValue)(&f.Service), "service", "only those of the service with this `name`")
	flags.Var((*wordValue)(&f.State), "state", "only those in this `state`: "+strings.Join(control.States(), ", "))
	flags.Var((*prefixValue)(&f.Client), "client", "only those that somebody in this `prefix` or at this address has opened")
	flags.Var((*prefixValue)(&f.Server), "server", "only those to this `prefix` or address")
	flags.Var(&f.port, "port", "only those to this `port`")
	completeWords(cmd, "state", control.States())
	completeServices(cmd, file)
	completePrefixes(cmd, "server", file)
	completePorts(cmd, file)
	cmd.ValidArgsFunction = completeTCP
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		client, server, err := parseTuple(cmd, args)
		if err != nil {
			return err
		}
		f.Filter = f.Between(client, server)
		return nil
	}
	return f
}

// parseTuple reads "tcp CLIENT:PORT SERVER:PORT".
func parseTuple(cmd *cobra.Command, args []string) (client, server netip.AddrPort, err error) {
	if len(args) != 3 || args[0] != "tcp" {
		return client, server, misused("say tcp, the client and the server: %s tcp 203.0.113.7:40000 192.0.2.10:443", cmd.CommandPath())
	}
	for _, name := range []string{"client", "server", "port"} {
		if cmd.Flags().Changed(name) {
			return client, server, misused("--%s: the arguments name both ends already: leave it out", name)
		}
	}
	for i, to := range []*netip.AddrPort{&client, &server} {
		end, err := netip.ParseAddrPort(args[i+1])
		if err != nil || end.Port() == 0 {
			return client, server, misused("%q is no address and port: write 192.0.2.10:443 or [2001:db8:1::10]:443", args[i+1])
		}
		*to = netip.AddrPortFrom(end.Addr().Unmap(), end.Port())
	}
	return client, server, nil
}

// check says what the daemon would not be asked.
func (f *flowFilter) check() error {
	if f.port != 0 {
		f.ServerPort = uint16(f.port)
	}
	if f.Limit < 0 {
		return misused("--limit %d: use 1 or more, or 0 for all", f.Limit)
	}
	if f.State != "" && !slices.Contains(control.States(), f.State) {
		return misused("--state %q: use one of %s", f.State, strings.Join(control.States(), ", "))
	}
	return nil
}

// lister calls yield for each flow that the filter chooses.
type lister func(f control.Filter, yield func(control.Flow) error) error

// writeFlows writes a table and says whether there was more than the limit.
func writeFlows(w io.Writer, filter control.Filter, list lister) (more bool, err error) {
	t := newTable(w, 2, "CLIENT", "SERVER", "SERVICE", "STATE", "AGE", "IDLE", "SENT", "RECEIVED")
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
		return t.add(f.Client.String(), f.Server.String(), clip(f.Service, 20), f.State, age(f.AgeSeconds), age(f.IdleSeconds),
			size(f.ClientBytes), size(f.ServerBytes))
	})
	if err != nil {
		return false, err
	}
	return more, t.end()
}

// size writes bytes with three digits or so: 999, 1.2K, 64M; K is 1024.
func size(n uint64) string {
	if n < 1024 {
		return fmt.Sprint(n)
	}
	v, unit := float64(n)/1024, "KMGTPE"
	for v >= 999.5 && len(unit) > 1 {
		v, unit = v/1024, unit[1:]
	}
	if v < 9.95 {
		return fmt.Sprintf("%.1f%c", v, unit[0])
	}
	return fmt.Sprintf("%.0f%c", v, unit[0])
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
