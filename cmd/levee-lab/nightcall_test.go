package main

import (
	"errors"
	"image"
	"image/png"
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
	if code := execute(t.Context(), []string{"night-call", "--levee", binary, "--out", file, "--dashboard", "../../docs/grafana-dashboard.json", "--commit", "abc", "--date", "today"}, &out, &errs); code != exitGood {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := 0
	for _, want := range []string{
		"Recorded: abc, today.",
		"# levee status\n", "web                  auto", "trial                monitor", "drops  none",
		"# levee status\n", "FLOOD      web, since ",
		"# levee top --once --for 4s\n", "FLOOD", "![levee top in a terminal](night-call-top.png)\n",
		"# levee observe --verdict drop", " drop cookie_invalid web ",
		"# levee explain tcp 198.51.100.10 ", "is engaged", "A SYN now is answered with a cookie",
		"# levee explain tcp 198.51.100.138 ", "A SYN now is dropped: the service's deny list has the client.",
		"# levee capture --verdict drop -n 500 --for 10s -w drops.pcapng\n500 of ",
		"# tshark -r drops.pcapng", " levee: drop cookie_invalid, service web\n",
		"# levee status\n", "past flood web, ",
		`msg="flood, SYNs are answered with cookies"`, `msg="flood is over"`,
		"![The dashboard after the night](night-call-dashboard.png)\n",
	} {
		next := strings.Index(string(text[at:]), want)
		if next < 0 {
			t.Fatalf("%q is missing after:\n%s", want, text[:at])
		}
		at += next + len(want)
	}
	for name, least := range map[string]image.Point{"night-call-top.png": {700, 400}, "night-call-dashboard.png": {1200, 1500}} {
		f, err := os.Open(filepath.Join(filepath.Dir(file), name))
		if err != nil {
			t.Fatal(err)
		}
		m, err := png.Decode(f)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if size := m.Bounds().Size(); size.X < least.X || size.Y < least.Y {
			t.Errorf("%s is %v, want %v at least", name, size, least)
		}
	}
}
