package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"levee/integration/lab"
)

// floodsConfig is what levee-lab floods is told.
type floodsConfig struct {
	levee, out, commit, date string
	rate                     int
	duration                 time.Duration
}

func newFloods() *cobra.Command {
	var cfg floodsConfig
	cmd := &cobra.Command{
		Use:   "floods",
		Short: "Flood a server with every kind of TCP segment, and see what becomes of honest clients",
		Long: "Flood a server behind levee with every kind of TCP segment, over IPv4 and IPv6, with forged sources and without,\n" +
			"first alone, then while honest clients connect, in the mode always, and those of no connection in auto too. It needs root. It ends with 0 only if all of them were served.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.rate < 1 || cfg.duration <= 0 || cfg.duration > time.Minute {
				return misuse{fmt.Errorf("--rate %d --duration %v: use 1 or more, and up to 1m", cfg.rate, cfg.duration)}
			}
			daemon := demoConfig{levee: cfg.levee}
			if err := daemon.findLevee(); err != nil {
				return err
			}
			cfg.levee = daemon.levee
			return runFloods(cmd, &cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.levee, "levee", "", "the levee `binary` (default: next to levee-lab, or in PATH)")
	f.IntVar(&cfg.rate, "rate", 50_000, "packets a second")
	f.DurationVar(&cfg.duration, "duration", 2*time.Second, "how long each flood lasts before honest clients come")
	f.StringVar(&cfg.out, "out", "", "write the report as Markdown into this `file`")
	f.StringVar(&cfg.commit, "commit", "", "what the report says was measured, as from git describe")
	f.StringVar(&cfg.date, "date", "", "when, as the report says")
	return cmd
}

// floodsYAML protects the lab's servers. Segments of unknown connections don't pass, where that is levee's business.
func floodsYAML(mode string) string {
	return fmt.Sprintf(`
metrics: {listen: none}
flows: {grace: 0s}
services: [{name: lab, prefixes: [%s, "%s"], ports: [80], mode: %s}]
`, lab.ServerPrefix4, lab.ServerPrefix6, mode)
}

func runFloods(cmd *cobra.Command, cfg *floodsConfig) (err error) {
	l, err := lab.New(lab.Config{Attacker: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	server := l.Servers[0]
	if _, err := server.StartWeb(0, server.AddrPort(false, 80), server.AddrPort(true, 80)); err != nil {
		return err
	}
	report := &floodsReport{cfg: cfg}
	if report.rows, err = tryFloods(cmd, cfg, l, "always", lab.FloodKinds(), sourceForged, sourceOwn, sourceConnection); err != nil {
		return err
	}
	// What has open connections for source is treated as above, and SYNs are another matter: see engage.
	if report.passing, err = tryFloods(cmd, cfg, l, "auto", floodsOfNoFlow(), sourceForged, sourceOwn); err != nil {
		return err
	}
	if cfg.out != "" {
		var b strings.Builder
		report.write(&b)
		if err := os.WriteFile(cfg.out, []byte(b.String()), 0o644); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
	}
	return report.err()
}

// Where the packets of a flood come from.
const (
	sourceForged     = "forged, random"
	sourceOwn        = "attacker's own"
	sourceConnection = "open connection"
)

// floodsOfNoFlow are the kinds that consist of segments of no connection.
func floodsOfNoFlow() []lab.FloodKind {
	return []lab.FloodKind{lab.FloodACK, lab.FloodSYNACK, lab.FloodRST, lab.FloodFIN}
}

// tryFloods makes the rows of a mode.
func tryFloods(cmd *cobra.Command, cfg *floodsConfig, l *lab.Lab, mode string, kinds []lab.FloodKind, sources ...string) (rows []floodsRow, err error) {
	if _, err := fmt.Fprintf(cmd.OutOrStdout(), "mode: %s\n", mode); err != nil {
		return nil, err
	}
	lv, err := l.StartLevee(cmd.Context(), cfg.levee, floodsYAML(mode))
	if err != nil {
		return nil, err
	}
	for _, v6 := range []bool{false, true} {
		for _, kind := range kinds {
			for _, source := range sources {
				row, err := tryFlood(cmd, cfg, l, lv, kind, v6, source)
				if err != nil {
					return nil, err
				}
				rows = append(rows, row)
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), row); err != nil {
					return nil, err
				}
			}
		}
	}
	return rows, lv.Stop()
}

// tryFlood makes one row.
func tryFlood(cmd *cobra.Command, cfg *floodsConfig, l *lab.Lab, lv *lab.Levee, kind lab.FloodKind, v6 bool, source string) (floodsRow, error) {
	ctx, target := cmd.Context(), l.Servers[0].AddrPort(v6, 80)
	flood := lab.FloodConfig{
		Target: target, Kind: kind, Rate: cfg.rate, Count: lab.MaxFloodCount, Duration: cfg.duration, Options: lab.LinuxSYN,
	}
	switch source {
	case sourceOwn:
		flood.Source = l.Attacker.AddrPort(v6, 0)
	case sourceConnection:
		c, err := l.Clients[0].DialContext(ctx, "tcp", target.String())
		if err != nil {
			return floodsRow{}, err
		}
		defer c.Close()
		flood.Source = c.LocalAddr().(*net.TCPAddr).AddrPort()
	}
	trial, err := l.TryFlood(ctx, lv, flood, lab.Load{URLs: []string{lab.URL(target, "/bytes/1000")}, Attempts: 50, Rate: 50, Timeout: 10 * time.Second})
	return floodsRow{FloodTrial: trial, v6: v6, source: source}, err
}

