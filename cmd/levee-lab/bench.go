package main

import (
	"fmt"
	"regexp"

	"github.com/spf13/cobra"

	"levee/cmd/levee-lab/bench"
)

// benchFlags are what the command line of bench chooses beside bench.Config.
type benchFlags struct {
	only, out string
	asJSON    bool
}

func newBench() *cobra.Command {
	var cfg bench.Config
	var flags benchFlags
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Compare plain forwarding, the kernel's SYNPROXY and levee",
		Long: "Measure plain forwarding, the kernel's SYNPROXY with and without timestamps, and levee, in turn and\n" +
			"several times, in one lab, and print medians, spreads and levee's ratio to SYNPROXY. It needs root,\n" +
			"a quiet machine and some 22 minutes, and ends with 0 if everything could be measured,\n" +
			"whatever came out.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.Repeat < 1 || cfg.Repeat > bench.MaxRepeat {
				return misuse{fmt.Errorf("--repeat %d: use 1 to %d", cfg.Repeat, bench.MaxRepeat)}
			}
			if flags.only != "" {
				only, err := regexp.Compile(flags.only)
				if err != nil {
					return misuse{fmt.Errorf("--only %q: %w", flags.only, err)}
				}
				if !bench.Measures(only) {
					return misuse{fmt.Errorf("--only %q: it matches nothing that is measured, such as bulk/levee", flags.only)}
				}
				cfg.Only = only
			}
			daemon := demoConfig{levee: cfg.Levee}
			if err := daemon.findLevee(); err != nil {
				return err
			}
			cfg.Levee = daemon.levee
			return runBench(cmd, cfg, flags)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Levee, "levee", "", "the levee `binary` (default: next to levee-lab, or in PATH)")
	f.IntVar(&cfg.Repeat, "repeat", 5, "how often everything is measured")
	f.StringVar(&flags.only, "only", "", "measure only what matches this `pattern`, a regular expression on measure/contender:\n"+
		"syn, bulk, conn, ttfb, download or flows, and plain, synproxy, synproxy-nots or levee")
	f.BoolVar(&cfg.Quick, "quick", false, "try everything once, in about a minute; the figures prove nothing")
	f.StringVar(&flags.out, "out", "", "write bench.md and its plots into this `folder`")
	f.BoolVar(&flags.asJSON, "json", false, "print the results as JSON only")
	f.StringVar(&cfg.Commit, "commit", "", "what the report says was measured, as from git describe")
	f.StringVar(&cfg.Date, "date", "", "when, as the report says")
	return cmd
}

func runBench(cmd *cobra.Command, cfg bench.Config, flags benchFlags) error {
	cfg.Say = func(format string, args ...any) {
		if !flags.asJSON {
			fmt.Fprintf(cmd.OutOrStdout(), format, args...)
		}
	}
	report, err := bench.Run(cmd.Context(), cfg)
	if err != nil {
		return err
	}
	if flags.out != "" {
		if err := report.Write(flags.out); err != nil {
			return err
		}
	}
	if flags.asJSON {
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
