package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

func newDebug(file *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "debug",
		Short: "Gather what a report of a problem needs",
		Long:  "Gather what a report of a problem needs.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return misused("say what: %s %s", cmd.CommandPath(), verbs(cmd))
			}
			return misused("unknown verb %q of debug: use one of %s", args[0], verbs(cmd))
		},
		RunE: func(*cobra.Command, []string) error { return nil }, // never: there is an argument too many or too few
	}
	cmd.AddCommand(newDebugBundle(file))
	return cmd
}

func newDebugBundle(file *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bundle",
		Short: "Write what helps to find a fault into one file",
		Long: "Write a tar.gz of what levee says about itself and this machine: version, check, configuration, plan and what differs from\n" +
			"it, status, connections, servers, metrics, three seconds of observe, where every goroutine is, crash reports, the log of\n" +
			"systemd's journal, rules, routes, interfaces, nftables, sysctls and counters of the kernel. Nothing is changed. It takes some ten\n" +
			"seconds, more if the daemon hangs, and works without one: its README lists what is missing, and why.\n\n" +
			"The secret of the cookies is not in it, nor are keys among the sysctls. Addresses of clients and servers are: look before you hand it\n" +
			"on. Each file has 1 MiB at most. Only its owner may read it, and no file is overwritten.",
		Example: "  levee debug bundle\n  levee debug bundle -w /tmp/gateway7.tar.gz\n  ssh gateway7 levee debug bundle -w - > gateway7.tar.gz",
		Args:    noArguments,
	}
	path := cmd.Flags().StringP("write", "w", "", "the `file` to write, - for the standard output; without it levee-debug-TIME.tar.gz, here")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		now := time.Now()
		name := "levee-debug-" + now.UTC().Format("20060102T150405Z")
		if *path == "" {
			*path = name + ".tar.gz"
		}
		out, said := cmd.OutOrStdout(), cmd.OutOrStdout()
		finish := func(err error) error { return err }
		if *path == "-" {
			if isTerminal(out) {
				return misused("-w -: the standard output is a terminal: write to a file, or into a pipe")
			}
			*path, said = "standard output", cmd.ErrOrStderr()
		} else {
			f, err := os.OpenFile(*path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("%s is there already: remove it, or name another file with -w", *path)
			}
			if err != nil {
				return err
			}
			out, finish = f, func(err error) error {
				if err = errors.Join(err, f.Close()); err != nil {
					err = errors.Join(err, os.Remove(*path)) // half a bundle looks whole
				}
				return err
			}
		}
		parts := gather(ctx, *file)
		err := errors.New("interrupted: nothing is written")
		if ctx.Err() == nil {
			err = writeBundle(out, name, now, append([]part{{name: "README", content: aboutBundle(now, parts)}}, parts...))
		}
		if err := finish(err); err != nil {
			return err
		}
		return writeBundled(said, *path, parts)
	}
	return cmd
}

// writeBundled says what there is and what isn't.
func writeBundled(w io.Writer, path string, parts []part) error {
	var b bytes.Buffer
	there := 0
	for _, p := range parts {
		if p.missing == "" {
			there++
		}
	}
	fmt.Fprintf(&b, "%s: %d files, %d missing\n", path, there, len(parts)-there)
	for _, p := range parts {
		if p.missing != "" {
			fmt.Fprintf(&b, "missing %s: %s\n", p.name, p.missing)
		}
	}
	b.WriteString("Addresses of clients and servers are in it, the secret of the cookies is not.\n")
	_, err := b.WriteTo(w)
	return err
}

// aboutBundle is the README of a bundle.
func aboutBundle(now time.Time, parts []part) []byte {
	var b bytes.Buffer
	host, err := os.Hostname()
	if err != nil {
		host = "a machine without a name"
	}
	fmt.Fprintf(&b, "What levee %s knew on %s at %s.\n\n", versionNow().Version, host, now.Format(time.RFC3339))
	for _, p := range parts {
		fmt.Fprintf(&b, "%-28s %s", p.name, p.what)
		switch {
		case p.missing != "":
			b.WriteString("; MISSING: " + p.missing)
		case p.cut:
			fmt.Fprintf(&b, "; cut off after %d bytes", maxPart)
		}
		if p.note != "" {
			b.WriteString("; " + p.note)
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}
