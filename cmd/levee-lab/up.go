package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"levee/integration/lab"
)

func newUp() *cobra.Command {
	var cfg lab.Config
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Build a lab, say how to get in, and take it down on Ctrl-C",
		Long: "Build a lab with forwarding but no levee, print how to start a shell in each namespace,\n" +
			"and take it down on Ctrl-C. It needs root.",
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			l, err := lab.New(cfg)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, l.Close()) }()
			if err := describe(cmd.OutOrStdout(), l); err != nil {
				return err
			}
			<-cmd.Context().Done()
			return nil
		},
	}
	cmd.Flags().IntVar(&cfg.Clients, "clients", 1, "number of clients, 1 to 16")
	cmd.Flags().IntVar(&cfg.Servers, "servers", 1, "number of servers, 1 to 16")
	cmd.Flags().BoolVar(&cfg.Attacker, "attacker", true, "add a namespace for an attacker")
	return cmd
}

// describe prints what is in the lab.
func describe(w io.Writer, l *lab.Lab) error {
	_, err := fmt.Fprintf(w, "The gateway:\n  nsenter --net=%s\n", l.Gateway.Path())
	hosts := append(append([]*lab.Host(nil), l.Clients...), l.Servers...)
	if l.Attacker != nil {
		hosts = append(hosts, l.Attacker)
	}
	for _, h := range hosts {
		e := h.Link.Host
		_, e2 := fmt.Fprintf(w, "%s, %s and %s, behind %s of the gateway:\n  nsenter --net=%s\n",
			h.Name, e.Addr4, e.Addr6, h.Link.Gateway.Name, h.Path())
		err = errors.Join(err, e2)
	}
	_, e2 := fmt.Fprintln(w, "Ctrl-C takes it down.")
	return errors.Join(err, e2)
}