// floodsRow is one flood's line.
type floodsRow struct {
	*lab.FloodTrial
	v6     bool
	source string
}

func (r floodsRow) family() string {
	if r.v6 {
		return "IPv6"
	}
	return "IPv4"
}

// cells are kind, family, source, honest clients served, the median and the slowest of them, levee's CPU time for a packet, its memory after, and packets
// it sent for one of the flood.
func (r floodsRow) cells() []string {
	return []string{
		r.Kind.String(), r.family(), r.source,
		fmt.Sprintf("%d of %d", r.Honest.Completed, r.Honest.Tried),
		fmt.Sprintf("%.1f ms", r.Honest.Percentile(0.5).Seconds()*1e3),
		fmt.Sprintf("%.0f ms", r.Honest.Percentile(1).Seconds()*1e3),
		fmt.Sprintf("%.1f µs", r.CPU.Seconds()*1e6/float64(max(r.Sent, 1))),
		fmt.Sprintf("%.0f MB", float64(r.Memory)/1e6),
		fmt.Sprintf("%.3f", r.PerPacket()),
	}
}

// String is the row for a terminal.
func (r floodsRow) String() string {
	c := r.cells()
	return fmt.Sprintf("%-10s%-6s%-17s%-10s%9s%10s%9s%8s%7s", c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8])
}

// floodsReport is all rows: of the mode always, and of auto while nothing is engaged.
type floodsReport struct {
	cfg           *floodsConfig
	rows, passing []floodsRow
}

// expected says whether all honest clients are to be served in a row: not if SYNs by the thousand are forged in the name of their own network.
func (r floodsRow) expected() bool {
	return r.source != sourceConnection || r.Kind != lab.FloodSYN && r.Kind != lab.FloodMixed
}

// err names the rows whose honest clients were not all served.
func (r *floodsReport) err() error {
	var errs []error
	for _, row := range slices.Concat(r.rows, r.passing) {
		if row.expected() && row.Honest.Completed != row.Honest.Tried {
			errs = append(errs, fmt.Errorf("%v, %s, %s: %d of %d honest connections", row.Kind, row.family(), row.source, row.Honest.Completed, row.Honest.Tried))
		}
	}
	return errors.Join(errs...)
}

const floodsIntroduction = `# Floods

Made by ` + "`levee-lab floods --out docs/floods.md`" + `. Each flood comes in at %d packets a second for %v, alone: from this are levee's CPU time for a packet and
how many packets it sends for one. Then it goes on while 50 honest clients connect, fetch a page and close, 50 a second. The memory is levee's,
resident, after that. The flood, the clients, the server and levee share one machine.

The sources are forged at random, or the attacker's own address, or address and port of an honest client that has an open connection.

- SYNs are answered once, each within a budget of its source's network: the attacker's own gets %d a second. The same budget is what honest
  clients have to share with whoever forges their very network by the thousand; ` + "`verified`" + ` and ` + "`allow`" + ` are the ways around it.
- Segments with the addresses and ports of an open connection are not answered, but forwarded for the hosts to judge (RFC 5961), as they
  would be without levee; what the server answers counts too. SYNs are answered with a cookie.
- 100 fragments a second pass, as they may have overtaken the first.

The service has ` + "`mode: always`" + `, in which every SYN is answered with a cookie. [engage.md](engage.md) plots a flood in ` + "`mode: auto`" + `; what is
different there otherwise [comes last](#in-the-mode-auto).

`

const floodsPassing = `
## In the mode auto

Where nothing is engaged, levee keeps out of the way: it has not seen the handshakes of all connections, and records may have had to make room. So
segments of no connection reach the server as they would without levee, whatever ` + "`unknown`" + ` says, and a server answers all of them with resets but
resets themselves: two packets are sent for one, to the addresses that were forged too. Only SYNs engage a destination, so a flood of these never does, and
levee has no alarm for it; ` + "`levee status`" + ` counts them as passed for ` + "`unknown`" + `. If servers have to be spared that, use ` + "`mode: always`" + `. While a
destination is engaged they are dropped there as above.

`

func (r *floodsReport) write(w io.Writer) {
	fmt.Fprintf(w, floodsIntroduction, r.cfg.rate, r.cfg.duration, 1000)
	r.table(w, r.rows)
	fmt.Fprint(w, floodsPassing)
	r.table(w, r.passing)
}

// table writes rows, and when they were measured.
func (r *floodsReport) table(w io.Writer, rows []floodsRow) {
	if r.cfg.commit != "" {
		fmt.Fprintf(w, "Measured: %s, %s.\n\n", r.cfg.commit, r.cfg.date)
	}
	header := []string{"flood", "family", "sources", "honest clients served", "median", "slowest", "CPU a packet", "memory", "sent for one"}
	fmt.Fprintf(w, "| %s |\n|%s\n", strings.Join(header, " | "), strings.Repeat("---|", len(header)))
	for _, row := range rows {
		fmt.Fprintf(w, "| %s |\n", strings.Join(row.cells(), " | "))
	}
}
