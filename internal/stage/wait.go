package stage

import (
	"context"

	"github.com/sluice-go/sluice/internal/admit"
)

// Submission is the owner of a ticket that waits without a goroutine.
type Submission interface {
	// Decided is called once, when it waits no longer: it may run, or has been refused. It must
	// not block.
	Decided(admitted bool)
}

// waiter is the owner of a ticket that a goroutine waits with.
type waiter struct {
	ready chan struct{} // one token when its ticket has been decided
}

// wake tells the owners of t, and of those after it, that they have been decided.
func wake(t *admit.Ticket) {
	for t != nil {
		next := t.Next() // t is its owner's again once that is woken
		switch o := t.Owner.(type) {
		case *waiter:
			o.ready <- struct{}{}
		case Submission:
			o.Decided(t.State() == admit.Running)
		}
		t = next
	}
}

// Waits makes whoever calls [Await] with t its owner. The stage is locked.
func (s *Stage) Waits(t *admit.Ticket) {
	if n := len(s.waiters); n > 0 {
		t.Owner = s.waiters[n-1]
		s.waiters = s.waiters[:n-1]
	} else {
		t.Owner = &waiter{ready: make(chan struct{}, 1)}
	}
}

// Awaited reports whether t has a goroutine that waits with it.
func Awaited(t *admit.Ticket) bool {
	_, yes := t.Owner.(*waiter)
	return yes
}

// Await waits until t has been decided, or until ctx has ended and leave, which is called then,
// reports that t waits no longer. Its answer is whether t has been decided.
func Await(ctx context.Context, t *admit.Ticket, leave func() bool) bool {
	w := t.Owner.(*waiter)
	done := ctx.Done()
	if done == nil {
		<-w.ready
		return true
	}
	select {
	case <-w.ready:
	case <-done:
		if leave() {
			return false
		}
		<-w.ready // decided meanwhile
	}
	return true
}

// Free takes back t, which waits no longer and holds nothing, and whoever waited with it. The
// stage is locked.
func (s *Stage) Free(t *admit.Ticket) {
	s.Woken(t)
	s.M.Free(t)
}

// Woken takes back the waiter of t, whose waiting is over, if it has one. The stage is locked.
func (s *Stage) Woken(t *admit.Ticket) {
	if w, ok := t.Owner.(*waiter); ok {
		if t.Owner = nil; len(s.waiters) < 1024 {
			s.waiters = append(s.waiters, w)
		}
	}
}
