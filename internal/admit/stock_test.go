package admit

import (
	"fmt"
	"testing"

	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/stretchr/testify/require"
)

// purse is a world whose one rate is kept elsewhere: the test answers for whoever keeps it.
type purse struct {
	*world
	k     *Class
	c     *Cell
	runs  int      // Run was called so often
	holds []string // as Hold was
	seq   byte
	e     Errand // under way
}

func (p *purse) Run(*Cell) { p.runs++ }
func (p *purse) Hold(c *Cell, d int64) {
	p.holds = append(p.holds, fmt.Sprintf("%s %dms", c.key, d/ms))
}

// newPurse is one of 100 units a second, at most 20 at once, of which so many are in stock.
func newPurse(t testing.TB, stock Stock) *purse {
	p := &purse{world: newWorld(t, standard())}
	p.k = p.rate("rate", 0, 100, sec, 20)
	stock.Hold, stock.Repeat, stock.Keeper = sec, 60*sec, p
	if stock.Ahead == 0 {
		stock.Ahead = sec
	}
	p.k.Stock = &stock
	p.c = p.cell(p.k)
	return p
}

// wall is the wall clock of tests: it goes with the instants.
const wall = 1_000_000 * sec

// over ends an event, as the stage does.
func (p *purse) over() {
	p.m.Errands(wall + p.now)
	p.collect()
}

func (p *purse) come(name string, level int8, n int64, what ...any) *Ticket {
	x := p.arrive(name, level, "", append(what, p.k.of(n))...)
	p.over()
	return x
}

// pass lets time pass.
func (p *purse) pass(d int64) {
	for until := p.now + d; ; {
		next := min(until, max(p.now+1, p.m.Due()))
		p.at(next)
		p.over()
		if p.now >= until {
			return
		}
	}
}

// asks is the next errand, as text, empty if there is none.
func (p *purse) asks() string {
	p.seq++
	e, more := p.m.Errand(p.now, p.c, Op{p.seq}, Op{p.seq, 1})
	p.m.Errands(wall + p.now)
	p.collect()
	if !more {
		return ""
	}
	p.e = e
	out := ""
	if e.Max > 0 {
		out = fmt.Sprintf("%d: %d-%d", e.Op[0], e.Min, e.Max)
		if e.Spare > 0 {
			out += fmt.Sprintf(" leaving %d", e.Spare)
		}
	}
	for _, x := range e.Corrections {
		out += fmt.Sprintf(" %+d of %d", x.Units, x.Of[0])
	}
	return out
}

func (p *purse) supply(x Supplied) {
	p.m.Supply(p.now, p.c, x)
	p.over()
}

func (p *purse) settled(ok bool, pause int64) {
	p.m.Settled(p.now, p.c, ok, pause)
	p.over()
}

func (p *purse) end(t *Ticket) {
	p.ended(t, breaker.Success)
	p.over()
}

// InStock is how many units c has, there or booked.
func (c *Cell) InStock() int64 {
	c.shut()
	return c.stock.total()
}

// What waits is fetched for, units that are booked are used when they are due, and a fetch is made when half
// is left.
func TestStockIsFetchedAndUsedWhenDue(t *testing.T) {
	p := newPurse(t, Stock{Most: 4})
	p.come("a", 4, 1)
	require.Equal(t, 1, p.runs)
	p.sees("")
	require.Equal(t, "1: 1-1", p.asks())
	for _, name := range []string{"b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"} {
		p.come(name, 4, 1)
	}
	require.Equal(t, 1, p.runs, "it is under way")
	p.supply(Supplied{Units: 1})
	p.sees("a")
	require.Equal(t, "2: 1-4", p.asks(), "15 wait: one for four of them")
	p.supply(Supplied{Units: 4, After: 10 * ms, Every: 10 * ms})
	p.sees("")
	require.Empty(t, p.asks(), "there is enough")
	p.pass(9 * ms)
	p.sees("")
	p.pass(1 * ms)
	p.sees("b")
	p.pass(10 * ms)
	p.sees("c")
	require.Equal(t, 1, p.runs, "more than a quarter is left of what 13 need")
	p.pass(10 * ms)
	p.sees("d")
	require.Equal(t, 1, p.runs)
	p.pass(10 * ms)
	p.sees("e")
	require.Equal(t, 2, p.runs)
	require.Equal(t, "4: 1-3", p.asks(), "for 11")
	p.supply(Supplied{Units: 2, After: 10 * ms, Every: 10 * ms})
	p.pass(10 * ms)
	p.sees("f")
	p.pass(10 * ms)
	p.sees("g")
}

