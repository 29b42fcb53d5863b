// Package few has lists that are almost always short, and lists that are made of others.
package few

import "slices"

// List is a list of values, of which the first four need no memory of their own. The zero value is
// empty. It must not be copied while it is written.
type List[T any] struct {
	n     int
	first [4]T
	more  []T
}

// Add appends v.
func (l *List[T]) Add(v T) {
	if l.n < len(l.first) {
		l.first[l.n] = v
	} else {
		l.more = append(l.more, v)
	}
	l.n++
}

// Len is how many values there are.
func (l *List[T]) Len() int { return l.n }

// At is the i-th value, from 0.
func (l *List[T]) At(i int) T {
	if i < len(l.first) {
		return l.first[i]
	}
	return l.more[i-len(l.first)]
}

// Index is the place of v in *list, which it is added to if it is not there.
func Index[T comparable](list *[]T, v T) int {
	i := slices.Index(*list, v)
	if i < 0 {
		i = len(*list)
		*list = append(*list, v)
	}
	return i
}

// Map is what f makes of each value of list; nil of nil.
func Map[T, U any](list []T, f func(T) U) []U {
	if list == nil {
		return nil
	}
	out := make([]U, len(list))
	for i, v := range list {
		out[i] = f(v)
	}
	return out
}
