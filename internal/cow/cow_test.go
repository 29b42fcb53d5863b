package cow

import (
	"maps"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
)

// A change makes another map and leaves the one that others read as it was.
func TestChangesLeaveTheMapThatOthersRead(t *testing.T) {
	var m map[string]int
	want := make(map[string]int)
	for i := range 100 {
		was := maps.Clone(m)
		next := With(m, strconv.Itoa(i), i)
		want[strconv.Itoa(i)] = i
		if !maps.Equal(m, was) || !maps.Equal(next, want) {
			t.Fatalf("after %d were added: %v", i+1, next)
		}
		m = next
	}
	for i := range 100 {
		was := maps.Clone(m)
		next := Without(m, strconv.Itoa(i))
		delete(want, strconv.Itoa(i))
		if !maps.Equal(m, was) || !maps.Equal(next, want) {
			t.Fatalf("after %d were taken out: %v", i+1, next)
		}
		m = next
	}
	assert.Empty(t, Without(m, "none"), "nothing without a name")
}
