package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"levee/cmd/levee/control"
	"levee/proxy"
	"levee/tunnel"
)

func newStatus(file *string) *cobra.Command {
	cmd := &cobra.Command{Use: "status", Short: "Show how the daemon is doing"}
	output := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client, err := daemonOf(*file)
		if err != nil {
			return err
		}
		status, err := client.Status(cmd.Context())
		if err != nil {
			return err
		}
		if *output == formatJSON {
			return writeJSON(cmd.OutOrStdout(), status)
		}
		return writeStatus(cmd.OutOrStdout(), status)
	}
	return cmd
}

// columns is how wide a screen is at least.
const columns = 80

func writeStatus(w io.Writer, s control.Status) error {
	var b bytes.Buffer
	ready := "ready"
	if !s.Ready {
		ready = "not ready"
	}
	fmt.Fprintf(&b, "levee %s, %s, up %v\n", s.Version, ready, time.Duration(s.UptimeSeconds)*time.Second)
	if s.Drain != nil {
		writeWrapped(&b, "", drainText(*s.Drain)+"; new ones go to the servers themselves")
	}
	if s.NotUpgraded != "" {
		writeWrapped(&b, "PROBLEM", "not upgraded: "+s.NotUpgraded)
	}
	if !s.Configuration.LastReloadSuccessful {
		fmt.Fprintf(&b, "config of %s; the latest reload failed:\n", s.Configuration.LoadedAt.Format(time.DateTime))
		writeUnder(&b, s.Configuration.LastError)
	}
	for _, problem := range s.Kernel.Problems {
		writeWrapped(&b, "PROBLEM", problem)
	}
	writeFloods(&b, &s)
	fmt.Fprintf(&b, "tun    %s, %s, offload %s\n", s.TUN.Name, count(s.TUN.Queues, "queue"), s.TUN.Offload)
	if s.TUN.OnFailure != "" {
		what := map[string]string{"block": "drops", "bypass": "forwards"}[s.TUN.OnFailure]
		writeUnder(&b, fmt.Sprintf("on failure %s: without levee, or its TUN, the kernel %s all TCP and ICMP of the prefixes, whatever the port", s.TUN.OnFailure, what))
	}
	switch s.TUN.Notrack {
	case "exempt":
		b.WriteString("       exempt from connection tracking\n")
	case "tracked":
		b.WriteString("       connections are TRACKED: rules that drop ct state invalid break them\n")
	}
	steering := s.TUN.Steering
	if len(s.TUN.Rings) > 0 {
		lost := map[string]uint64{}
		for _, r := range s.TUN.Rings {
			lost[r.Takes] += r.Dropped
		}
		steering += fmt.Sprintf("; lost to full queues: %s first SYNs, %s repeated, %s others",
			number(lost[tunnel.FirstSYNs.String()]), number(lost[tunnel.RepeatedSYNs.String()]), number(lost[tunnel.Flows.String()]))
	}
	writeUnder(&b, "steering "+steering)
	if len(s.TUN.Rings) == 0 { // nobody counts by queue; the kernel still counts them all
		fmt.Fprintf(&b, "       lost to full queues: %d packets\n", s.TUN.TxDrops)
	}
	fmt.Fprintf(&b, "flows  %d open, %d opening, %d closing, %d remembered\n       of %d at most",
		s.Flows.Open, s.Flows.Opening, s.Flows.Closing, s.Flows.Remembered, s.Flows.Capacity)
	if s.Flows.Evicted > 0 {
		fmt.Fprintf(&b, "; %d forgotten before their time", s.Flows.Evicted)
	}
	b.WriteByte('\n')
	switch k := s.Flows.Kept; {
	case k.File != "":
		fmt.Fprintf(&b, "       kept in %s; %d went on from before, %d lost\n", k.File, k.Restored, k.Lost)
	case k.Why != "":
		writeUnder(&b, "end with the daemon: "+k.Why)
	}
	writeEarly(&b, s)
	b.WriteByte('\n')

	writeServices(&b, s.Services)
	b.WriteByte('\n')
	writeCounts(&b, "drops ", s.Drops)
	writeCounts(&b, "passed", s.Passed)
	if s.TUN.RxDrops > 0 || s.TUN.TxDrops > 0 {
		fmt.Fprintf(&b, "tun drops %d for levee, %d from levee\n", s.TUN.TxDrops, s.TUN.RxDrops)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// writeUnder writes a text under what a line above it says behind its title.
func writeUnder(b *bytes.Buffer, text string) { writeHanging(b, "       ", text) }

// shownServices is how many services fit a screen with all the rest; all are in the JSON, and in levee top.
const shownServices = 6

// writeServices shows those services that matter most if there are too many.
func writeServices(b *bytes.Buffer, all []control.Service) {
	services := foremost(all, shownServices)
	const row = "%-20s %-8s %12s %12s %12s %11s\n"
	fmt.Fprintf(b, row, "SERVICE", "MODE", "SYN", "COOKIE GOOD", "COOKIE BAD", "FLOWS")
	for _, v := range services {
		fmt.Fprintf(b, row, column(b, v.Name, 20), v.Mode, number(v.SynReceived), number(v.CookieValid), number(v.CookieInvalid), number(uint64(v.Flows)))
	}
	for _, v := range services {
		if v.Allowed+v.Denied+v.Verified > 0 {
			fmt.Fprintf(b, "%-20s allowed %s, denied %s, verified %s\n", column(b, v.Name, 20), number(v.Allowed), number(v.Denied), number(v.Verified))
		}
	}
	writeWatched(b, services)
	if more := len(all) - len(services); more > 0 {
		fmt.Fprintf(b, "and %s: levee top, levee status -o json\n", count(more, "quieter service"))
	}
}

// column returns a word for a column of that width. A wider one, which would look like others if it were cut, gets a line of its own.
func column(b *bytes.Buffer, word string, width int) string {
	if len(word) <= width {
		return word
	}
	b.WriteString(word + "\n")
	return ""
}

// foremost is n of the services, in their order: those that are flooded or nearest to it, and then those with the most SYNs.
func foremost(all []control.Service, n int) []control.Service {
	if len(all) <= n {
		return all
	}
	ranked := slices.Clone(all)
	slices.SortStableFunc(ranked, func(a, b control.Service) int {
		return cmp.Or(cmp.Compare(nearness(&b), nearness(&a)), cmp.Compare(b.SynReceived+b.SynPassed, a.SynReceived+a.SynPassed))
	})
	return slices.DeleteFunc(slices.Clone(all), func(v control.Service) bool {
		return !slices.ContainsFunc(ranked[:n], func(r control.Service) bool { return r.Name == v.Name })
	})
}

// nearness is how near a service is to what engages, from 0 to 1, and more if it is flooded.
func nearness(v *control.Service) float64 {
	e := v.Engagement
	switch {
	case v.FloodSeconds > 0:
		return 2
	case e == nil:
		return 0
	}
	return min(1, max(float64(e.HalfOpenNow)/float64(max(e.HalfOpen, 1)), float64(e.SynRateNow)/float64(max(e.SynRate, 1))))
}

// writeWatched says of each service of mode auto or monitor from when on it is flooded.
func writeWatched(b *bytes.Buffer, services []control.Service) {
	for _, v := range services {
		if e := v.Engagement; e != nil {
			text := fmt.Sprintf("%s: %s SYNs passed, half_open %d (%d engages), syn_rate %d (%d engages)",
				v.Name, number(v.SynPassed), e.HalfOpenNow, e.HalfOpen, e.SynRateNow, e.SynRate)
			if v.Mode == proxy.ModeMonitor.String() {
				text += fmt.Sprintf("; mode auto would have answered %s SYNs, dropped %s packets", number(e.WouldAnswer), number(e.WouldDrop))
			}
			writeWrapped(b, v.Mode, text)
		}
	}
}

// shownFloods is how many past floods fit a glance; all are in the JSON.
const shownFloods = 3

// writeFloods says of each service that is flooded since when, and how the honest clients fare, and of what was before.
func writeFloods(b *bytes.Buffer, s *control.Status) {
	var over []control.Flood
	lasting := make(map[string]control.Flood)
	for _, f := range s.Floods {
		if f.End != nil {
			over = append(over, f)
		} else {
			lasting[f.Service] = f
		}
	}
	for _, v := range s.Services {
		if v.FloodSeconds == 0 {
			continue
		}
		flood, known := lasting[v.Name]
		since := "for " + age(v.FloodSeconds)
		if known {
			since = fmt.Sprintf("since %s (%s)", flood.Start.Format(time.DateTime), age(v.FloodSeconds))
		}
		text := fmt.Sprintf("%s, %s: %.0f SYNs a second, ", v.Name, since, v.Rates.Syn)
		if v.Mode == proxy.ModeMonitor.String() {
			text += "which all go to the servers"
		} else {
			text += fmt.Sprintf("%.0f clients a second return their cookie, %.0f are connected, %.0f fail at the server", v.Rates.CookieValid, v.Rates.Opened, v.Rates.Failed)
		}
		writeWrapped(b, "FLOOD", text)
		if known {
			writeWrapped(b, "peak", floodText(&flood))
		}
	}
	for _, f := range over[max(len(over)-shownFloods, 0):] {
		writeWrapped(b, "past flood", fmt.Sprintf("%s, %s, for %s: %s", f.Service, f.Start.Format(time.DateTime), age(f.Seconds), floodText(&f)))
	}
}

// floodText is how large a flood is or was.
func floodText(f *control.Flood) string {
	text := fmt.Sprintf("%d SYNs a second at most", f.PeakSynRate)
	if f.Top != "" {
		text += fmt.Sprintf(", %d to %s", f.TopSynRate, f.Top)
	}
	if f.Destinations > 1 {
		text += fmt.Sprintf("; %d destinations", f.Destinations)
	}
	if f.Spread {
		text += "; spread over the whole service"
	}
	if f.Monitored {
		text += "; nothing is done about it, mode monitor"
	}
	return text
}

// writeEarly says how full the pool of early data is and what became of segments that it was to hold, if there is one.
func writeEarly(b *bytes.Buffer, s control.Status) {
	if s.EarlyData.Size == 0 {
		return
	}
	var held uint64
	for _, v := range s.Services {
		held += v.EarlyHeld
	}
	fmt.Fprintf(b, "early  %d of %d KiB in use\n       %d segments were held, %d found no room\n",
		(s.EarlyData.Used+1023)>>10, s.EarlyData.Size>>10, held, s.Drops[proxy.DropEarlyFull.String()])
}

// writeCounts lists what is not 0, the most first, in lines of at most columns.
func writeCounts(b *bytes.Buffer, title string, counts map[string]uint64) {
	words := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		if counts[a] != counts[b] {
			if counts[a] > counts[b] {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	line := title + " "
	empty := true
	for _, word := range words {
		if counts[word] == 0 {
			continue
		}
		item := fmt.Sprintf("%s %d", word, counts[word])
		switch {
		case empty:
			line += item
		case len(line)+len(", ")+len(item) >= columns:
			b.WriteString(line + ",\n")
			line = strings.Repeat(" ", len(title)+1) + item
		default:
			line += ", " + item
		}
		empty = false
	}
	if empty {
		line += "none"
	}
	b.WriteString(line + "\n")
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// number writes n in full if it fits its column, else in millions or in millions of millions.
func number(n uint64) string {
	const million = 1_000_000
	switch {
	case n < 1e12:
		return strconv.FormatUint(n, 10)
	case n < 1e11*million:
		return strconv.FormatUint(n/million, 10) + "M"
	}
	return strconv.FormatUint(n/million/million, 10) + "T"
}

// clip cuts an ASCII word to its column.
func clip(s string, width int) string {
	if len(s) <= width {
		return s
	}
	return s[:width-1] + "~"
}
