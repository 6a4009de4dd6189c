package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"levee/cmd/levee-lab/bench"
	"levee/integration/lab"
)

func newChurn() *cobra.Command {
	cfg := bench.ChurnConfig{Interval: time.Second, Forget: true}
	var out string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "churn",
		Short: "Open and close connections among a million, and see whether levee stays as it is",
		Long: "Open many connections through levee, replace the oldest by new ones as fast as it goes, close them all, and\n" +
			"look at levee's memory, flows, goroutines, descriptors and pauses all the while. It needs root and, with a\n" +
			"million flows, about 2 GB of memory and seven minutes more than it counts. It ends with 0 only if all goals were met.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.Flows < 1 || cfg.Flows > lab.MaxCrowd {
				return misuse{fmt.Errorf("--flows %d: use 1 to %d", cfg.Flows, lab.MaxCrowd)}
			}
			if cfg.Duration < minChurn || cfg.WarmUp < 0 {
				return misuse{fmt.Errorf("--duration %v --warm-up %v: use 10s or more, and no less than 0", cfg.Duration, cfg.WarmUp)}
			}
			if cfg.Capacity < 0 {
				return misuse{fmt.Errorf("--capacity %d: use 1 or more, or 0", cfg.Capacity)}
			}
			daemon := demoConfig{levee: cfg.Levee}
			if err := daemon.findLevee(); err != nil {
				return err
			}
			cfg.Levee = daemon.levee
			return runChurn(cmd, cfg, out, asJSON)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Levee, "levee", "", "the levee `binary` (default: next to levee-lab, or in PATH)")
	f.IntVar(&cfg.Flows, "flows", 1_000_000, "how many connections are open all the time")
	f.DurationVar(&cfg.Duration, "duration", 10*time.Minute, "how long they are replaced while it counts")
	f.DurationVar(&cfg.WarmUp, "warm-up", bench.Remembrance+20*time.Second, "how long before that: until as many closed ones are remembered as will be")
	f.IntVar(&cfg.Capacity, "capacity", 0, "levee's flows.capacity (default: room for all that are remembered)")
	f.StringVar(&out, "out", "", "write the report as a section of Markdown into this `file`")
	f.BoolVar(&asJSON, "json", false, "print the results as JSON only")
	f.StringVar(&cfg.Commit, "commit", "", "what the report says was measured, as from git describe")
	f.StringVar(&cfg.Date, "date", "", "when, as the report says")
	return cmd
}

// minChurn has a few looks at the daemon in each of its fifths.
const minChurn = 10 * time.Second

func runChurn(cmd *cobra.Command, cfg bench.ChurnConfig, out string, asJSON bool) error {
	cfg.Say = func(format string, args ...any) {
		if !asJSON {
			fmt.Fprintf(cmd.OutOrStdout(), format, args...)
		}
	}
	report, err := bench.Churn(cmd.Context(), cfg)
	if err != nil {
		return err
	}
	if out != "" {
		if err := report.Write(out); err != nil {
			return err
		}
	}
	if asJSON {
		err = report.JSON(cmd.OutOrStdout())
	} else {
		cfg.Say("\n")
		err = report.Print(cmd.OutOrStdout())
	}
	if err != nil {
		return err
	}
	return report.Err()
}
