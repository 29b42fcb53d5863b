package record

import (
	"slices"
	"testing"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/bucket"
)

// rig is a machine with one slot for all and a quota of tokens.
type rig struct {
	m     *admit.Machine
	slot  *admit.Cell
	quota *admit.Cell
	plan  *admit.Plan
}

func newRig(t *testing.T) *rig {
	r := &rig{m: admit.NewMachine(admit.Policy{MaxQueue: 10, MaxPerTenant: 10})}
	rate, err := bucket.NewRate(10, int64(time.Second), 10)
	if err != nil {
		t.Fatal(err)
	}
	r.slot = r.m.Cell(0, &admit.Class{Name: "slot", Kind: admit.Slots, Limit: 1}, "")
	r.quota = r.m.Cell(0, &admit.Class{Name: "quota", Kind: admit.Tokens, Unit: "tokens", Rate: &rate}, "")
	r.plan = &admit.Plan{Tool: 1, Client: admit.NewClient()}
	return r
}

// arrives is a call that costs so many tokens.
func (r *rig) arrives(now, tokens int64) *admit.Ticket {
	t := r.m.Ticket()
	r.m.Add(t, r.slot, 1)
	r.m.Add(t, r.quota, tokens)
	t.Plan = r.plan
	r.m.Arrive(now, t)
	return t
}

func TestNote(t *testing.T) {
	r := newRig(t)
	first, second := r.arrives(0, 8), r.arrives(0, 6)
	r.m.Finish(int64(100*time.Millisecond), first, breaker.Success) // then the second waits for tokens
	r.m.Tick(int64(400 * time.Millisecond))
	if second.State() != admit.Running {
		t.Fatalf("the second is %d", second.State())
	}
	r.m.Settle(int64(500*time.Millisecond), second, "tokens", 2)
	rec := NewPriced()
	rec.Note(r.m, second, 1)
	if rec.Wait != 400*time.Millisecond || rec.Place != 1 || rec.Attempts != 1 {
		t.Errorf("noted %+v", rec)
	}
	if want := []Wait{{"slot", 100 * time.Millisecond}, {"quota", 300 * time.Millisecond}}; !slices.Equal(rec.Waits, want) {
		t.Errorf("waits %v, want %v", rec.Waits, want)
	}
	if want := []Cost{{"tokens", 6, 2}}; !slices.Equal(rec.Costs, want) {
		t.Errorf("costs %v, want %v", rec.Costs, want)
	}
	rec.Note(r.m, second, 2) // as another attempt that waited as long
	if rec.Wait != 800*time.Millisecond || rec.Attempts != 2 || len(rec.Waits) != 2 || rec.Waits[1].For != 600*time.Millisecond {
		t.Errorf("noted twice %+v", rec)
	}
}

// With copies: whoever has the record keeps what it said.
func TestWith(t *testing.T) {
	r := newRig(t)
	one := r.arrives(0, 3)
	var none *Record
	if none.With(one) != nil {
		t.Error("there is a record although there is nothing to say")
	}
	rec := NewPriced()
	rec.Note(r.m, one, 1)
	r.m.Settle(0, one, "tokens", 7)
	later := rec.With(one)
	if rec.Costs[0].Actual != 3 || later.Costs[0].Actual != 7 || later.Attempts != 1 {
		t.Errorf("before %+v, later %+v", rec.Costs, later.Costs)
	}
	if got := none.With(one); got == nil || got.Costs[0].Actual != 7 {
		t.Errorf("without a record before: %+v", got)
	}
}

// What calls like it cost is not changed by what one of them turned out to use.
func TestChargeOfSharedCosts(t *testing.T) {
	r := newRig(t)
	one := r.arrives(0, 3)
	shared := Costs(nil, one.Needs(), nil)
	rec := New(shared)
	rec.Note(r.m, one, 1)
	if &rec.Costs[0] != &shared[0] {
		t.Error("a call that cost what was estimated has costs of its own")
	}
	r.m.Settle(0, one, "tokens", 7)
	rec.charge(one)
	if want := []Cost{{"tokens", 3, 7}}; !slices.Equal(rec.Costs, want) || shared[0].Actual != 3 {
		t.Errorf("costs %v, want %v; those of others %v", rec.Costs, want, shared)
	}
}
