package main

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"levee/cmd/levee/control"
	"levee/proxy"
	"levee/routes"
)

func newExplain(file *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain tcp CLIENT[:PORT] SERVER:PORT",
		Short: "Say what would happen to a SYN now",
		Long: "Walk one connection through the kernel's rules and routes, the services, the flow table and what is known of the\n" +
			"server, and say what would happen to a SYN now. Nothing is sent and nothing is changed. IPv6 addresses with a\n" +
			"port take brackets.",
		Example: "  levee explain tcp 203.0.113.7 192.0.2.10:443\n  levee explain tcp [2001:db8:2::7]:40000 [2001:db8:1::10]:443 -o json",
	}
	output := addOutput(cmd)
	var q control.Question
	cmd.Flags().StringVar(&q.In, "in", "", "the `interface` that the client comes in by; the one that leads to it if not given")
	completeInterfaces(cmd, "in")
	cmd.ValidArgsFunction = completeTCP
	cmd.Args = func(_ *cobra.Command, args []string) (err error) {
		q.Client, q.Server, err = parseEnds(args)
		return err
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client, err := daemonOf(*file)
		if err != nil {
			return err
		}
		x, err := client.Explain(cmd.Context(), q)
		if err != nil {
			return err
		}
		if *output == formatJSON {
			return writeJSON(cmd.OutOrStdout(), x)
		}
		return writeExplanation(cmd.OutOrStdout(), x)
	}
	return cmd
}

// someClientPort stands for any port of a client's: the first of the dynamic ones (RFC 6335 §6).
const someClientPort = 49152

// parseEnds reads "tcp CLIENT[:PORT] SERVER:PORT".
func parseEnds(args []string) (client, server netip.AddrPort, err error) {
	if len(args) != 3 || args[0] != "tcp" {
		return client, server, misused("say tcp, the client and the server: levee explain tcp 203.0.113.7:40000 192.0.2.10:443")
	}
	if a, err := netip.ParseAddr(args[1]); err == nil {
		client = netip.AddrPortFrom(a, someClientPort)
	} else if client, err = netip.ParseAddrPort(args[1]); err != nil || client.Port() == 0 {
		return client, server, misused("client %q is no address: write 203.0.113.7, 203.0.113.7:40000, 2001:db8::7 or [2001:db8::7]:40000", args[1])
	}
	if server, err = netip.ParseAddrPort(args[2]); err != nil || server.Port() == 0 {
		return client, server, misused("server %q is no address and port: write 192.0.2.10:443 or [2001:db8:1::10]:443", args[2])
	}
	return client, server, nil
}

// stepTitles are the words for the steps of a path.
var stepTitles = map[string]string{
	"to_levee": "SYN in", "to_server": "to server", "answer_to_levee": "answer in", "to_client": "to client",
}

func writeExplanation(w io.Writer, x control.Explanation) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%v -> %v\n\n", x.Client, x.Server)
	line := func(title, format string, args ...any) { writeWrapped(&b, title, fmt.Sprintf(format, args...)) }
	for _, h := range x.Path {
		line(stepTitles[h.Step], "%s", hopText(h))
	}
	switch {
	case x.Service != "":
		line("service", "%s, mode %s", x.Service, x.Mode)
	case x.ClientService != "":
		line("service", "none for the server; %s, mode %s, protects the client", x.ClientService, x.Mode)
	default:
		line("service", "none protects %v", x.Server)
	}
	if f := x.Flood; f != nil {
		switch {
		case !f.Engaged:
			line("flood", "none to %v now: half_open %d or syn_rate %d would engage it", x.Server, f.HalfOpen, f.SynRate)
		case x.Mode == proxy.ModeMonitor.String():
			line("flood", "mode auto would answer SYNs to %v with cookies now", x.Server)
		default:
			line("flood", "%v is engaged, until half_open and syn_rate are below half of %d and %d for %s", x.Server, f.HalfOpen, f.SynRate, age(f.HoldSeconds))
		}
	}
	if f := x.Flow; f != nil {
		line("flow", "%s for %s, idle for %s, %d bytes from the client, %d from the server", f.State, age(f.AgeSeconds), age(f.IdleSeconds), f.ClientBytes, f.ServerBytes)
	} else {
		line("flow", "none between these two")
	}
	if k := x.Known; k != nil {
		line("server", "%s, mss %s, wscale %s, sack %s, timestamps %s, ecn %s", k.State, knownNumber(k.MSS, 0), knownNumber(k.WScale, -1),
			yesNo(k.SACK), yesNo(k.Timestamps), yesNo(k.ECN))
	} else if x.Service != "" {
		line("server", "nothing is known of it yet")
	}
	if p := x.Promise; p != nil {
		scale := "none"
		if p.WScale >= 0 {
			scale = fmt.Sprint(p.WScale)
		}
		line("SYN-ACK", "mss %d, window %d, wscale %s, sack %s, timestamps %s, ecn %s", p.MSS, p.Window, scale, yesNo(&p.SACK), yesNo(&p.Timestamps), yesNo(&p.ECN))
	}
	if r := x.Replies; r != nil {
		text := fmt.Sprintf("%d of %d answers that come to nothing left to %v now", r.ToNetwork, r.PerNetwork, r.Network)
		if r.NewNeighbour {
			text += fmt.Sprintf(", and %d of %d to new neighbours", r.ToNeighbours, r.Neighbours)
		}
		line("replies", "%s", text)
	}
	for _, p := range x.Problems {
		line("PROBLEM", "%s", p)
	}
	b.WriteByte('\n')
	writeWrapped(&b, "", conclusion(&x))
	_, err := w.Write(b.Bytes())
	return err
}

