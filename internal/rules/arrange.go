package rules

import (
	"fmt"
	"slices"
)

// Listed is what an executor lists: X is one of its interceptors.
type Listed[X any] struct {
	Of        X      // filled in by Arrange
	Gate      any    // what tells it from others, if it is a gate or a scheduler; else nil
	Name      string // of a gate; empty if no New function made it
	Scheduler bool
	Before    bool // it is for before the gates
}

// Arrangement is interceptors in their order: those around admission, gates and scheduler, and those inside.
type Arrangement[X any] struct {
	Outer, Inner []X
	Gates        []Listed[X]
	Names        []string // of those in errors, with their places
}

// Arrange sorts what the field lists, or says what is wrong with that.
func Arrange[X any](field string, list []X, isNil func(X) bool, look func(X) Listed[X]) (a Arrangement[X], err error) {
	scheduler := false
	for i, o := range list {
		at := fmt.Sprintf("%s[%d]", field, i)
		if isNil(o) {
			return a, fmt.Errorf("%s is nil: must not be", at)
		}
		x := look(o)
		x.Of = o
		switch {
		case x.Gate == nil && len(a.Gates) == 0:
			a.Outer = append(a.Outer, o)
			continue
		case x.Gate == nil && x.Before:
			return a, fmt.Errorf("%s (%s) stands after a gate: must stand before all gates, as a Stepper", at, textOf(o))
		case x.Gate == nil:
			a.Inner = append(a.Inner, o)
			continue
		case x.Name == "":
			return a, fmt.Errorf("%s is a zero %T: must be made by its New function", at, o)
		}
		at = fmt.Sprintf("%s (%s)", at, x.Name)
		switch {
		case len(a.Inner) > 0:
			return a, fmt.Errorf("%s stands apart from the other gates: gates and the scheduler must be adjacent, they decide together", at)
		case x.Scheduler && scheduler:
			return a, fmt.Errorf("%s[%d] is a second PriorityScheduler: there must be at most one, it orders one queue", field, i)
		case !x.Scheduler && slices.ContainsFunc(a.Gates, func(o Listed[X]) bool { return o.Gate == x.Gate }):
			return a, fmt.Errorf("%s is listed twice: must be listed once", at)
		}
		scheduler = scheduler || x.Scheduler
		a.Gates, a.Names = append(a.Gates, x), append(a.Names, at)
	}
	return a, nil
}

// textOf is what o says that it is, or its type.
func textOf(o any) string {
	if s, ok := o.(fmt.Stringer); ok {
		return s.String()
	}
	return fmt.Sprintf("%T", o)
}
