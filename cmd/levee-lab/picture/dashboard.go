package picture

import (
	"encoding/json"
	"fmt"
	"image/color"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Series is one series of an answer.
type Series struct {
	Labels  map[string]string
	Samples []Sample
}

// Sample is a value at a time.
type Sample struct {
	At time.Time
	V  float64
}

// Ask answers a query over the time of the picture.
type Ask func(query string) ([]Series, error)

// dashboard is what is drawn of one of Grafana's.
type dashboard struct {
	Panels []panel
}

type panel struct {
	Type, Title     string
	GridPos         struct{ X, Y, W, H int }
	Targets         []target
	Transformations []struct {
		ID      string
		Options struct {
			IndexByName  map[string]int
			RenameByName map[string]string
		}
	}
	FieldConfig struct {
		Defaults  field
		Overrides []struct {
			Matcher    struct{ ID, Options string }
			Properties []struct {
				ID    string
				Value json.RawMessage
			}
		}
	}
	Options struct{ TextMode string }
}

type target struct{ RefID, Expr, LegendFormat string }

// field is how values are written.
type field struct {
	Unit     string
	Mappings []mapping
}

type mapping struct {
	Options map[string]struct{ Text, Color string }
}

// write writes a value, in a colour if it has one of its own.
func (f *field) write(v float64) (text string, fill color.Color) {
	for _, m := range f.Mappings {
		if o, ok := m.Options[strconv.FormatFloat(v, 'f', -1, 64)]; ok {
			return o.Text, named(o.Color)
		}
	}
	return inUnit(v, f.Unit), ink
}

// The colours of a dashboard: panels on grey, and lines that colour-blind people can tell apart too (Okabe and Ito's).
var (
	desk    = color.RGBA{0xf0, 0xf1, 0xf2, 0xff}
	paper   = color.RGBA{0xff, 0xff, 0xff, 0xff}
	ink     = color.RGBA{0x24, 0x29, 0x2e, 0xff}
	faint   = color.RGBA{0x6b, 0x72, 0x7b, 0xff}
	grid    = color.RGBA{0xe3, 0xe5, 0xe8, 0xff}
	red     = color.RGBA{0xd0, 0x3a, 0x2b, 0xff}
	green   = color.RGBA{0x2b, 0x8a, 0x4b, 0xff}
	palette = []color.RGBA{
		{0x00, 0x72, 0xb2, 0xff}, {0xd5, 0x5e, 0x00, 0xff}, {0x00, 0x9e, 0x73, 0xff}, {0xcc, 0x79, 0xa7, 0xff},
		{0x56, 0xb4, 0xe9, 0xff}, {0xe6, 0x9f, 0x00, 0xff}, {0x7f, 0x7f, 0x7f, 0xff}, {0x00, 0x00, 0x00, 0xff},
	}
)

func named(name string) color.Color {
	switch name {
	case "red":
		return red
	case "green":
		return green
	}
	return ink
}

// The measures of a dashboard, in pixels.
const (
	gridColumns         = 24
	gridWide, gridHigh  = 58, 29
	gap, padding        = 6, 10
	dashText, dashBig   = 13, 26
	titleHigh, lineHigh = 28, 18
)

// drawing is a dashboard on its way to a picture.
type drawing struct {
	canvas
	fonts
	from, to time.Time
	ask      Ask
}

// Dashboard draws one of Grafana's, given as its JSON, with what ask answers to its queries about the time from from to to. Variables have to be filled in
// by ask. Its error says which panel can't be drawn: its type is not known, or its query has failed.
func Dashboard(w io.Writer, text []byte, from, to time.Time, ask Ask) error {
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		return fmt.Errorf("read the dashboard: %w", err)
	}
	rows := 0
	for _, p := range d.Panels {
		rows = max(rows, p.GridPos.Y+p.GridPos.H)
	}
	f, err := newFonts(dashText, dashBig, dashText)
	if err != nil {
		return err
	}
	g := &drawing{newCanvas(gridColumns*gridWide+gap, rows*gridHigh+gap, desk), f, from, to, ask}
	for i := range d.Panels {
		if err := g.panel(&d.Panels[i]); err != nil {
			return fmt.Errorf("panel %q: %w", d.Panels[i].Title, err)
		}
	}
	return g.write(w)
}

// frame is the inside of a panel.
type frame struct{ x, y, w, h float64 }

func (g *drawing) panel(p *panel) error {
	at := p.GridPos
	box := frame{float64(at.X*gridWide + gap), float64(at.Y*gridHigh + gap), float64(at.W*gridWide - gap), float64(at.H*gridHigh - gap)}
	g.rect(box.x, box.y, box.w, box.h, paper)
	inside := frame{box.x + padding, box.y + titleHigh, box.w - 2*padding, box.h - titleHigh - padding/2}
	g.text(inside.x, box.y+19, left, g.bold, ink, g.bold.clip(p.Title, inside.w))
	answers, err := g.answers(p)
	if err != nil {
		return err
	}
	switch p.Type {
	case "stat":
		g.stat(p, answers, inside)
	case "timeseries":
		g.timeseries(p, answers, inside)
	case "state-timeline":
		g.timeline(p, answers, inside)
	case "table":
		g.table(p, answers, inside)
	default:
		return fmt.Errorf("panels of type %q can't be drawn", p.Type)
	}
	return nil
}

