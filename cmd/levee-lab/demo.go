package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
)

const intro = `levee demo: honest clients fetch a page from a web server, over IPv4 and IPv6,
while an attacker with forged addresses floods it with SYNs. All of it runs in network
namespaces of its own, on addresses reserved for documentation and benchmarks.

The server has tcp_syncookies=0 and a short backlog. It stands for a server that can't
defend itself: Linux by default could, but an appliance, a printer, an old or another
system often can't, nor can you change it.

`

// demoConfig is what the command line chooses.
type demoConfig struct {
	// levee is the daemon's binary.
	levee string
	// duration of the load of each phase.
	duration time.Duration
}

// The bounds of demoConfig.duration: enough connections to count, and less than a minute in all.
const minDuration, maxDuration = 4 * time.Second, 12 * time.Second

func newDemo() *cobra.Command {
	var cfg demoConfig
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Flood a server, without levee and behind it, and compare",
		Long: "Let clients connect to a server that is alone, then flooded, then flooded behind levee, and\n" +
			"print what became of the connections. It needs root, and ends with 0 only if levee saved them all.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.duration < minDuration || cfg.duration > maxDuration {
				return misuse{fmt.Errorf("--duration %v: use %v to %v", cfg.duration, minDuration, maxDuration)}
			}
			if err := cfg.findLevee(); err != nil {
				return err
			}
			return demo(cmd.Context(), cfg, asJSON, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&cfg.levee, "levee", "", "the levee `binary` (default: next to levee-lab, or in PATH)")
	cmd.Flags().DurationVar(&cfg.duration, "duration", 5*time.Second, "how long clients connect in each of the three phases")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the results as JSON only")
	return cmd
}

// findLevee makes sure that there is a daemon before anything is built.
func (c *demoConfig) findLevee() error {
	if c.levee == "" {
		c.levee = "levee"
		if self, err := os.Executable(); err == nil {
			if beside := filepath.Join(filepath.Dir(self), "levee"); isFile(beside) {
				c.levee = beside
			}
		}
	}
	path, err := exec.LookPath(c.levee)
	if err != nil {
		return fmt.Errorf("no levee binary (%w): build it with make build, or name it with --levee", err)
	}
	c.levee, err = filepath.Abs(path)
	return err
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// demo runs the phases, prints what came of them, and returns an error if it is not what it should be.
func demo(ctx context.Context, cfg demoConfig, asJSON bool, out io.Writer) error {
	say := func(format string, args ...any) {
		if !asJSON {
			fmt.Fprintf(out, format, args...)
		}
	}
	say(intro)
	var results []result
	for i, p := range phases {
		say("%d/%d %s: %s ...\n", i+1, len(phases), p.Name, p.explain)
		r, err := p.run(ctx, cfg)
		if err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
		results = append(results, *r)
	}
	say("\n")
	verdict := judge(results)
	if asJSON {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return errors.Join(enc.Encode(map[string]any{"phases": results, "pass": verdict == nil}), verdict)
	}
	printTable(out, results)
	if verdict == nil {
		say("\nBehind levee every connection was completed.\n")
	}
	return verdict
}
