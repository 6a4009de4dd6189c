package bench

import (
	"encoding/xml"
	"fmt"
	"math"
	"strings"
)

// chart is a bar chart: groups of bars side by side, with whiskers from the least to the greatest value.
type chart struct {
	title, unit string
	groups      []chartGroup
	// colours by bar, in the order of the legend.
	legend []string
	// log draws the values' logarithms, from the power of ten below the least.
	log bool
}

type chartGroup struct {
	name string
	// bars, one for each entry of the legend; those with N 0 are left out.
	bars []spread
}

// The measures of a chart, in pixels.
const (
	chartWidth  = 760
	chartHeight = 340
	plotLeft    = 70
	plotRight   = chartWidth - 16
	plotTop     = 64
	plotBottom  = chartHeight - 44
)

// chartColours are easy to tell apart, for colour-blind people too (Okabe and Ito's).
var chartColours = []string{"#999999", "#0072b2", "#56b4e9", "#d55e00"}

// scale turns values into heights.
type scale struct {
	low, high float64
	log       bool
	ticks     []float64
}

// scaleOf covers all bars, whiskers included.
func (c *chart) scaleOf() scale {
	least, most := math.Inf(1), 0.0
	for _, g := range c.groups {
		for _, b := range g.bars {
			if b.N > 0 {
				least, most = min(least, b.Min), max(most, b.Max)
			}
		}
	}
	if most <= 0 {
		return scale{high: 1, ticks: []float64{0, 1}}
	}
	if c.log && least > 0 {
		s := scale{log: true, low: math.Pow10(int(math.Floor(math.Log10(least)))), high: math.Pow10(int(math.Ceil(math.Log10(most))))}
		if s.low == s.high {
			s.high *= 10
		}
		for t := s.low; t <= s.high*1.001; t *= 10 {
			s.ticks = append(s.ticks, t)
		}
		return s
	}
	step := niceStep(most / 5)
	s := scale{high: step * math.Ceil(most/step)}
	for i := 0; float64(i)*step <= s.high*1.001; i++ {
		s.ticks = append(s.ticks, float64(i)*step)
	}
	return s
}

// niceStep is 1, 2 or 5 times a power of ten, and not less than v.
func niceStep(v float64) float64 {
	power := math.Pow10(int(math.Floor(math.Log10(v))))
	for _, m := range []float64{1, 2, 5} {
		if m*power >= v {
			return m * power
		}
	}
	return 10 * power
}

// y is where a value is drawn.
func (s scale) y(v float64) float64 {
	share := (v - s.low) / (s.high - s.low)
	if s.log {
		share = math.Log(max(v, s.low)/s.low) / math.Log(s.high/s.low)
	}
	return plotBottom - share*(plotBottom-plotTop)
}

// svg draws the chart.
func (c *chart) svg() string {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", chartWidth, chartHeight)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", chartWidth, chartHeight)
	unit := c.unit
	if c.log {
		unit += ", logarithmic"
	}
	label(&b, plotLeft, 20, "start", "bold", fmt.Sprintf("%s (%s)", c.title, unit))
	x := float64(plotLeft)
	for i, name := range c.legend {
		fmt.Fprintf(&b, `<rect x="%.0f" y="34" width="12" height="12" fill="%s"/>`+"\n", x, chartColours[i%len(chartColours)])
		label(&b, x+17, 44, "start", "normal", name)
		x += 40 + 7*float64(len([]rune(name)))
	}
	s := c.scaleOf()
	for _, t := range s.ticks {
		fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#dddddd"/>`+"\n", plotLeft, plotRight, s.y(t), s.y(t))
		label(&b, plotLeft-6, s.y(t)+4, "end", "normal", short(t))
	}
	width := float64(plotRight-plotLeft) / float64(max(len(c.groups), 1))
	for i, g := range c.groups {
		c.drawGroup(&b, s, g, plotLeft+float64(i)*width, width)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func (c *chart) drawGroup(b *strings.Builder, s scale, g chartGroup, left, width float64) {
	const gap = 0.15 // of the group, on each side
	bar := width * (1 - 2*gap) / float64(max(len(g.bars), 1))
	for i, v := range g.bars {
		if v.N == 0 {
			continue
		}
		x := left + width*gap + float64(i)*bar
		top := s.y(v.Median)
		fmt.Fprintf(b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`+"\n",
			x+1, top, bar-2, plotBottom-top, chartColours[i%len(chartColours)])
		middle := x + bar/2
		fmt.Fprintf(b, `<path d="M%.1f %.1fV%.1fM%.1f %.1fh8M%.1f %.1fh8" stroke="#000000" fill="none"/>`+"\n",
			middle, s.y(v.Min), s.y(v.Max), middle-4, s.y(v.Min), middle-4, s.y(v.Max))
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="middle" font-size="9">%s</text>`+"\n", middle, s.y(v.Max)-5, short(v.Median))
	}
	label(b, left+width/2, plotBottom+18, "middle", "normal", g.name)
}

// label writes text, safe against whatever is in it.
func label(b *strings.Builder, x, y float64, anchor, weight, text string) {
	var escaped strings.Builder
	_ = xml.EscapeText(&escaped, []byte(text)) // writing to memory can't fail
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="%s" font-weight="%s">%s</text>`+"\n", x, y, anchor, weight, escaped.String())
}

// short writes a number in few characters.
func short(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.3gM", v/1e6)
	case v >= 10_000:
		return fmt.Sprintf("%.3gk", v/1e3)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}
