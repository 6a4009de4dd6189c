package integration

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"levee/integration/lab"
	"levee/integration/script"
)

// startSYNPROXYForScripts puts the kernel's SYN proxy where levee would be, configured as near to a script's configuration as it goes.
func startSYNPROXYForScripts(t *testing.T, l *lab.Lab, o options) {
	t.Helper()
	cfg := lab.SYNPROXYConfig{MSS: 1460, WScale: 7, SACK: true, Timestamps: o["timestamps"] == "true"}
	if o["mss"] != "" {
		mss, err := strconv.ParseUint(o["mss"], 10, 16)
		if err != nil {
			t.Fatal(err)
		}
		cfg.MSS = uint16(mss)
	}
	if _, err := l.StartSYNPROXY(cfg); err != nil {
		t.Fatal(err)
	}
}

// writeScriptTable writes docs/scripts.md. levee's column says what TestScripts has just shown.
func writeScriptTable(t *testing.T, file string, list []*script.Script, kernel []*scriptRun) {
	t.Helper()
	answers := map[string][]string{}
	for _, r := range kernel {
		answer := kernelAnswer(t, r)
		switch known := answers[r.Name]; {
		case len(known) == 0:
			answers[r.Name] = []string{answer}
		case known[0] != answer:
			answers[r.Name] = []string{"IPv4: " + known[0], "IPv6: " + answer}
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, `# Packet scripts

Exact sequences of segments, both ends scripted, with what each end must see: what is right by the RFCs, not what levee happens to do.
Each is a file in [integration/testdata/scripts](../integration/testdata/scripts) and runs over IPv4 and IPv6 in `+"`make test`"+`;
[integration/script](../integration/script/doc.go) says how they are written. "known" is a fault of levee that isn't mended yet: the
script fails, as it must until then.

The last column is where the answer of the kernel's SYNPROXY to the same script first differs (nft synproxy, mss 1460, wscale 7, sack-perm, and
timestamp where the script configures timestamps; Linux %s). Over IPv6 that one drops SYNs whose checksum nobody has vouched for, so
here the sender's kernel vouches for all that are right.`, kernelRelease(t))
	b.WriteString(`

Written by ` + "`go test ./integration -run TestScripts -scripttable ../docs/scripts.md`" + `.

| script | what it shows | levee | kernel SYNPROXY |
|---|---|---|---|
`)
	for _, s := range list {
		levee := "passes"
		if len(s.Families) == 1 {
			levee += " (" + s.Families[0].String() + ")"
		}
		for _, f := range s.Families {
			fault, known := s.Known[f]
			if !known {
				continue
			}
			levee = "known: " + fault.Reason
			if len(s.Known) < len(s.Families) {
				levee = "known, " + f.String() + ": " + fault.Reason
			}
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", s.Name, cell(s.Summary), cell(levee), strings.Join(answers[s.Name], "<br>"))
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// kernelAnswer is a cell of the table.
func kernelAnswer(t *testing.T, r *scriptRun) string {
	t.Helper()
	if r.err == nil {
		return "the same"
	}
	var f *script.Failure
	if !errors.As(r.err, &f) {
		t.Fatal(r.err)
	}
	return fmt.Sprintf("wants `%s`, sees `%s`", tableText(f.Want), tableText(f.Seen))
}

// chosen are numbers that a proxy makes up and no script names.
var chosen = regexp.MustCompile(`\b[1-9][0-9]{8,9}\b`)

func tableText(s string) string {
	return strings.ReplaceAll(chosen.ReplaceAllString(s, "…"), "|", "\\|")
}

func cell(s string) string { return strings.ReplaceAll(s, "|", "\\|") }

func kernelRelease(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}
