package value

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestSizeEstimates(t *testing.T) {
	type node struct {
		Name string
		Next *node
		any  any
	}
	ring := &node{Name: "ring"}
	ring.Next = ring
	long := make([]string, 5000)
	for i := range long {
		long[i] = strings.Repeat("x", 100)
	}
	wantSize(t, "number", sizeOf(new(int32)), 4, 4)
	wantSize(t, "string", sizeOf(ptr(strings.Repeat("x", 100))), 2*word+100, 2*word+100)
	wantSize(t, "bytes", sizeOf(ptr(make([]byte, 10, 1000))), 3*word+1000, 3*word+1000)
	wantSize(t, "raw JSON", sizeOf(ptr(json.RawMessage(make([]byte, 100)))), 3*word+100, 3*word+106)
	wantSize(t, "array", sizeOf(new([100]int64)), 800, 800)
	wantSize(t, "struct", sizeOf(&node{Name: "abc"}), 5*word+3, 5*word+3)
	wantSize(t, "unexported", sizeOf(&node{any: strings.Repeat("x", 1000)}), 7*word+1000, 7*word+1000)
	wantSize(t, "map", sizeOf(&map[string]int{"a": 1, "b": 2}), word+2*(3*word+16)+2, word+2*(3*word+16)+12)
	wantSize(t, "map of slices", sizeOf(&map[string][]byte{"a": make([]byte, 1000)}), 1000, 1100)
	wantSize(t, "beyond the budget", sizeOf(&long), 3*word+5000*(2*word+100), 3*word+5000*(2*word+100))
	wantSize(t, "ring", sizeOf(&ring), word*1250, word*6250)
	wantSize(t, "nils", sizeOf(&struct {
		P *int
		M map[int]int
		S []int
		I any
		F func()
	}{}), 8*word, 8*word)
	wantSize(t, "nil interface", sizeOf(new(any)), 2*word, 2*word)
}

// A value that contains the same parts at several levels has an estimate beyond what a
// number holds.
func TestSizesDoNotOverflow(t *testing.T) {
	var v any = "the same"
	for range 12 {
		level := make([]any, 1000)
		for i := range level {
			level[i] = v
		}
		v = level
	}
	wantSize(t, "nested", sizeOf(&v), mostBytes, mostBytes)
}

func ptr[T any](v T) *T { return &v }

func wantSize(t *testing.T, what string, got, least, most int64) {
	t.Helper()
	assert.GreaterOrEqual(t, got, least, "%s: estimated bytes", what)
	assert.LessOrEqual(t, got, most, "%s: estimated bytes", what)
}
