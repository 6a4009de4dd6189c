package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"levee/integration/lab"
)

const engageIntroduction = `# A flood in mode auto

Made by ` + "`make engage`" + `: quiet, a flood of one address and port at %d forged SYNs a second for %v, quiet. All the time a client connects to that destination, to
another port of the same server, to another server, and to the same server over IPv6, 20 times a second each, and says something on a connection to each that is open from the
beginning. The service has ` + "`mode: auto`" + `, limits that levee has chosen itself (half_open %d, syn_rate %d), and a hold time of %v. The servers can't defend themselves: no SYN
cookies, room for %d half-open connections. Flood, clients, servers and levee share one machine.

![SYNs, what is engaged, and what clients see](engage.svg)

`

// engageSeveral is what package flood says of its errors.
const engageSeveral = `
## Several floods at once

Each address and port is judged alone, and a flood of others, of the same service or another, doesn't hide its half-open handshakes, with two limits. All services share
114,688 places for handshakes that are half-open; those of what is engaged are not among them. While more than 57,344 are used, which takes 112 services that are flooded and
not yet engaged, or fewer whose limits are higher, some are forgotten early, and ` + "`half_open`" + ` is noticed late; a destination may then also be
engaged some 10 below it. And a SYN rate is known of some 4,000 destinations at a time: while a flood is spread over everything, one that gets less than a 4,600th of it is judged by
` + "`half_open`" + ` alone.
`

func (e *engageReport) write(w io.Writer) {
	limits := struct{ halfOpen, rate int }{}
	for _, s := range e.r.Status.Services {
		if s.Engagement != nil {
			limits.halfOpen, limits.rate = s.Engagement.HalfOpen, s.Engagement.SynRate
		}
	}
	defer fmt.Fprint(w, engageSeveral)
	fmt.Fprintf(w, engageIntroduction, e.cfg.rate, e.cfg.flood, limits.halfOpen, limits.rate, e.cfg.hold, backlog)
	if e.cfg.commit != "" {
		fmt.Fprintf(w, "Measured: %s, %s.\n\n", e.cfg.commit, e.cfg.date)
	}
	f := e.flood()
	began, ended := e.times()
	last := e.r.Samples[len(e.r.Samples)-1]
	fmt.Fprintf(w, "- Noticed %v after its beginning, by %s; %d destination engaged, %s; at most %d SYNs in a second.\n",
		began.Round(time.Millisecond), f.Cause, f.Destinations, f.Top, f.PeakSynRate)
	fmt.Fprintf(w, "- Let go %v after its end.\n", ended.Round(10*time.Millisecond))
	fmt.Fprintf(w, "- %d SYNs were forged. %d were answered with cookies, those of clients of that destination among them.\n\n", e.r.Sent, last.Answered)
	fmt.Fprint(w, "| destination | exchanges on | all | failed | median in quiet | in the flood | slowest in quiet | in the flood | segments sent again |\n"+strings.Repeat("|---", 9)+"|\n")
	for i, target := range e.course.Targets {
		for _, open := range []bool{true, false} {
			all := e.r.Took(i, open, 0, time.Hour)
			quiet, flood := e.r.Took(i, open, 0, e.r.FloodFrom), e.r.Took(i, open, e.r.FloodFrom, e.r.FloodTo)
			what, again := "new connections", 0
			if open {
				what, again = "the open one", e.r.Retransmits[i]
			} else {
				for _, p := range e.r.Points {
					if p.Target == i {
						again += p.Retransmits
					}
				}
			}
			name := target.String()
			if i == 0 {
				name += ", flooded"
			}
			fmt.Fprintf(w, "| %s | %s | %d | %d | %s | %s | %s | %s | %d |\n", name, what, all.Tried, all.Tried-all.Completed,
				inMilliseconds(quiet.Percentile(0.5)), inMilliseconds(flood.Percentile(0.5)), inMilliseconds(quiet.Percentile(1)), inMilliseconds(flood.Percentile(1)), again)
		}
	}
}

