package picture

import (
	"bytes"
	"errors"
	"image"
	"image/color"
	"image/png"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/vt"
)

func decode(t *testing.T, b *bytes.Buffer) image.Image {
	t.Helper()
	m, err := png.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// has says whether a colour is anywhere in a part of a picture.
func has(m image.Image, part image.Rectangle, want color.Color) bool {
	r, g, b, _ := want.RGBA()
	for y := part.Min.Y; y < part.Max.Y; y++ {
		for x := part.Min.X; x < part.Max.X; x++ {
			if r2, g2, b2, _ := m.At(x, y).RGBA(); r == r2 && g == g2 && b == b2 {
				return true
			}
		}
	}
	return false
}

// A screen shows text in its colours, and blocks that fill their cells from below.
func TestScreen(t *testing.T) {
	e := vt.NewEmulator(20, 3)
	if _, err := e.WriteString("plain \x1b[31mRED\x1b[m\r\n\x1b[32m▄█\x1b[m"); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := Screen(&b, e); err != nil {
		t.Fatal(err)
	}
	m := decode(t, &b)
	wide, high := (m.Bounds().Dx()-2*screenMargin)/20, (m.Bounds().Dy()-2*screenMargin)/3
	cell := func(column, row int) image.Rectangle {
		return image.Rect(0, 0, wide, high).Add(image.Pt(screenMargin+column*wide, screenMargin+row*high)).Inset(2)
	}
	for _, tt := range []struct {
		name string
		at   image.Rectangle
		want color.Color
		is   bool
	}{
		{"plain text", cell(0, 0).Union(cell(4, 0)), screenFore, true},
		{"plain text in red", cell(0, 0).Union(cell(4, 0)), screenANSI[1], false},
		{"red text", cell(6, 0).Union(cell(8, 0)), screenANSI[1], true},
		{"the block", cell(1, 1), screenANSI[2], true},
		{"background in the block", cell(1, 1), screenBack, false},
		{"background in the half block", cell(0, 1), screenBack, true},
		{"anything in the last line", cell(0, 2).Union(cell(19, 2)), screenFore, false},
	} {
		if got := has(m, tt.at, tt.want); got != tt.is {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
	if m.At(screenMargin+wide/2, screenMargin+high+high/4) != color.Color(screenBack) || m.At(screenMargin+wide/2, screenMargin+2*high-high/4) != color.Color(screenANSI[2]) {
		t.Error("the half block does not fill the lower half")
	}
}

func TestUnits(t *testing.T) {
	for _, tt := range []struct {
		v    float64
		unit string
		want string
	}{
		{0, "short", "0"}, {0.5, "short", "0.5"}, {999, "short", "999"}, {1048576, "short", "1.05 M"}, {1e20, "short", "100000000 T"},
		{3650, "reqps", "3.65 k/s"}, {20, "reqps", "20/s"}, {12, "pps", "12 p/s"}, {8.4e6, "bps", "8.4 Mb/s"},
		{100, "bytes", "100 B"}, {64 << 20, "bytes", "64 MiB"}, {0.0083, "percentunit", "0.83 %"},
		{0, "s", "0 s"}, {0.00025, "s", "250 µs"}, {0.08, "s", "80 ms"}, {2.5, "s", "2.5 s"}, {1.7e12, "dateTimeAsIso", "2023-11-14 22:13:20"},
	} {
		if got := inUnit(tt.v, tt.unit); got != tt.want {
			t.Errorf("%v in %s: %q, want %q", tt.v, tt.unit, got, tt.want)
		}
	}
}

func TestNiceStep(t *testing.T) {
	for _, tt := range []struct{ most, prefix, want float64 }{
		{0, 1000, 1}, {1, 1000, 0.2}, {100, 1000, 20}, {3650, 1000, 1000}, {64 << 20, 1024, 20 << 20}, {1e300, 1000, 2e299},
	} {
		if got := niceStep(tt.most, tt.prefix); got < tt.want*0.999 || got > tt.want*1.001 {
			t.Errorf("up to %v: %v, want %v", tt.most, got, tt.want)
		}
	}
}

// The real dashboard can be drawn, with answers and without.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile("../../../docs/grafana-dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	from := time.Unix(1_700_000_000, 0)
	to := from.Add(time.Minute)
	draw := func(ask Ask) image.Image {
		t.Helper()
		var b bytes.Buffer
		if err := Dashboard(&b, text, from, to, ask); err != nil {
			t.Fatal(err)
		}
		return decode(t, &b)
	}
	queries := 0
	full := draw(func(query string) ([]Series, error) {
		queries++
		s := Series{Labels: map[string]string{"service": "web", "reason": "land"}}
		for i := range 61 {
			s.Samples = append(s.Samples, Sample{from.Add(time.Duration(i) * time.Second), float64(i / 30)})
		}
		return []Series{s}, nil
	})
	if queries < 40 {
		t.Errorf("only %d queries", queries)
	}
	empty := draw(func(string) ([]Series, error) { return nil, nil })
	if full.Bounds() != empty.Bounds() || full.Bounds().Dx() < 1200 {
		t.Errorf("%v and %v", full.Bounds(), empty.Bounds())
	}
	if has(empty, empty.Bounds(), palette[0]) {
		t.Error("there is a line without data")
	}
	if !has(full, full.Bounds(), palette[0]) || !has(full, full.Bounds(), green) || !has(full, full.Bounds(), red) {
		t.Error("lines and states are missing")
	}
}

func TestDashboardRefusals(t *testing.T) {
	ask := func(string) ([]Series, error) { return nil, errors.New("no answer") }
	for _, tt := range []struct{ name, text, want string }{
		{"no JSON", "{", "read the dashboard: unexpected end of JSON input"},
		{"a panel that nobody knows", `{"panels":[{"type":"globe","title":"World","gridPos":{"w":24,"h":4}}]}`, `panel "World": panels of type "globe" can't be drawn`},
		{"a query that fails", `{"panels":[{"type":"stat","title":"SYNs","gridPos":{"w":24,"h":4},"targets":[{"expr":"x"}]}]}`, `panel "SYNs": no answer`},
	} {
		err := Dashboard(&bytes.Buffer{}, []byte(tt.text), time.Unix(0, 0), time.Unix(60, 0), ask)
		if err == nil || err.Error() != tt.want {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
}

func TestClip(t *testing.T) {
	f, err := newFonts(dashText, dashBig, dashText)
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("wide ", 20)
	if got := f.plain.clip(long, 100); f.plain.width(got) > 100 || !strings.HasSuffix(got, "…") {
		t.Errorf("%q is %v wide", got, f.plain.width(got))
	}
	if got := f.plain.clip("short", 100); got != "short" {
		t.Error(got)
	}
}
