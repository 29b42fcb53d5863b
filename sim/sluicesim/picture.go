package main

import (
	"encoding/xml"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/sluice-go/sluice/sim"
)

// look is how the marks of a policy look: what tells two apart without colour as well.
type look struct {
	colour string
	fill   string // of bars and dots
	dash   string
}

// looks is one for each policy that a picture can show.
var looks = [...]look{
	{colour: "#1f5fa8", fill: "#1f5fa8", dash: "none"},
	{colour: "#b34700", fill: "#ffffff", dash: "6 4"},
}

// Where things stand in the picture, in its units.
const (
	width   = 960.0
	margin  = 32.0
	right   = width - margin
	barsEnd = 530.0 // of bars; what they say stands behind
	labels  = 120.0 // left of bars of waits
	rowStep = 22.0
)

// canvas is a picture under way, from its top down to y.
type canvas struct {
	b strings.Builder
	y float64
}

// put writes an element, or the start or end of one.
func (c *canvas) put(format string, args ...any) {
	fmt.Fprintf(&c.b, format, args...)
	c.b.WriteByte('\n')
}

// write writes s, which is anybody's, in the style of a class.
func (c *canvas) write(x, y float64, class, s string) {
	c.put(`<text x="%s" y="%s" class="%s">%s</text>`, at(x), at(y), class, escaped(s))
}

func (c *canvas) line(x1, y1, x2, y2 float64, class string) {
	c.put(`<line x1="%s" y1="%s" x2="%s" y2="%s" class="%s"/>`, at(x1), at(y1), at(x2), at(y2), class)
}

// at is a coordinate.
func at(x float64) string { return strings.TrimSuffix(decimal(x, 1), ".0") }

func escaped(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder takes everything
	return b.String()
}

