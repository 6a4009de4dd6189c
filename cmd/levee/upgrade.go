package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"levee/cmd/levee/control"
)

const (
	// upgradeTimeout bounds the wait for the next program to be ready.
	upgradeTimeout = 30 * time.Second
	// upgradeLook is how often its status is looked at.
	upgradeLook = 10 * time.Millisecond
)

// upgraded is what an upgrade came to.
type upgraded struct {
	Program string `json:"program"`
	From    string `json:"from"`
	To      string `json:"to"`
	// Converted says that the flow file had another layout.
	Converted bool `json:"converted"`
	// Flows went on, Lost did not.
	Flows int `json:"flows"`
	Lost  int `json:"lost"`
	// Seconds is from the old program's agreement until the new one was ready.
	Seconds float64 `json:"seconds"`
}

func newUpgrade(file *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "upgrade [program]",
		Short: "Replace the daemon's program without losing a connection",
		Long: "Have the daemon execute another program in its place, in the same process and with the same queues of the TUN: the one\n" +
			"named, or what is now in the file that the daemon was started from. Before that the new program checks the configuration\n" +
			"and whether it can go on with the connections. If it can't, the reason is told and nothing happens. It waits until the new\n" +
			"program is ready.\n\n" +
			"Install the new program where the old one is and name none: whatever starts levee after a crash starts that one too. SIGUSR2\n" +
			"does the same.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return misused("%s takes one program: see %s --help", cmd.CommandPath(), cmd.CommandPath())
			}
			return nil
		},
	}
	cmd.ValidArgsFunction = completeFile
	output := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		program := ""
		if len(args) == 1 {
			var err error
			if program, err = filepath.Abs(args[0]); err != nil {
				return err
			}
		}
		client, err := daemonOf(*file)
		if err != nil {
			return err
		}
		u, err := upgrade(cmd.Context(), client, program)
		if err != nil {
			return err
		}
		if *output == formatJSON {
			return writeJSON(cmd.OutOrStdout(), u)
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "upgraded from %s to %s in %.3f s: %d connections went on, %d are lost\n",
			u.From, u.To, u.Seconds, u.Flows, u.Lost)
		return err
	}
	return cmd
}

// upgrade has the daemon replaced and waits until the next one is ready.
func upgrade(ctx context.Context, client *control.Client, program string) (upgraded, error) {
	before, err := client.Status(ctx)
	if err != nil {
		return upgraded{}, err
	}
	process, err := watchProcess(ctx, client)
	if err != nil {
		return upgraded{}, err
	}
	defer process.close()
	agreed, err := client.Upgrade(ctx, program)
	var unanswered *control.NoAnswer
	if errors.As(err, &unanswered) {
		return upgraded{}, fmt.Errorf("outcome unknown, levee status will have it: %w", err)
	}
	if err != nil {
		return upgraded{}, fmt.Errorf("not upgraded, the daemon runs on: %w", err)
	}
	begin := time.Now()
	interrupted := ctx
	ctx, cancel := context.WithTimeout(ctx, upgradeTimeout)
	defer cancel()
	for {
		if s, err := client.Status(ctx); err == nil && s.Ready && !s.Started.Equal(before.Started) {
			if s.NotUpgraded != "" {
				return upgraded{}, fmt.Errorf("not upgraded, %s goes on with the connections: %s", s.Version, s.NotUpgraded)
			}
			if s.Version != agreed.Version {
				return upgraded{}, fmt.Errorf("not upgraded, %s goes on with the connections, not %s: the daemon's log says why", s.Version, agreed.Version)
			}
			return upgraded{
				Program: agreed.Program, From: before.Version, To: s.Version, Converted: agreed.Converts,
				Flows: s.Flows.Kept.Restored, Lost: s.Flows.Kept.Lost, Seconds: time.Since(begin).Seconds(),
			}, nil
		}
		switch {
		case process.fd >= 0 && process.ended(0): // its socket is gone for a moment
			return upgraded{}, errors.New("the daemon ended in its upgrade, its log says why: start levee, it goes on with the connections")
		case interrupted.Err() != nil:
			return upgraded{}, fmt.Errorf("outcome unknown, levee status will have it: interrupted before %s was ready", agreed.Program)
		case ctx.Err() != nil:
			return upgraded{}, fmt.Errorf("%s is not ready after %v: see its log and levee status", agreed.Program, upgradeTimeout)
		}
		time.Sleep(upgradeLook)
	}
}
