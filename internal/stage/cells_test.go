package stage

import (
	"testing"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/rules"
	"github.com/stretchr/testify/require"
)

// gateOf is a gate of two limits of that scope, each of two keys at most where calls bring them.
func gateOf(ref *Ref, s rules.Scope) *Gate {
	g := &Gate{Type: "Limiter", Name: "g", Ref: ref}
	for range 2 {
		k := rules.Slots{Scope: s, Max: 1, MaxKeys: 2}.Class("g")
		g.Limits = append(g.Limits, rules.Limit{Class: k, Scope: s})
	}
	return g
}

// A key has a cell at each limit, made only if that is asked for, and the same one the next time.
func TestCellsOfAKey(t *testing.T) {
	g := gateOf(new(Ref), rules.Of(rules.ByTenant))
	var found []*admit.Cell
	find := func(_ *Stage, cells []*admit.Cell) { found = cells }
	require.NoError(t, g.Cells("a", false, find))
	require.Empty(t, found)
	require.NoError(t, g.Cells("a", true, func(s *Stage, cells []*admit.Cell) {
		find(s, cells)
		for _, c := range cells {
			s.Pause(c, time.Hour) // else nobody needs it
		}
	}))
	require.Len(t, found, 2)
	made := found
	require.NotSame(t, made[0], made[1])
	require.NoError(t, g.Cells("a", false, find))
	require.Equal(t, made, found)
}

// The error says what is wrong with a key; then nothing runs.
func TestCellsOfAWrongKey(t *testing.T) {
	refs := map[string]*Ref{}
	joined(t, listing(refs, "shared"), Order{})
	alone, shared := new(Ref), refs["shared"]
	for _, tt := range []struct {
		name  string
		ref   *Ref
		scope rules.Scope
		key   string
		want  string
	}{
		{"global", alone, rules.Of(rules.Global), "", ""},
		{"global", alone, rules.Of(rules.Global), "a", `sluice: Limiter "g", which counts global, has no key "a": must be empty`},
		{"any tool before there is a client", alone, rules.Of(rules.ByTool), "any", ""},
		{"no tool at all", alone, rules.Of(rules.ByTool), "", `sluice: Limiter "g", which counts per tool, has no key "": must be the name of a registered tool`},
		{"a tool", shared, rules.Of(rules.ByTool), "known", ""},
		{"another", shared, rules.Of(rules.ByTool), "kind", `sluice: Limiter "g", which counts per tool, has no key "kind": must be the name of a registered tool`},
		{"a type", shared, rules.Of(rules.ByType), "kind", ""},
		{"another type", shared, rules.Of(rules.ByType), "known", `sluice: Limiter "g", which counts per type, has no key "known": must be the Type of a registered tool`},
		{"any tenant", shared, rules.Of(rules.ByTenant), "x", ""},
	} {
		ran := false
		err := gateOf(tt.ref, tt.scope).Cells(tt.key, true, func(*Stage, []*admit.Cell) { ran = true })
		if tt.want == "" {
			require.NoError(t, err, tt.name)
		} else {
			require.EqualError(t, err, tt.want, tt.name)
		}
		require.Equal(t, tt.want == "", ran, "%s: it ran", tt.name)
	}
}

// A table whose keys are all busy has no room for another.
func TestCellsWithoutRoom(t *testing.T) {
	g := gateOf(new(Ref), rules.Of(rules.ByTenant))
	for _, key := range []string{"a", "b"} {
		require.NoError(t, g.Cells(key, true, func(s *Stage, cells []*admit.Cell) {
			for _, c := range cells {
				s.Pause(c, time.Hour)
			}
		}))
	}
	err := g.Cells("c", true, func(*Stage, []*admit.Cell) { t.Error("it ran") })
	require.EqualError(t, err, `sluice: Limiter "g" has no room for key "c": all keys that it may have are busy`)
	require.NoError(t, g.Cells("a", false, (*Stage).Lift))
	require.NoError(t, g.Cells("c", true, func(*Stage, []*admit.Cell) {}), "a is idle again")
}
