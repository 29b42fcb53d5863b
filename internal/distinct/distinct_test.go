package distinct

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

type shared [1][]int // which cannot be compared

// Values are found by what they are; of what cannot be compared nobody knows.
func TestValuesAreFoundAsFarAsTheyCanBeCompared(t *testing.T) {
	p, f := new(int), func() {}
	list := []any{1, "a", p, shared{}, f, any([1]any{2})}
	for _, x := range []any{1, "a", p, [1]any{2}} {
		assert.True(t, Has(list, x), "%v", x)
	}
	for _, x := range []any{2, int64(1), new(int), shared{}, f, [1]any{shared{}}, nil} {
		assert.False(t, Has(list, x), "%T", x)
	}
	assert.False(t, Has(nil, any(1)))
}

// What is among others is left out, and a list of which nothing is stays as it is.
func TestOthersAreLeftOut(t *testing.T) {
	list := []any{1, 2, 3}
	assert.Equal(t, []any{1, 3}, Without(list, []any{2, 4}))
	assert.Equal(t, []any{1, 2, 3}, list, "what was given")
	assert.Empty(t, Without(list, []any{3, 2, 1}))
	same := Without(list, []any{4, shared{}})
	assert.Same(t, &list[0], &same[0])
}

// A list gets each value once, but for those of which nobody knows.
func TestValuesAreAppendedOnce(t *testing.T) {
	assert.Equal(t, []any{1, 2, shared{}, shared{}}, Append([]any{1}, []any{2, 1, 2, shared{}, shared{}}...))
	assert.Nil(t, Append[any](nil))
}
