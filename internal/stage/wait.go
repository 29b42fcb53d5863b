package stage

import (
	"context"

	"github.com/sluice-go/sluice/internal/admit"
)

// A ticket that waits has an owner who is woken once it has been decided: a goroutine that calls
// [Await], or a Submission.

// Submission is the owner of a ticket that waits without a goroutine.
type Submission interface {
	// Decided is called once, when the ticket has been admitted or refused. It must not block.
	Decided(admitted bool)
}

// waiter is the owner of a ticket that a goroutine waits with. It goes back to the stage only
// when nobody is about to write to ready: the token has been taken, or the ticket has been
// cancelled before it was decided. A ticket that is just forgotten takes its waiter along.
type waiter struct {
	ready chan struct{} // one token when the ticket has been decided
}

// maxWaiters bounds the spare ones.
const maxWaiters = 1024

// wakeAll tells the owners of t, and of those after it, that they have been decided.
func wakeAll(t *admit.Ticket) {
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

// Waits has t, which waits, be one that a goroutine waits with, by [Await]. The stage is locked
// as it was when t arrived.
func (s *Stage) Waits(t *admit.Ticket) {
	n := len(s.waiters)
	if n == 0 {
		t.Owner = &waiter{ready: make(chan struct{}, 1)}
		return
	}
	t.Owner = s.waiters[n-1]
	s.waiters = s.waiters[:n-1]
}

// Awaited reports whether t is one that a goroutine waits with.
func Awaited(t *admit.Ticket) bool {
	_, yes := t.Owner.(*waiter)
	return yes
}

// Await waits until t has been decided, or until ctx has ended. Then it calls leave, which takes
// t out of the queue and reports true, unless t has been decided meanwhile. Await answers what has
// been decided, or Left. Nobody but its owner has to do with t any more then, which may be read
// without the stage's lock until that is given back.
func Await(ctx context.Context, t *admit.Ticket, leave func() bool) admit.State {
	w := t.Owner.(*waiter)
	done := ctx.Done()
	if done == nil { // it never ends, and to wait for one thing is cheaper
		<-w.ready
		return t.State()
	}
	select {
	case <-w.ready:
		return t.State()
	case <-done:
	}
	if leave() {
		return admit.Left
	}
	<-w.ready // its token is there, or on the way
	return t.State()
}

// Forsake gives back the ticket *p, which nobody waits with any more, if there is one. It is not
// used again: somebody may be about to wake its owner.
func (s *Stage) Forsake(p **admit.Ticket) {
	s.mu.Lock()
	if t := *p; t != nil {
		*p = nil
		s.M.Cancel(s.Now(), t)
	}
	s.Unlock()
}

// Free takes back t, which neither waits nor runs any more, and its waiter, if it has one: Await has
// returned that t has been decided, or t has been cancelled while it waited. The stage is locked.
func (s *Stage) Free(t *admit.Ticket) {
	if w, ok := t.Owner.(*waiter); ok && len(s.waiters) < maxWaiters {
		s.waiters = append(s.waiters, w)
	}
	s.M.Free(t)
}
