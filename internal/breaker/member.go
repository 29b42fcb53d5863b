package breaker

// A breaker may be one of several, of as many processes, that judge the same callee. Then it is a [Member]: what the
// processes have agreed on about it is a [Rule], one record at an engine that all reach, which changes by compare and swap.
// Nothing here asks anybody: whoever keeps the record asks what is to be told ([Breaker.Errand]), tells what came of it
// ([Breaker.Told]), and what others have told ([Breaker.Hear], [Breaker.HearVote]).
//
//	Whole     each process counts by itself. One that opens votes; the vote ends with its open time. One that meets
//	          failures in a row says how many, until a success comes. The rule becomes Cooling with enough votes at
//	          once, or as many failures in a row as would have opened so many. They are in a row if no process has met a
//	          success since; who meets one when the others have half as many ends the rows of all, by a rule.
//	Cooling   nobody calls until it is over. Then the first process that is asked for a call takes the turn.
//	Probing   the process whose turn it is probes, all others stay open. A failure is the next Cooling, of the next
//	          round; enough successes are Ramping. A turn that is not used passes on, if another process wants it.
//	Ramping   the process whose turn it is recovers as any breaker does, all others stay open. Once it has, the rule is
//	          Whole, and the others close at once.
//	Tripped   by somebody's hand, until a Reset.
//
// A turn lasts so long and no longer, unless whoever has it prolongs it, so that it does not end with a process that has
// died. While the rule is not Whole the breaker of every other process is Open: so a closed one has nothing to ask, and
// what it costs is what it costs without others.
//
// A breaker that hears that others have opened has not opened itself: its own open times do not grow by that. Those of a
// round do, with each round.

// Phase is what a Rule says.
type Phase uint8

const (
	Whole Phase = iota
	Cooling
	Probing
	Ramping
	Tripped
)

// Rule is what processes have agreed on.
type Rule struct {
	Phase  Phase
	Round  uint8  // openings without recovery, but for the first
	By     string // whose turn it is; with Whole who found that the callee works, if there was no round
	Actor  string // who asked for it by hand; empty if nobody did
	Lasts  int64  // Cooling, and a turn
	Wanted bool   // the turn, by somebody else
	Passed uint8  // turns of this round that nobody has used
}

// IsTurn reports whether r is somebody's turn.
func (r *Rule) IsTurn() bool { return r.Phase == Probing || r.Phase == Ramping }

// KeptFor is how long what is agreed on is kept beyond what it Lasts; zero means for ever.
func (r *Rule) KeptFor() int64 {
	switch r.Phase {
	case Whole:
		return 60 * second // until everybody has heard it
	case Tripped:
		return 0
	}
	return rowLasts
}

// stamp is an instant by two clocks, one of which stands still while a machine sleeps.
type stamp struct{ now, wall int64 }

func (s stamp) in(d int64) stamp { return stamp{after(s.now, d), after(s.wall, d)} }

// left is until t, by the clock by which that is earlier.
func (s stamp) left(t stamp) int64 { return max(0, min(t.now-s.now, t.wall-s.wall)) }

// Terms are what a Member goes by.
type Terms struct {
	Self   string       // which no other process has
	Actor  string       // who asks for what is asked for here by hand
	Quorum int          // votes
	Turn   int64        // how long one lasts
	Repeat int64        // how long a change can be repeated under its name
	Wall   func() int64 // the wall clock
}

// margin is the part of a turn that is left to whoever has it for being late.
const margin = 10

// vote is what a process says while the rule is Whole: that it is open, or how many failures it has met in a row.
type vote struct {
	end stamp
	row uint32 // zero: it is open
}

// rowTold is how long a row of failures counts for others after the last of them.
const rowTold = 60 * second

// hush is how long a process tells of no row after one that a success has ended: of a callee that fails now and then the
// others hear little.
const hush = 10 * second

// patience is how long a call that was refused for want of a turn counts as asking for it.
const patience = 60 * second

// grace is how long a turn is kept that is not used while somebody else wants it, when so many have been passed on:
// twice as long each time, so that processes with rare calls come to have it when one comes.
func grace(passed uint8) int64 { return second << min(passed, 10) }

// soon is when to ask again for a turn that is being taken.
const soon = second / 20