// A unit that nobody has used for long goes back, to the fetch that it came by; one that is kept for somebody
// who waits elsewhere, too.
func TestStockThatNobodyUsesGoesBack(t *testing.T) {
	p := newPurse(t, Stock{Most: 4})
	p.come("a", 4, 1)
	require.Equal(t, "1: 1-1", p.asks())
	p.cancel(p.calls[0])
	p.over()
	p.supply(Supplied{Units: 1, After: 5 * ms})
	require.Empty(t, p.asks())
	p.pass(sec + 4*ms)
	require.Equal(t, 1, p.runs)
	p.pass(1 * ms)
	require.Equal(t, 2, p.runs)
	require.Equal(t, " -1 of 1", p.asks())
	p.settled(true, 0)
	require.Empty(t, p.asks())
	require.True(t, p.c.stock.isIdle())
	require.Equal(t, Never, p.m.Due())
}

// A unit of a call that left while it waited is the next one's.
func TestStockIsNobodysOwn(t *testing.T) {
	p := newPurse(t, Stock{Most: 1})
	a := p.come("a", 4, 1)
	p.come("b", 4, 1)
	require.Equal(t, "1: 1-1", p.asks())
	p.supply(Supplied{Units: 1, After: 10 * ms})
	p.cancel(a)
	p.over()
	p.pass(10 * ms)
	p.sees("b")
}

// A call that was admitted and has not run puts back what it took: it is there for the next, and goes back
// when it would have gone.
func TestStockOfWhatDidNotRun(t *testing.T) {
	p := newPurse(t, Stock{Most: 4})
	a := p.come("a", 4, 3)
	require.Equal(t, "1: 3-3", p.asks())
	p.supply(Supplied{Units: 3})
	p.sees("a")
	p.pass(100 * ms)
	require.Empty(t, p.asks())
	p.cancel(a)
	p.over()
	require.EqualValues(t, 3, p.c.InStock())
	p.come("b", 4, 2)
	p.sees("b")
	p.pass(900 * ms)
	require.Contains(t, p.asks(), " -1 of 1")
}

// What a call dearer than the stock needs is fetched for it, all at once, and booked further ahead.
func TestStockForADearCall(t *testing.T) {
	p := newPurse(t, Stock{Most: 4, Ahead: 10 * ms})
	p.come("a", 4, 15)
	require.Equal(t, "1: 15-15", p.asks())
	require.Equal(t, 600*ms, p.e.Ahead)
	p.supply(Supplied{Units: 15, After: 30 * ms})
	p.come("b", 4, 1)
	p.pass(30 * ms)
	p.sees("a")
	require.Equal(t, "2: 1-1", p.asks())
	require.Equal(t, 10*ms, p.e.Ahead)
}

// A denial is asked again when it may be granted, an error after the pause that whoever asks says; what may
// have been granted is asked for again by its name.
func TestStockAsksAgain(t *testing.T) {
	p := newPurse(t, Stock{Most: 4})
	p.come("a", 4, 1)
	require.Equal(t, "1: 1-1", p.asks())
	p.supply(Supplied{Pause: 7 * ms})
	require.Empty(t, p.asks())
	p.pass(7*ms - 1)
	require.Equal(t, 1, p.runs)
	p.pass(1)
	require.Equal(t, 2, p.runs)
	require.Equal(t, "3: 1-1", p.asks(), "nothing came: another name")
	p.supply(Supplied{Failed: true, Pause: 5 * ms})
	require.Empty(t, p.asks())
	p.pass(5*ms - 1)
	require.Equal(t, 2, p.runs)
	p.pass(1)
	require.Equal(t, 3, p.runs)
	require.Equal(t, "3: 1-1", p.asks(), "the same")
	require.Equal(t, 1, p.e.Fails)
	p.supply(Supplied{Failed: true, Refused: true})
	require.Equal(t, "3: 1-1", p.asks(), "the first may have been granted all the same")
	p.supply(Supplied{Units: 1})
	p.sees("a")
	p.come("b", 4, 1)
	require.Equal(t, "7: 1-1", p.asks())
	p.supply(Supplied{Failed: true, Refused: true})
	require.Equal(t, "8: 1-1", p.asks(), "for certain nothing was granted")
	p.supply(Supplied{Failed: true, Pause: 50 * sec})
	p.pass(50 * sec)
	require.Equal(t, "8: 1-1", p.asks())
	p.supply(Supplied{Failed: true, Pause: 20 * sec})
	p.pass(20 * sec)
	require.Equal(t, "10: 1-1", p.asks(), "by then nobody knows the name any more")
}

