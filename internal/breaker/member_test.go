package breaker

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// paper is an engine of one key: the rule that was agreed on, which members change by hand of a test.
type paper struct {
	rule Rule
	rev  uint64
	now  int64
	wall int64 // ahead of now
}

func (p *paper) member(self string, quorum int, c *Config) *Breaker {
	b := New(c)
	b.Join(&Terms{Self: self, Actor: "actor of " + self, Quorum: quorum, Turn: 5 * second, Repeat: 60 * second,
		Wall: func() int64 { return 1e18 + p.now + p.wall }})
	return b
}

// tell has b's errands done, and all others told of each.
func (p *paper) tell(t *testing.T, b *Breaker, others ...*Breaker) (n int) {
	t.Helper()
	for ; ; n++ {
		require.Less(t, n, 10, "it does not come to an end")
		e, more := b.Errand(p.now, [16]byte{byte(n + 1)})
		if !more {
			return n
		}
		if e.Rule != nil && !e.Any && e.Was != p.rev {
			b.Told(p.now, &e, 0, Refused)
			b.Hear(p.now, p.rule, p.rev, p.rule.Lasts, true)
			continue
		}
		if e.Rule != nil {
			p.rev++
			p.rule = *e.Rule
		}
		b.Told(p.now, &e, p.rev, Done)
		for _, o := range others {
			if e.Rule != nil {
				o.Hear(p.now, p.rule, p.rev, p.rule.Lasts, false)
			}
			if e.Vote != 0 {
				o.HearVote(p.now, b.cfg.member.terms.Self, e.Row, max(0, e.Vote))
			}
		}
	}
}

// fail has n calls of b fail, all of which it lets start.
func (p *paper) fail(t *testing.T, b *Breaker, n int) {
	t.Helper()
	for range n {
		ok, _ := b.Ready(p.now)
		require.True(t, ok)
		x, _ := b.Take(p.now)
		b.Done(p.now, x, Failure)
	}
}

var three = &Config{Failures: 3, Cooldown: second}

// open is two members of which the first has opened both, at zero; at one second the first has its turn.
func (p *paper) open(t *testing.T) (a, b *Breaker) {
	a, b = p.member("a", 1, three), p.member("b", 1, three)
	p.fail(t, a, 3)
	require.Equal(t, 1, p.tell(t, a, b), "a vote, with the rule")
	require.Equal(t, Rule{Phase: Cooling, Lasts: second}, p.rule)
	require.Equal(t, Open, b.State(p.now))
	p.now = second
	ok, at := a.Ready(p.now)
	require.False(t, ok, "it is nobody's turn")
	require.Equal(t, second+soon, at)
	require.Zero(t, p.tell(t, a, b), "and nobody asks")
	a.Asks(p.now)
	require.Equal(t, 1, p.tell(t, a, b))
	require.Equal(t, Rule{Phase: Probing, By: "a", Lasts: 5 * second}, p.rule)
	return a, b
}

// A turn is over by the clock that says so first, and a tenth before others may take it.
func TestMember_ATurnIsOver(t *testing.T) {
	var p paper
	a, b := p.open(t)
	begun := p.now
	p.now = begun + 4500e6 - 1
	ok, _ := a.Ready(p.now)
	require.True(t, ok)
	p.wall = 1
	ok, _ = a.Ready(p.now)
	require.False(t, ok, "the wall clock says that it is over: the machine has slept")
	p.wall = 0
	p.now++
	ok, _ = a.Ready(p.now)
	require.False(t, ok)
	b.Asks(p.now)
	e, more := b.Errand(p.now, [16]byte{1})
	require.True(t, more)
	require.Equal(t, "a", e.Rule.By, "it is still the turn of a to others, who can say no more than that they want it")
	require.True(t, e.Rule.Wanted)
	require.EqualValues(t, 500e6, e.Rule.Lasts, "and do not prolong it")
	b.Told(p.now, &e, 0, Failed)
	p.now = begun + 5*second
	e, more = b.Errand(p.now, [16]byte{2})
	require.True(t, more)
	require.Equal(t, "b", e.Rule.By)
}