// answer is a series and what it is called.
type answer struct {
	Series
	target, name string
}

func (g *drawing) answers(p *panel) (all []answer, err error) {
	for _, t := range p.Targets {
		series, err := g.ask(t.Expr)
		if err != nil {
			return nil, err
		}
		for _, s := range series {
			if len(s.Samples) > 0 {
				all = append(all, answer{s, t.RefID, legend(t.LegendFormat, s.Labels)})
			}
		}
	}
	return all, nil
}

// legend fills in labels.
func legend(format string, labels map[string]string) string {
	for label, value := range labels {
		format = strings.ReplaceAll(format, "{{"+label+"}}", value)
	}
	return format
}

// last is the latest value.
func (s *Series) last() float64 { return s.Samples[len(s.Samples)-1].V }

func (g *drawing) noData(in frame) {
	g.text(in.x+in.w/2, in.y+in.h/2, middle, g.plain, faint, "no data")
}

// stat is one large value.
func (g *drawing) stat(p *panel, answers []answer, in frame) {
	if len(answers) == 0 {
		g.noData(in)
		return
	}
	text, fill := p.FieldConfig.Defaults.write(answers[0].last())
	if p.Options.TextMode == "name" {
		text = answers[0].name
	}
	f := g.big
	if f.width(text) > in.w {
		f = g.bold
	}
	g.text(in.x+in.w/2, in.y+in.h/2+10, middle, f, fill, f.clip(text, in.w))
}

// timeline is a bar for each series, in the colours of its states.
func (g *drawing) timeline(p *panel, answers []answer, in frame) {
	if len(answers) == 0 {
		g.noData(in)
		return
	}
	label := 0.0
	for _, a := range answers {
		label = max(label, g.plain.width(a.name)+8)
	}
	plot := frame{in.x + label, in.y, in.w - label, in.h - lineHigh}
	g.times(plot)
	high := min(plot.h/float64(len(answers)), 48)
	for i, a := range answers {
		top := plot.y + float64(i)*high
		g.text(plot.x-8, top+high/2+5, right, g.plain, ink, a.name)
		for from := 0; from < len(a.Samples); {
			to := from
			for to < len(a.Samples) && a.Samples[to].V == a.Samples[from].V {
				to++
			}
			end := g.to
			if to < len(a.Samples) {
				end = a.Samples[to].At
			}
			x := g.x(plot, a.Samples[from].At)
			width := g.x(plot, end) - x
			text, fill := p.FieldConfig.Defaults.write(a.Samples[from].V)
			g.rect(x, top+4, width, high-8, fill)
			if g.plain.width(text)+8 < width {
				g.text(x+width/2, top+high/2+5, middle, g.plain, paper, text)
			}
			from = to
		}
	}
}

// table has a row for each set of labels and a column for each target, as the transformations merge and organize make it.
func (g *drawing) table(p *panel, answers []answer, in frame) {
	if len(answers) == 0 {
		g.noData(in)
		return
	}
	names, order := map[string]string{}, map[string]int{}
	for _, t := range p.Transformations {
		maps.Copy(names, t.Options.RenameByName)
		maps.Copy(order, t.Options.IndexByName)
	}
	rows := map[string]map[string]float64{} // by labels and column
	labels := map[string]map[string]string{}
	columns := map[string]bool{}
	for _, a := range answers {
		key := fmt.Sprint(a.Labels) // in order
		if rows[key] == nil {
			rows[key], labels[key] = map[string]float64{}, a.Labels
		}
		rows[key]["Value #"+a.target] = a.last()
		columns["Value #"+a.target] = true
		for label := range a.Labels {
			columns[label] = true
		}
	}
	sorted := slices.SortedFunc(maps.Keys(columns), func(a, b string) int { return order[a] - order[b] })
	wide := in.w / float64(len(sorted))
	cell := func(column, row int, a string, f face, fill color.Color) {
		g.text(in.x+wide*float64(column), in.y+float64(16+row*24), left, f, fill, f.clip(a, wide-8))
	}
	for i, column := range sorted {
		name := column
		if names[column] != "" {
			name = names[column]
		}
		cell(i, 0, name, g.bold, faint)
		format := p.fieldOf(name)
		for j, key := range slices.Sorted(maps.Keys(rows)) {
			if v, ok := rows[key][column]; ok {
				text, fill := format.write(v)
				cell(i, j+1, text, g.plain, fill)
			} else {
				cell(i, j+1, labels[key][column], g.plain, ink)
			}
		}
	}
	g.rect(in.x, in.y+22, in.w, 1, grid)
}

// fieldOf is how the values of a column are written.
func (p *panel) fieldOf(name string) field {
	f := p.FieldConfig.Defaults
	for _, o := range p.FieldConfig.Overrides {
		if o.Matcher.ID != "byName" || o.Matcher.Options != name {
			continue
		}
		for _, property := range o.Properties {
			switch property.ID {
			case "unit":
				_ = json.Unmarshal(property.Value, &f.Unit)
			case "mappings":
				_ = json.Unmarshal(property.Value, &f.Mappings)
			}
		}
	}
	return f
}
