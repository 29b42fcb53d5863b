package stage

import (
	"fmt"
	"slices"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/jsonx"
	"github.com/sluice-go/sluice/internal/rules"
)

// Gate is constraints of one component, which all count by one scope.
type Gate struct {
	Type, Name string // of the component, in errors
	Ref        *Ref
	Limits     []rules.Limit
}

// Cells runs f on the cells that g has for key, made if need be, with the stage locked; without make
// there may be none. It is an error if the scope cannot have the key, or if there is no room for it.
func (g *Gate) Cells(key string, make bool, f func(*Stage, []*admit.Cell)) error {
	scope := g.Limits[0].Scope
	wants, has := g.Ref.has(scope, key)
	s := g.Ref.Lock()
	defer s.Unlock()
	now := s.Now()
	s.M.Advance(now) // which may forget keys: none goes between the first and the last
	var cells []*admit.Cell
	for _, l := range g.Limits {
		c := l.Class.Lookup(key)
		if c == nil && !has {
			return fmt.Errorf("sluice: %s %q, which counts %s, has no key %q: must be %s", g.Type, g.Name, scope, shown(key), wants)
		}
		if c == nil && make {
			if c = s.M.Cell(now, l.Class, key); c == nil {
				return fmt.Errorf("sluice: %s %q has no room for key %q: all keys that it may have are busy", g.Type, g.Name, shown(key))
			}
		}
		if c != nil {
			cells = append(cells, c)
		}
	}
	f(s, cells)
	return nil
}

// shown is a key as it stands in errors.
func shown(key string) string { return jsonx.Cut(key, 128, "…") }

// has says what a key of scope s can be, and whether key is one: of tools and their types, one that
// some client has, as long as there is a client.
func (r *Ref) has(s rules.Scope, key string) (wants string, has bool) {
	wants, has = s.Wants(key)
	if !has || s.Kind() != rules.ByTool && s.Kind() != rules.ByType {
		return wants, has
	}
	clients := r.Clients()
	return wants, len(clients) == 0 || slices.ContainsFunc(clients, func(c Client) bool { return c.Has(s.Kind(), key) })
}

// Lift ends the pauses of cells, and their debts, together. The stage is locked.
func (s *Stage) Lift(cells []*admit.Cell) {
	s.AtOnce(func(now int64) {
		for _, c := range cells {
			s.M.Lift(now, c)
		}
	})
}
