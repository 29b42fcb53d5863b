package compiled_test

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice/internal/compiled"
)

type fn func(int, string) (string, error)

func plain(n int, s string) (string, error) { return s, nil }

func TestSame(t *testing.T) {
	var list [2]fn // of one code
	for n := range list {
		list[n] = func(m int, s string) (string, error) { return s + strconv.Itoa(n+m), nil }
	}
	one, other := list[0], list[1]
	kept := one
	wrapped := func(n int, s string) (string, error) { return one(n, s) }
	var none fn
	for _, c := range []struct {
		name string
		a, b fn
		want bool
	}{
		{"itself", one, one, true},
		{"a copy of the value", one, kept, true},
		{"the same code over other variables", one, other, false},
		{"one that calls it", one, wrapped, false},
		{"a plain function", plain, plain, true},
		{"a plain function and a closure", plain, one, false},
		{"none", none, nil, true},
		{"none and one", none, one, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.want, compiled.Same(c.a, c.b))
		})
	}
}
