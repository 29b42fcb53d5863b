package admit

import (
	"testing"

	"github.com/sluice-go/sluice/internal/breaker"
)

// TestAbsorb_Overtaken: what started in a machine before it became part of another
// overtook nobody in that one, nor the other way round.
func TestAbsorb_Overtaken(t *testing.T) {
	type side struct {
		m                   *Machine
		holder, waits, late *Ticket
	}
	begin := func(starts int) (s side) {
		s.m = NewMachine(Policy{Ordered: true, Ageing: 8, Claim: 4, MaxQueue: 10, MaxPerTenant: 10})
		cell := s.m.Cell(0, &Class{Name: "slots", Kind: Slots, Limit: 1}, "")
		arrive := func(limit int64) *Ticket {
			x := s.m.Ticket()
			x.Limit = limit
			s.m.Add(x, cell, 1)
			s.m.Arrive(0, x)
			return x
		}
		for range starts {
			x := arrive(Never)
			s.m.Finish(0, x, breaker.Success)
			s.m.Free(x)
		}
		s.holder, s.waits, s.late = arrive(Never), arrive(Never), arrive(5)
		return s
	}
	a, b := begin(7), begin(100)
	a.m.Absorb(10, b.m)
	for _, s := range []side{a, b} {
		if n := a.m.Overtaken(s.late); n != 0 || s.late.State() != Refused {
			t.Errorf("who was refused, state %d, was overtaken by %d, want none", s.late.State(), n)
		}
	}
	for _, s := range []side{a, b} {
		a.m.Finish(10, s.holder, breaker.Success)
		if s.waits.State() != Running {
			t.Fatalf("the waiting call is in state %d", s.waits.State())
		}
	}
	// Only b's may have been overtaken, by a's: it came to this queue after that.
	if x, y := a.m.Overtaken(a.waits), a.m.Overtaken(b.waits); x != 0 || y != 0 {
		t.Errorf("overtaken by %d and %d, want none", x, y)
	}
}
