package picture

import (
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"math"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/gomono"
	"golang.org/x/image/font/gofont/gomonobold"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"
	"golang.org/x/image/vector"
)

// face is a font of a size.
type face struct {
	font.Face
}

// fonts are read once for each picture: a Face is for one goroutine.
type fonts struct{ plain, bold, big, mono, monoBold face }

func newFonts(textSize, bigSize, monoSize float64) (f fonts, err error) {
	for _, x := range []struct {
		into *face
		ttf  []byte
		size float64
	}{
		{&f.plain, goregular.TTF, textSize}, {&f.bold, gobold.TTF, textSize}, {&f.big, gobold.TTF, bigSize},
		{&f.mono, gomono.TTF, monoSize}, {&f.monoBold, gomonobold.TTF, monoSize},
	} {
		parsed, err := opentype.Parse(x.ttf)
		if err != nil {
			return f, err
		}
		if x.into.Face, err = opentype.NewFace(parsed, &opentype.FaceOptions{Size: x.size, DPI: 72, Hinting: font.HintingFull}); err != nil {
			return f, err
		}
	}
	return f, nil
}

// width of a text in pixels.
func (f face) width(text string) float64 { return float64(font.MeasureString(f, text)) / 64 }

// clip shortens a text to a width.
func (f face) clip(text string, width float64) string {
	if f.width(text) <= width {
		return text
	}
	runes := []rune(text)
	for len(runes) > 0 && f.width(string(runes)+"…") > width {
		runes = runes[:len(runes)-1]
	}
	return string(runes) + "…"
}

// align is where a text is in relation to its x.
type align float64

const (
	left   align = 0
	middle align = 0.5
	right  align = 1
)

// canvas is an image and what can be drawn on it. Measures are pixels from the upper left corner.
type canvas struct{ *image.RGBA }

func newCanvas(width, height int, background color.Color) canvas {
	c := canvas{image.NewRGBA(image.Rect(0, 0, width, height))}
	draw.Draw(c, c.Bounds(), image.NewUniform(background), image.Point{}, draw.Src)
	return c
}

func (c canvas) rect(x, y, width, height float64, fill color.Color) {
	r := image.Rect(int(math.Round(x)), int(math.Round(y)), int(math.Round(x+width)), int(math.Round(y+height)))
	draw.Draw(c, r.Intersect(c.Bounds()), image.NewUniform(fill), image.Point{}, draw.Over)
}

// text is drawn on the line y.
func (c canvas) text(x, y float64, a align, f face, fill color.Color, text string) {
	x -= float64(a) * f.width(text)
	d := font.Drawer{Dst: c, Src: image.NewUniform(fill), Face: f, Dot: fixed.Point26_6{X: fixed.Int26_6(x * 64), Y: fixed.I(int(y))}}
	d.DrawString(text)
}

type point struct{ x, y float64 }

// line draws from each point to the next.
func (c canvas) line(points []point, width float64, fill color.Color) {
	for i := 1; i < len(points); i++ {
		c.stroke(points[i-1], points[i], width, fill)
	}
}

// dashes of a dashed line, and the gaps between them.
const dashLength, dashGap = 7.0, 5.0

// dashed is line in dashes.
func (c canvas) dashed(points []point, width float64, fill color.Color) {
	at := 0.0 // in the pattern
	for i := 1; i < len(points); i++ {
		a, b := points[i-1], points[i]
		length := math.Hypot(b.x-a.x, b.y-a.y)
		for done := 0.0; done < length; {
			on, rest := at < dashLength, dashLength-at
			if !on {
				rest = dashLength + dashGap - at
			}
			step := min(rest, length-done)
			if on {
				part := func(d float64) point { return point{a.x + (b.x-a.x)*d/length, a.y + (b.y-a.y)*d/length} }
				c.stroke(part(done), part(done+step), width, fill)
			}
			done += step
			if at += step; at >= dashLength+dashGap-1e-9 {
				at = 0
			}
		}
	}
}

// stroke is a line with square ends that reach half its width further, so that those of one path meet.
func (c canvas) stroke(a, b point, width float64, fill color.Color) {
	length := math.Hypot(b.x-a.x, b.y-a.y)
	if length == 0 {
		return
	}
	dx, dy := (b.x-a.x)/length*width/2, (b.y-a.y)/length*width/2
	c.polygon([]point{{a.x - dx - dy, a.y - dy + dx}, {b.x + dx - dy, b.y + dy + dx}, {b.x + dx + dy, b.y + dy - dx}, {a.x - dx + dy, a.y - dy - dx}}, fill)
}

// polygon is filled.
func (c canvas) polygon(points []point, fill color.Color) {
	low, high := points[0], points[0]
	for _, p := range points {
		low, high = point{min(low.x, p.x), min(low.y, p.y)}, point{max(high.x, p.x), max(high.y, p.y)}
	}
	box := image.Rect(int(low.x)-1, int(low.y)-1, int(high.x)+2, int(high.y)+2).Intersect(c.Bounds())
	if box.Empty() {
		return
	}
	r := vector.NewRasterizer(box.Dx(), box.Dy())
	at := func(p point) (float32, float32) {
		return float32(p.x - float64(box.Min.X)), float32(p.y - float64(box.Min.Y))
	}
	r.MoveTo(at(points[0]))
	for _, p := range points[1:] {
		r.LineTo(at(p))
	}
	r.ClosePath()
	r.Draw(c, box, image.NewUniform(fill), image.Point{})
}

// write encodes the picture.
func (c canvas) write(w io.Writer) error {
	e := png.Encoder{CompressionLevel: png.BestCompression}
	return e.Encode(w, c)
}