// Member is what a breaker knows of the others.
type Member struct {
	terms *Terms
	rule  Rule
	rev   uint64 // of the record; zero if there is none
	lost  bool   // the record has gone before its time
	end   stamp  // of what rule Lasts
	renew int64  // when our turn is to be prolonged
	since int64  // when it began

	votes  map[string]vote // of others
	vote   vote            // ours
	voted  bool            // it is there
	said   uint32          // how many failures of our row we have told of
	void   uint32          // failures of our row that count for us alone: somebody else had a success after them, or hushed
	hushed int64           // until then we tell of no failures
	doubt  bool            // others, not all of them open, have met so many failures in a row that a success is to be told
	works  bool            // we have had one since
	opened bool            // we have opened by our own results, which is to be told
	order  *Rule           // somebody's, which is to be told
	asked  int64           // when a call was refused for want of a turn
	alone  bool            // the others cannot be asked
	left   bool            // we are none of them any more

	busy   bool // somebody makes errands
	unsure bool // what became of errand is not known
	errand Errand
}

// Errand is a change that is to be made at the engine, all of it or nothing.
type Errand struct {
	Op    [16]byte // names it; the same for a repetition
	Rule  *Rule    // nil if it stays
	Was   uint64   // the revision that it replaces, unless Any
	Any   bool
	Vote  int64  // for so long; below zero: ours is taken back; zero: it stays
	Row   uint32 // what Vote says: failures in a row; zero: we are open
	Fails int

	since stamp
}

// Join makes b a member. It is closed, and nobody has told it anything.
func (b *Breaker) Join(t *Terms) { b.cfg = b.cfg.of(&Member{terms: t, asked: past}) }

func (m *Member) at(now int64) stamp { return stamp{now, m.terms.Wall()} }

// mine reports whether it is our turn, over or not.
func (m *Member) mine() bool { return m.rule.IsTurn() && m.rule.By == m.terms.Self }

// isOver reports whether what the rule lasts is over.
func (m *Member) isOver(now int64) bool { return m.at(now).left(m.end) == 0 }

// mayProbe reports whether a call may find out whether the callee works.
func (m *Member) mayProbe(now int64) bool {
	return m.alone || m.left || m.rule.Phase == Whole || m.mine() && !m.isOver(now)
}

// shutUntil has b be open until that instant without having opened itself.
func (b *Breaker) shutUntil(until int64) {
	if b.state != Open {
		b.move(Open)
	}
	b.until = max(b.floor, until)
}

// adopt has b go by r, which lasts until end.
func (b *Breaker) adopt(now int64, r Rule, rev uint64, end stamp) {
	m := b.cfg.member
	was, ours := m.rule, m.mine()
	m.rule, m.rev, m.end, m.lost = r, rev, end, false
	switch {
	case r.Phase == Whole:
		if was.Phase == Whole && r.By != "" {
			b.endRows(now, r.By)
			break
		}
		m.forget()
		switch {
		case r.Actor != "":
			b.Reset(now)
			m.order = nil // which is what it was
		case was.Phase != Whole && b.state != Closed:
			b.close()
		}
	case r.Phase == Tripped:
		m.opened = false
		b.shutUntil(Never)
	case m.mine():
		if !ours && b.state == Open {
			m.opened = false
			b.until = max(b.floor, now)
			m.since, m.asked = now, past
		}
		m.renew = after(now, m.terms.Turn/3)
	default:
		m.opened = false
		b.shutUntil(end.now)
	}
}

// Hear tells of a rule that has so much left of what it lasts, and reports whether the state changed. Older ones than
// are known are not heard, unless anew is set: the engine may have lost what it had.
func (b *Breaker) Hear(now int64, r Rule, rev uint64, left int64, anew bool) (changed bool) {
	m, from := b.cfg.member, b.state
	if rev == m.rev || rev < m.rev && !anew {
		return false
	}
	if m.order != nil { // which will replace it
		m.rev = rev
		return false
	}
	end := m.at(now).in(max(0, left))
	if r.IsTurn() && r.By == m.terms.Self && m.mine() { // we know when it began
		end = stamp{min(end.now, m.end.now), min(end.wall, m.end.wall)}
	}
	b.adopt(now, r, rev, end)
	return b.state != from
}

