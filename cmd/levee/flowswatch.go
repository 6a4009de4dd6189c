package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"levee/cmd/levee/control"
)

// Bounds of a watch.
const (
	defaultWatchEvery = time.Second
	minWatchEvery     = 100 * time.Millisecond
	maxWatchedFlows   = 10000
)

// flowEvent is what has become of a flow between two looks.
type flowEvent struct {
	Time time.Time `json:"time"`
	// Event is "new", "state" when it has another state than before, or "forgotten" when it is no longer in the table; where a state was asked for,
	// "left" in place of the latter: it may be in another.
	Event string       `json:"event"`
	Flow  control.Flow `json:"flow"`
}

func newFlowsWatch(file *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "watch [tcp CLIENT:PORT SERVER:PORT]",
		Short: "Show connections as they come, change and go",
		Long: "Look at the connections that the filters choose every second until interrupted, and show what has changed: new ones, those\n" +
			"in another state, and those that are no longer remembered; with --state those that have entered it, or left it. What\n" +
			"there is at the start is not shown: flows list does that. What comes and is forgotten between two looks is not seen.\n" +
			"With -o json each line is an object.",
		Example: "  levee flows watch --client 203.0.113.0/24\n  levee flows watch --service web --state open --every 5s",
	}
	output := addOutput(cmd)
	filter := addFilter(cmd, file)
	every := cmd.Flags().Duration("every", defaultWatchEvery, "look at them again after this `time`")
	length := cmd.Flags().Duration("for", 0, "end after this `time`; never, unless it is given")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := filter.check(); err != nil {
			return err
		}
		if *every < minWatchEvery || *length < 0 {
			return misused("--every and --for: use positive values, for --every %v or more", minWatchEvery)
		}
		client, err := daemonOf(*file)
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		if *length > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, *length)
			defer cancel()
		}
		filter.Limit = maxWatchedFlows + 1
		list := func(ctx context.Context) (flowTable, error) { return readFlows(ctx, client, filter.Filter) }
		gone := "forgotten"
		if filter.State != "" {
			gone = "left"
		}
		err = watchFlows(ctx, *every, gone, list, flowEventWriter(cmd.OutOrStdout(), *output))
		if ctx.Err() != nil && cmd.Context().Err() == nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
			return nil
		}
		return err
	}
	return cmd
}

// flowTable has the flows of one look by their ends.
type flowTable map[[2]netip.AddrPort]control.Flow

func readFlows(ctx context.Context, client *control.Client, filter control.Filter) (flowTable, error) {
	flows := flowTable{}
	err := client.Flows(ctx, filter, func(f control.Flow) error {
		flows[[2]netip.AddrPort{f.Client, f.Server}] = f
		return nil
	})
	if err == nil && len(flows) > maxWatchedFlows {
		err = fmt.Errorf("there are more than %d connections to watch: choose fewer, with --client or --service for example", maxWatchedFlows)
	}
	return flows, err
}

// watchFlows looks again and again until ctx is done, whose error it returns, and tells what has changed. gone is the event of what isn't listed any more.
func watchFlows(ctx context.Context, every time.Duration, gone string, list func(context.Context) (flowTable, error), tell func([]flowEvent) error) error {
	last, err := list(ctx)
	if err != nil {
		return err
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case at := <-ticker.C:
			now, err := list(ctx)
			if err != nil {
				return err
			}
			if err := tell(flowChanges(last, now, at, gone)); err != nil {
				return err
			}
			last = now
		}
	}
}

// flowChanges compares two looks; the oldest flows come first.
func flowChanges(before, now flowTable, at time.Time, gone string) (events []flowEvent) {
	for key, f := range now {
		old, known := before[key]
		switch {
		case !known || f.AgeSeconds < old.AgeSeconds: // or another connection between the same ends
			events = append(events, flowEvent{at, "new", f})
		case f.State != old.State:
			events = append(events, flowEvent{at, "state", f})
		}
	}
	for key := range maps.Keys(before) {
		if _, still := now[key]; !still {
			events = append(events, flowEvent{at, gone, before[key]})
		}
	}
	slices.SortFunc(events, func(a, b flowEvent) int {
		switch {
		case a.Flow.AgeSeconds > b.Flow.AgeSeconds:
			return -1
		case a.Flow.AgeSeconds < b.Flow.AgeSeconds:
			return 1
		}
		return a.Flow.Client.Compare(b.Flow.Client)
	})
	return events
}

// flowEventWriter returns what tells events on w.
func flowEventWriter(w io.Writer, output format) func([]flowEvent) error {
	paint := painterFor(w)
	return func(events []flowEvent) error {
		for _, e := range events {
			var err error
			if output == formatJSON {
				err = writeJSONLine(w, e)
			} else {
				_, err = io.WriteString(w, flowEventText(&e, paint))
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// flowEventText is one line, or two if the addresses are long.
func flowEventText(e *flowEvent, paint painter) string {
	f := &e.Flow
	head := fmt.Sprintf("%s %-9s", e.Time.Local().Format("15:04:05"), e.Event)
	ends := fmt.Sprintf("%v > %v", f.Client, f.Server)
	tail := strings.TrimSpace(fmt.Sprintf("%s %s %s %s/%s", clip(f.Service, 20), f.State, age(f.AgeSeconds), size(f.ClientBytes), size(f.ServerBytes)))
	separator := " "
	if len(head)+len(ends)+len(tail)+2 > columns {
		separator = "\n    "
	}
	return paint.paint(map[string]colour{"new": green, "forgotten": yellow, "left": yellow}[e.Event], head) + " " + ends + separator + tail + "\n"
}
