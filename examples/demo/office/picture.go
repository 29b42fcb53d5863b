package office

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// picture is the two runs as an SVG, one above the other: how many calls have succeeded and failed by when.
func picture(without, with column) string {
	const width, panel = 760, 190
	until := max(without.took, with.took)
	var b strings.Builder
	title := fmt.Sprintf("%d tool calls of an agent: %d succeed unguarded, %d through Sluice", len(with.answers), without.succeeded(), with.succeeded())
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n", width, 2*panel)
	fmt.Fprintf(&b, "<title>%s</title>\n", title)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, 2*panel)
	for i, c := range []column{without, with} {
		name := [...]string{"unguarded", "through Sluice"}[i]
		fmt.Fprintf(&b, `<g transform="translate(0 %d)">`+"\n", i*panel)
		fmt.Fprintf(&b, `<text x="20" y="24" font-weight="bold">%s</text>`+"\n", name)
		fmt.Fprintf(&b, `<text x="150" y="24" fill="#333">429: %d   503: %d   500: %d   at most %d at once, where %d are allowed</text>`+"\n",
			c.counts.TooMany, c.counts.TooBusy, c.counts.Wasted, c.counts.Peak, serverSlots)
		const left, top, right, bottom = 20, 36, 600, 160
		x := func(at time.Duration) int { return left + int(int64(right-left)*int64(at)/int64(until)) }
		fmt.Fprintf(&b, `<path d="M%d %dH%d" stroke="#999" fill="none"/>`+"\n", left, bottom, right)
		for s := time.Duration(0); s <= until; s += 2 * time.Second {
			fmt.Fprintf(&b, `<text x="%d" y="%d" fill="#666" text-anchor="middle">%d s</text>`+"\n", x(s), bottom+17, s/time.Second)
		}
		for _, line := range []struct {
			name, colour string
			of           func(a answer) bool
		}{
			{"succeeded", "#1a7f37", func(a answer) bool { return a.Err == nil }},
			{"failed", "#cf222e", func(a answer) bool { return a.Err != nil }},
		} {
			calls := slices.SortedFunc(slices.Values(c.answers), func(a, b answer) int { return cmp.Compare(a.Began, b.Began) })
			n, y := 0, bottom
			path := fmt.Sprintf("M%d %d", left, bottom)
			for _, a := range calls {
				if line.of(a) {
					n++
					y = bottom - (bottom-top)*n/len(calls)
					path += fmt.Sprintf("H%dV%d", x(a.Began), y)
				}
			}
			fmt.Fprintf(&b, `<path d="%sH%d" stroke="%s" stroke-width="2" fill="none"/>`+"\n", path, right, line.colour)
			fmt.Fprintf(&b, `<text x="%d" y="%d" fill="%s">%d %s</text>`+"\n", right+8, y+4, line.colour, n, line.name)
		}
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	return b.String()
}
