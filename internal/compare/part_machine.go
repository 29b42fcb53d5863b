package compare

import (
	"sync"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/breaker"
)

// newPlan is a tool of c.
func newPlan(id uint64, c *admit.Client) *admit.Plan {
	return &admit.Plan{Tool: id, Client: c}
}

// machineSlots is the admission machine with one concurrency limit, behind a lock, with a
// channel for each waiter: the deciding and waiting of a call without all that is around it.
type machineSlots struct {
	mu    sync.Mutex
	m     *admit.Machine
	plan  *admit.Plan
	needs *admit.NeedSet
	spare *machineWaiter
}

type machineWaiter struct {
	ready chan struct{}
	next  *machineWaiter
}

func newMachineSlots(limit int64) *machineSlots {
	m := admit.NewMachine(admit.Policy{Ordered: true, Ageing: 8, Claim: 4, MaxQueue: 10_000, MaxPerTenant: 10_000})
	c := m.Cell(clock(), &admit.Class{Name: "slots", Kind: admit.Slots, Limit: limit}, "")
	return &machineSlots{m: m, plan: newPlan(1, admit.NewClient()), needs: admit.NewNeedSet([]admit.Need{{Cell: c, N: 1}})}
}

func (s *machineSlots) acquire(level int8) *admit.Ticket {
	now := clock()
	s.mu.Lock()
	t := s.m.Ticket()
	t.Plan, t.Level, t.Limit = s.plan, level, admit.Never
	s.m.Fixed(t, s.needs)
	if s.m.Arrive(now, t) == admit.Running {
		s.mu.Unlock()
		return t
	}
	w := s.spare
	if w == nil {
		w = &machineWaiter{ready: make(chan struct{}, 1)}
	} else {
		s.spare = w.next
	}
	t.Owner = w
	s.mu.Unlock()
	<-w.ready // and goes back with the ticket
	return t
}

func (s *machineSlots) release(t *admit.Ticket) {
	now := clock()
	s.mu.Lock()
	s.m.Finish(now, t, breaker.Success)
	if w, ok := t.Owner.(*machineWaiter); ok {
		w.next, s.spare = s.spare, w
	}
	s.m.Free(t)
	var wake *machineWaiter // one slot, so at most one
	if d := s.m.Decided(); d != nil {
		wake = d.Owner.(*machineWaiter)
	}
	s.mu.Unlock()
	if wake != nil {
		wake.ready <- struct{}{}
	}
}