// After a pause of everybody's nothing of before is used, and nothing is fetched while it lasts. Those who do
// it because they were told do not tell.
func TestStockInAPause(t *testing.T) {
	p := newPurse(t, Stock{Most: 4})
	p.come("a", 4, 2)
	require.Equal(t, "1: 2-2", p.asks())
	p.supply(Supplied{Units: 2})
	p.sees("a")
	p.come("b", 4, 1)
	require.Equal(t, "2: 1-1", p.asks())
	p.m.Pause(p.now, p.c, p.now+100*ms)
	p.over()
	require.Equal(t, []string{" 100ms"}, p.holds)
	p.c.stock.fetch.Max = 2
	p.supply(Supplied{Units: 2, After: 99 * ms, Every: ms})
	p.sees("")
	require.Equal(t, " -1 of 2", p.asks(), "one was for before the end")
	p.settled(true, 0)
	require.Empty(t, p.asks())
	p.pass(99 * ms)
	p.sees("")
	p.pass(1 * ms)
	p.sees("b")
	p.m.Pause(p.now, p.c, p.now+100*ms)
	p.m.Told(p.c)
	p.over()
	p.m.Lift(p.now, p.c)
	p.over()
	require.Equal(t, []string{" 100ms", " 0ms"}, p.holds)

	p.c.stock.lifted = false // by an errand of before
	p.come("c", 4, 1)
	require.NotEmpty(t, p.asks())
	p.supply(Supplied{Pause: 50 * sec}) // since others have paused it, who have not told yet
	require.Empty(t, p.asks())
	p.m.Pause(p.now, p.c, p.now+51*sec)
	p.m.Told(p.c)
	p.over()
	p.m.Lift(p.now, p.c)
	p.over()
	require.NotEmpty(t, p.asks())
}

// What a call has used less or more than it took is said where the bucket is kept, of the fetches by which it
// was; the same list by the same name until that is sure. While more is owed than the bucket has, nobody starts.
func TestStockSettles(t *testing.T) {
	p := newPurse(t, Stock{Most: 10})
	p.k.Unit = "tokens"
	a := p.come("a", 4, 10)
	require.Equal(t, "1: 10-10", p.asks())
	p.supply(Supplied{Units: 10})
	p.sees("a")
	b := p.come("b", 4, 6)
	require.Equal(t, "2: 6-6", p.asks())
	p.supply(Supplied{Units: 6})
	p.sees("b")
	report := func(x *Ticket, n int64) {
		p.m.Settle(p.now, x, "tokens", n)
		p.over()
	}
	report(a, 3)
	report(b, 8)
	require.Equal(t, []Used{{"tokens", 3}}, a.Settled())
	got := p.asks()
	require.Contains(t, got, " -7 of 1 +2 of 2")
	name := p.e.Saying
	p.settled(false, 10*ms)
	report(a, 4)
	p.pass(10 * ms)
	got = p.asks()
	require.Contains(t, got, " -7 of 1 +2 of 2")
	require.NotContains(t, got, " +1 of 1")
	require.Equal(t, name, p.e.Saying)
	p.settled(true, 0)
	require.Contains(t, p.asks(), " +1 of 1")
	p.settled(true, 0)
	p.c.stock.fetch, p.c.stock.next = fetch{}, 0
	require.Zero(t, p.c.stock.more)

	report(b, 8+21)
	p.c.stock.add(lot{units: 5, at: p.now})
	p.come("c", 4, 1)
	p.sees("")
	for p.c.stock.more > 0 {
		require.Contains(t, p.asks(), "+21 of 2")
		p.settled(true, 0)
	}
	p.sees("c")
	p.end(a)
	p.end(b)
}

