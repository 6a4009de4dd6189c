package main

import (
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"levee/cmd/levee/control"
)

// The directives at the end of an answer: offer files too, or not (cobra.ShellCompDirective).
const (
	withFiles    = ":0"
	withoutFiles = ":4"
)

// offers returns what a shell is told to offer for the last of the words, without descriptions.
func offers(t *testing.T, words ...string) (offered []string, directive string) {
	t.Helper()
	code, stdout, _ := levee(append([]string{cobra.ShellCompNoDescRequestCmd}, words...)...)
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if code != 0 {
		t.Fatalf("%v: %d %s", words, code, stdout)
	}
	return lines[:len(lines)-1], lines[len(lines)-1]
}

func TestCompletion(t *testing.T) {
	file := writeConfig(t, `services:
  - {name: web, prefixes: [192.0.2.0/24, "2001:db8:1::/64"], ports: [80, 443]}
  - {name: game, prefixes: [192.0.2.0/24], ports: [22, 8000-8100]}
`)
	broken := writeConfig(t, "tun: {mut: 7}\nservices: [{name: web, prefixes: [192.0.2.0/24]}]\n")
	var interfaces []string
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		interfaces = append(interfaces, i.Name)
	}
	formats, prefixes, services := []string{"text", "json"}, []string{"192.0.2.0/24", "2001:db8:1::/64"}, []string{"web", "game"}
	for _, tt := range []struct {
		name string
		line string
		want []string
	}{
		{"verbs", "pl", []string{"plan"}},
		{"flags", "plan --d", []string{"--diff"}},
		{"verbs of flows", "flows ", []string{"kill", "list", "watch", "tcp"}},
		{"format", "status -o ", formats},
		{"format in one word", "plan --output=", formats},
		{"states", "flows list --state ", control.States()},
		{"verdicts", "observe --verdict ", control.VerdictWords()},
		{"one more verdict", "capture --verdict drop,pas", []string{"drop,pass"}},
		{"reasons", "capture --reason ", control.ReasonWords()},
		{"services", "observe -c FILE --service ", services},
		{"services of a broken file", "flows -c BROKEN --service ", []string{"web"}},
		{"services of no file", "flows -c /nowhere --service ", nil},
		{"prefixes", "observe -c FILE --prefix ", prefixes},
		{"prefixes of servers", "flows kill -c FILE --server ", prefixes},
		{"ports", "flows watch -c FILE --port ", []string{"80", "443", "22"}},
		{"interfaces", "explain --in ", interfaces},
		{"protocol", "explain ", []string{"tcp"}},
		{"address", "explain tcp ", nil},
		{"number", "observe --count ", nil},
		{"client", "flows --client ", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			words := strings.Split(tt.line, " ")
			for i, w := range words {
				words[i] = strings.NewReplacer("FILE", file, "BROKEN", broken).Replace(w)
			}
			// The shell drops what doesn't begin as the word does.
			offered, directive := offers(t, words...)
			last := words[len(words)-1]
			if _, value, ok := strings.Cut(last, "="); ok {
				last = value
			}
			offered = slices.DeleteFunc(offered, func(s string) bool { return !strings.HasPrefix(s, last) })
			if !slices.Equal(offered, tt.want) || directive != withoutFiles {
				t.Errorf("%s: got %q %s, want %q", tt.line, offered, directive, tt.want)
			}
		})
	}
}

// TestCompletionOfFiles: files are offered where one is to be named, and nowhere else.
func TestCompletionOfFiles(t *testing.T) {
	checked := 0
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		path := strings.Fields(cmd.CommandPath())[1:]
		if !cmd.HasParent() {
			path = nil
		}
		check := func(want string, words ...string) {
			t.Helper()
			checked++
			if offered, directive := offers(t, slices.Concat(path, words)...); directive != want {
				t.Errorf("%v %q: got %q %s, want %s", path, words, offered, directive, want)
			}
		}
		want := withoutFiles
		if cmd.Name() == "upgrade" {
			want = withFiles
			check(withoutFiles, "program", "")
		}
		check(want, "")
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			want := withoutFiles
			if f.Name == "write" {
				want = withFiles
			}
			if f.Value.Type() != "bool" {
				check(want, "--"+f.Name, "")
			}
		})
		check(withFiles, "--config", "")
		for _, c := range cmd.Commands() {
			walk(c)
		}
	}
	walk(newRoot())
	if checked < 60 {
		t.Errorf("only %d checked", checked)
	}
}
