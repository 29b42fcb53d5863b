// Package highest keeps in an atomic number the highest that anybody has told it. It locks nothing.
package highest

import "cmp"

// Number is a number of sync/atomic.
type Number[N cmp.Ordered] interface {
	Load() N
	CompareAndSwap(was, n N) bool
}

// Raise makes *x at least n, and reports whether it was less.
func Raise[N cmp.Ordered, X Number[N]](x X, n N) bool {
	for was := x.Load(); was < n; was = x.Load() {
		if x.CompareAndSwap(was, n) {
			return true
		}
	}
	return false
}