// The result of a probe whose turn is over moves nothing.
func TestMember_ALateProbe(t *testing.T) {
	for _, o := range []Outcome{Success, Failure} {
		var p paper
		a, _ := p.open(t)
		x, changed := a.Take(p.now)
		require.True(t, changed)
		p.now += 4500e6
		require.False(t, a.Done(p.now, x, o))
		require.Equal(t, HalfOpen, a.State(p.now))
		require.False(t, a.Begin(p.now), "there is nothing to tell")
		require.Equal(t, Open, a.State(p.now), "it waits for its turn as all do")
	}
}

// A turn is prolonged while it is not over.
func TestMember_ATurnGoesOn(t *testing.T) {
	var p paper
	a, b := p.open(t)
	for range 100 {
		at := a.DueAt(p.now)
		require.LessOrEqual(t, at, p.now+2*second)
		p.now = at
		require.Equal(t, 1, p.tell(t, a, b))
		require.Equal(t, Rule{Phase: Probing, By: "a", Lasts: 5 * second}, p.rule)
	}
	ok, _ := a.Ready(p.now)
	require.True(t, ok)
}

// What one finds out is the next round of all, of which the open times grow; those of another that opens by himself do not.
func TestMember_Rounds(t *testing.T) {
	var p paper
	a, b := p.open(t)
	for round := range uint8(5) {
		p.fail(t, a, 1)
		require.Equal(t, 1, p.tell(t, a, b))
		require.Equal(t, Rule{Phase: Cooling, Round: round + 1, Lasts: second << (round + 1)}, p.rule)
		p.now += p.rule.Lasts
		a.Asks(p.now)
		require.Equal(t, 1, p.tell(t, a, b))
	}
	x, _ := a.Take(p.now)
	require.True(t, a.Done(p.now, x, Success))
	require.Equal(t, 1, p.tell(t, a, b))
	require.Equal(t, Rule{Phase: Ramping, Round: 5, By: "a", Lasts: 5 * second}, p.rule)
	require.Equal(t, Open, b.State(p.now))
	p.now += second
	require.Equal(t, 1, p.tell(t, a, b))
	require.Equal(t, Rule{}, p.rule)
	require.Equal(t, []State{Closed, Closed}, []State{a.State(p.now), b.State(p.now)})
	ok, _ := b.Ready(p.now)
	require.True(t, ok)
	b.Take(p.now)
	ok, _ = b.Ready(p.now)
	require.True(t, ok, "it has no ramp of its own")

	p.fail(t, b, 3)
	require.Equal(t, p.now+second, b.until, "nor a longer open time")
	require.Equal(t, 1, p.tell(t, b, a))
	require.Equal(t, Rule{Phase: Cooling, Lasts: second}, p.rule)
}

// A recovery that fails is a round, too.
func TestMember_ARecoveryFails(t *testing.T) {
	var p paper
	a, b := p.open(t)
	x, _ := a.Take(p.now)
	require.True(t, a.Done(p.now, x, Success))
	p.tell(t, a, b)
	p.fail(t, a, 3)
	require.Equal(t, 1, p.tell(t, a, b))
	require.Equal(t, Rule{Phase: Cooling, Round: 1, Lasts: 2 * second}, p.rule)
}

// Who is told late what he asked for does not go back to it.
func TestMember_HasHeardMore(t *testing.T) {
	var p paper
	a, b := p.open(t)
	p.fail(t, a, 1)
	e, more := a.Errand(p.now, [16]byte{9})
	require.True(t, more)
	p.rev++
	a.Told(p.now, &e, 0, Unsure) // but it has been done
	b.Hear(p.now, *e.Rule, p.rev, e.Rule.Lasts, false)
	p.now += 2 * second
	b.Asks(p.now)
	require.Equal(t, 1, p.tell(t, b, a))
	require.Equal(t, "b", p.rule.By)
	again, more := a.Errand(p.now, [16]byte{10})
	require.True(t, more)
	require.Equal(t, e.Op, again.Op)
	require.Same(t, e.Rule, again.Rule)
	a.Told(p.now, &again, p.rev-1, Done)
	ok, at := a.Ready(p.now)
	require.False(t, ok)
	require.Equal(t, p.now+5*second, at, "it is the turn of b")

	p.fail(t, b, 1)
	e, _ = b.Errand(p.now, [16]byte{11})
	b.Told(p.now, &e, 0, Unsure)
	p.now += 60 * second
	again, more = b.Errand(p.now, [16]byte{12})
	require.True(t, more)
	require.NotEqual(t, e.Op, again.Op, "the name is forgotten by then")
	require.Equal(t, p.rev, again.Was)
}

