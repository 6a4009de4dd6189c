package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/spf13/cobra"

	"levee/cmd/levee/control"
	"levee/proxy"
)

// Bounds of a capture.
const (
	defaultCaptureCount = 10000
	defaultCaptureFor   = time.Minute
	defaultCaptureRate  = 5000
)

func newCapture(file *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "capture -w FILE",
		Short: "Write packets to a pcapng file, each with what became of it",
		Long: "Write the beginnings of packets, as they came, to a pcapng file; each has a comment with what became of it and why, which\n" +
			"Wireshark and tshark show and filter by (frame.comment). It ends after 10000 packets, a minute, or when interrupted.\n" +
			"As for observe, what is too much for it is counted and left out. Checksums that the kernel has left to the network\n" +
			"card look wrong in it.",
		Example: "  levee capture --verdict drop -w drops.pcapng\n  levee capture --reason cookie_invalid -w - |\n      tshark -r - -T fields -e ip.src -e frame.comment",
	}
	w := control.Watch{Bytes: true}
	addWatch(cmd, file, &w, defaultCaptureRate)
	path := cmd.Flags().StringP("write", "w", "", "the `file` to write, - for the standard output")
	cmd.Flags().IntVarP(&w.Count, "count", "n", defaultCaptureCount, "end after so `many` packets")
	cmd.Flags().DurationVar(&w.For, "for", defaultCaptureFor, "end after this `time`")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if *path == "" {
			return misused("name the file to write: levee capture -w FILE, or -w - for the standard output")
		}
		if w.Count < 1 || w.For <= 0 {
			return misused("--count and --for: use positive values, a capture is bounded")
		}
		out := cmd.OutOrStdout()
		if *path == "-" && isTerminal(out) {
			return misused("-w -: the standard output is a terminal: write to a file, or into a pipe")
		}
		if *path != "-" {
			f := &lateFile{path: *path}
			defer func() { err = errors.Join(err, f.Close()) }()
			out = f
		}
		sample, err := writeCapture(out, func(yield func(control.Observation) error) error { return watch(cmd.Context(), *file, w, yield) })
		if err == nil {
			_, err = fmt.Fprintf(cmd.ErrOrStderr(), "%d of %d packets written.\n", sample.Shown, sample.Matched)
		}
		return err
	}
	return cmd
}

// lateFile is made, or emptied, by the first that is written to it: without a daemon an older capture of that name stays.
type lateFile struct {
	path string
	file *os.File // nil before
}

// Write implements io.Writer.
func (l *lateFile) Write(p []byte) (int, error) {
	if l.file == nil {
		f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return 0, err
		}
		l.file = f
	}
	return l.file.Write(p)
}

// Close implements io.Closer.
func (l *lateFile) Close() error {
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}

// writeCapture writes what observe yields as pcapng, each packet at once, and returns how much of it there was. If observe fails before
// it yields anything, nothing is written.
func writeCapture(out io.Writer, observe func(yield func(control.Observation) error) error) (last control.Sample, err error) {
	w, err := pcapgo.NewNgWriterInterface(out,
		pcapgo.NgInterface{Name: "levee", LinkType: layers.LinkTypeRaw, SnapLength: proxy.SnapLen, OS: runtime.GOOS, TimestampResolution: 9},
		pcapgo.NgWriterOptions{SectionInfo: pcapgo.NgSectionInfo{Hardware: runtime.GOARCH, OS: runtime.GOOS, Application: "levee " + versionNow().Version}})
	if err != nil {
		return last, err
	}
	written, begun := uint64(0), false
	err = observe(func(o control.Observation) error {
		begun = true
		if o.Sample != nil {
			last = *o.Sample
			return w.Flush()
		}
		d := o.Decision
		written++
		return w.WritePacketWithOptions(
			gopacket.CaptureInfo{Timestamp: d.Time, CaptureLength: len(d.Data), Length: max(d.Length, len(d.Data))}, d.Data,
			pcapgo.NgPacketOptions{Comments: []string{captureComment(d)}})
	})
	if err != nil && !begun {
		return last, err
	}
	// An interrupt may come between a packet and the next sample.
	last.Shown, last.Matched = written, max(last.Matched, written)
	return last, errors.Join(err, w.Flush())
}

// captureComment is "levee: drop cookie_invalid, service web".
func captureComment(d *control.Decision) string {
	s := "levee: " + d.Verdict
	if d.Reason != "" {
		s += " " + d.Reason
	}
	if d.Service != "" {
		s += ", service " + d.Service
	}
	return s
}