// picture is the results as an SVG document.
func picture(m *mix, results []*result) string {
	c := &canvas{y: 96}
	for i, x := range results {
		c.legend(i, x)
		c.y += rowStep
	}
	c.waits(results)
	c.uses(results)
	c.refusals(m, results)
	height := at(c.y + margin)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="sluicesim-title sluicesim-desc" viewBox="0 0 %s %s" width="%[1]s" height="%[2]s">
<title id="sluicesim-title">%[3]s</title>
<desc id="sluicesim-desc">%[4]s</desc>
<style>
text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; font-size: 13px; fill: #1a1a1a }
.head { font-size: 19px; font-weight: 600 }
.part { font-size: 15px; font-weight: 600 }
.note { fill: #555555 }
.tick { fill: #555555; font-size: 12px }
.middle { text-anchor: middle }
.end { text-anchor: end }
.grid { stroke: #dddddd; stroke-width: 1 }
.axis { stroke: #888888; stroke-width: 1 }
`, at(width), height, escaped(m.title), escaped(describe(m, results)))
	for i, l := range looks[:len(results)] {
		fmt.Fprintf(&b, ".bar%d { fill: %s; stroke: %s; stroke-width: 1.5 }\n", i, l.fill, l.colour)
		fmt.Fprintf(&b, ".tail%d { stroke: %s; stroke-width: 2 }\n", i, l.colour)
		fmt.Fprintf(&b, ".run%d { stroke: %s; stroke-width: 2; fill: none; stroke-dasharray: %s }\n", i, l.colour, l.dash)
	}
	fmt.Fprintf(&b, "</style>\n<rect width=\"%s\" height=\"%s\" fill=\"#ffffff\"/>\n", at(width), height)
	head := canvas{}
	head.write(margin, 44, "head", short(m.title, 90))
	head.write(margin, 68, "note", circumstances(m))
	return b.String() + head.b.String() + c.b.String() + "</svg>\n"
}

// short is s, cut to n characters.
func short(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

// describe says in words what the picture shows.
func describe(m *mix, results []*result) string {
	var b strings.Builder
	b.WriteString(circumstances(m) + ".")
	for _, x := range results {
		fmt.Fprintf(&b, " Policy %s: ", x.policy.name)
		for _, g := range x.report.Priorities {
			fmt.Fprintf(&b, "%s; ", g.Name+" "+waits(g)+", refused "+percent(share(g.Refused, g.Arrived)))
		}
		for _, l := range x.report.Limits {
			fmt.Fprintf(&b, "%s used %s; ", l.Name, used(x, l.Name))
		}
		fmt.Fprintf(&b, "%s.", refusedOf(x))
	}
	return b.String()
}

// waits says in words how long calls of g waited.
func waits(g sim.Group) string {
	if g.Started == 0 {
		return "none started"
	}
	return fmt.Sprintf("p50 %s, p99 %s, max %s", spell(g.Wait.P50), spell(g.Wait.P99), spell(g.Wait.Max))
}

// refusedOf says in words how many calls x refused.
func refusedOf(x *result) string {
	all := x.report.All
	return fmt.Sprintf("%d of %d calls refused, %s", all.Refused, all.Arrived, percent(share(all.Refused, all.Arrived)))
}

// legend says how the policy at i looks.
func (c *canvas) legend(i int, x *result) {
	c.put(`<rect x="%s" y="%s" width="28" height="10" class="bar%d"/>`, at(margin), at(c.y-10), i)
	c.line(margin+34, c.y-5, margin+66, c.y-5, fmt.Sprintf("run%d", i))
	c.write(margin+76, c.y, "", short(x.policy.name, 60)+": "+refusedOf(x))
}

// part begins a part of the picture.
func (c *canvas) part(name, note string) {
	c.y += 30
	c.write(margin, c.y, "part", name)
	c.y += 20
	c.write(margin, c.y, "note", note)
	c.y += 14
}

// waits draws how long calls of each priority waited, on a logarithmic scale.
func (c *canvas) waits(results []*result) {
	c.part("Waits by priority, before calls start", "dot: half waited no longer; end of the bar: 99 of 100; end of the line: the longest wait")
	const least = time.Millisecond
	decades := 2
	for _, x := range results {
		for _, g := range x.report.Priorities {
			for least*time.Duration(math.Pow10(decades)) < g.Wait.Max {
				decades++
			}
		}
	}
	from := margin + labels
	place := func(d time.Duration) float64 {
		return from + (barsEnd-from)*max(0, math.Log10(float64(d)/float64(least)))/float64(decades)
	}
	names := named(results, func(x *result) []sim.Group { return x.report.Priorities })
	bottom := c.y + float64(len(names))*(rowStep*float64(len(results))+8)
	for i := range decades + 1 {
		d := least * time.Duration(math.Pow10(i))
		c.line(place(d), c.y, place(d), bottom, "grid")
		label := spell(d)
		if i == 0 {
			label = "1 ms or less"
		}
		c.write(place(d), bottom+16, "tick middle", label)
	}
	for _, name := range names {
		c.y += 4
		c.write(margin, c.y+16, "", short(name, 16))
		for i, x := range results {
			g, y := group(x.report.Priorities, name), c.y+rowStep/2
			if g.Started > 0 {
				half, most, longest := place(g.Wait.P50), place(g.Wait.P99), place(g.Wait.Max)
				c.line(half, y, longest, y, fmt.Sprintf("tail%d", i))
				c.put(`<rect x="%s" y="%s" width="%s" height="8" class="bar%d"/>`, at(half), at(y-4), at(max(most-half, 0)), i)
				c.put(`<circle cx="%s" cy="%s" r="5.5" class="bar%d"/>`, at(half), at(y), i)
			}
			c.write(barsEnd+24, y+5, "", waits(g)+"; refused "+percent(share(g.Refused, g.Arrived)))
			c.y += rowStep
		}
		c.y += 4
	}
	c.y = bottom + 20
}

// uses draws how far each limit was used.
func (c *canvas) uses(results []*result) {
	c.part("Use per limit", "mean share of what the limit allows, over the whole time")
	for _, name := range limits(results) {
		c.y += 18
		c.write(margin, c.y, "", short(name, 80))
		c.y += 6
		for i, x := range results {
			c.put(`<rect x="%s" y="%s" width="%s" height="12" fill="#f0f0f0"/>`, at(margin), at(c.y), at(barsEnd-margin))
			if l, ok := x.limit(name); ok {
				c.put(`<rect x="%s" y="%s" width="%s" height="12" class="bar%d"/>`,
					at(margin), at(c.y), at((barsEnd-margin)*min(max(l.Used, 0), 1)), i)
			}
			c.write(barsEnd+24, c.y+11, "", used(x, name))
			c.y += 18
		}
	}
	c.y += 6
}

// refusals draws when calls were refused.
func (c *canvas) refusals(m *mix, results []*result) {
	interval := m.duration.Seconds() / intervals
	most := int64(0)
	for _, x := range results {
		most = max(most, slices.Max(x.refused[:]))
	}
	c.part("Refused calls over time", fmt.Sprintf("calls per second, in parts of %s", exactly(m.duration/intervals)))
	if most == 0 {
		c.y += 10
		c.write(margin, c.y, "", "none")
		return
	}
	const high, from = 150.0, margin + 40
	bottom := c.y + 6 + high
	scale := nice(float64(most) / interval)
	for i := range 3 {
		y := bottom - high*float64(i)/2
		c.line(from, y, right, y, "grid")
		c.write(from-8, y+4, "tick end", fmt.Sprintf("%.4g", scale*float64(i)/2))
	}
	for i := range 5 {
		x := from + (right-from)*float64(i)/4
		c.line(x, bottom, x, bottom+5, "axis")
		c.write(x, bottom+20, [...]string{"tick", "tick middle", "tick middle", "tick middle", "tick end"}[i], exactly(m.duration*time.Duration(i)/4))
	}
	c.line(from, bottom, right, bottom, "axis")
	for i, x := range results {
		var path strings.Builder
		for j, n := range x.refused {
			y := bottom - high*float64(n)/interval/scale
			command := "L"
			if j == 0 {
				command = "M"
			}
			fmt.Fprintf(&path, "%s%s,%s H%s ", command, at(from+(right-from)*float64(j)/intervals), at(y),
				at(from+(right-from)*float64(j+1)/intervals))
		}
		c.put(`<path d="%s" class="run%d"/>`, strings.TrimSpace(path.String()), i)
	}
	c.y = bottom + 24
}

// nice is the next of 1, 2 and 5 times a power of ten.
func nice(x float64) float64 {
	p := math.Pow(10, math.Floor(math.Log10(x)))
	for _, f := range []float64{1, 2, 5} {
		if x <= f*p {
			return f * p
		}
	}
	return 10 * p
}