// What the engine has lost is told again by who knows it, and not what has ended.
func TestMember_TellsAgain(t *testing.T) {
	var p paper
	a, b := p.open(t)
	p.rev = 0
	p.now += second
	b.Gone(p.now)
	require.Equal(t, Open, b.State(p.now))
	e, more := b.Errand(p.now, [16]byte{1})
	require.True(t, more)
	require.Zero(t, e.Was, "only if nobody else has")
	require.Equal(t, Rule{Phase: Probing, By: "a", Lasts: 4 * second}, *e.Rule)
	b.Told(p.now, &e, 1, Done)
	ok, _ := b.Ready(p.now)
	require.False(t, ok)

	a.Gone(p.now)
	p.now += rowLasts
	b.Gone(p.now)
	require.Equal(t, Closed, b.State(p.now), "nobody has cared for an hour")
	_, more = b.Errand(p.now, [16]byte{2})
	require.False(t, more)
}

// A change by hand goes before what others have agreed on meanwhile, and before what was under way.
func TestMember_ByHand(t *testing.T) {
	var p paper
	a, b := p.open(t)
	a.Trip(p.now)
	b.Asks(p.now)
	p.rev++
	a.Hear(p.now, Rule{Phase: Probing, By: "b", Lasts: 5 * second}, p.rev, 5*second, false)
	require.Equal(t, 1, p.tell(t, a, b))
	require.Equal(t, Rule{Phase: Tripped, Actor: "actor of a"}, p.rule)
	for _, x := range []*Breaker{a, b} {
		_, at := x.Ready(p.now)
		require.Equal(t, Never, at)
		require.Equal(t, Never, x.IdleAt())
		require.Equal(t, Never, x.DueAt(p.now))
	}
	b.Reset(p.now)
	require.Equal(t, 1, p.tell(t, b, a))
	require.Equal(t, Closed, a.State(p.now))
	require.Zero(t, p.tell(t, a, b))
	require.LessOrEqual(t, a.IdleAt(), p.now)
}

// What few breakers have is not copied where it is not, and stays where it is.
func TestMember_Reconfigure(t *testing.T) {
	var p paper
	a, b := p.open(t)
	other := &Config{Failures: 2, Cooldown: 7 * second}
	b.Reconfigure(p.now, other)
	require.Nil(t, other.member)
	ok, at := b.Ready(p.now)
	require.False(t, ok)
	require.Equal(t, p.now+5*second, at)
	p.fail(t, a, 1)
	p.tell(t, a, b)
	require.Equal(t, 2*second, p.rule.Lasts)
	require.Nil(t, three.member)
}

// What others have opened is no opening of one's own: whoever then finds out by himself doubles his own open time once.
func TestMember_OthersOpenings(t *testing.T) {
	var p paper
	a, b := p.member("a", 1, three), p.member("b", 1, three)
	for range 3 {
		p.fail(t, a, 3)
		p.tell(t, a, b)
		require.Equal(t, Open, b.State(p.now))
		a.Reset(p.now)
		p.tell(t, a, b)
		require.Equal(t, Closed, b.State(p.now))
	}
	p.fail(t, a, 3)
	p.tell(t, a, b)
	b.Alone(p.now, true)
	p.now += second
	p.fail(t, b, 1)
	require.Equal(t, p.now+2*second, b.until)
}

