package picture

import (
	"encoding/json"
	"image/color"
	"math"
	"regexp"
	"time"
)

// maxGap is for how long a series may say nothing before its line breaks.
const maxGap = 5 * time.Second

// x is where a time is in a plot.
func (g *drawing) x(plot frame, at time.Time) float64 {
	share := float64(at.Sub(g.from)) / float64(g.to.Sub(g.from))
	return plot.x + min(max(share, 0), 1)*plot.w
}

// times writes them below a plot.
func (g *drawing) times(plot frame) {
	span, step := g.to.Sub(g.from), time.Second
	room := plot.w / (g.plain.width("00:00:00") + 24) // how many there may be
	for _, step = range []time.Duration{time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second,
		time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour} {
		if float64(span/step) <= room {
			break
		}
	}
	half := g.plain.width("00:00:00") / 2
	for at := g.from.Truncate(step).Add(step); at.Before(g.to); at = at.Add(step) {
		x := g.x(plot, at)
		g.rect(x, plot.y, 1, plot.h, grid)
		if x-half >= plot.x-40 && x+half <= plot.x+plot.w+4 {
			g.text(x, plot.y+plot.h+14, middle, g.plain, faint, at.UTC().Format(time.TimeOnly))
		}
	}
}

// timeseries is a plot with a legend below it.
func (g *drawing) timeseries(p *panel, answers []answer, in frame) {
	if len(answers) == 0 {
		g.noData(in)
		return
	}
	in.h -= g.legend(p, answers, in)
	most := 0.0
	for _, a := range answers {
		for _, s := range a.Samples {
			if !math.IsNaN(s.V) && !math.IsInf(s.V, 0) {
				most = max(most, s.V)
			}
		}
	}
	step, unit := niceStep(most, 1000), p.FieldConfig.Defaults.Unit
	if unit == "bytes" {
		step = niceStep(most, 1024)
	}
	top := step * max(math.Ceil(1.02*most/step), 1) // a line never runs along the upper edge
	label := 0.0
	for v := 0.0; v <= top*1.001; v += step {
		label = max(label, g.plain.width(inUnit(v, unit))+8)
	}
	plot := frame{in.x + label, in.y + 6, in.w - label, in.h - 6 - lineHigh}
	g.times(plot)
	y := func(v float64) float64 { return plot.y + plot.h*(1-v/top) }
	for v := 0.0; v <= top*1.001; v += step {
		g.rect(plot.x, y(v), plot.w, 1, grid)
		g.text(plot.x-8, y(v)+4, right, g.plain, faint, inUnit(v, unit))
	}
	for i, a := range answers {
		var points []point
		flush := func() {
			if len(points) > 1 {
				if p.dashed(a.name) {
					g.dashed(points, 2, lineColour(i))
				} else {
					g.line(points, 2, lineColour(i))
				}
			}
			points = nil
		}
		for j, s := range a.Samples {
			if j > 0 && s.At.Sub(a.Samples[j-1].At) > maxGap || math.IsNaN(s.V) || math.IsInf(s.V, 0) {
				flush()
			}
			if !math.IsNaN(s.V) && !math.IsInf(s.V, 0) {
				points = append(points, point{g.x(plot, s.At), y(s.V)})
			}
		}
		flush()
	}
}

func lineColour(i int) color.Color { return palette[i%len(palette)] }

// legend says which line is what, at the bottom, and returns how much of the height it took.
func (g *drawing) legend(p *panel, answers []answer, in frame) float64 {
	const mark = 24 // and the space behind it
	type entry struct{ x, row float64 }
	var at []entry
	x, row := 0.0, 0.0
	for _, a := range answers {
		width := mark + g.plain.width(a.name) + 14
		if x > 0 && x+width > in.w {
			x, row = 0, row+1
		}
		at = append(at, entry{x, row})
		x += width
	}
	high := (row + 1) * lineHigh
	for i, a := range answers {
		x, y := in.x+at[i].x, in.y+in.h-high+(at[i].row+1)*lineHigh-4
		points := []point{{x, y - 4}, {x + mark - 6, y - 4}}
		if p.dashed(a.name) {
			g.dashed(points, 3, lineColour(i))
		} else {
			g.line(points, 3, lineColour(i))
		}
		g.text(x+mark, y, left, g.plain, ink, g.plain.clip(a.name, in.w-mark))
	}
	return high + 2
}

// dashed says whether an override makes a line so.
func (p *panel) dashed(name string) bool {
	for _, o := range p.FieldConfig.Overrides {
		if o.Matcher.ID != "byRegexp" {
			continue
		}
		if matched, err := regexp.MatchString(o.Matcher.Options, name); err != nil || !matched {
			continue
		}
		for _, property := range o.Properties {
			var style struct{ Fill string }
			if property.ID == "custom.lineStyle" && json.Unmarshal(property.Value, &style) == nil && style.Fill == "dash" {
				return true
			}
		}
	}
	return false
}

// niceStep is the distance of the lines of a grid: 1, 2 or 5 times a power of ten, by the prefixes of a unit, so that there are two to five lines.
func niceStep(most, prefix float64) float64 {
	if most <= 0 {
		return 1
	}
	scale := 1.0
	for most/scale >= prefix {
		scale *= prefix
	}
	v := most / scale / 5
	power := math.Pow10(int(math.Floor(math.Log10(v))))
	for _, m := range []float64{1, 2, 5} {
		if m*power >= v {
			return m * power * scale
		}
	}
	return 10 * power * scale
}
