package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"levee/cmd/levee/control"
)

// stopTimeout bounds the wait for the daemon's end after a drain.
const stopTimeout = 20 * time.Second

func newDrain(file *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drain",
		Short: "Let connections end, then stop the daemon",
		Long: "Have the daemon protect nothing new, wait until the connections that it translates have ended, and stop as by SIGTERM:\n" +
			"then nothing breaks. New connections go to the servers themselves from the beginning of the drain, unprotected. With\n" +
			"--timeout it stops after that time whatever is open, which breaks; the exit code is then 1.\n\n" +
			"Ctrl-C cancels the drain, and so does levee drain --cancel from elsewhere: the daemon protects again. If this command ends\n" +
			"in any other way the drain goes on; levee drain joins it. It takes 3 seconds at least, for clients that hold a cookie.\n" +
			"With -o json each line is an object.",
		Example: "  levee drain\n  levee drain --timeout 10m\n  levee drain --cancel",
	}
	output := addOutput(cmd)
	timeout := cmd.Flags().Duration("timeout", 0, "stop after this `time` at the latest; 0 waits for the last connection")
	undo := cmd.Flags().Bool("cancel", false, "undo a drain that goes on")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *timeout < 0 {
			return misused("--timeout: use a positive time")
		}
		if *undo && cmd.Flags().Changed("timeout") {
			return misused("--timeout and --cancel: use one of them")
		}
		client, err := daemonOf(*file)
		if err != nil {
			return err
		}
		tell := drainTeller(cmd.OutOrStdout(), *output)
		if *undo {
			p, err := client.CancelDrain(cmd.Context())
			if err != nil {
				return err
			}
			return tell(p)
		}
		return drain(cmd.Context(), client, *timeout, tell)
	}
	return cmd
}

// drain drains until the daemon has stopped, or until it is interrupted, which cancels the drain.
func drain(parent context.Context, client *control.Client, timeout time.Duration, tell func(control.Drain) error) error {
	process, err := watchProcess(parent, client)
	if err != nil {
		return err
	}
	defer process.close()
	ctx, stop := signal.NotifyContext(parent, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var last control.Drain
	err = client.Drain(ctx, timeout, func(p control.Drain) error {
		last = p
		if p.State == control.Drained {
			return nil // it has yet to stop
		}
		return tell(p)
	})
	switch {
	case ctx.Err() != nil && last.State == control.Draining:
		p, err := client.CancelDrain(parent)
		if err != nil {
			return fmt.Errorf("interrupted, but not cancelled: %w", err)
		}
		return errors.Join(tell(p), errReported)
	case last.State == control.Draining && process.ended(stopTimeout):
		return fmt.Errorf("the daemon has ended before the drain was over, with %s open", count(last.Connections, "connection"))
	case err != nil:
		return err
	case last.State == control.DrainCancelled:
		return errReported
	}
	if !process.ended(stopTimeout) {
		return fmt.Errorf("the daemon has not stopped within %v after the drain: its log may say why", stopTimeout)
	}
	if last.State == control.DrainTimedOut {
		return fmt.Errorf("stopped after %v with %s open, which broke", seconds(last.Seconds), count(last.Connections, "connection"))
	}
	return tell(last)
}

// drainTeller returns what tells how far a drain is: each time it is called, or for people when something has changed.
func drainTeller(w io.Writer, output format) func(control.Drain) error {
	if output == formatJSON {
		return func(p control.Drain) error { return writeJSONLine(w, p) }
	}
	told := ""
	return func(p control.Drain) error {
		text := fmt.Sprintf("%s, %d", p.State, p.Connections)
		if text == told {
			return nil
		}
		told = text
		_, err := fmt.Fprintln(w, drainText(p))
		return err
	}
}

// drainText says how far a drain is.
func drainText(p control.Drain) string {
	switch p.State {
	case control.Drained:
		return fmt.Sprintf("drained after %v: levee has stopped, nothing broke", seconds(p.Seconds))
	case control.DrainTimedOut:
		return fmt.Sprintf("time is over after %v: %s open", seconds(p.Seconds), count(p.Connections, "connection"))
	case control.DrainCancelled:
		return "cancelled: levee protects again"
	}
	text := fmt.Sprintf("draining for %v: %s open", seconds(p.Seconds), count(p.Connections, "connection"))
	if p.TimeoutSeconds > 0 {
		text += fmt.Sprintf(", %v left", seconds(p.TimeoutSeconds-p.Seconds))
	}
	return text
}

func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second)).Round(time.Second)
}
