package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"levee/cmd/levee/config"
	"levee/cmd/levee/daemon"
)

func newRun(file *string) *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Protect the configured services until SIGTERM",
		Long: "Protect the configured services until SIGTERM or SIGINT, then undo everything. A second signal ends the\n" +
			"process at once; levee cleanup then undoes what is left.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(*file)
			if err != nil {
				return err
			}
			log := newLogger(cfg.Log, cmd.ErrOrStderr())
			// Whoever reads the log may go away; that must not end the protection.
			signal.Ignore(syscall.SIGPIPE)
			ctx, stop := onSignals(cmd.Context(), log, os.Exit)
			defer stop()
			return daemon.Run(ctx, cfg, versionNow().Version, log)
		},
	}
}

func newLogger(cfg config.Log, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: cfg.Level}
	if cfg.JSON {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// onSignals returns a context that the first SIGTERM or SIGINT ends; the second ends the process by die.
func onSignals(parent context.Context, log *slog.Logger, die func(code int)) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case s := <-signals:
				switch {
				case s == syscall.SIGHUP:
					log.Warn("SIGHUP ignored: restart levee to make it read its configuration")
				case ctx.Err() == nil:
					log.Info("asked to stop", "signal", s.String())
					cancel()
				default:
					log.Error("asked again, ending at once: run levee cleanup", "signal", s.String())
					die(exitFailed)
				}
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		cancel()
	}
}
