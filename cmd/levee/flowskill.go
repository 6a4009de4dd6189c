package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newFlowsKill(file *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "kill [tcp CLIENT:PORT SERVER:PORT]",
		Short: "End connections with resets to both ends",
		Long: "End the connections that the filters choose, or the one between two ends in either order: both hosts get a reset that they\n" +
			"accept. It asks nothing, and says how many there were. At least one filter is needed. That there was none is no error.\n" +
			"New connections are not kept away: that is what the service's deny list is for.",
		Example: "  levee flows kill tcp 203.0.113.7:40000 192.0.2.10:443\n" +
			"  levee flows kill --client 203.0.113.0/24 --service web\n" +
			"  levee flows kill --state opening --server 192.0.2.10 --port 443",
	}
	output := addOutput(cmd)
	filter := addFilter(cmd, file)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := filter.check(); err != nil {
			return err
		}
		if filter.All() {
			return misused("say which: name one of --service, --state, --client, --server and --port, or tcp and both ends")
		}
		client, err := daemonOf(*file)
		if err != nil {
			return err
		}
		killed, err := client.Kill(cmd.Context(), filter.Filter)
		if err != nil && killed.Matched > 0 {
			return fmt.Errorf("%w (%d connections were killed, or more)", err, killed.Killed)
		}
		if err != nil {
			return err
		}
		if *output == formatJSON {
			return writeJSON(cmd.OutOrStdout(), killed)
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), killedText(killed.Killed, killed.Matched))
		return err
	}
	return cmd
}

func killedText(killed, matched uint64) string {
	text := fmt.Sprintf("%d connections killed", killed)
	if killed == 1 {
		text = "1 connection killed"
	}
	if ended := matched - killed; ended > 0 {
		text += fmt.Sprintf(", %d had ended meanwhile", ended)
	}
	return text
}
