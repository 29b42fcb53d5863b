package admit

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// lessee notes what it is told.
type lessee struct {
	run  []*Cell
	off  int
	tend int
}

func (l *lessee) Run(c *Cell)     { l.run = append(l.run, c) }
func (l *lessee) CallOff(c *Cell) { l.off++ }
func (l *lessee) Tend()           { l.tend++ }

// leasing is a machine with one class of leased slots.
type leasing struct {
	t *testing.T
	m *Machine
	k *Class
	*lessee
	plan *Plan
	one  *NeedSet
	now  int64
	wall int64 // of it
}

func newLeasing(t *testing.T, limit int64) *leasing {
	l := &leasing{t: t, m: NewMachine(Policy{Ageing: 8, Claim: 4, MaxQueue: 1000, MaxPerTenant: 1000}), lessee: new(lessee), wall: 1 << 60}
	l.k = &Class{Name: "leased", Kind: Slots, Limit: limit, Leases: &Leases{Name: "x", Linger: second, Retry: second / 20, Repeat: 3 * second, Lessee: l.lessee}}
	l.plan = &Plan{Client: NewClient(), Tool: 1}
	return l
}

func (l *leasing) cell() *Cell { return l.m.Cell(l.now, l.k, "") }

// settle ends an event.
func (l *leasing) settle() { l.m.Errands(l.wall + l.now) }

func (l *leasing) arrive(n int64, in *Ticket) *Ticket {
	t := l.m.Ticket()
	t.Plan, t.Parent = l.plan, in
	if n == 1 && in == nil { // as calls of one tool do
		if l.one == nil {
			l.one = NewNeedSet([]Need{{l.cell(), 1}})
		}
		l.m.Fixed(t, l.one)
	} else {
		l.m.Add(t, l.cell(), n)
	}
	l.m.Arrive(l.now, t)
	l.settle()
	return t
}

// grant answers what is demanded, if it is for so many slots.
func (l *leasing) grant(units int64, fence uint64) {
	l.t.Helper()
	require.NotEmpty(l.t, l.run)
	c := l.run[0]
	l.run = l.run[1:]
	d, more := l.m.Demand(l.now, c, Op{byte(fence)})
	require.True(l.t, more)
	require.Equal(l.t, units, d.Units)
	l.m.Leased(l.now, c, Acquired{Term: l.term(units), Fence: fence})
	_, more = l.m.Demand(l.now, c, Op{99})
	require.False(l.t, more)
	l.settle()
}

func (l *leasing) term(units int64) Term {
	return Term{Units: units, Until: time.Unix(0, l.wall+l.now+second), Left: second, Wall: l.wall + l.now + second}
}

// ends has what t runs on end say so.
func (l *leasing) ends(t *Ticket) *int {
	n := new(int)
	require.True(l.t, l.m.OnEnd(t, func() { *n++ }))
	return n
}

func (l *leasing) call() {
	for _, f := range l.m.Ended() {
		f()
	}
}

// A call waits until its slot is leased, and holds nothing meanwhile; one that has a slot starts at once.
func TestLease_StartsOnWhatIsLeased(t *testing.T) {
	l := newLeasing(t, 8)
	a := l.arrive(1, nil)
	require.Equal(t, Waiting, a.State())
	l.grant(1, 5)
	require.Equal(t, Running, a.State())
	require.EqualValues(t, 5, l.m.Fence(a, "leased"))
	require.EqualValues(t, 5, l.m.Fence(a, "x"))
	require.Zero(t, l.m.Fence(a, "y"))
	l.m.Finish(l.now, a, 0)
	l.settle()
	b := l.arrive(1, nil)
	require.Equal(t, Running, b.State())
	require.Empty(t, l.run)
}

// A host that slept finds its leases over by the wall clock, though no time has passed for the machine: calls that
// run on them are told so in the event in which somebody looks.
func TestLease_EndsWhileTheHostSleeps(t *testing.T) {
	l := newLeasing(t, 1)
	a := l.arrive(1, nil)
	l.grant(1, 5)
	ended := l.ends(a)
	l.now += second / 2
	l.m.Advance(l.now)
	l.m.Look(l.k)
	l.settle()
	l.call()
	require.Zero(t, *ended)

	l.wall += 3600 * second // by the other clock
	b := l.arrive(1, nil)
	require.Equal(t, Waiting, b.State())
	l.m.Look(l.k)
	l.settle()
	l.call()
	require.Equal(t, 1, *ended)
	require.Zero(t, l.m.Fence(a, "x"))
	require.EqualValues(t, 0, l.k.HeldUnits())
	require.False(t, l.m.OnEnd(a, func() {}), "it has ended already")
	l.m.Finish(l.now, a, 0)
	l.settle()
	require.Equal(t, Waiting, b.State(), "what ended is not free")
	l.grant(1, 6)
	require.Equal(t, Running, b.State())
	require.EqualValues(t, 6, l.m.Fence(b, "x"))
}

