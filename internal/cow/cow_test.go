package cow

import (
	"maps"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A change makes another map and leaves the one that others read as it was.
func TestChangesLeaveTheMapThatOthersRead(t *testing.T) {
	var m map[string]int
	want := make(map[string]int)
	for i := range 100 {
		was := maps.Clone(m)
		next := With(m, strconv.Itoa(i), i)
		want[strconv.Itoa(i)] = i
		require.Equal(t, was, m, "after %d were added", i+1)
		require.Equal(t, want, next, "after %d were added", i+1)
		m = next
	}
	for i := range 100 {
		was := maps.Clone(m)
		next := Without(m, strconv.Itoa(i))
		delete(want, strconv.Itoa(i))
		require.Equal(t, was, m, "after %d were taken out", i+1)
		require.Equal(t, want, next, "after %d were taken out", i+1)
		m = next
	}
	assert.Empty(t, Without(m, "none"), "nothing without a name")
}