// Calls that do not wait do so for one answer, and are refused with the time that it says. Then the next are
// refused at once.
func TestStockRefusesWhenItKnows(t *testing.T) {
	p := newPurse(t, Stock{Most: 4})
	p.k.Refuse = true
	p.come("a", 4, 1)
	p.come("b", 4, 1)
	c := p.come("c", 4, 1)
	p.sees("")
	require.Equal(t, "1: 1-3", p.asks(), "for all that want an answer")
	require.Zero(t, p.e.Ahead, "nothing is booked")
	p.supply(Supplied{Units: 2, Pause: 8 * ms})
	p.sees("a b c!")
	p.refused(c, RateLimited, p.k, 8*ms)
	p.pass(3 * ms)
	d := p.come("d", 4, 1)
	p.sees("d!")
	p.refused(d, RateLimited, p.k, 5*ms)
	p.pass(5 * ms)
	e := p.come("e", 4, 1)
	require.NotEmpty(t, p.asks())
	p.supply(Supplied{Failed: true, Refused: true, Pause: ms})
	p.refused(e, RateLimited, p.k, ms)
	p.news = nil

	p = newPurse(t, Stock{Most: 4})
	now := func(t *Ticket) { t.AtOnce = true }
	f := p.come("f", 4, 1, option(now))
	require.NotEmpty(t, p.asks())
	p.supply(Supplied{Units: 1, After: 5 * ms})
	p.sees("f!")
	p.refused(f, TooLong, p.k, 5*ms)
	g := p.come("g", 4, 1, option(now))
	p.refused(g, TooLong, p.k, 5*ms)
	p.pass(5 * ms)
	h := p.come("h", 4, 1, option(now))
	require.Equal(t, Running, h.State())
}

// What is fetched for others leaves the reserve, and what others have booked does not stand in the way of a
// call of the highest level.
func TestStockLeavesAReserve(t *testing.T) {
	p := newPurse(t, Stock{Most: 4, Reserve: 12})
	for i := range 16 {
		p.come(fmt.Sprint("b", i), 0, 1)
	}
	require.Equal(t, "1: 1-4 leaving 12", p.asks())
	p.supply(Supplied{Units: 4, After: 100 * ms, Every: 10 * ms})
	p.come("i", Levels-1, 1)
	require.Equal(t, "2: 1-1", p.asks())
	p.supply(Supplied{Units: 1})
	p.sees("i")
	require.Empty(t, p.asks())
	q := newPurse(t, Stock{Most: 4, Reserve: 12})
	q.come("dear", 0, 15)
	require.Equal(t, "1: 15-15 leaving 5", q.asks(), "what it leaves must fit into the bucket")
}

// In shadow nobody waits: calls that would have are counted, once it is known that they would.
func TestStockInShadowOnlyCounts(t *testing.T) {
	p := newPurse(t, Stock{Most: 4, Shadow: true})
	for i := range 3 {
		x := p.come(fmt.Sprint(i), 4, 1)
		require.Equal(t, Running, x.State())
	}
	require.Equal(t, "1: 3-3", p.asks())
	require.Zero(t, p.e.Ahead)
	p.supply(Supplied{Units: 3})
	require.Zero(t, p.k.Short(), "they would have started after one trip")
	require.Zero(t, p.c.InStock())
	p.come("x", 4, 1)
	p.come("y", 4, 1)
	require.NotEmpty(t, p.asks())
	p.supply(Supplied{Pause: 10 * ms})
	require.EqualValues(t, 2, p.k.Short())
}

// A cell is kept while it has something or something is under way, and forgotten afterwards.
func TestStockOfAKey(t *testing.T) {
	p := newPurse(t, Stock{Most: 4})
	p.k.MaxKeys = 1
	p.k.cells, p.k.list = nil, nil
	one := part{p.k, "one", 1}
	a := p.arrive("a", 4, "", one)
	p.over()
	p.c = p.m.Cell(p.now, p.k, "one")
	require.Nil(t, p.m.Cell(p.now, p.k, "two"))
	p.cancel(a)
	p.over()
	require.Nil(t, p.m.Cell(p.now, p.k, "two"), "a fetch is under way")
	require.Equal(t, "", p.asks(), "nobody waits any more")
	require.NotNil(t, p.m.Cell(p.now, p.k, "two"))
	require.NotSame(t, p.c, p.m.Cell(p.now, p.k, "two"))
}

