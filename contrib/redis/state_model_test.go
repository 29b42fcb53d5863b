package sluiceredis_test

import (
	"context"
	"errors"
	"math"
	"testing"

	"github.com/anishathalye/porcupine"

	"github.com/sluice-go/sluice"
)

// step is an operation of a history and how it ended: g get, s set, c swap, a add, u update, d delete, e delete of a
// version.
type step struct {
	Client       int
	Call, Return int64 // instants of a clock that all processes share
	Kind         byte
	Key          string
	Arg          int64
	Was          uint64 // the version that a swap, or a delete, asks for
	How          string

	Value   int64
	Version uint64
	OK      bool // get: it is there; swap and delete of a version: there was no conflict
}

// do does it, and says how it ended.
func (x *step) do(ctx context.Context, t *testing.T) {
	key := sluice.Key[int64](x.Key)
	var err error
	accept := func(is error) {
		if x.OK = err == nil; errors.Is(err, is) {
			err = nil
		}
	}
	switch x.Kind {
	case 'g':
		x.Value, x.Version, err = key.Get(ctx)
		accept(sluice.ErrAbsent)
	case 's':
		x.Version, err = key.Set(ctx, x.Arg)
	case 'c':
		x.Version, err = key.CompareAndSwap(ctx, x.Was, x.Arg)
		accept(sluice.ErrConflict)
	case 'a':
		x.Value, err = sluice.Increment(ctx, key, x.Arg)
	case 'u':
		x.Value, err = key.Update(ctx, func(old int64, _ bool) (int64, error) { return old + x.Arg, nil })
	case 'd':
		err = key.Delete(ctx)
	case 'e':
		err = key.CompareAndDelete(ctx, x.Was)
		accept(sluice.ErrConflict)
	}
	x.How = howEnded(t, err)
}

// cell is what a key is in the model. Not every operation tells the version that it made: the model may know no more
// than that it is above low.
type cell struct {
	v       int64
	present bool
	low     uint64 // the version, or if not exact, one below it
	exact   bool
}

// written is c with another value, whose version is not known if that is zero.
func (c cell) written(v int64, version uint64) cell {
	n := cell{v: v, present: true, low: c.low}
	if version != 0 {
		n.low, n.exact = version, true
	}
	return n
}

func (c cell) deleted(was uint64) cell { return cell{low: max(c.low, was)} }

// matches says whether the version may be that, and whether it may be another.
func (c cell) matches(was uint64) (may, mayNot bool) {
	if !c.present {
		return was == 0, was != 0
	}
	return c.exact && c.low == was || !c.exact && was > c.low, !c.exact || c.low != was
}

// after is what there may be after x: nothing if x cannot have ended so. An operation of unknown end has taken effect, or
// has not; that it does so later is another order of the same.
func after(s, in, _ any) []any {
	c, x := s.(cell), in.(step)
	open := x.How != done
	may, mayNot := c.matches(x.Was)
	var next cell
	fits := true
	switch x.Kind {
	case 'g':
		switch {
		case !c.present || !x.OK:
			fits, next = c.present == x.OK && x.Version == 0, c
		default:
			fits, next = c.v == x.Value && (c.exact && c.low == x.Version || !c.exact && x.Version > c.low), c.written(c.v, x.Version)
		}
	case 's':
		fits, next = x.Version > c.low, c.written(x.Arg, x.Version)
	case 'a', 'u':
		sum := x.Arg
		if c.present {
			sum += c.v
		}
		fits, next = x.Value == sum, c.written(sum, 0)
	case 'c':
		if !open && !x.OK {
			fits, next = mayNot, c
			break
		}
		fits, next = may && x.Version > max(c.low, x.Was), c.deleted(x.Was).written(x.Arg, x.Version)
	case 'd':
		next = c.deleted(0)
	case 'e':
		if !open && !x.OK {
			fits, next = mayNot, c
			break
		}
		fits, next = may, c.deleted(x.Was)
	}
	switch {
	case !open && fits:
		return []any{next}
	case !open:
		return nil
	case (x.Kind == 'c' || x.Kind == 'e') && !may:
		return []any{c}
	}
	return []any{c, next}
}

// keyModel is that of one key.
var keyModel = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{cell{}} },
	Step: after,
}).ToModel()