func hopText(h control.Hop) string {
	if h.Out == "" {
		return "from " + h.In + ": no way"
	}
	s := fmt.Sprintf("from %s to %s", h.In, h.Out)
	if h.Gateway != "" {
		s += " via " + h.Gateway
	}
	s += ", table " + routes.TableName(h.Table)
	if h.Rule != 0 {
		s += fmt.Sprintf(", rule %d", h.Rule)
	}
	return s
}

// conclusion is the answer in one sentence.
func conclusion(x *control.Explanation) string {
	if len(x.Path) > 0 && !x.Path[0].OK || len(x.Path) == 0 {
		return "A SYN now does not reach levee as it should: see the problem above."
	}
	s := conclusions[x.Verdict+" "+x.Reason]
	if s == "" {
		s = fmt.Sprintf("A SYN now meets the verdict %s %s.", x.Verdict, x.Reason)
	}
	if len(x.Problems) > 0 {
		s += " But see the problem above."
	}
	return s
}

// conclusions are by verdict and reason.
var conclusions = map[string]string{
	"answer ":           "A SYN now is answered with a cookie; when the client returns it, levee opens the connection to the server.",
	"refuse ":           "A SYN now gets a reset: the server has refused this port a short while ago.",
	"drop closed":       "A SYN now is dropped: the server has refused this port a short while ago, and closed_ports is drop.",
	"drop silent":       "A SYN now is dropped: the server has not answered on this port a short while ago.",
	"drop land":         "A SYN now is dropped: client and server are the same address.",
	"drop bad_ack":      "A SYN now is dropped: the server's end already belongs to a proxied connection between these two.",
	"drop denied":       "A SYN now is dropped: the service's deny list has the client.",
	"drop source_flows": "A SYN now is dropped: the client has as many connections as per_source allows.",
	"drop source_rate":  "A SYN now is dropped: the client has just opened as many connections as per_source allows in a second.",
	"drop no_source":    "A SYN now is dropped: no packet can come from the client's address.",
	"drop reply_budget": "A SYN now is dropped: the client's network has been answered too often for nothing, so somebody forges its addresses: see replies.per_network and verified.",
	"drop neighbours":   "A SYN now is dropped: the client is a new neighbour of the gateway's, and one too many: see replies.neighbours.",
	"forward ":          "A SYN now is forwarded and tracked: a protected server opens the connection itself.",
	"pass allowed":      "A SYN now goes to the server as it is: the service's allow list has the client.",
	"pass verified":     "A SYN now goes to the server as it is: the client has proved lately that it exists (verified).",
	"pass handshake":    "A SYN now goes to the server as it is, and the connection is tracked from its answer on.",
	"pass monitored":    "A SYN now passes unchanged: mode auto would drop it, because client and server are the same address.",
	"pass mode_off":     "A SYN now passes unchanged: the service's mode is off.",
	"pass no_service":   "A SYN now passes unchanged: no service protects either end.",
}

// writeWrapped writes a text behind its title, in lines of at most columns.
func writeWrapped(b *bytes.Buffer, title, text string) {
	const indent = 11
	if title != "" {
		title = fmt.Sprintf("%-*s", indent, title)
	}
	writeHanging(b, title, text)
}

// writeHanging writes a text behind what begins its first line, and in the same column below, in lines of at most columns.
func writeHanging(b *bytes.Buffer, begin, text string) {
	rest := strings.Repeat(" ", len(begin))
	for _, line := range wrap(text, columns-len(begin)) {
		b.WriteString(begin + line + "\n")
		begin = rest
	}
}

// wrap breaks a text at spaces into lines of at most width bytes, except for words that are longer.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case len(line)+1+len(word) > width:
			lines = append(lines, line)
			line = word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}