// A process that slept has nothing.
func TestStockIsWorthNothingAfterASleep(t *testing.T) {
	p := newPurse(t, Stock{Most: 8})
	p.come("a", 4, 1)
	p.asks()
	p.supply(Supplied{Units: 1})
	p.c.stock.add(lot{units: 5, at: p.now, op: Op{1}})
	p.m.thirst(p.c)
	p.m.Errands(wall + p.now + sec)
	require.EqualValues(t, 5, p.c.InStock(), "a second is no sleep")
	p.m.thirst(p.c)
	p.m.Errands(wall + p.now + sec + 2*sec)
	require.Zero(t, p.c.InStock())
	require.Contains(t, p.asks(), "-5 of 1")
}

// When nobody is left, or the class is closed, all goes back, and who waits is refused.
func TestStockIsClosed(t *testing.T) {
	p := newPurse(t, Stock{Most: 8})
	a := p.come("a", 4, 1)
	p.asks()
	p.supply(Supplied{Units: 1})
	p.sees("a")
	p.end(a)
	p.c.stock.add(lot{units: 3, at: p.now + ms, op: Op{9}})
	p.m.thirst(p.c)
	p.over()
	p.m.RestStocks()
	require.Equal(t, Never, p.m.Due())
	require.Zero(t, p.c.InStock())
	require.Contains(t, p.asks(), "-3 of 9")
	p.settled(true, 0)

	b := p.come("b", 4, 1)
	require.Equal(t, Waiting, b.State())
	p.m.CloseStock(p.now, p.k)
	p.over()
	p.sees("b!")
	p.refused(b, RateLimited, p.k, 0)
	require.Empty(t, p.asks())
	c := p.come("c", 4, 1)
	p.refused(c, RateLimited, p.k, 0)
}

// Calls come the quick way while there are units that are due: as many as that, no longer than they are kept,
// and some are left to whoever notices that more are wanted.
func TestStockTheQuickWay(t *testing.T) {
	p := newPurse(t, Stock{Most: 8})
	free := slots("free", 0, Unlimited)
	set, way := NewNeedSet([]Need{{p.c, 1}, {p.cell(free), 1}}), QuickWay()
	p.m.Quicken(set, &way)
	slowly := func() {
		x := p.ticket("x", 4, "")
		p.m.Fixed(x, set)
		require.Equal(t, Running, p.m.Arrive(p.now, x))
		p.m.Errands(wall + p.now) // as the stage does after each
		p.m.Finish(p.now, x, breaker.Success)
		p.m.Errands(wall + p.now)
	}
	quickly := func() (n int) {
		var pass Pass
		for set.Take(p.now, &pass) {
			n++
			set.Give(p.now, &pass, p.now)
		}
		return n
	}
	p.c.stock.add(lot{units: 6, at: p.now, op: Op{1}})
	p.c.stock.add(lot{units: 4, at: p.now + 10*ms, every: 10 * ms, op: Op{2}})
	p.c.stock.running = true // more is on the way
	slowly()
	require.Equal(t, 5, quickly(), "none that is booked")
	require.EqualValues(t, 4, p.c.InStock())
	p.pass(20 * ms)
	slowly()
	require.Equal(t, 1, quickly())
	require.EqualValues(t, 2, p.c.InStock())
	p.pass(20 * ms)
	slowly()
	p.now += sec // no timer has fired
	require.Zero(t, quickly(), "it is to go back")
	p.m.Tick(p.now)
	p.over()

	p.c.stock.running, p.c.stock.back = false, nil
	p.c.stock.add(lot{units: 20, at: p.now, op: Op{3}})
	slowly()
	require.Equal(t, 15, quickly(), "of 19 half of what is expected is left")
	slowly()
	require.NotEmpty(t, p.asks())
	p.m.Pause(p.now, p.c, p.now+sec)
	require.Zero(t, quickly())
}
