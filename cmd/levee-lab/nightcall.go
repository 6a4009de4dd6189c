package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"levee/integration/lab"
)

// nightCallConfig is what levee-lab night-call is told.
type nightCallConfig struct {
	levee, out, dashboard, commit, date string
}

func newNightCall() *cobra.Command {
	var cfg nightCallConfig
	cmd := &cobra.Command{
		Use:   "night-call",
		Short: "Flood a server behind levee, and record what an operator types and sees",
		Long: "Flood a server behind a levee in mode auto, and record in text what an operator who is called at night types and what\n" +
			"levee answers, from the quiet before to the quiet after. With --out\n" +
			"there are pictures beside the text: of levee top, and with --dashboard of a Grafana dashboard. It needs root, tshark to read what was captured, and\n" +
			"prometheus for the dashboard.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			daemon := demoConfig{levee: cfg.levee}
			if err := daemon.findLevee(); err != nil {
				return err
			}
			cfg.levee = daemon.levee
			return nightCall(cmd.Context(), cfg, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.levee, "levee", "", "the levee `binary` (default: next to levee-lab, or in PATH)")
	f.StringVar(&cfg.out, "out", "", "write the recording as Markdown into this `file`, not to the terminal")
	f.StringVar(&cfg.dashboard, "dashboard", "", "draw the Grafana dashboard in this `file` too, beside --out")
	f.StringVar(&cfg.commit, "commit", "", "which levee the recording says it is of, as from git describe")
	f.StringVar(&cfg.date, "date", "", "when, as the recording says")
	return cmd
}

const (
	// nightFlood is the attack, in segments a second: SYNs, and all other kinds of segments.
	nightFlood = 20_000
	// nightTrialFlood is that of the service that is only monitored, in SYNs a second.
	nightTrialFlood = 500
	// nightLoad is how many honest connections are begun each second all the while.
	nightLoad = 20
	// nightTrialPort is that of the service.
	nightTrialPort = 8080
	// nightHold is for how long a flood must be over before handshakes pass again: no night is that short, but this recording is.
	nightHold = 5 * time.Second
	// nightPatience bounds the wait for levee to notice that a flood has begun or ended.
	nightPatience = 30 * time.Second
)

// nightYAML is the configuration: a service, a customer who was locked out of it by mistake, and a service that is only monitored.
func nightYAML(denied string) string {
	return fmt.Sprintf(`metrics: {listen: %s}
flows: {grace: 0s}
services:
  - name: web
    prefixes: [%s, "%s"]
    ports: [80]
    mode: auto
    engage: {half_open: 100, syn_rate: 1000, hold: %v}
    deny: [%s]
  - name: trial
    prefixes: [%s, "%s"]
    ports: [8080]
    mode: monitor
    engage: {half_open: 100, syn_rate: 400, hold: %v}
`, nightMetrics, lab.ServerPrefix4, lab.ServerPrefix6, nightHold, denied, lab.ServerPrefix4, lab.ServerPrefix6, nightHold)
}

const nightIntroduction = `# Called at night

Customers can't connect, says the phone. This page is what an operator types then, and what levee answers. It is a recording, made by
` + "`levee-lab night-call`" + ` in network namespaces: nothing in it was written by hand but the sentences between the commands. The gateway protects one web
server at 192.0.2.10 in mode auto, with thresholds and a hold time of seconds, so that the night is short; 20 honest clients connect each second all the while. Another
service, trial, is new: mode monitor finds out what auto would do.
%s
`

// nightCall plays the night.
func nightCall(ctx context.Context, cfg nightCallConfig, out io.Writer) (err error) {
	l, err := lab.New(lab.Config{Clients: 2, Attacker: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	n := &night{lab: l, web: l.Servers[0].AddrPort(false, 80).String(), client: l.Clients[0].AddrPort(false, 0).Addr().String(),
		customer: l.Clients[1].AddrPort(false, 0).Addr().String()}
	n.out = cfg.out
	if _, err := l.Servers[0].StartWeb(0, l.Servers[0].AddrPort(false, 80), l.Servers[0].AddrPort(false, nightTrialPort)); err != nil {
		return err
	}
	if n.levee, err = l.StartLevee(ctx, cfg.levee, nightYAML(n.customer)); err != nil {
		return err
	}
	measured := ""
	if cfg.commit != "" {
		measured = fmt.Sprintf("\nRecorded: %s, %s.\n", cfg.commit, cfg.date)
	}
	fmt.Fprintf(&n.text, nightIntroduction, measured)
	if cfg.out != "" && cfg.dashboard != "" {
		if err := n.watch(ctx); err != nil {
			return err
		}
	}
	began := time.Now() // of what the dashboard shows
	if err := n.play(ctx); err != nil {
		return err
	}
	if cfg.out != "" && cfg.dashboard != "" {
		if err := sleepFor(ctx, nightRate); err != nil { // so that the end shows
			return err
		}
		n.say("## The night on the dashboard", "[grafana-dashboard.json](grafana-dashboard.json), with what a Prometheus that scraped levee each second answered to its queries. It is drawn by "+
			"`levee-lab`, by the\ndashboard's own layout, titles, units and legends; Grafana's own drawing looks different.")
		if err := n.show("dashboard", "The dashboard after the night", func() ([]byte, error) { return n.dashboard(ctx, cfg.dashboard, began, time.Now()) }); err != nil {
			return err
		}
	}
	if cfg.out == "" {
		_, err = out.Write(n.text.Bytes())
		return err
	}
	if err := os.WriteFile(cfg.out, n.text.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write the recording: %w", err)
	}
	return nil
}

// night is the recording.
type night struct {
	lab   *lab.Lab
	levee *lab.Levee
	// web is the server's address and port, client and customer are addresses of honest hosts; the customer is on a list that he should
	// not be on.
	web, client, customer string
	// out is the file that the recording goes to, empty for none.
	out  string
	text bytes.Buffer
}

// play is the night from the beginning to the end.
func (n *night) play(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	honest := make(chan error, 1)
	go func() {
		load := lab.Load{URLs: []string{"http://" + n.web + "/bytes/1000"}, Attempts: 60 * nightLoad * 10, Rate: nightLoad, Timeout: 10 * time.Second}
		_, err := load.Run(ctx, n.lab.Clients[0].Namespace)
		honest <- err
	}()
	err := n.scenes(ctx)
	cancel()
	if loaded := <-honest; loaded != nil && !errors.Is(loaded, context.Canceled) {
		err = errors.Join(err, loaded)
	}
	return err
}

func (n *night) scenes(ctx context.Context) error {
	if err := sleepFor(ctx, 2*time.Second); err != nil { // so that there is something to see
		return err
	}
	n.say("## An ordinary evening", "Handshakes pass to the server as they are.")
	if err := n.levees(ctx, "status"); err != nil {
		return err
	}
	top, err := n.openTop(ctx)
	if err != nil {
		return err
	}
	defer top.close()
	if err := sleepFor(ctx, 4*time.Second); err != nil { // so that top shows how it was before
		return err
	}
	flood, err := n.lab.Attacker.Link.StartFlood(ctx, lab.FloodConfig{
		Target: n.lab.Servers[0].AddrPort(false, 80), Kind: lab.FloodMixed, Rate: nightFlood, Count: lab.MaxFloodCount,
		Duration: time.Minute, Options: lab.LinuxSYN,
	})
	if err != nil {
		return err
	}
	trial, err := n.lab.Attacker.Link.StartFlood(ctx, lab.FloodConfig{
		Target: n.lab.Servers[0].AddrPort(false, nightTrialPort), Rate: nightTrialFlood, Count: lab.MaxFloodCount,
		Duration: time.Minute, Options: lab.LinuxSYN,
	})
	if err != nil {
		_, stopped := flood.Stop()
		return errors.Join(err, stopped)
	}
	flooding := true
	stop := func() error {
		if !flooding {
			return nil
		}
		flooding = false
		_, err := flood.Stop()
		_, stopped := trial.Stop()
		return errors.Join(err, stopped)
	}
	defer func() { _ = stop() }() // if something else has failed
	if err := n.await(ctx, true); err != nil {
		return err
	}
	if err := sleepFor(ctx, 2*time.Second); err != nil {
		return err
	}
	n.say("## The phone rings", "Is there an attack, on what, since when, and do customers get through? One screen says it.")
	if err := n.levees(ctx, "status"); err != nil {
		return err
	}
	n.say("", "The same in motion: `levee top` fills a terminal; this is one frame of it.")
	if err := n.levees(ctx, "top", "--once", "--for", "4s"); err != nil {
		return err
	}
	if err := n.show("top", "levee top in a terminal", top.draw); err != nil {
		return err
	}
	n.say("", "What is it that levee throws away?")
	if err := n.levees(ctx, "observe", "--verdict", "drop", "-n", "8", "--rate", "4"); err != nil {
		return err
	}
	n.say("", "What would happen to an honest client who connects now?")
	if err := n.levees(ctx, "explain", "tcp", n.client, n.web); err != nil {
		return err
	}
	n.say("## One customer still can't connect", "He gives his address. It was put on a list one day, and nobody took it off:")
	if err := n.levees(ctx, "explain", "tcp", n.customer, n.web); err != nil {
		return err
	}
	n.say("## Evidence for the morning", "Packets that were dropped, each with its reason, for Wireshark or tshark:")
	file := filepath.Join(n.levee.Dir, "drops.pcapng")
	if err := n.levees(ctx, "capture", "--verdict", "drop", "-n", "500", "--for", "10s", "-w", file); err != nil {
		return err
	}
	if err := n.shell(ctx, "tshark -r "+file+" -T fields -e frame.comment | sort | uniq -c | sort -rn"); err != nil {
		return err
	}
	if err := n.shell(ctx, "tshark -r "+file+" -c 6 -T fields -e ip.src -e tcp.srcport -e tcp.flags.str -e frame.comment"); err != nil {
		return err
	}
	if err := stop(); err != nil {
		return err
	}
	if err := n.await(ctx, false); err != nil {
		return err
	}
	n.say("## Quiet again", "The attack is over, and after the hold time handshakes pass again.")
	if err := n.levees(ctx, "status"); err != nil {
		return err
	}
	n.say("", "The daemon's log has one line for the beginning and one for the end.")
	for deadline := time.Now().Add(nightPatience); ; {
		var lines []string
		for line := range strings.Lines(n.levee.Log()) {
			if strings.Contains(line, "flood") && strings.Contains(line, "service=web") {
				lines = append(lines, line)
			}
		}
		if len(lines) == 2 {
			n.block("journalctl -u levee | grep flood.*service=web", strings.Join(lines, ""))
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the log has %d lines about the flood, not two:\n%s", len(lines), n.levee.Log())
		}
		if err := sleepFor(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// await waits until levee says that the services are flooded, or that none is.
func (n *night) await(ctx context.Context, flooded bool) error {
	for deadline := time.Now().Add(nightPatience); time.Now().Before(deadline); {
		status, err := n.levee.Status(ctx)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(status.Services, func(s lab.ServiceStatus) bool { return s.Engagement.Engaged != flooded }) {
			return nil
		}
		if err := sleepFor(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("levee has not noticed within %v that the flood has begun or ended; its log:\n%s", nightPatience, n.levee.Log())
}

// say begins a part, or goes on with one if the heading is empty.
func (n *night) say(heading, sentence string) {
	if heading != "" {
		fmt.Fprintf(&n.text, "\n%s\n", heading)
	}
	fmt.Fprintf(&n.text, "\n%s\n", sentence)
}

// block is a command and what it said. Temporary files go by their names.
func (n *night) block(command, output string) {
	text := fmt.Sprintf("\n```\n# %s\n%s\n```\n", command, strings.TrimRight(output, "\n"))
	n.text.WriteString(strings.ReplaceAll(text, n.levee.Dir+"/", ""))
}

// levees runs a verb of levee and records it.
func (n *night) levees(ctx context.Context, verb string, args ...string) error {
	return n.record(n.levee.Command(ctx, verb, args...), strings.Join(append([]string{"levee", verb}, args...), " "))
}

func (n *night) shell(ctx context.Context, line string) error {
	return n.record(n.lab.Gateway.Command(ctx, "sh", "-c", "exec 2>/dev/null; "+line), line)
}

func (n *night) record(c *lab.Command, as string) error {
	if err := c.Run(); err != nil {
		return fmt.Errorf("%s: %w", as, err)
	}
	out := c.Output()
	if out == "" {
		return fmt.Errorf("%s: it said nothing", as)
	}
	n.block(as, out)
	return nil
}

// sleepFor waits, or returns why it could not.
func sleepFor(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
