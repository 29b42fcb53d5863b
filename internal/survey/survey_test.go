package survey

import (
	"fmt"
	"slices"
	"testing"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/rules"
	"github.com/sluice-go/sluice/internal/stage"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Each cell is read once, sorted, and at most so many under one hold of the lock, between which
// others get in.
func TestCellsAreReadInBatches(t *testing.T) {
	var ref stage.Ref
	class := rules.Slots{Scope: rules.Of(rules.ByTenant), Max: 3, MaxKeys: 100}.Class("")
	s := ref.Lock()
	var pinned []*admit.Cell
	for i := range 25 {
		pinned = append(pinned, s.M.Cell(s.Now(), class, fmt.Sprintf("%02d", i)))
	}
	s.Unlock()
	require.Len(t, pinned, 25)
	limits := func() []Limit { return []Limit{{Class: class, Scope: rules.Of(rules.ByTenant)}} }
	r := New(s, []Source{{&ref, limits}}, nil)
	holds := 1
	for r.Next(10) {
		ref.Lock().Unlock()
		holds++
	}
	got := r.Done()
	require.Len(t, got.Cells, 25)
	for i, c := range got.Cells {
		assert.Equal(t, Cell{Name: class.Name, Scope: "per tenant", Key: fmt.Sprintf("%02d", i), Limit: 3}, c)
	}
	assert.Equal(t, 3, holds, "holds of the lock")
}

// Lanes that look alike are one: their calls together, and the longest wait.
func TestLanesThatLookAlikeAreOne(t *testing.T) {
	var r Reading
	r.Lanes = []Lane{
		{Tool: "b", Waiting: 1, Oldest: 3, By: "x"},
		{Tool: "a", Waiting: 2, Oldest: 5, By: "x"},
		{Tool: "b", Waiting: 3, Oldest: 4, By: "x"},
		{Tool: "c", Waiting: 1, Oldest: 1, By: "x", Level: 8},
	}
	assert.Equal(t, []Lane{
		{Tool: "c", Waiting: 1, Oldest: 1, By: "x", Level: 8},
		{Tool: "a", Waiting: 2, Oldest: 5, By: "x"},
		{Tool: "b", Waiting: 4, Oldest: 4, By: "x"},
	}, r.Done().Lanes)
}

// Names of a scope that nothing registered has are found among what the scope is about.
func TestUnmatchedNames(t *testing.T) {
	n := &Names{Tools: map[string]bool{"a": true}, Types: map[string]bool{"b": true}}
	assert.Equal(t, []string{"b"}, n.unmatched(rules.For(rules.ForTool, []string{"a", "b"})))
	assert.Equal(t, []string{"a"}, n.unmatched(rules.For(rules.ForType, []string{"a", "b"})))
	assert.Nil(t, n.unmatched(rules.Of(rules.ByTool)))
	assert.Nil(t, (*Names)(nil).unmatched(rules.For(rules.ForTool, []string{"x"})), "nobody asks")
}

// What may have been meant by unmatched names is told of a few of them, where there are not too many names to look at,
// and a list that others see is left alone.
func TestUnmatchedNamesAreExplained(t *testing.T) {
	n := &Names{Tools: map[string]bool{"search": true, "fetch": true}, Types: map[string]bool{"web": true, "": true}}
	wbe, types := []string{"wbe", "sql"}, []string{"search", "wbe"}
	cells := []Cell{{Unmatched: wbe, kind: rules.ForType}, {}, {Unmatched: []string{"serach", "web"}, kind: rules.ForTool}, {Unmatched: types, kind: rules.ForType}}
	n.explain(cells)
	assert.Equal(t, []string{`wbe (did you mean "web"?)`, "sql"}, cells[0].Unmatched)
	assert.Equal(t, []string{`serach (did you mean "search"?)`, "web (there is a type: ForType?)"}, cells[2].Unmatched)
	assert.Equal(t, []string{"search (there is a tool: ForTool?)", `wbe (did you mean "web"?)`}, cells[3].Unmatched)
	assert.Equal(t, []string{"wbe", "sql"}, wbe)
	many := []Cell{{Unmatched: slices.Repeat([]string{"wbe"}, maxExplained+1), kind: rules.ForType}}
	n.explain(many)
	assert.Equal(t, append(slices.Repeat([]string{`wbe (did you mean "web"?)`}, maxExplained), "wbe"), many[0].Unmatched)
	for i := range maxAmong {
		n.Tools[fmt.Sprint("tool", i)] = true
	}
	cells = []Cell{{Unmatched: wbe, kind: rules.ForType}}
	n.explain(cells)
	assert.Equal(t, wbe, cells[0].Unmatched)
	(*Names)(nil).explain(cells)
}