// Who hears of his own change before he is told what came of it has his turn for as long as else: it counts from when he asked.
func TestMember_HearsOfItsOwnFirst(t *testing.T) {
	var p paper
	a, _ := p.open(t)
	for i := range 10 {
		p.now = a.DueAt(p.now)
		e, more := a.Errand(p.now, [16]byte{byte(i + 1)})
		require.True(t, more)
		asked := p.now
		p.now += 20e6
		p.rev++
		a.Hear(p.now, *e.Rule, p.rev, e.Rule.Lasts, false)
		p.now += 20e6
		require.False(t, a.Told(p.now, &e, p.rev, Done))
		_, more = a.Errand(p.now, [16]byte{byte(i + 1)})
		require.False(t, more, "nothing else is to be told")
		for at, want := range map[int64]bool{asked + 4500e6 - 1: true, asked + 4500e6: false} {
			ok, _ := a.Ready(at)
			require.Equal(t, want, ok, "turn %d", i)
		}
	}
}

// table is some members that hear of each other at once.
type table struct {
	*testing.T
	paper
	list []*Breaker
}

func newTable(t *testing.T, n, quorum int, c *Config) *table {
	x := &table{T: t}
	for i := range n {
		x.list = append(x.list, x.member(string(rune('a'+i)), quorum, c))
	}
	return x
}

// call has member i call, as often as its results say, and answers how much it then tells.
func (x *table) call(i int, results ...Outcome) (trips int) {
	x.Helper()
	b := x.list[i]
	for _, o := range results {
		ok, _ := b.Ready(x.now)
		require.True(x, ok)
		p, _ := b.Take(x.now)
		b.Done(x.now, p, o)
		if b.Begin(x.now) {
			trips += x.tell(x.T, b, slices.DeleteFunc(slices.Clone(x.list), func(o *Breaker) bool { return o == b })...)
		}
	}
	for _, b := range x.list { // what others have to say to that
		if b.Begin(x.now) {
			x.tell(x.T, b, slices.DeleteFunc(slices.Clone(x.list), func(o *Breaker) bool { return o == b })...)
		}
	}
	return trips
}

func (x *table) states() (list []State) {
	for _, b := range x.list {
		list = append(list, b.State(x.now))
	}
	return list
}

var five = &Config{Failures: 5, Cooldown: second}

// As many failures in a row as would open a quorum open all, whoever meets them.
func TestMember_RowsOpenAll(t *testing.T) {
	for quorum := 1; quorum <= 3; quorum++ {
		x := newTable(t, 7, quorum, five)
		for n := range 5 * quorum {
			require.NotContains(t, x.states(), Open, "quorum %d after %d failures", quorum, n)
			require.Equal(t, 1, x.call(n%6, Failure), "each is told of in one trip, the last together with the rule")
		}
		require.Equal(t, []State{Open, Open, Open, Open, Open, Open, Open}, x.states(), "also who has met none")
		require.Equal(t, Rule{Phase: Cooling, Lasts: second}, x.rule)

		// Once it works nobody counts what was before.
		x.now += second
		x.list[6].Asks(x.now)
		x.call(6)
		x.call(6, Success)
		x.now += second
		x.call(6)
		require.Equal(t, Rule{}, x.rule)
		require.NotContains(t, x.states(), Open)
		for n := range 5*quorum - 1 {
			x.call(1+n%6, Failure)
			require.NotContains(t, x.states(), Open)
		}
	}
}

// Nobody counts for more than would open it alone, whatever its own threshold is.
func TestMember_ARowCountsOnce(t *testing.T) {
	x := newTable(t, 3, 2, five)
	x.list[0].Reconfigure(0, &Config{Failures: 1000, Cooldown: second})
	for range 100 {
		x.call(0, Failure)
	}
	x.call(1, Failure, Failure, Failure, Failure)
	require.NotContains(t, x.states(), Open, "4 of the first and 4 of the second")
	x.call(2, Failure, Failure)
	require.NotContains(t, x.states(), Closed)

	x = newTable(t, 2, 2, &Config{Failures: 1000, Cooldown: second})
	for range 100 {
		x.call(0, Failure)
	}
	x.list[0].Reconfigure(0, five)
	x.call(0, Neutral)
	require.NotContains(t, x.states(), Open, "it opens with its next failure, and alone")
}

