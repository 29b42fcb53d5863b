// Package distinct finds what stands in lists of foreign values more than once. Values of which
// nobody can say whether they are equal are not.
//
// It keeps nothing, locks nothing and runs no foreign code.
package distinct

import (
	"reflect"
	"slices"
)

// Has reports whether x is among list.
func Has[T any](list []T, x T) bool {
	for _, y := range list {
		if same(x, y) {
			return true
		}
	}
	return false
}

// Append appends to list what of more is not among it yet.
func Append[T any](list []T, more ...T) []T {
	for _, x := range more {
		if !Has(list, x) {
			list = append(list, x)
		}
	}
	return list
}

func same(a, b any) bool {
	return reflect.TypeOf(a) == reflect.TypeOf(b) && reflect.ValueOf(a).Comparable() && a == b
}

// Without is what of list is not among others: list itself, if nothing is.
func Without[T any](list, others []T) []T {
	shared := func(x T) bool { return Has(others, x) }
	if !slices.ContainsFunc(list, shared) {
		return list
	}
	return slices.DeleteFunc(slices.Clone(list), shared)
}
