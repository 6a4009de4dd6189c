package picture

import (
	"image/color"
	"io"
	"strings"

	"github.com/charmbracelet/x/ansi"
	"github.com/charmbracelet/x/vt"
)

// The colours of a terminal with a dark background: the eight of ANSI, easy to read on it.
var (
	screenBack = color.RGBA{0x18, 0x1a, 0x1f, 0xff}
	screenFore = color.RGBA{0xdc, 0xdf, 0xe4, 0xff}
	screenANSI = [8]color.RGBA{
		{0x28, 0x2c, 0x34, 0xff}, {0xff, 0x6b, 0x6b, 0xff}, {0x8f, 0xd1, 0x6f, 0xff}, {0xe5, 0xc0, 0x5c, 0xff},
		{0x61, 0xaf, 0xef, 0xff}, {0xc6, 0x78, 0xdd, 0xff}, {0x56, 0xc2, 0xd0, 0xff}, screenFore,
	}
)

// The measures of a screen, in pixels.
const (
	monoSize     = 15
	screenMargin = 12
)

// Screen draws a terminal's screen as it is. Nobody may write to the terminal meanwhile.
func Screen(w io.Writer, e *vt.Emulator) error {
	f, err := newFonts(monoSize, monoSize, monoSize)
	if err != nil {
		return err
	}
	wide, high := f.mono.width("M"), float64(f.mono.Metrics().Height.Ceil()+1)
	up := float64(f.mono.Metrics().Ascent.Ceil())
	c := newCanvas(int(wide*float64(e.Width()))+2*screenMargin, int(high*float64(e.Height()))+2*screenMargin, screenBack)
	for row := range e.Height() {
		for column := range e.Width() {
			cell := e.CellAt(column, row)
			if cell == nil {
				continue
			}
			x, y := screenMargin+wide*float64(column), screenMargin+high*float64(row)
			fore := color.Color(screenFore)
			if cell.Style.Fg != nil {
				fore = shown(cell.Style.Fg)
			}
			if cell.Style.Bg != nil {
				c.rect(x, y, wide, high, shown(cell.Style.Bg))
			}
			// Blocks fill their cells, as terminals draw them, so that they meet.
			if eighths := blockEighths(cell.Content); eighths > 0 {
				c.rect(x, y+high*float64(8-eighths)/8, wide+0.5, high*float64(eighths)/8, fore)
			} else if strings.TrimSpace(cell.Content) != "" {
				c.text(x, y+up, left, f.mono, fore, cell.Content)
			}
		}
	}
	return c.write(w)
}

// shown is a colour of a program's as the terminal shows it.
func shown(c color.Color) color.Color {
	if basic, ok := c.(ansi.BasicColor); ok {
		return screenANSI[basic%8]
	}
	return c
}

// blockEighths is how many eighths of a cell a block from ▁ to █ fills from below, and 0 for any other text.
func blockEighths(text string) int {
	for i, r := range []rune("▁▂▃▄▅▆▇█") {
		if text == string(r) {
			return i + 1
		}
	}
	return 0
}
