package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"levee/cmd/levee/config"
	"levee/cmd/levee/daemon"
)

func newRun(file *string) *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Protect the configured services until SIGTERM",
		Long: "Protect the configured services until SIGTERM or SIGINT, then undo everything. A second signal, later, ends the\n" +
			"process at once; levee cleanup then undoes what is left. SIGHUP does what levee reload does. If it ends in any\n" +
			"other way, the next run goes on with the connections that were open.\n\n" +
			"SIGUSR2 does what levee upgrade does, with what is now in the program's file.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var signals chan os.Signal
			if !check {
				// Lists take a while to read, and who stops levee meanwhile wants what an earlier process has left undone.
				signals = catchSignals()
			}
			cfg, err := config.Load(*file)
			if err != nil {
				return err
			}
			if check {
				candidate, err := daemon.CheckUpgrade(cfg, versionNow().Version)
				if err != nil {
					return err
				}
				return writeJSON(cmd.OutOrStdout(), candidate)
			}
			var level slog.LevelVar
			level.Set(cfg.Log.Level)
			log := newLogger(&level, cfg.Log.JSON, logTo(cmd.ErrOrStderr()))
			// Whoever reads the log may go away; that must not end the protection.
			signal.Ignore(syscall.SIGPIPE)
			ctx, reload, stop := onSignals(cmd.Context(), signals, log, os.Exit)
			defer stop()
			load := func() (config.Config, error) { return config.Load(*file) }
			return daemon.Run(ctx, cfg, daemon.Reloading{File: *file, Load: load, Asked: reload, Level: &level}, versionNow().Version, log)
		},
	}
	cmd.Flags().BoolVar(&check, "check-upgrade", false, "only say, as JSON, whether it could go on in the place of the daemon that runs")
	return cmd
}

func newLogger(level slog.Leveler, json bool, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if json {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// catchSignals keeps SIGTERM, SIGINT and SIGHUP from ending the process from now on, and returns where they come.
func catchSignals() chan os.Signal {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	return signals
}

// onceMore is how long after the first SIGTERM another is one of its own. timeout(1) sends two at once: to the process, and to its group.
const onceMore = 500 * time.Millisecond

// onSignals returns a context that the first SIGTERM or SIGINT ends, and what SIGHUP brings a value to; another of the former, onceMore later,
// ends the process by die.
//
// signals are from catchSignals, which stop undoes.
func onSignals(parent context.Context, signals chan os.Signal, log *slog.Logger, die func(code int)) (ctx context.Context, reload <-chan struct{}, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	done, asked := make(chan struct{}), make(chan struct{}, 1)
	go func() {
		var first time.Time
		for {
			select {
			case <-done:
				return
			case s := <-signals:
				switch {
				case s == syscall.SIGHUP:
					select {
					case asked <- struct{}{}:
					default: // one that is to come reads the file as it is by then
					}
				case ctx.Err() == nil:
					first = time.Now()
					log.Info("asked to stop", "signal", s.String())
					cancel()
				case time.Since(first) < onceMore:
				default:
					log.Error("asked again, ending at once: run levee cleanup", "signal", s.String())
					die(exitFailed)
				}
			}
		}
	}()
	return ctx, asked, func() {
		signal.Stop(signals)
		close(done)
		cancel()
	}
}