// A success ends the row of its process, and a process whose rows end is told of no more for a while.
func TestMember_ARowEnds(t *testing.T) {
	x := newTable(t, 3, 2, five)
	require.Equal(t, 1, x.call(0, Failure))
	require.Equal(t, 1, x.call(0, Success), "that it is over")
	require.Zero(t, x.call(0, Failure, Failure, Failure, Failure))
	x.call(1, Failure, Failure, Failure, Failure)
	require.NotContains(t, x.states(), Open)
	require.Zero(t, x.list[2].evidence(x.now)-4, "the third knows of the second alone")
	require.Equal(t, 1, x.call(0, Failure), "it has opened, which it always tells of")
	x.call(1, Failure)
	require.NotContains(t, x.states(), Closed)

	x = newTable(t, 3, 2, five)
	x.call(0, Failure, Success)
	x.now = hush - 1
	require.Zero(t, x.call(0, Failure))
	x.now = hush
	require.Equal(t, 1, x.call(0, Failure))
	require.EqualValues(t, 1, x.list[2].evidence(x.now))
	x.now += rowTold - 1
	require.EqualValues(t, 1, x.list[2].evidence(x.now))
	x.now++
	require.Zero(t, x.list[2].evidence(x.now), "a minute later it counts no more")
}

// Who meets a success when the others have met half as many failures as open all ends the rows of all.
func TestMember_SomebodyFindsThatItWorks(t *testing.T) {
	x := newTable(t, 4, 2, five)
	x.call(0, Failure, Failure, Failure, Failure)
	require.True(t, x.list[3].IsClean(x.now))
	require.Zero(t, x.call(3, Success), "those are too few to say anything")
	x.call(1, Failure)
	require.False(t, x.list[3].IsClean(x.now), "its next success is to be seen")
	require.Equal(t, 1, x.call(3, Success))
	require.True(t, x.list[3].IsClean(x.now))
	require.True(t, x.list[2].IsClean(x.now))
	require.Equal(t, Rule{By: "d"}, x.rule)
	require.Zero(t, x.call(3, Success), "once")
	for i := range 3 {
		x.now += hush
		x.call(1, Failure, Failure, Failure)
		require.NotContains(t, x.states(), Open, "3 after %d ends of all rows", i+1)
		x.call(2, Failure, Failure)
		require.Equal(t, 1, x.call(3, Success))
		x.call(1, Success)
		x.call(2, Success)
	}
	require.Equal(t, 0, x.call(0, Success), "its row has been taken back")
	x.now += hush
	x.call(1, Failure, Failure, Failure, Failure)
	x.call(2, Failure, Failure, Failure, Failure)
	x.call(3, Failure)
	require.NotContains(t, x.states(), Open)
	x.call(3, Failure)
	require.NotContains(t, x.states(), Closed)
}

// Who hears that the rows have ended before it is told that it has ended them keeps what others have met in between.
func TestMember_HearsThatRowsEndFirst(t *testing.T) {
	var x paper
	d := x.member("d", 2, five)
	d.HearVote(x.now, "a", 4, rowTold)
	d.HearVote(x.now, "b", 1, rowTold)
	id, _ := d.Take(x.now)
	d.Done(x.now, id, Success)
	e, more := d.Errand(x.now, [16]byte{1})
	require.True(t, more)
	require.Equal(t, Rule{By: "d"}, *e.Rule)
	d.Hear(x.now, *e.Rule, 7, 0, false)
	require.Zero(t, d.evidence(x.now))
	d.HearVote(x.now, "a", 2, rowTold)
	require.False(t, d.Told(x.now, &e, 7, Done))
	require.EqualValues(t, 2, d.evidence(x.now))
}

// What was before somebody found that it works counts no more, and what comes after does: of the same row, of the next,
// and of one that begins an hour later.
func TestMember_ARowGoesOn(t *testing.T) {
	for name, then := range map[string]func(x *table){
		"once that is told": func(x *table) { x.now += hush },
		"once it has opened by itself": func(x *table) {
			x.call(0, Failure, Failure)
			require.Equal(t, []State{Open, Closed, Closed}, x.states())
			x.now += second
			x.call(0, Success)
			x.now += second
			require.Zero(t, x.call(0, Success))
			x.now += hush
		},
		"an hour later": func(x *table) { x.now += rowLasts },
	} {
		x := newTable(t, 3, 2, &Config{Failures: 6, Cooldown: second})
		x.call(0, Failure, Failure, Failure, Failure)
		x.call(1, Failure, Failure)
		x.call(2, Success)
		require.Zero(t, x.list[2].evidence(x.now), name)
		require.Zero(t, x.call(0), name)
		then(x)
		require.Equal(t, 1, x.call(0, Failure), name)
		require.EqualValues(t, 1, x.list[2].evidence(x.now), name)
	}
}