// Gone tells that there is no rule any more.
func (b *Breaker) Gone(now int64) (changed bool) {
	m, from := b.cfg.member, b.state
	m.rev = 0
	if m.rule.Phase == Whole || m.order != nil {
		return false
	}
	if k := m.rule.KeptFor(); k == 0 || m.at(now).left(m.end.in(k/2)) > 0 {
		m.lost = true // by the engine: we still know it
		return false
	}
	b.adopt(now, Rule{}, 0, stamp{})
	return b.state != from
}

// HearVote tells that somebody else is open, for so long, or has met so many failures in a row; left is zero if neither
// is so any more.
func (b *Breaker) HearVote(now int64, by string, row uint32, left int64) {
	m := b.cfg.member
	defer b.evidence(now)
	switch {
	case by == m.terms.Self:
		if left == 0 { // which the engine has lost, or it is over
			m.voted = false
		} else if b.state == Closed { // it is there, whatever has been heard late, and is to be taken back one day
			m.voted, m.vote = true, vote{m.at(now).in(left), row}
		}
	case left == 0:
		delete(m.votes, by)
	default:
		if m.votes == nil {
			m.votes = make(map[string]vote)
		}
		if _, known := m.votes[by]; known || len(m.votes) < maxVotes {
			m.votes[by] = vote{m.at(now).in(left), row}
		}
	}
}

// maxVotes bounds how many are remembered.
const maxVotes = 1024

// Asks tells that a call was refused by b.
func (b *Breaker) Asks(now int64) {
	m := b.cfg.member
	if m.rule.Phase == Probing && !m.mine() || m.rule.Phase != Whole && m.rule.Phase != Tripped && m.isOver(now) {
		m.asked = now
	}
}

// Alone tells whether the others cannot be asked: then b judges by itself.
func (b *Breaker) Alone(now int64, alone bool) (changed bool) {
	m, from := b.cfg.member, b.state
	if m.alone = alone; !alone && m.rule.Phase != Whole && m.rule.Phase != Tripped && !m.mine() && b.state != Open {
		b.shutUntil(max(now, m.end.now)) // what it has found out meanwhile only its turn can tell
	}
	return b.state != from
}

// Leave has b judge by itself from now on. If it is its turn that goes back.
func (b *Breaker) Leave() { b.cfg.member.left = true }

// orders has others told what somebody asked for.
func (b *Breaker) orders(p Phase) {
	if m := b.cfg.member; m != nil && !m.left {
		r := Rule{Phase: p, Actor: m.terms.Actor}
		m.rule, m.order = r, &r
		m.forget()
	}
}

// forget has m count nothing of what was before.
func (m *Member) forget() {
	clear(m.votes)
	m.opened, m.doubt, m.works = false, false, false
}

// Errand is what is to be told at present, by the name op unless it is a repetition. Without more, whoever makes errands
// is to end.
func (b *Breaker) Errand(now int64, op [16]byte) (e Errand, more bool) {
	m := b.cfg.member
	if m.unsure && m.at(now).left(m.errand.since.in(m.terms.Repeat)) > 0 {
		return m.errand, true
	}
	if m.unsure && m.errand.Row > 0 { // nobody will ever know
		m.said = 0
	}
	m.unsure = false
	fails := m.errand.Fails
	if e, more = b.next(now); !more {
		m.busy, m.errand = false, Errand{}
		return Errand{}, false
	}
	if e.Op, e.since, e.Fails = op, m.at(now), fails; e.Row > 0 {
		m.said = e.Row
	}
	m.errand = e
	return e, true
}

// Begin reports whether somebody is to make errands who does not yet.
func (b *Breaker) Begin(now int64) bool {
	m := b.cfg.member
	if m.busy || b.IsQuiet() {
		return false
	}
	b.expire(now)
	_, m.busy = b.next(now)
	return m.busy
}

// IsQuiet reports whether there is certainly nothing to tell, as after most calls.
func (b *Breaker) IsQuiet() bool {
	m := b.cfg.member
	return m == nil || m.rule.Phase == Whole && m.order == nil && b.state == Closed && b.streak == 0 && !m.voted && !m.works
}

// expire ends our turn if it could not be prolonged.
func (b *Breaker) expire(now int64) {
	if m := b.cfg.member; m.mine() && !m.alone && !m.left && m.isOver(now) && (b.state == HalfOpen || b.state == Closed && now < b.until) {
		b.shutUntil(now)
	}
}

