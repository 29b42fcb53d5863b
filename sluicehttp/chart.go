package sluicehttp

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// chart is a small picture of the last minutes: lines over time, the latest at the right.
type chart struct {
	ID, Label string
	Now, Most string // as shown
	Lines     []line
}

// line is one value over time; where nobody looked it is broken.
type line struct {
	Class  string
	Pieces []string // of points, as an SVG polyline has them
}

// The size of a picture, in its own units.
const (
	chartWidth  = 300
	chartHeight = 60
)

// Box is the picture's viewBox.
func (c chart) Box() string { return fmt.Sprintf("0 0 %d %d", chartWidth, chartHeight) }

// Describe is what the picture shows, in words.
func (c chart) Describe() string {
	return fmt.Sprintf("%s over the last minutes: now %s, at most %s", c.Label, c.Now, c.Most)
}

// charts are the pictures of x.
func charts(x *reading) []chart {
	if len(x.points) == 0 {
		return nil
	}
	count := func(v float64) string { return number(int64(v)) }
	list := []chart{
		x.chart("in_flight", "In flight", 0, count, func(i int) float64 { return float64(x.points[i].InFlight) }),
		x.chart("queued", "Queued", 0, count, func(i int) float64 { return float64(x.points[i].Queued) }),
		x.chart("oldest", "Longest wait", 0, func(v float64) string { return length(time.Duration(v)) },
			func(i int) float64 { return float64(x.points[i].Oldest) }),
		x.chart("ended", "Ended per second", 0, func(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }, x.ended),
	}
	type named struct {
		i   int
		use float32
	}
	var order []named
	last := &x.points[len(x.points)-1]
	for i := range x.names {
		order = append(order, named{i, last.use[i]})
	}
	slices.SortStableFunc(order, func(a, b named) int {
		switch {
		case a.use > b.use:
			return -1
		case a.use < b.use:
			return 1
		}
		return 0
	})
	for _, n := range order[:min(mostDrawn, len(order))] {
		list = append(list, x.chart("use", "Use of "+shown(x.names[n.i]), 1, percent,
			func(i int) float64 { return float64(x.points[i].use[n.i]) }))
	}
	return list
}

// ended is how many calls ended each second before the i-th point, -1 if nobody knows.
func (x *reading) ended(i int) float64 {
	if i == 0 {
		return -1
	}
	a, b := &x.points[i-1], &x.points[i]
	d := b.At.Sub(a.At).Seconds()
	if d <= 0 {
		return -1
	}
	return float64(b.Completed-a.Completed+b.Failed-a.Failed) / d
}

// chart draws value, which is negative where there is none.
// The picture is as high as its highest value, but at least as least.
func (x *reading) chart(id, label string, least float64, text func(float64) string, value func(int) float64) chart {
	c := chart{ID: id, Label: label}
	end := x.points[len(x.points)-1].At
	most, now := 0.0, 0.0
	for i := range x.points {
		now = max(0, value(i))
		most = max(most, now)
	}
	c.Now, c.Most = text(now), text(most)
	gap, drawn := x.gap(), x.drawn()
	l := line{Class: "line"}
	var piece strings.Builder
	done := func() {
		if s := piece.String(); s != "" {
			if !strings.Contains(s, " ") {
				s += " " + s // a dot
			}
			l.Pieces = append(l.Pieces, s)
			piece.Reset()
		}
	}
	for i := range x.points {
		v, at := value(i), x.points[i].At
		if v < 0 || i > 0 && at.Sub(x.points[i-1].At) > gap {
			done()
		}
		if v < 0 {
			continue
		}
		right := chartWidth - 2 - float64(end.Sub(at))/float64(drawn)*(chartWidth-4)
		up := 0.0
		if top := max(most, least); top > 0 {
			up = v / top
		}
		if piece.Len() > 0 {
			piece.WriteByte(' ')
		}
		fmt.Fprintf(&piece, "%.1f,%.1f", right, chartHeight-2-up*(chartHeight-4))
	}
	done()
	c.Lines = []line{l}
	return c
}

// leastDrawn is the shortest time that is drawn.
const leastDrawn = 30 * time.Second

// drawn is for how long before x the pictures go back.
func (x *reading) drawn() time.Duration {
	if len(x.points) == 0 {
		return leastDrawn
	}
	return max(leastDrawn, x.points[len(x.points)-1].At.Sub(x.points[0].At).Round(time.Second))
}

// gap is how much time may be between two points of a line: three times what is usual.
func (x *reading) gap() time.Duration {
	if len(x.points) < 3 {
		return span
	}
	var list []time.Duration
	for i := 1; i < len(x.points); i++ {
		list = append(list, x.points[i].At.Sub(x.points[i-1].At))
	}
	slices.Sort(list)
	return 3 * list[len(list)/2]
}