// That it works ends rows, and nothing else; but to who has missed the end of a round it is that, too.
func TestMember_ItWorks(t *testing.T) {
	x := newTable(t, 4, 3, five)
	x.call(0, Failure, Failure, Failure, Failure, Failure)
	x.call(1, Failure, Failure, Failure)
	x.call(3, Success)
	require.Equal(t, Rule{By: "d"}, x.rule)
	require.EqualValues(t, 5, x.list[3].evidence(x.now), "who is open is open")
	require.Equal(t, []State{Open, Closed, Closed, Closed}, x.states())

	b := x.list[0]
	b.Hear(x.now, Rule{}, x.rev+1, 0, false)
	require.False(t, b.cfg.member.opened, "there was a round that it has missed")
	require.Zero(t, b.evidence(x.now))

	b.Hear(x.now, Rule{Phase: Cooling, Lasts: second}, x.rev+2, second, false)
	b.Hear(x.now, Rule{By: "c"}, x.rev+3, 0, false)
	require.Equal(t, Closed, b.State(x.now))

	x.now += hush
	x.call(0, Failure, Failure, Failure, Failure)
	x.call(2, Failure, Failure, Failure, Failure)
	require.False(t, x.list[3].IsClean(x.now))
	x.list[3].Trip(x.now)
	x.list[3].Reset(x.now)
	require.True(t, x.list[3].IsClean(x.now))
}

// While one is open the successes of the others are nothing to tell: they end rows, and there is none.
func TestMember_OneIsOpen(t *testing.T) {
	x := newTable(t, 3, 2, five)
	x.call(0, Failure, Failure, Failure, Failure, Failure)
	require.Equal(t, []State{Open, Closed, Closed}, x.states())
	for range 3 {
		require.Zero(t, x.call(1, Success))
		require.True(t, x.list[1].IsClean(x.now))
	}
	x.call(2, Failure)
	require.False(t, x.list[1].IsClean(x.now))
	require.Equal(t, 1, x.call(1, Success))
	require.True(t, x.list[1].IsClean(x.now))
	require.Zero(t, x.call(1, Success))
}

// A row that could not be told is told again, and so is that it works.
func TestMember_ARowIsToldAgain(t *testing.T) {
	x := newTable(t, 2, 2, five)
	p, _ := x.list[0].Take(x.now)
	x.list[0].Done(x.now, p, Failure)
	for _, what := range []Result{Failed, Refused, Unsure, Done} {
		e, more := x.list[0].Errand(x.now, [16]byte{1})
		require.True(t, more)
		require.EqualValues(t, 1, e.Row)
		require.Equal(t, rowTold, e.Vote)
		x.list[0].Told(x.now, &e, 1, what)
	}
	_, more := x.list[0].Errand(x.now, [16]byte{2})
	require.False(t, more)

	b := x.list[1]
	for i, r := range []Rule{{By: "a"}, {}, {Phase: Cooling}} {
		b.HearVote(x.now, "a", 4, rowTold)
		b.HearVote(x.now, "c", 4, rowTold)
		_, more = b.Errand(x.now, [16]byte{3})
		require.False(t, more, "it has had no success since")
		p, _ = b.Take(x.now)
		b.Done(x.now, p, Success)
		e, more := b.Errand(x.now, [16]byte{4})
		require.True(t, more)
		require.Equal(t, Rule{By: "b"}, *e.Rule)
		b.Told(x.now, &e, 0, Refused)
		b.Hear(x.now, r, uint64(7+i), 0, true)
		if r.Phase == Whole {
			require.True(t, b.IsClean(x.now))
			require.Zero(t, b.evidence(x.now))
		}
		_, more = b.Errand(x.now, [16]byte{5})
		require.False(t, more, "somebody else has said so")
	}
}