// next is what is to be told.
func (b *Breaker) next(now int64) (e Errand, ok bool) {
	m := b.cfg.member
	change := func(r Rule) (Errand, bool) { return Errand{Rule: &r, Was: m.rev}, true }
	left := m.at(now).left(m.end)
	switch turn := (Rule{Phase: Probing, Round: m.rule.Round, By: m.terms.Self, Lasts: m.terms.Turn, Passed: m.rule.Passed}); {
	case m.order != nil:
		return Errand{Rule: m.order, Any: true}, true
	case m.left:
		if m.mine() && left > 0 {
			return change(Rule{Phase: Cooling, Round: m.rule.Round})
		}
	case m.lost:
		r := m.rule
		if r.Lasts = left; m.mine() && left > 0 {
			r.Lasts = m.terms.Turn
		}
		return change(r)
	case m.rule.Phase == Tripped:
	case m.mine():
		return b.ourTurn(now, left, turn, change)
	case m.rule.Phase != Whole:
		if m.asked == past || now-m.asked > patience {
			return e, false
		}
		if left == 0 {
			return change(turn)
		}
		if m.rule.Phase == Probing && !m.rule.Wanted {
			r := m.rule
			r.Lasts, r.Wanted = left, true
			return change(r)
		}
	default:
		return b.ballot(now)
	}
	return e, false
}

// ourTurn is what is to be told by whose turn it is.
func (b *Breaker) ourTurn(now, left int64, turn Rule, change func(Rule) (Errand, bool)) (Errand, bool) {
	m := b.cfg.member
	switch {
	case b.state == Open && m.opened:
		return change(Rule{Phase: Cooling, Round: min(m.rule.Round+1, maxDoubled), Lasts: max(0, b.until-now)})
	case b.state == Closed && now >= b.until:
		return change(Rule{})
	case left == 0 && b.state == Open:
		if m.asked == past || now-m.asked > patience {
			return Errand{}, false
		}
		return change(turn)
	case b.state == Closed && m.rule.Phase == Probing:
		turn.Phase = Ramping
		return change(turn)
	case m.rule.Wanted && (b.state == Open || b.state == HalfOpen && b.probes.running(now) == 0) && now-m.since >= grace(m.rule.Passed):
		return change(Rule{Phase: Cooling, Round: m.rule.Round, Passed: m.rule.Passed + 1})
	case now >= m.renew:
		turn.Phase, turn.Wanted = m.rule.Phase, m.rule.Wanted
		return change(turn)
	}
	return Errand{}, false
}

// ballot is what is to be told while everybody judges by himself.
func (b *Breaker) ballot(now int64) (e Errand, ok bool) {
	m := b.cfg.member
	row := b.row()
	failures := b.evidence(now)
	if m.works { // which comes before all that was met later
		e.Rule, e.Was, ok = &Rule{By: m.terms.Self}, m.rev, true
	}
	switch {
	case b.state == Open && b.until != Never && now < b.until && (m.opened || m.voted):
		if !m.voted || m.vote.row > 0 { // or what is there says something else
			e.Vote, ok = b.until-now, true
		}
		failures += b.threshold()
	case b.state != Closed:
		return e, ok
	case row == 0:
		if m.voted = m.voted && m.at(now).left(m.vote.end) > 0; m.voted {
			e.Vote, ok = -1, true
		}
		return e, ok
	default:
		if row > m.said && !m.works { // else once that is told
			e.Vote, e.Row, ok = rowTold, row, true
		}
		failures += min(uint64(row), b.threshold()-1)
	}
	if failures >= b.enough() && !m.works {
		r := Rule{Phase: Cooling, Lasts: max(b.floor, after(now, b.jitter(b.cfg.openFor(0)))) - now}
		e.Rule, e.Was, ok = &r, m.rev, true
	}
	return e, ok
}

// threshold is how many failures in a row open b, enough how many of them open it for all.
func (b *Breaker) threshold() uint64 { return uint64(b.cfg.failures()) }
func (b *Breaker) enough() uint64    { return uint64(b.cfg.member.terms.Quorum) * b.threshold() }

// row is how many failures b has met since anybody's last success, if it opens by failures in a row.
func (b *Breaker) row() uint32 { return b.streak - min(b.streak, b.cfg.member.void) }

