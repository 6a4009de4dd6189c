package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"levee/integration/lab/labtest"
)

// The night is played with the real daemon, and every tool shows what it is there for.
func TestNightCall(t *testing.T) {
	labtest.RequireRoot(t)
	binary, err := labtest.Binary()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "night-call.md")
	var out, errs strings.Builder
	if code := execute(t.Context(), []string{"night-call", "--levee", binary, "--out", file, "--commit", "abc", "--date", "today"}, &out, &errs); code != exitGood {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := 0
	for _, want := range []string{
		"Recorded: abc, today.",
		"# levee status\n", "web                  auto", "drops  none",
		"# levee status\n", "FLOOD      web, for ",
		"# levee top --once --for 4s\n", "FLOOD",
		"# levee observe --verdict drop", " drop cookie_invalid web ",
		"# levee explain tcp 198.51.100.10 ", "is engaged", "A SYN now is answered with a cookie",
		"# levee explain tcp 198.51.100.138 ", "A SYN now is dropped: the service's deny list has the client.",
		"# levee capture --verdict drop -n 500 --for 10s -w drops.pcapng\n500 of ",
		"# tshark -r drops.pcapng", " levee: drop cookie_invalid, service web\n",
		"# levee status\n", "past flood web, ",
		`msg="flood, SYNs are answered with cookies"`, `msg="flood is over"`,
	} {
		next := strings.Index(string(text[at:]), want)
		if next < 0 {
			t.Fatalf("%q is missing after:\n%s", want, text[:at])
		}
		at += next + len(want)
	}
}
