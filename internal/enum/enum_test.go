package enum

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type color uint8

var colors = Names[color]{"Color", []string{"", "red", "green"}}

// Each value comes back from its name; what has none is named by its number, and nothing is read
// from what is no name.
func TestValuesComeBackFromTheirNames(t *testing.T) {
	for v, name := range colors.List {
		assert.Equal(t, name, colors.Text(color(v)))
		got := color(9)
		require.NoError(t, colors.Read([]byte(name), &got))
		assert.Equal(t, color(v), got)
	}
	assert.Equal(t, "Color(3)", colors.Text(3))
	got := color(2)
	require.EqualError(t, colors.Read([]byte("blue\n"), &got), `sluice: Color is "blue\n": must be one of ["" "red" "green"]`)
	require.ErrorContains(t, colors.Read([]byte(strings.Repeat("x", 200)), &got), `"`+strings.Repeat("x", 128)+`…":`)
	assert.Equal(t, color(2), got)
}
