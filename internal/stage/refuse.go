package stage

import (
	"cmp"
	"fmt"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/errtext"
)

// Refusal is why a call was turned away, as things stood when that was decided.
type Refusal struct {
	admit.Refusal
	Name      string // of the constraint, if there is one
	Cause     error  // what is behind it, if the constraint is saturated
	Anonymous bool   // it counts by a key that the call does not have
	Waiting   int    // calls of the client, if the queue was full
	AtOnce    bool   // the call was not to wait at all
	Deadline  bool   // the bound of its wait was its caller's
}

// Refusal is what f, the machine's refusal of t, is to the caller. The stage is locked.
func (s *Stage) Refusal(t *admit.Ticket, f admit.Refusal) Refusal {
	r := Refusal{Refusal: f, AtOnce: t.AtOnce}
	if f.By != nil {
		r.Name, r.Anonymous = f.By.Class().Name, f.By.IsAnonymous()
	}
	switch f.Reason {
	case admit.QueueFull:
		r.Waiting = t.Plan.Client.Waiting()
	case admit.Saturated:
		r.Cause = f.By.Class().Full(f.By)
	case admit.TooLong:
		r.Deadline = !t.AtOnce && t.Finish != 0 && t.Limit >= t.Finish-1
	}
	return r
}

// Behind is what is behind the refusal, if anything is, of a call that may wait for maxWait, or, if that is
// zero, for nested. It becomes text only when somebody reads it.
func (r *Refusal) Behind(maxWait, nested time.Duration) error {
	switch r.Reason {
	case admit.QueueFull:
		return &errtext.Bound{Waiting: r.Waiting}
	case admit.Saturated:
		return r.Cause
	case admit.TooWide:
		return errtext.ErrTooWide
	case admit.TooLong:
		b := &errtext.Bound{Anonymous: r.Anonymous, AtOnce: r.AtOnce}
		if !r.AtOnce && !r.Deadline {
			b.Within, b.Nested = cmp.Or(maxWait, nested), maxWait == 0
		}
		return b
	case admit.Cycle:
		return fmt.Errorf("sluice: nested calls wait for each other: %s", r.Detail)
	}
	return nil
}
