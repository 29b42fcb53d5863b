// Package diff tells what has changed between two results of one tool: [Text] line by line, [JSON] and [Values]
// as a patch that makes the second of the first.
//
// Work and size are bounded: where two things differ so much that it would take long to find the shortest way
// from one to the other, the answer is a longer one, which is as right. All functions are safe for concurrent
// use, and none keeps or changes what it is given.
package diff

// maxWork bounds the steps of one comparison of lines or of elements, beyond a few for each of them: about as many
// as fit into a tenth of a second.
const maxWork = 4 << 20

// maxEdits bounds how many lines or elements may differ until a shorter way is no longer looked for.
const maxEdits = 1000

// aligner finds what two lists have in common, with so much work left.
type aligner struct{ work int }

// common is the pairs of places at which a and b have the same, in order: as many as there can be, or fewer
// if that would take too long.
func (x *aligner) common(a, b []int) (pairs [][2]int) {
	start := 0
	for start < len(a) && start < len(b) && a[start] == b[start] {
		pairs = append(pairs, [2]int{start, start})
		start++
	}
	n, m := len(a), len(b)
	for n > start && m > start && a[n-1] == b[m-1] {
		n, m = n-1, m-1
	}
	for _, p := range x.myers(a[start:n], b[start:m]) {
		pairs = append(pairs, [2]int{p[0] + start, p[1] + start})
	}
	for i := range len(a) - n {
		pairs = append(pairs, [2]int{n + i, m + i})
	}
	return pairs
}

// myers is common by the shortest edit script (E. W. Myers, "An O(ND) difference algorithm and its
// variations", 1986), or nothing if that is too long.
func (x *aligner) myers(a, b []int) (pairs [][2]int) {
	n, m := len(a), len(b)
	if n == 0 || m == 0 {
		return nil
	}
	most := min(n+m, maxEdits)
	at := make([]int, 2*most+3) // how far each diagonal has come in a
	place := func(k int) int { return k + most + 1 }
	var trace [][]int // at before each step, from its lowest diagonal on
	for d := 0; d <= most; d++ {
		if x.work -= 2*d + 2; x.work < 0 {
			return nil
		}
		trace = append(trace, append([]int(nil), at[place(-d-1):place(d+1)+1]...))
		for k := -d; k <= d; k += 2 {
			i := at[place(k-1)] + 1
			if k == -d || k != d && at[place(k-1)] < at[place(k+1)] {
				i = at[place(k+1)]
			}
			from := i
			for i < n && i-k < m && a[i] == b[i-k] {
				i++
			}
			x.work -= i - from
			if at[place(k)] = i; i >= n && i-k >= m {
				return back(trace, d, n, m)
			}
		}
	}
	return nil
}

// back goes from the end of both lists to their beginning, the way that trace has found in d steps.
func back(trace [][]int, d, n, m int) (pairs [][2]int) {
	i, j := n, m
	for ; d >= 0; d-- {
		k := i - j
		before := func(k int) int { return trace[d][k+d+1] }
		up := k == -d || k != d && before(k-1) < before(k+1)
		fromI, fromK := 0, k
		switch {
		case d == 0:
		case up:
			fromI, fromK = before(k+1), k+1
		default:
			fromI, fromK = before(k-1), k-1
		}
		edge := fromI // where the equal part began
		if d > 0 && !up {
			edge++
		}
		for i > edge {
			i, j = i-1, j-1
			pairs = append(pairs, [2]int{i, j})
		}
		i, j = fromI, fromI-fromK
	}
	for l, r := 0, len(pairs)-1; l < r; l, r = l+1, r-1 {
		pairs[l], pairs[r] = pairs[r], pairs[l]
	}
	return pairs
}