func inMilliseconds(d time.Duration) string { return fmt.Sprintf("%.1f ms", milliseconds(d)) }

// The measures of the plot, in pixels.
const (
	engageWidth, engageHeight = 820, 620
	engageLeft, engageRight   = 70, engageWidth - 16
)

// panel is a strip of the plot.
type panel struct {
	title       string
	top, bottom float64
	low, high   float64
}

func (p *panel) y(v float64) float64 {
	return p.bottom - min(max((v-p.low)/(p.high-p.low), 0), 1)*(p.bottom-p.top)
}

// engagePlot draws the course: SYNs a second, destinations engaged, and how long exchanges took.
func engagePlot(c *lab.Course, r *lab.CourseResult) string {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", engageWidth, engageHeight)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", engageWidth, engageHeight)
	end := c.Quiet + c.Flood + c.After
	x := func(at time.Duration) float64 {
		return engageLeft + at.Seconds()/end.Seconds()*(engageRight-engageLeft)
	}
	syns := panel{"SYNs a second: forged (grey), to the servers (blue), answered with cookies (red)", 40, 200, 0, 1.2 * float64(c.Rate)}
	engaged := panel{"destinations engaged", 250, 300, 0, 1}
	took := panel{"milliseconds for an exchange, up to 50: new connections to the flooded destination (red), to others (blue), open connections (black)", 350, 590, 0, 50}
	for _, p := range []*panel{&syns, &engaged, &took} {
		fmt.Fprintf(&b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="#fff0e0"/>`+"\n", x(r.FloodFrom), p.top, x(r.FloodTo)-x(r.FloodFrom), p.bottom-p.top)
		fmt.Fprintf(&b, `<text x="%d" y="%.1f" font-weight="bold">%s</text>`+"\n", engageLeft, p.top-10, p.title)
		for _, v := range []float64{p.low, p.high} {
			fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#dddddd"/>`+"\n", engageLeft, engageRight, p.y(v), p.y(v))
			fmt.Fprintf(&b, `<text x="%d" y="%.1f" text-anchor="end">%.0f</text>`+"\n", engageLeft-6, p.y(v)+4, v)
		}
	}
	for at := time.Duration(0); at <= end; at += 2 * time.Second {
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">%.0f s</text>`+"\n", x(at), engageHeight-10, at.Seconds())
	}
	line := func(p *panel, colour string, value func(before, after *lab.CourseSample) float64) {
		var points []string
		for i := rateSpan; i < len(r.Samples); i++ {
			before, after := &r.Samples[i-rateSpan], &r.Samples[i]
			points = append(points, fmt.Sprintf("%.1f,%.1f", x(after.At), p.y(value(before, after))))
		}
		fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="1.5"/>`+"\n", strings.Join(points, " "), colour)
	}
	perSecond := func(n float64, before, after *lab.CourseSample) float64 { return n / (after.At - before.At).Seconds() }
	line(&syns, "#999999", func(a, b *lab.CourseSample) float64 { return perSecond(float64(b.Flooded-a.Flooded), a, b) })
	line(&syns, "#0072b2", func(a, b *lab.CourseSample) float64 { return perSecond(float64(b.Passed-a.Passed), a, b) })
	line(&syns, "#d55e00", func(a, b *lab.CourseSample) float64 { return perSecond(float64(b.Answered-a.Answered), a, b) })
	line(&engaged, "#d55e00", func(_, b *lab.CourseSample) float64 { return float64(b.Engaged) })
	for _, p := range r.Points {
		colour := "#0072b2"
		switch {
		case p.Open:
			colour = "#000000"
		case p.Target == 0:
			colour = "#d55e00"
		}
		ms := p.Took.Seconds() * 1e3
		if p.Err != nil {
			ms = took.high
		}
		fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="1.2" fill="%s"/>`+"\n", x(p.At), took.y(ms), colour)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// rateSpan is over how many samples rates are.
const rateSpan = 4
