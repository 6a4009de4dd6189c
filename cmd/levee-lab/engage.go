package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"levee/integration/lab"
)

// engageConfig is what levee-lab engage is told.
type engageConfig struct {
	levee, out, commit, date string
	rate                     int
	flood, hold              time.Duration
}

func newEngage() *cobra.Command {
	var cfg engageConfig
	cmd := &cobra.Command{
		Use:   "engage",
		Short: "Flood one destination between two quiet times, and plot what mode auto does",
		Long: "Let clients connect to four destinations behind levee in mode auto and use connections that are open, while one of the\n" +
			"destinations is flooded for a time. It needs root, and ends with 0 only if that destination alone was engaged, within a second, was\n" +
			"let go again, and nobody noticed.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.rate < 1000 || cfg.flood < time.Second || cfg.flood > time.Minute || cfg.hold < time.Second || cfg.hold > time.Minute {
				return misuse{fmt.Errorf("--rate %d --duration %v --hold %v: use 1000 or more, and 1s to 1m", cfg.rate, cfg.flood, cfg.hold)}
			}
			daemon := demoConfig{levee: cfg.levee}
			if err := daemon.findLevee(); err != nil {
				return err
			}
			cfg.levee = daemon.levee
			return runEngage(cmd, &cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.levee, "levee", "", "the levee `binary` (default: next to levee-lab, or in PATH)")
	f.IntVar(&cfg.rate, "rate", 10_000, "SYNs a second")
	f.DurationVar(&cfg.flood, "duration", 8*time.Second, "how long the flood lasts")
	f.DurationVar(&cfg.hold, "hold", 5*time.Second, "the service's engage.hold")
	f.StringVar(&cfg.out, "out", "", "write engage.md and engage.svg into this `folder`")
	f.StringVar(&cfg.commit, "commit", "", "what the report says was measured, as from git describe")
	f.StringVar(&cfg.date, "date", "", "when, as the report says")
	return cmd
}

// echoPort and otherPort are where the servers listen.
const echoPort, otherPort = 7, 8

func runEngage(cmd *cobra.Command, cfg *engageConfig) (err error) {
	l, err := lab.New(lab.Config{Attacker: true, Servers: 2})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	course := lab.Course{
		Targets: []netip.AddrPort{
			l.Servers[0].AddrPort(false, echoPort), l.Servers[0].AddrPort(false, otherPort),
			l.Servers[1].AddrPort(false, echoPort), l.Servers[0].AddrPort(true, echoPort),
		},
		Quiet: 4 * time.Second, Flood: cfg.flood, After: cfg.hold + 6*time.Second, Rate: cfg.rate, Every: 50 * time.Millisecond,
	}
	for i, s := range l.Servers {
		// As in the demo, servers that can't defend themselves.
		if err := s.SetSysctl("net/ipv4/tcp_syncookies", "0"); err != nil {
			return err
		}
		addrs := []netip.AddrPort{course.Targets[2]}
		if i == 0 {
			addrs = []netip.AddrPort{course.Targets[0], course.Targets[1], course.Targets[3]}
		}
		if _, err := s.StartEcho(backlog, addrs...); err != nil {
			return err
		}
	}
	lv, err := l.StartLevee(cmd.Context(), cfg.levee, fmt.Sprintf(`
metrics: {listen: none}
flows: {grace: 0s}
services: [{name: lab, prefixes: [%s, "%s"], mode: auto, engage: {hold: %v}}]
`, lab.ServerPrefix4, lab.ServerPrefix6, cfg.hold))
	if err != nil {
		return err
	}
	r, err := course.Run(cmd.Context(), l, lv)
	if err != nil {
		return err
	}
	report := engageReport{cfg: cfg, course: &course, r: r}
	var b strings.Builder
	report.write(&b)
	if _, err := fmt.Fprint(cmd.OutOrStdout(), b.String()); err != nil {
		return err
	}
	if cfg.out != "" {
		for _, file := range []struct{ name, text string }{{"engage.md", b.String()}, {"engage.svg", engagePlot(&course, r)}} {
			if err := os.WriteFile(filepath.Join(cfg.out, file.name), []byte(file.text), 0o644); err != nil {
				return fmt.Errorf("write the report: %w", err)
			}
		}
	}
	return report.err()
}

// engageReport is what came of it.
type engageReport struct {
	cfg    *engageConfig
	course *lab.Course
	r      *lab.CourseResult
}

// flood is the only one that there was, or the zero value.
func (e *engageReport) flood() (f lab.FloodStatus) {
	if len(e.r.Status.Floods) == 1 {
		f = e.r.Status.Floods[0]
	}
	return f
}

// times are how long after its beginning the flood was noticed, and how long after its end it was over.
func (e *engageReport) times() (began, ended time.Duration) {
	f := e.flood()
	if f.End == nil {
		return 0, 0
	}
	return f.Start.Sub(e.r.Begin) - e.r.FloodFrom, f.End.Sub(e.r.Begin) - e.r.FloodTo
}

// err says what is not as it has to be.
func (e *engageReport) err() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	f := e.flood()
	if f.End == nil || f.Destinations != 1 || f.Spread || f.Top != e.course.Targets[0].String() {
		bad("the floods are %+v", e.r.Status.Floods)
	}
	began, ended := e.times()
	if began < 0 || began > time.Second {
		bad("engaged %v after the beginning of the flood", began)
	}
	if ended < e.cfg.hold || ended > e.cfg.hold+3*time.Second {
		bad("let go %v after the end of the flood", ended)
	}
	for i, n := range e.r.Retransmits {
		if n != 0 {
			bad("%d segments sent again on the open connection to %v", n, e.course.Targets[i])
		}
	}
	for _, p := range e.r.Points {
		if p.Err != nil {
			bad("at %v, %v, open %t: %w", p.At, e.course.Targets[p.Target], p.Open, p.Err)
		}
		if p.Retransmits != 0 && p.Target != 0 {
			bad("at %v, %v: %d segments sent again", p.At, e.course.Targets[p.Target], p.Retransmits)
		}
	}
	return errors.Join(errs...)
}
