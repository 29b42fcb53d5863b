package stage

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/breaker"
)

// plan is a tool whose calls have two keys: of a tenant, which may be empty, and of a user, where
// calls without one do not count.
type plan struct {
	*testing.T
	s    *Stage
	tool Tool
	Needs
	own, tenants, users *admit.Class
}

func newPlan(t *testing.T, quick bool) *plan {
	p := &plan{T: t, s: newStage(), own: slotsOf("own", admit.Unlimited), tenants: slotsOf("tenants", 5), users: slotsOf("users", 5)}
	p.tenants.MaxKeys, p.users.MaxKeys, p.tenants.Rank, p.users.Rank = 3, 2, 2, 3
	p.tool = Tool{Stage: p.s, Plan: &admit.Plan{Tool: 1, Client: admit.NewClient()}, Direct: true, Count: func(int, int) {}}
	p.Parts = []Part{
		{Class: p.own, Cell: p.s.M.Pin(0, p.own, ""), Key: -1, Unit: -1},
		{Class: p.tenants, Key: 0, Unit: -1}, {Class: p.users, Key: 1, Unit: -1, Some: true},
	}
	p.Compile(&p.tool, 2, 0)
	if quick {
		p.Quicken()
	}
	return p
}

func answers(keys ...string) *Answers {
	q := new(Answers)
	for _, k := range keys {
		q.Keys.Add(k)
	}
	return q
}

// quickly is a call that comes without the lock, if it can.
func (p *plan) quickly(keys ...string) (*Permit, bool) {
	x, y := p.Of(answers(keys...)), new(Permit)
	return y, x.Needs != nil && y.GrantQuick(x, new(Tally), 0, 1, p.s.Now())
}

// locked is a call that comes by the lock, if its keys find room; else it answers whose table is full.
func (p *plan) locked(keys ...string) (*admit.Ticket, *admit.Class) {
	q := answers(keys...)
	x := p.Of(q)
	p.s.Lock()
	defer p.s.Unlock()
	t := p.s.M.Ticket()
	t.Plan = p.tool.Plan
	if full := p.Fill(p.s.Now(), t, x, q, (*admit.Machine).Cell); full != nil {
		p.s.M.Free(t)
		return nil, full
	}
	p.Note(t, q)
	require.Equal(p, admit.Running, p.s.M.Arrive(p.s.Now(), t))
	return t, nil
}

// known has calls with these keys come without the lock.
func (p *plan) known(keys ...string) {
	p.Helper()
	for range 2 {
		t, full := p.locked(keys...)
		require.Nil(p, full)
		finish(p.s, t)
	}
}

func end(p *plan, x *Permit) {
	x.Begin()
	require.Equal(p, Ended, x.Finish(p.s.Now()))
}

func (p *plan) used(k *admit.Class, key string) int64 {
	p.s.Lock()
	defer p.s.Unlock()
	c := k.Lookup(key)
	if c == nil {
		return -1
	}
	return c.Usage(p.s.Now()).Used
}

// Keys that come again come without the lock, and those that come once do not.
func TestNeeds_KeysThatComeAgain(t *testing.T) {
	p := newPlan(t, true)
	_, quick := p.quickly("a", "u")
	require.False(t, quick, "nobody knows what it needs")
	first, _ := p.locked("a", "u")
	finish(p.s, first)
	_, quick = p.quickly("a", "u")
	require.False(t, quick, "it has come once")
	p.known("a", "u")
	known := p.Of(answers("a", "u"))
	x, quick := p.quickly("a", "u")
	require.True(t, quick)
	require.Equal(t, int64(1), p.used(p.tenants, "a"))
	require.Equal(t, int64(1), p.used(p.users, "u"))
	end(p, x)
	require.Zero(t, p.used(p.tenants, "a"))
	require.Zero(t, p.used(p.users, "u"))
	p.known("a", "u")
	require.Same(t, known, p.Of(answers("a", "u")), "it is known already")
	for _, keys := range [][]string{{"u", "a"}, {"a", ""}, {"", "u"}, {"a", "v"}} {
		_, quick = p.quickly(keys...)
		require.False(t, quick, "%v", keys)
	}
}

// A call without a tenant counts under the empty key, and one without a user under none.
func TestNeeds_EmptyKeys(t *testing.T) {
	p := newPlan(t, true)
	p.known("", "")
	x, quick := p.quickly("", "")
	require.True(t, quick)
	require.Equal(t, int64(1), p.used(p.tenants, ""))
	require.Equal(t, int64(-1), p.used(p.users, ""))
	end(p, x)
}

// What is known of keys of which one has been forgotten is not used any more, until it is made anew.
func TestNeeds_AKeyThatWasForgotten(t *testing.T) {
	p := newPlan(t, true)
	p.known("a", "u")
	p.known("b", "v")
	p.known("b", "w") // for which u makes room
	require.Equal(t, int64(-1), p.used(p.users, "u"))
	_, quick := p.quickly("a", "u")
	require.False(t, quick, "one of its keys is forgotten")
	x, full := p.locked("a", "u")
	require.Nil(t, full)
	require.Equal(t, int64(1), p.used(p.users, "u"))
	require.Equal(t, int64(1), p.used(p.tenants, "a"))
	finish(p.s, x)
	p.known("a", "u")
	y, quick := p.quickly("a", "u")
	require.True(t, quick)
	end(p, y)
	require.Equal(t, []int{2, 2}, []int{p.tenants.Len(), p.users.Len()})
}