// evidence is how many failures in a row the others have met, where who is open has met as many as open it, and nobody
// else has.
func (b *Breaker) evidence(now int64) (failures uint64) {
	m := b.cfg.member
	at, rows := m.at(now), false
	for by, v := range m.votes {
		switch {
		case at.left(v.end) == 0:
			delete(m.votes, by)
		case v.row == 0:
			failures += b.threshold()
		default:
			failures += min(uint64(v.row), b.threshold()-1)
			rows = true
		}
	}
	m.doubt = rows && 2*failures >= b.enough()
	m.works = m.works && m.doubt // later rows are of what has failed since
	return failures
}

// worked tells that a call has succeeded.
func (m *Member) worked(now int64) {
	m.quiet(now)
	m.works = m.doubt
}

// quiet has m tell of no failures for a while if a row ends of which it has told.
func (m *Member) quiet(now int64) {
	if m.said > 0 {
		m.said, m.hushed = 0, after(now, hush)
	}
}

// failed tells that one has failed, which makes the row of the whole breaker that long.
func (m *Member) failed(now int64, streak uint32) {
	if now < m.hushed {
		m.void = streak
	}
}

// newRow has the next failure be the first in a row.
func (b *Breaker) newRow() {
	b.streak = 0
	if m := b.cfg.member; m != nil {
		m.said, m.void = 0, 0
	}
}

// endRows ends the rows of all but of who says so, which has had a success before its own.
func (b *Breaker) endRows(now int64, says string) {
	m := b.cfg.member
	for by, v := range m.votes {
		if v.row > 0 {
			delete(m.votes, by)
		}
	}
	if m.doubt, m.works = false, false; says != m.terms.Self {
		m.quiet(now)
		m.void = b.streak
	}
}

// Result is what became of an errand.
type Result uint8

const (
	Done    Result = iota
	Failed         // certainly not done
	Unsure         // nobody knows
	Refused        // another revision is there
)

// Told tells what became of e, the last Errand: rev is the revision of the rule after it. After Refused, what there is
// is to be told by Hear or Gone. It reports whether the state changed.
func (b *Breaker) Told(now int64, e *Errand, rev uint64, what Result) (changed bool) {
	m, from := b.cfg.member, b.state
	if m.unsure = what == Unsure; what != Done {
		if m.errand.Fails++; what == Refused {
			m.errand.Fails = 0
		}
		if e.Row > 0 && !m.unsure {
			m.said = 0
		}
		return false
	}
	m.errand.Fails = 0
	switch {
	case e.Vote > 0:
		m.voted, m.vote = true, vote{m.at(now).in(e.Vote), e.Row} // at the latest
	case e.Vote < 0:
		m.voted = false
	}
	if e.Rule == nil {
		return false
	}
	r := *e.Rule
	if m.order == e.Rule {
		m.order = nil
	}
	if rev < m.rev || rev == m.rev && r.Phase == Whole {
		return false // more has been heard since, or this, after which there are rows again
	}
	if m.order != nil {
		m.rev = rev
		return false
	}
	lasts := r.Lasts
	if r.IsTurn() && r.By == m.terms.Self {
		lasts -= lasts / margin
	}
	if r.Actor != "" { // which was done at once
		r.Actor = ""
	}
	b.adopt(now, r, rev, e.since.in(lasts)) // also if it has been heard of already, as then nobody knew when it began
	return b.state != from
}

// DueAt is the next instant at which there may be something to do because of the time alone, Never if there is none.
func (b *Breaker) DueAt(now int64) int64 {
	m, at := b.cfg.member, Never
	first := func(t int64) {
		if t > now {
			at = min(at, t)
		}
	}
	switch {
	case m.left, m.rule.Phase == Tripped:
	case m.mine():
		first(m.end.now)
		if first(m.renew); b.state == Closed {
			first(b.until)
		}
		if m.rule.Wanted {
			first(after(m.since, grace(m.rule.Passed)))
		}
	case m.rule.Phase != Whole && m.asked != past && now-m.asked <= patience:
		first(m.end.now)
	}
	return at
}

// idleAt is when m may be forgotten.
func (m *Member) idleAt() int64 {
	switch {
	case m.left:
		return past
	case m.busy, m.order != nil, m.rule.Phase == Tripped:
		return Never
	case m.rule.Phase != Whole:
		return after(m.end.now, rowLasts)
	}
	at := past
	if m.voted {
		at = m.vote.end.now
	}
	for _, v := range m.votes {
		if v.row == 0 { // failures that others have met keep nobody's room
			at = max(at, v.end.now)
		}
	}
	return at
}