// histories are those of each key, of what was written down of all operations. What was refused has none, and so has what
// was to be read and was not.
func histories(rows []step) (byKey map[string][]porcupine.Operation, open int) {
	type id struct {
		client int
		call   int64
	}
	last := map[id]step{}
	for _, x := range rows { // of each the second, if there is one
		if at := (id{x.Client, x.Call}); x.How != begun || last[at].How == "" {
			last[at] = x
		}
	}
	byKey = map[string][]porcupine.Operation{}
	for _, x := range last {
		switch {
		case x.How == refused, x.How != done && x.Kind == 'g':
			continue
		case x.How != done:
			x.Return = math.MaxInt64
			x.Value, x.Version, x.OK = 0, 0, false
			open++
		}
		byKey[x.Key] = append(byKey[x.Key], porcupine.Operation{ClientId: x.Client, Input: x, Call: x.Call, Output: x, Return: x.Return})
	}
	return byKey, open
}

// The model finds what cannot be: what it lets pass here, it would let pass of a server.
func TestStateModel(t *testing.T) {
	set := step{Client: 1, Call: 1, Return: 2, Kind: 's', Arg: 5, How: done, Version: 1}
	get := step{Client: 2, Call: 3, Return: 4, Kind: 'g', How: done, Value: 5, Version: 1, OK: true}
	with := func(x step, f func(x *step)) step { f(&x); return x }
	late := with(set, func(x *step) { x.How, x.Version, x.Arg, x.Client = unsure, 0, 7, 3 })
	for name, tt := range map[string]struct {
		rows []step
		want porcupine.CheckResult
	}{
		"what was set is read":               {[]step{set, get}, porcupine.Ok},
		"what was set is not there":          {[]step{set, with(get, func(x *step) { x.OK, x.Value, x.Version = false, 0, 0 })}, porcupine.Illegal},
		"another value":                      {[]step{set, with(get, func(x *step) { x.Value = 6 })}, porcupine.Illegal},
		"another version":                    {[]step{set, with(get, func(x *step) { x.Version = 2 })}, porcupine.Illegal},
		"an unsure write may be later":       {[]step{set, late, get, with(get, func(x *step) { x.Call, x.Return, x.Value, x.Version = 5, 6, 7, 2 })}, porcupine.Ok},
		"or never":                           {[]step{set, late, get}, porcupine.Ok},
		"but not twice":                      {[]step{set, late, with(get, func(x *step) { x.Value, x.Version = 7, 2 }), with(get, func(x *step) { x.Call, x.Return = 5, 6 })}, porcupine.Illegal},
		"one whose process was killed, too":  {[]step{set, with(late, func(x *step) { x.How, x.Return = begun, 0 }), with(get, func(x *step) { x.Value, x.Version = 7, 2 })}, porcupine.Ok},
		"one that was refused never is":      {[]step{set, with(late, func(x *step) { x.How = refused }), with(get, func(x *step) { x.Value, x.Version = 7, 2 })}, porcupine.Illegal},
		"an increment that is lost":          {[]step{set, with(set, func(x *step) { x.Kind, x.Call, x.Return, x.Arg, x.Value, x.Version = 'a', 3, 4, 1, 6, 0 }), with(get, func(x *step) { x.Call, x.Return = 5, 6 })}, porcupine.Illegal},
		"two swaps of one version":           {[]step{set, with(get, func(x *step) { x.Kind, x.Was, x.Arg, x.Version = 'c', 1, 8, 2 }), with(get, func(x *step) { x.Call, x.Return, x.Kind, x.Was, x.Arg, x.Version = 5, 6, 'c', 1, 9, 3 })}, porcupine.Illegal},
		"a conflict where there was none":    {[]step{set, with(get, func(x *step) { x.Kind, x.Was, x.Arg, x.Version, x.OK = 'c', 1, 8, 0, false })}, porcupine.Illegal},
		"a delete of a version that is gone": {[]step{set, with(get, func(x *step) { x.Kind, x.Was = 'e', 9 })}, porcupine.Illegal},
	} {
		byKey, _ := histories(tt.rows)
		if got := porcupine.CheckOperations(keyModel, byKey[""]); (got && tt.want == porcupine.Illegal) || (!got && tt.want == porcupine.Ok) {
			t.Errorf("%s: must be %v", name, tt.want)
		}
	}
}