// A lease that is not renewed ends at its instant, before anybody else starts at that.
func TestLease_EndsInTime(t *testing.T) {
	l := newLeasing(t, 2)
	a, x := l.arrive(1, nil), l.arrive(1, nil)
	l.grant(2, 5)
	l.m.Finish(l.now, x, 0)
	l.settle()
	ended := l.ends(a)
	l.now += second - 1
	l.m.Tick(l.now)
	l.settle()
	l.call()
	require.Zero(t, *ended)
	require.Equal(t, l.now+1, l.m.Due())
	l.now++
	b := l.arrive(1, nil)
	l.call()
	require.Equal(t, 1, *ended)
	require.Equal(t, Waiting, b.State())
	l.grant(2, 6) // one of them for the call that goes on
	require.Equal(t, Running, b.State())
}

// What nobody uses or waits for goes back as soon as others want it, and what they want no more stays.
func TestLease_UnusedIsGivenToWhoWantsIt(t *testing.T) {
	l := newLeasing(t, 8)
	a, b := l.arrive(1, nil), l.arrive(1, nil)
	l.grant(2, 5)
	l.m.Finish(l.now, a, 0)
	l.settle()
	renew := func(wanted int64) {
		list := l.m.Leases(nil, l.k)
		require.Len(t, list, 1)
		require.Empty(t, l.m.Renewed(l.now, []Renewal{{list[0], l.term(list[0].Told()), wanted}}))
		l.settle()
	}
	renew(0)
	require.Empty(t, l.m.Given(l.k, nil))
	renew(1)
	given := l.m.Given(l.k, nil)
	require.Len(t, given, 1)
	require.EqualValues(t, []int64{1, 2}, []int64{given[0].Units, given[0].Told()})
	l.m.Shrunk(l.now, given[0], 1, false)
	l.m.Finish(l.now, b, 0)
	l.settle()
	require.EqualValues(t, 1, l.k.HeldUnits(), "that was all they wanted")
}

// Nested calls that wait for each other's slots are no cycle while other processes have some.
func TestLease_NestedCallsWaitForOtherProcesses(t *testing.T) {
	for limit, want := range map[int64]State{8: Waiting, 1: Refused} {
		l := newLeasing(t, limit)
		plain := l.m.Cell(l.now, &Class{Name: "plain", Kind: Slots, Limit: 1}, "")
		at := func(c *Cell, in *Ticket) *Ticket {
			x := l.m.Ticket()
			x.Plan, x.Parent = l.plan, in
			l.m.Add(x, c, 1)
			l.m.Arrive(l.now, x)
			l.settle()
			return x
		}
		a := l.arrive(1, nil)
		l.grant(1, 5)
		b := at(plain, nil)
		require.Equal(t, Waiting, at(plain, a).State())
		c := at(l.cell(), b)
		require.Equal(t, want, c.State(), "with %d", limit)
		if want == Waiting {
			l.grant(1, 6)
			require.Equal(t, Running, c.State())
		}
	}
}

// What a call held goes on to the nested one that runs on it, and is that one's lease then.
func TestLease_Nested(t *testing.T) {
	l := newLeasing(t, 1)
	a := l.arrive(1, nil)
	l.grant(1, 5)
	b := l.arrive(1, a)
	require.Equal(t, Running, b.State())
	require.EqualValues(t, 5, l.m.Fence(b, "x"))
	first, second := l.ends(a), l.ends(b)
	l.m.Finish(l.now, a, 0)
	l.settle()
	require.EqualValues(t, 5, l.m.Fence(b, "x"))
	require.EqualValues(t, 1, l.cell().used)
	l.now += 2 * 1e9
	l.m.Tick(l.now)
	l.settle()
	l.call()
	require.Equal(t, []int{0, 1}, []int{*first, *second})
	l.m.Finish(l.now, b, 0)
	l.settle()
	require.Zero(t, l.cell().used)
	require.Zero(t, l.cell().lease.bound)
}

