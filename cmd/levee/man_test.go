package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Every verb has a page in which mandoc finds nothing to say against, with every flag and example so that they can be copied.
func TestManual(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	dir := t.TempDir()
	if code, stdout, stderr := levee("man", dir); code != 0 || stdout != "" || stderr != "" {
		t.Fatalf("%d %q %q", code, stdout, stderr)
	}
	var want []string
	var check func(*cobra.Command)
	check = func(cmd *cobra.Command) {
		name := strings.ReplaceAll(cmd.CommandPath(), " ", "-") + ".8"
		want = append(want, name)
		if out, err := exec.CommandContext(t.Context(), "mandoc", "-T", "lint", "-W", "style", filepath.Join(dir, name)).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("mandoc: %v\n%s", err, out)
		}
		shown, err := exec.CommandContext(t.Context(), "mandoc", "-T", "ascii", "-O", "width=1000", filepath.Join(dir, name)).Output()
		if err != nil {
			t.Errorf("mandoc: %v", err)
		}
		// Bold and underlined letters are struck twice on a terminal.
		text := string(shown)
		for i := strings.IndexByte(text, '\b'); i > 0; i = strings.IndexByte(text, '\b') {
			text = text[:i-1] + text[i+1:]
		}
		text = strings.Join(strings.Fields(text), " ")
		has := func(s string) {
			if !strings.Contains(text, strings.Join(strings.Fields(s), " ")) {
				t.Errorf("%s lacks %q:\n%s", name, s, text)
			}
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) { has("--" + f.Name) })
		for _, line := range strings.Split(cmd.Example, "\n") {
			has(line)
		}
		has(cmd.Long)
		has("2023-11-14")
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() {
				has(c.Short)
				check(c)
			}
		}
	}
	check(newRoot())
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pages (-verbs +there):\n%s", diff)
	}
}

func TestManualRefused(t *testing.T) {
	if code, _, stderr := levee("man"); code != 2 || stderr != "levee: levee man takes one folder: see levee man --help\n" {
		t.Errorf("no folder: %d %q", code, stderr)
	}
	if code, _, stderr := levee("man", filepath.Join(t.TempDir(), "gone")); code != 1 || !strings.Contains(stderr, "gone/levee-apply.8: no such file or directory") {
		t.Errorf("no such folder: %d %q", code, stderr)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "yesterday")
	if code, _, stderr := levee("man", t.TempDir()); code != 1 || stderr != "levee: SOURCE_DATE_EPOCH \"yesterday\" is no number of seconds\n" {
		t.Errorf("no date: %d %q", code, stderr)
	}
}

// The unit names the page that there is.
func TestUnitManual(t *testing.T) {
	unit, err := os.ReadFile("package/levee.service")
	if err != nil {
		t.Fatal(err)
	}
	want := "Documentation=man:" + manName(newRoot()) + "(" + manSection + ") "
	if !strings.Contains(string(unit), want) {
		t.Errorf("levee.service has no %q", want)
	}
}

// No text becomes a request, or loses a character.
func TestRoff(t *testing.T) {
	for text, want := range map[string]string{
		"plain":               "plain",
		"--a-b":               `\-\-a\-b`,
		`C:\x`:                `C:\ex`,
		".TH":                 `\&.TH`,
		"a\n.b\n'c":           "a\n\\&.b\n\\&'c",
		"'quoted'":            `\&'quoted'`,
		"levee.yaml isn't it": "levee.yaml isn't it",
	} {
		if got := roff(text); got != want {
			t.Errorf("roff(%q) = %q, want %q", text, got, want)
		}
	}
	if got := roffQuoted(`a "b"`); got != `"a \(dqb\(dq"` {
		t.Errorf("quoted: %s", got)
	}
}
