package diff

import (
	"fmt"
	"strings"
)

// context is how many equal lines stand around a change.
const context = 3

// Text is what has to be done to a to get b, line by line, in the unified form that patch reads and models know,
// with three lines around each change. It is empty if they are equal. It has each line of both texts once at
// most.
func Text(a, b string) string {
	if a == b {
		return ""
	}
	x, y := lines(a), lines(b)
	ids := map[string]int{}
	number := func(list []string) []int {
		out := make([]int, len(list))
		for i, l := range list {
			id, ok := ids[l]
			if !ok {
				id = len(ids)
				ids[l] = id
			}
			out[i] = id
		}
		return out
	}
	al := aligner{maxWork}
	pairs := al.common(number(x), number(y))
	var out strings.Builder
	out.WriteString("--- a\n+++ b\n")
	for _, h := range hunks(pairs, len(x), len(y)) {
		h.write(&out, x, y)
	}
	return out.String()
}

// lines is s in lines, each with its end.
func lines(s string) []string {
	list := strings.SplitAfter(s, "\n")
	if list[len(list)-1] == "" {
		list = list[:len(list)-1]
	}
	return list
}

// change is that lines of a, from ... to, become lines of b.
type change struct{ a, aEnd, b, bEnd int }

// hunk is changes that stand near one another, with the lines around them.
type hunk struct {
	change
	list []change
}

// hunks is what stands between pairs of equal lines.
func hunks(pairs [][2]int, n, m int) (out []hunk) {
	i, j := 0, 0
	for _, p := range append(pairs, [2]int{n, m}) {
		if c := (change{i, p[0], j, p[1]}); c.a < c.aEnd || c.b < c.bEnd {
			if last := len(out) - 1; last >= 0 && c.a-out[last].list[len(out[last].list)-1].aEnd <= 2*context {
				out[last].list = append(out[last].list, c)
			} else {
				out = append(out, hunk{list: []change{c}})
			}
		}
		i, j = p[0]+1, p[1]+1
	}
	for k := range out {
		h := &out[k]
		first, last := h.list[0], h.list[len(h.list)-1]
		before, after := min(context, first.a), min(context, n-last.aEnd)
		h.change = change{first.a - before, last.aEnd + after, first.b - before, last.bEnd + after}
	}
	return out
}

func (h *hunk) write(out *strings.Builder, x, y []string) {
	fmt.Fprintf(out, "@@ -%s +%s @@\n", span(h.a, h.aEnd), span(h.b, h.bEnd))
	i := h.a
	for _, c := range h.list {
		put(out, ' ', x[i:c.a])
		put(out, '-', x[c.a:c.aEnd])
		put(out, '+', y[c.b:c.bEnd])
		i = c.aEnd
	}
	put(out, ' ', x[i:h.aEnd])
}

// span is lines in the head of a hunk: of none the line before.
func span(from, to int) string {
	switch n := to - from; n {
	case 0:
		return fmt.Sprintf("%d,0", from)
	case 1:
		return fmt.Sprint(from + 1)
	default:
		return fmt.Sprintf("%d,%d", from+1, n)
	}
}

func put(out *strings.Builder, mark byte, list []string) {
	for _, l := range list {
		out.WriteByte(mark)
		if out.WriteString(l); !strings.HasSuffix(l, "\n") {
			out.WriteString("\n\\ No newline at end of file\n")
		}
	}
}
