package stage

import "github.com/sluice-go/sluice/internal/admit"

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