// A table of keys that are in use is full, however their calls came, and makes room when they go.
func TestNeeds_AFullTable(t *testing.T) {
	p := newPlan(t, true)
	p.known("a", "u")
	p.known("a", "v")
	x, quick := p.quickly("a", "u")
	y, quick2 := p.quickly("a", "v")
	require.True(t, quick)
	require.True(t, quick2)
	_, full := p.locked("a", "w")
	require.Same(t, p.users, full)
	end(p, x)
	end(p, y)
	z, full := p.locked("a", "w")
	require.Nil(t, full)
	finish(p.s, z)
}

// A plan that is dropped has nobody come without the lock, and finds cells by their keys.
func TestNeeds_Dropped(t *testing.T) {
	p := newPlan(t, true)
	p.known("a", "u")
	before := p.Of(answers("a", "u"))
	x, quick := p.quickly("a", "u")
	require.True(t, quick)
	p.s.Lock()
	p.Drop()
	p.s.Unlock()
	require.False(t, new(Permit).GrantQuick(before, new(Tally), 0, 1, p.s.Now()), "it is open")
	require.Equal(t, int64(1), p.used(p.users, "u"))
	end(p, x)
	require.Zero(t, p.used(p.users, "u"))
	for range 3 {
		y, _ := p.locked("a", "u")
		require.Equal(t, int64(1), p.used(p.users, "u"))
		finish(p.s, y)
		require.Nil(t, p.Of(answers("a", "u")).Needs, "it is dropped")
	}
}

// So has one without keys. The cells that only it has kept are forgotten, and made anew for who has
// found it before.
func TestNeeds_DroppedWithoutKeys(t *testing.T) {
	for _, byPlan := range []bool{false, true} {
		p := newPlan(t, true)
		p.own.ByPlan = byPlan
		p.Needs = Needs{Parts: []Part{{Class: p.own, Cell: p.s.M.Pin(0, p.own, "tool"), Key: -1, Unit: -1}}}
		p.Compile(&p.tool, 0, 0)
		p.Quicken()
		p.Quicken() // which changes nothing
		first, _ := p.locked()
		finish(p.s, first)
		x, quick := p.quickly()
		require.True(t, quick)
		p.s.Lock()
		p.Drop()
		p.s.Unlock()
		_, quick = p.quickly()
		require.False(t, quick, "it is open")
		end(p, x)
		_, quick = p.quickly()
		require.False(t, quick, "the end of a call has opened it")
		if byPlan {
			require.Equal(t, int64(-1), p.used(p.own, "tool"), "it is forgotten")
		}
		y, _ := p.locked()
		require.Equal(t, int64(1), p.used(p.own, "tool"))
		finish(p.s, y)
	}
}

// Calls whose keys nobody knows do not keep others from coming without the lock.
func TestNeeds_OtherKeys(t *testing.T) {
	p := newPlan(t, true)
	p.known("a", "u")
	x, _ := p.locked("b", "")
	_, quick := p.quickly("a", "u")
	require.False(t, quick, "a call by the lock is under way")
	finish(p.s, x)
	y, quick := p.quickly("a", "u")
	require.True(t, quick)
	end(p, y)
}

// Of too many keys some are known no more. Who has found them before finds them shut.
func TestNeeds_TooManyKeys(t *testing.T) {
	p := newPlan(t, true)
	p.tenants.MaxKeys = 10_000
	var all []*Tool
	key := func(i int) string { return string(rune('a' + i)) }
	for i := range 3000 {
		p.known(key(i), "")
		all = append(all, p.Of(answers(key(i), "")))
		require.NotNil(t, all[i].Needs)
	}
	known := 0
	for i, x := range all {
		now := p.Of(answers(key(i), ""))
		y, z := new(Permit), new(Permit)
		quick := y.GrantQuick(x, new(Tally), 0, 1, p.s.Now())
		require.Equal(t, now == x, quick, "tenant %d", i)
		if quick {
			known++
			end(p, y)
		}
		require.Equal(t, now == x, now.Needs != nil && z.GrantQuick(now, new(Tally), 0, 1, p.s.Now()))
		if quick {
			end(p, z)
		}
	}
	t.Logf("%d are known", known)
	require.Greater(t, known, 500)
	require.Less(t, known, 1500)
}

// Where calls must not come without the lock they share their needs all the same.
func TestNeeds_ByTheLockAlone(t *testing.T) {
	p := newPlan(t, false)
	p.known("a", "u")
	require.NotNil(t, p.Of(answers("a", "u")).Needs)
	_, quick := p.quickly("a", "u")
	require.False(t, quick)
	x, _ := p.locked("a", "u")
	require.True(t, x.IsFixed())
	finish(p.s, x)
}

// A call that came without the lock is what others are nested in, or report of, as any other.
func TestNeeds_ACallThatIsAdopted(t *testing.T) {
	p := newPlan(t, true)
	p.known("a", "u")
	x, quick := p.quickly("a", "u")
	require.True(t, quick)
	p.s.Lock()
	up := x.Ticket(p.s)
	require.Equal(t, p.tool.Plan, up.Plan)
	var names []string
	for _, n := range up.Needs() {
		names = append(names, n.Cell.Class().Name+"/"+n.Cell.Key())
	}
	p.s.Unlock()
	require.Equal(t, []string{"own/", "tenants/a", "users/u"}, names)
	x.Begin()
	x.Abandon(breaker.Neutral)
	x.Return(true)
	x.Judge()
	require.NotNil(t, x.GiveBack(p.s.Now(), nil))
	require.Zero(t, p.used(p.users, "u"))
}