// Who runs on what an ancestor has is told when that ends.
func TestLease_EndsForBorrowers(t *testing.T) {
	l := newLeasing(t, 1)
	a := l.arrive(1, nil)
	l.grant(1, 5)
	b := l.arrive(1, a)
	c := l.arrive(1, b)
	ends := []*int{l.ends(a), l.ends(b), l.ends(c)}
	l.now += second
	l.m.Tick(l.now)
	l.settle()
	l.call()
	require.Equal(t, []int{1, 1, 1}, []int{*ends[0], *ends[1], *ends[2]})
}

// A limit that becomes less becomes so in each process, as calls end; one that becomes more is demanded.
func TestLease_Resize(t *testing.T) {
	l := newLeasing(t, 8)
	list := []*Ticket{l.arrive(1, nil)}
	l.grant(1, 5)
	for range 5 {
		list = append(list, l.arrive(1, nil))
	}
	l.grant(5, 6)
	l.m.SetLimit(l.now, l.k, 4)
	l.settle()
	require.EqualValues(t, 3, l.cell().limit)
	require.Empty(t, l.m.Given(l.k, nil))
	for _, x := range list[:3] {
		l.m.Finish(l.now, x, 0)
		l.settle()
	}
	require.EqualValues(t, 3, l.k.HeldUnits())
	given := l.m.Given(l.k, nil)
	require.Len(t, given, 2, "one as a whole, one in part")
	for _, x := range given {
		l.m.Shrunk(l.now, x, x.Units, false)
	}
	waits := l.arrive(1, nil)
	require.Equal(t, Waiting, waits.State())
	l.grant(1, 7)
	require.Equal(t, Running, waits.State())
	require.Equal(t, Waiting, l.arrive(1, nil).State(), "four are all")
	require.Empty(t, l.run)
	l.m.SetLimit(l.now, l.k, 10)
	l.settle()
	l.grant(1, 8)
	few := newLeasing(t, 8)
	patient := few.arrive(3, nil)
	few.m.SetLimit(few.now, few.k, 4)
	few.m.Step(few.now)
	require.Equal(t, Waiting, patient.State(), "it can have them, though it has none now")
	few.m.SetLimit(few.now, few.k, 2)
	few.m.Step(few.now)
	require.Equal(t, TooWide, patient.Refusal().Reason)
	wide := l.arrive(11, nil)
	require.Equal(t, TooWide, wide.Refusal().Reason)
}

// A call that goes on after its lease has ended leaves nothing to the next, which runs on what is leased since.
func TestLease_WhatHasEndedIsNotHandedOn(t *testing.T) {
	l := newLeasing(t, 1)
	a := l.arrive(1, nil)
	l.grant(1, 5)
	b := l.arrive(1, nil)
	c := l.arrive(1, nil)
	l.now += second
	l.m.Tick(l.now)
	l.settle()
	l.grant(1, 6)
	require.Equal(t, []State{Running, Waiting, Waiting}, []State{a.State(), b.State(), c.State()}, "it still counts")
	l.m.Finish(l.now, a, 0)
	l.settle()
	require.Equal(t, Running, b.State())
	require.EqualValues(t, 6, l.m.Fence(b, "x"))
	l.m.Finish(l.now, b, 0) // which is handed on
	l.settle()
	require.Equal(t, Running, c.State())
	require.EqualValues(t, 6, l.m.Fence(c, "x"))
	require.EqualValues(t, 1, l.cell().lease.bound)
}

// A key of which it is not known what was acquired for it is remembered until that has ended, and no longer.
func TestLease_UnknownKeysAreForgotten(t *testing.T) {
	l := newLeasing(t, 1)
	l.k.MaxKeys = 1
	arrive := func(key string) *Ticket {
		c := l.m.Cell(l.now, l.k, key)
		if c == nil {
			return nil
		}
		x := l.m.Ticket()
		x.Plan = l.plan
		l.m.Add(x, c, 1)
		l.m.Arrive(l.now, x)
		l.settle()
		return x
	}
	a := arrive("a")
	c := l.run[0]
	_, more := l.m.Demand(l.now, c, Op{1})
	require.True(t, more)
	l.m.Leased(l.now, c, Acquired{Failed: true, Pause: second / 10})
	l.settle()
	l.m.Cancel(l.now, a)
	_, more = l.m.Demand(l.now, c, Op{2})
	require.False(t, more)
	l.settle()
	require.Nil(t, arrive("b"))
	require.Equal(t, 3*second, l.m.Due())
	l.now += 3 * second
	l.m.Tick(l.now)
	l.settle()
	require.NotNil(t, arrive("b"))
}
