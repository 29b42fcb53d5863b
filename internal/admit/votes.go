package admit

import "github.com/sluice-go/sluice/internal/breaker"

// The breakers of a class may judge together with those of other processes: its class has [Votes], and each of its
// breakers is a member, see [breaker.Member]. As with a [Stock] nothing here asks anybody: a Voter does, and asks for
// each breaker what is to be told ([Machine.Ballot]) and tells what came of it ([Machine.Balloted]). A breaker that is
// closed has nothing to ask, so a call that it lets through costs nothing more.

// Votes says how the breakers of a class judge together.
type Votes struct {
	breaker.Terms
	Voter Voter // never changes
	alone bool  // see SetAlone
}

// Voter tells others what there is to tell. Its methods are called with the machine locked, and must not block.
type Voter interface {
	// Run has somebody make the errands of c, by [Machine.Ballot], until there are none.
	Run(c *Cell)
}

// join makes the new c a member.
func (k *Class) join(c *Cell) {
	if v := k.Votes; v != nil {
		c.breaker.Join(&v.Terms)
		if v.alone {
			c.breaker.Alone(0, true)
		}
	}
}

// sway has f change the breaker of c, and others told by whom, if it moves it.
func (m *Machine) sway(now int64, c *Cell, by string, f func()) {
	m.advance(now)
	c.shut()
	from := c.breaker.State(m.now)
	if f(); c.breaker.State(m.now) != from {
		m.changed(c, from, by)
	}
	m.thirst(c)
	m.drain()
}

// asks tells the breaker c, which has refused a call, that it was asked.
func (m *Machine) asks(c *Cell) {
	if c.class.Votes != nil {
		c.breaker.Asks(m.now)
	}
	m.tellOthers(c)
}

// tellOthers has what somebody asked of c be told, if there are others.
func (m *Machine) tellOthers(c *Cell) {
	if c.class.Votes != nil {
		m.thirst(c)
	}
}

// canvass has what c has to tell be told.
func (m *Machine) canvass(c *Cell) {
	if c.index == gone {
		return
	}
	c.shut()
	from := c.breaker.State(m.now)
	begins := c.breaker.Begin(m.now)
	if c.breaker.State(m.now) != from {
		m.changed(c, from, "")
	}
	if begins {
		c.class.Votes.Voter.Run(c)
	}
	if at := c.breaker.DueAt(m.now); at < Never {
		m.arm(c, at)
	}
}

// Ballot is what is to be told of the breaker c, by the name op unless it is a repetition.
func (m *Machine) Ballot(now int64, c *Cell, op Op) (e breaker.Errand, more bool) {
	m.sway(now, c, "", func() { e, more = c.breaker.Errand(m.now, op) })
	return e, more
}

// Balloted tells what came of that.
func (m *Machine) Balloted(now int64, c *Cell, e *breaker.Errand, rev uint64, what breaker.Result) {
	m.sway(now, c, "", func() { c.breaker.Told(m.now, e, rev, what) })
}

// HearRule tells the breaker c of a rule that somebody has made, see [breaker.Breaker.Hear].
func (m *Machine) HearRule(now int64, c *Cell, by string, r breaker.Rule, rev uint64, left int64, anew bool) {
	m.sway(now, c, by, func() { c.breaker.Hear(m.now, r, rev, left, anew) })
}

// HearVote tells it what somebody says, see [breaker.Breaker.HearVote].
func (m *Machine) HearVote(now int64, c *Cell, by string, row uint32, left int64) {
	m.sway(now, c, "", func() { c.breaker.HearVote(m.now, by, row, left) })
}

// RuleGone tells it that there is none any more.
func (m *Machine) RuleGone(now int64, c *Cell) {
	m.sway(now, c, "", func() { c.breaker.Gone(m.now) })
}

// SetAlone says whether others can be asked about the breakers of k.
func (m *Machine) SetAlone(now int64, k *Class, alone bool) {
	k.Votes.alone = alone
	for _, c := range k.list {
		m.sway(now, c, "", func() { c.breaker.Alone(m.now, alone) })
	}
}

// SetQuorum changes how many votes open the breakers of k.
func (m *Machine) SetQuorum(now int64, k *Class, n int) {
	if k.Votes == nil {
		return
	}
	m.advance(now)
	k.Votes.Quorum = n
	for _, c := range k.list {
		m.thirst(c)
	}
}

// LeaveVotes has the breakers of k judge by themselves from now on.
func (m *Machine) LeaveVotes(now int64, k *Class) {
	for _, c := range k.list {
		m.sway(now, c, "", c.breaker.Leave)
	}
}
