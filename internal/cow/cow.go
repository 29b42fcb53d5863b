// Package cow changes maps that others may be reading: each change makes a copy, so that a map
// that has been published never changes. [With] and [Without] lock nothing; a [Map] has who writes it
// take turns, and runs what a writer says under its lock.
package cow

import "maps"

// With is a copy of m that has v under the name.
func With[V any](m map[string]V, name string, v V) map[string]V {
	m = maps.Clone(m)
	if m == nil {
		m = make(map[string]V)
	}
	m[name] = v
	return m
}

// Without is a copy of m that has nothing under the name. A clone keeps the room for all that
// ever were there together, so at every halving the copy is made anew.
func Without[V any](m map[string]V, name string) map[string]V {
	left := len(m) - 1
	if left&(left-1) != 0 {
		m = maps.Clone(m)
		delete(m, name)
		return m
	}
	rest := make(map[string]V, left)
	for n, v := range m {
		if n != name {
			rest[n] = v
		}
	}
	return rest
}
