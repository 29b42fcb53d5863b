package rules

import (
	"fmt"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/check"
)

// SlotsChange is the change of the limits of one limiter to others.
type SlotsChange struct{ Was, To []Slots }

// Fits says why there cannot be such a change, in the field of the limits.
func (x *SlotsChange) Fits(field string) error {
	if err := check.SameLength(field, len(x.To), len(x.Was)); err != nil {
		return err
	}
	for i, n := range x.To {
		o, field := x.Was[i], fmt.Sprintf("%s[%d]", field, i)
		switch {
		case !n.Scope.Same(o.Scope) || n.Unit != o.Unit:
			return fmt.Errorf("%s changes its Scope or Unit: they cannot change", field)
		case (n.Adaptive == nil) != (o.Adaptive == nil):
			return fmt.Errorf("%s.Adaptive comes or goes: it cannot, only its bounds can change", field)
		case n.Shared != o.Shared:
			return fmt.Errorf("%s.Semaphore is another: it cannot change", field)
		}
	}
	return nil
}

// Apply has the machine m follow, and tells changed of each limit that does.
func (x *SlotsChange) Apply(m *admit.Machine, now int64, limits []Limit, changed func(name, from, to string)) {
	for i, n := range x.To {
		k, o := limits[i].Class, x.Was[i]
		m.SetRefuse(k, n.Refuse)
		m.SetOrdered(now, k, n.Ordered)
		m.SetMaxKeys(now, k, n.Scope.TableSize(n.MaxKeys))
		if n.Adaptive != nil && *n.Adaptive != *o.Adaptive {
			m.SetAdaptive(now, k, n.Adaptive)
			changed(k.Name, o.bound(), n.bound())
		} else if n.Max != o.Max {
			m.SetLimit(now, k, n.Max)
			changed(k.Name, o.bound(), n.bound())
		}
	}
}

// bound is how l stands in events.
func (l *Slots) bound() string {
	if a := l.Adaptive; a != nil {
		return fmt.Sprintf("%d to %d", a.Min, a.Max)
	}
	return fmt.Sprint(l.Max)
}
