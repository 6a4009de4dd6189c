package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"levee/cmd/levee/control"
	"levee/proxy"
)

// Bounds of an observation that doesn't follow.
const (
	defaultObserveCount = 20
	defaultObserveFor   = 10 * time.Second
)

func newObserve(file *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "observe",
		Short: "Show what becomes of packets, as it happens",
		Long: "Show samples of what the daemon decides about packets, as it happens: the first 20, or those of 10 seconds, or with\n" +
			"-f until it is interrupted. Looking on never slows the daemon: what is too much is counted and not shown, and a line\n" +
			"says so. With -o json each line is an object, with a decision or with how many were shown.",
		Example: "  levee observe --verdict drop\n  levee observe -f --reason cookie_invalid --service web\n  levee observe -f --prefix 203.0.113.0/24 -o json",
	}
	output := addOutput(cmd)
	var w control.Watch
	addWatch(cmd, file, &w, control.DefaultWatchRate)
	follow := cmd.Flags().BoolP("follow", "f", false, "go on until interrupted")
	cmd.Flags().IntVarP(&w.Count, "count", "n", defaultObserveCount, "end after so `many`, 0 for never; with -f never, unless it is given")
	cmd.Flags().DurationVar(&w.For, "for", defaultObserveFor, "end after this `time`, 0 for never; with -f never, unless it is given")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *follow && !cmd.Flags().Changed("count") {
			w.Count = 0
		}
		if *follow && !cmd.Flags().Changed("for") {
			w.For = 0
		}
		out := cmd.OutOrStdout()
		if *output == formatJSON {
			return watch(cmd.Context(), *file, w, func(o control.Observation) error { return writeJSONLine(out, o) })
		}
		return watch(cmd.Context(), *file, w, newDecisionPrinter(out).print)
	}
	return cmd
}

// addWatch gives a verb the flags that choose decisions.
func addWatch(cmd *cobra.Command, file *string, w *control.Watch, rate int) {
	flags := cmd.Flags()
	flags.Var((*listValue)(&w.Verdicts), "verdict", "only these `verdicts`: "+strings.Join(control.VerdictWords(), ", "))
	flags.Var((*listValue)(&w.Reasons), "reason", "only what is dropped or passed for these `reasons`, the words of levee status")
	flags.Var((*wordValue)(&w.Service), "service", "only what concerns the service with this `name`")
	flags.Var((*prefixValue)(&w.Prefix), "prefix", "only what comes from or goes to this `prefix` or address")
	flags.IntVar(&w.Rate, "rate", rate, "show at most so `many` a second")
	completeWords(cmd, "verdict", control.VerdictWords())
	completeWords(cmd, "reason", control.ReasonWords())
	completeServices(cmd, file)
	completePrefixes(cmd, "prefix", file)
}

// prefixValue is a prefix as a flag; an address is the prefix of itself alone.
type prefixValue netip.Prefix

// String implements pflag.Value.
func (p *prefixValue) String() string {
	if !netip.Prefix(*p).IsValid() {
		return ""
	}
	return netip.Prefix(*p).String()
}

// Type implements pflag.Value.
func (*prefixValue) Type() string { return "prefix" }

// Set implements pflag.Value.
func (p *prefixValue) Set(s string) error {
	if a, err := netip.ParseAddr(s); err == nil {
		*p = prefixValue(netip.PrefixFrom(a, a.BitLen()))
		return nil
	}
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		return errors.New("write an address or a prefix, such as 192.0.2.0/24 or 2001:db8::/64")
	}
	*p = prefixValue(prefix.Masked())
	return nil
}

// watch observes until there is no more to see, or until it is interrupted, which is no error.
func watch(parent context.Context, file string, w control.Watch, yield func(control.Observation) error) error {
	if err := w.Check(); err != nil {
		return misused("%w", err)
	}
	if w.Count < 0 || w.For < 0 {
		return misused("--count and --for: use positive values, or 0 for no end")
	}
	if w.Rate < 1 || w.Rate > proxy.MaxObserveRate {
		return misused("--rate %d: use 1 to %d", w.Rate, proxy.MaxObserveRate)
	}
	client, err := daemonOf(file)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(parent, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err = client.Observe(ctx, w, yield)
	if errors.Is(err, context.Canceled) && ctx.Err() != nil && parent.Err() == nil {
		return nil
	}
	return err
}

// decisionPrinter writes decisions for people.
type decisionPrinter struct {
	w     io.Writer
	paint painter
	// told is the last sample that was told.
	told control.Sample
}

func newDecisionPrinter(w io.Writer) *decisionPrinter {
	return &decisionPrinter{w: w, paint: painterFor(w)}
}

// verdictColours are for the verdicts that stand out.
var verdictColours = map[string]colour{"drop": red, "refuse": yellow, "pass": yellow, "open": green, "splice": green}

func (p *decisionPrinter) print(o control.Observation) error {
	var err error
	switch {
	case o.Decision != nil:
		_, err = io.WriteString(p.w, decisionText(o.Decision, p.paint))
	case o.Sample.Matched > o.Sample.Shown && o.Sample.Matched-o.Sample.Shown > p.told.Matched-p.told.Shown:
		p.told = *o.Sample
		_, err = fmt.Fprintf(p.w, "# %d of %d shown\n", o.Sample.Shown, o.Sample.Matched)
	}
	return err
}

// decisionText is one line, or two if the addresses are long.
func decisionText(d *control.Decision, paint painter) string {
	words := []string{d.Time.Local().Format("15:04:05.000"), d.Verdict}
	if d.Reason != "" {
		words = append(words, d.Reason)
	}
	if d.Service != "" {
		words = append(words, clip(d.Service, 20))
	}
	ends := fmt.Sprintf("%v > %v", d.Src, d.Dst)
	switch {
	case d.Protocol == 0:
		ends = fmt.Sprintf("%d bytes of no sound packet", d.Length)
	case d.Protocol != syscall.IPPROTO_TCP:
		ends = fmt.Sprintf("%v > %v protocol %d", d.Src.Addr(), d.Dst.Addr(), d.Protocol)
	case d.Flags != "":
		ends += fmt.Sprintf(" [%s]", d.Flags)
		if d.Payload > 0 {
			ends += fmt.Sprintf(" %d", d.Payload)
		}
	}
	head := strings.Join(words, " ")
	separator := " "
	if len(head)+1+len(ends) > columns {
		separator = "\n    "
	}
	coloured := slices.Clone(words)
	coloured[1] = paint.paint(verdictColours[d.Verdict], d.Verdict)
	return strings.Join(coloured, " ") + separator + ends + "\n"
}
