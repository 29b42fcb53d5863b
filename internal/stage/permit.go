package stage

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/permit"
	"github.com/sluice-go/sluice/internal/record"
)

// Tool is what the permits of a tool's calls know of it. It never changes.
type Tool struct {
	Stage     *Stage
	Plan      *admit.Plan
	Needs     *admit.NeedSet // if it is known: the same for every call, or for all with some keys
	Costs     []record.Cost  // what those are charged; not to be changed
	Priced    bool           // a function says what its calls cost
	Upstreams []*admit.Cell  // the fixed cells that a throttle of its calls pauses
	Class     *admit.Class   // the tool's own limit, which a throttle pauses if nothing else
	Direct    bool           // nothing stands between admission and the tool's code
	Several   bool           // a call may have several attempts at once
	Owner     any            // whose tool it is here

	// Count counts calls that Close waits for beside those that it knows of, and attempts that nobody
	// waits for. The stage is locked.
	Count func(calls, abandoned int)
}

// Permit is what one admitted attempt holds: slots, tokens, a place at breakers. The embedded State
// says, without a lock, who still needs it. Whoever is told by that that the attempt is over calls
// [Permit.GiveBack]; one is. The other fields are guarded by the stage's lock.
type Permit struct {
	permit.State
	Attempt int32           // its number in the call
	Granted int64           // when it was admitted, or woke up to it; never changes
	Outcome breaker.Outcome // written before the State is told that it is known

	quick bool       // it came without a ticket; never changes, nor does pass
	level int8       // of its call, if it did
	live  bool       // ticket still holds what it took
	left  bool       // nobody waits for the attempt any more
	told  bool       // somebody has been told that
	noted bool       // it is in the call's record
	pass  admit.Pass // what it took without a ticket

	leased *leased       // of an attempt that may run on leases; written before its code begins
	ticket *admit.Ticket // nil once nothing of it is needed
	tool   *Tool         // never changes, nor does tally
	tally  *Tally
}

// Tally is what the attempts of one call add up to. The stage's lock guards it while attempts are
// under way, also those that go on when the call is over; else it belongs to whoever is in charge
// of the call. What attempts that came without a ticket add to it needs no lock.
type Tally struct {
	more   atomic.Pointer[more] // nil until there is something to say
	spare  *more                // empty, from a call before; else nil
	held   int64                // how long the one attempt held what it needed
	waited int32                // twice whether somebody waits for it, and one once it is counted
	all    several              // instead of these two, of all attempts that may go on at once, and of later ones
}

// several is what attempts that may go on at once add up to.
type several struct {
	held   atomic.Int64
	waited atomic.Int32
}

// several reports whether p may go on while another attempt of its call does.
func (p *Permit) several() bool { return p.tool.Several || p.Attempt > 1 }

// add adds to how long attempts such as p held what they needed, and to how many hold it and have somebody who
// waits for them. It reports whether the call is over: those left are counted elsewhere.
func (y *Tally) add(p *Permit, held int64, attempts int32) (over bool) {
	if p.several() { // others may be at it, without the lock
		y.all.held.Add(held)
		return y.all.waited.Add(2*attempts)&1 != 0
	}
	y.held += held
	y.waited += 2 * attempts
	return y.waited&1 != 0
}

// isOver reports whether the call is over, and those left are counted. The stage is locked.
func (y *Tally) isOver() bool { return (y.waited|y.all.waited.Load())&1 != 0 }

// end says that the call is over. It answers how many attempts are left that somebody has waited for so far.
// The stage is locked.
func (y *Tally) end() (left int) {
	y.waited++
	return int(y.waited/2 + y.all.waited.Add(1)/2)
}

// Held is how long attempts have held what they needed. Whoever asks is in charge of the call, or has
// locked the stage.
func (y *Tally) Held() time.Duration { return time.Duration(y.held + y.all.held.Load()) }

// more is what there is to say of calls that waited, or are charged for, or hold streams.
type more struct {
	queued  atomic.Int64   // how long attempts waited
	streams *streams       // nil without one
	record  *record.Record // nil until there is something to say
	blank   *record.Record // what it will be then; nil if that is still to be made
	sealed  bool           // the caller has the record: nothing is written into it any more
}

// own is what y has more to say, made if need be. The stage is locked, or nobody else knows of y.
func (y *Tally) own() *more {
	if x := y.more.Load(); x != nil {
		return x
	}
	x := y.spare
	if y.spare = nil; x == nil {
		x = new(more)
	}
	y.more.Store(x)
	return x
}

// Spare is memory for what there is to say of a call.
type Spare struct{ more *more }

// Spare is that of y, which nobody uses any more, for another call.
func (y *Tally) Spare() Spare {
	if x := y.more.Load(); x != nil {
		return x.emptied()
	}
	return Spare{y.spare}
}

// emptied is x as the memory for another call, unless somebody may still have it.
func (x *more) emptied() Spare {
	if x.streams != nil || x.sealed {
		return Spare{}
	}
	x.queued.Store(0)
	x.record, x.blank = nil, nil
	return Spare{x}
}

// Reuse gives x to y, which is zero.
func (y *Tally) Reuse(x Spare) { y.spare = x.more }

// Queued is how long attempts have waited.
func (y *Tally) Queued() time.Duration {
	if x := y.more.Load(); x != nil {
		return time.Duration(x.queued.Load())
	}
	return 0
}

// Waited adds the wait of t, which ends now. The stage is locked.
func (y *Tally) Waited(t *admit.Ticket, now int64) {
	if t.Place() > 0 {
		y.wait(now - t.Arrived()) // the clock may have been read before the lock was taken
	}
}

func (y *Tally) wait(d int64) { y.own().queued.Add(max(0, d)) }

// Note writes what admission knows of t, the ticket of that attempt, into the record of the call.
// The stage is locked.
func (y *Tally) Note(x *Tool, t *admit.Ticket, attempt int32) {
	if !x.says(t) {
		return
	}
	m := y.own()
	if m.sealed { // an attempt that nobody waited for ends late
		return
	}
	if m.record == nil {
		if m.record = m.blank; m.record == nil {
			m.record = x.record()
		}
	}
	m.record.Note(x.Stage.M, t, attempt)
}

// record is an empty one of a call of x.
func (x *Tool) record() *record.Record {
	if x.Needs != nil {
		return record.New(x.Costs)
	}
	return record.NewPriced()
}

// says reports whether a record has something to say of t, a call of x.
func (x *Tool) says(t *admit.Ticket) bool { return t.Place() > 0 || x.Priced || len(t.Settled()) > 0 }

// Grant makes p the permit of an attempt at x that holds what the ticket t took, from now on. If the
// call is over already, nobody waits for the attempt. The stage is locked, unless it is the one
// attempt of the call.
func (p *Permit) Grant(x *Tool, y *Tally, t *admit.Ticket, attempt int32, now int64) {
	p.Attempt, p.Granted, p.ticket, p.live, p.tool, p.tally = attempt, now, t, true, x, y
	if t.Place() > 0 {
		y.Waited(t, now)
		if m := y.own(); m.record == nil && m.blank == nil { // made now, since the lock is seldom held here, and is when it is written
			m.blank = x.record()
		}
	}
	if y.add(p, 0, 1) {
		x.Count(1, 1)
	}
}

// GrantQuick is Grant for an attempt that takes all that calls of x need without the lock, if it can.
// It reports whether it has.
func (p *Permit) GrantQuick(x *Tool, y *Tally, level int8, attempt int32, now int64) bool {
	if !x.Needs.Take(now, &p.pass) {
		return false
	}
	if p.tool != x || p.tally != y {
		p.tool, p.tally = x, y
	}
	p.Attempt, p.Granted, p.quick, p.level = attempt, now, true, level
	if !p.several() {
		y.waited = 2
	} else if y.add(p, 0, 1) {
		x.Count(1, 1)
	}
	return true
}

// MakeOver makes p, which is zero, the permit of an attempt at x that is over.
func (p *Permit) MakeOver(x *Tool) {
	p.State.MakeOver()
	p.Attempt, p.tool = 1, x
}

// IsQuick reports whether the attempt came without a ticket.
func (p *Permit) IsQuick() bool { return p.quick }

// Tool is where the attempt was admitted; nil if it was not.
func (p *Permit) Tool() *Tool { return p.tool }

// Ticket is what p holds in s, or nil. The stage is locked.
func (p *Permit) Ticket(s *Stage) *admit.Ticket {
	if p.tool == nil || p.tool.Stage != s {
		return nil
	}
	if p.quick {
		p.adopt(s)
	}
	if !p.live {
		return nil
	}
	return p.ticket
}

// lock locks the stage, for who is about to see or change what p holds.
func (p *Permit) lock() *Stage {
	s := p.tool.Stage.Lock()
	if p.quick {
		p.adopt(s)
	}
	return s
}

// adopt gives p, which came without a ticket, one if it has none and still holds what it took. The
// stage is locked.
func (p *Permit) adopt(s *Stage) {
	if p.Adopt() {
		p.ticket, p.live = s.M.Adopt(p.tool.Needs, &p.pass, p.level, p.Granted), true
		p.ticket.Plan = p.tool.Plan
	}
}

// Settle charges p's attempt what it has really used of a unit, as long as it holds something.
func (p *Permit) Settle(unit string, used int64) {
	s := p.lock()
	if p.live {
		s.M.Settle(s.Now(), p.ticket, unit, used)
	}
	s.Unlock()
}

// Throttle pauses what an upstream's answers to the attempt speak of, as long as it holds something,
// and calls meet before.
func (p *Permit) Throttle(list []Throttle, meet func()) {
	s := p.lock()
	if p.live {
		meet()
		s.throttle(p, list)
	}
	s.Unlock()
}

// Abandon says that nobody waits for p's attempt any more, whose code has not ended, and what that
// is to breakers. It is counted as abandoned until it is given back. That is news once, to whoever is
// told so.
func (p *Permit) Abandon(o breaker.Outcome) (news bool) {
	s := p.lock()
	if p.live {
		now := s.Now()
		s.M.Judge(now, p.ticket, o)
		news = p.abandon(now)
	}
	s.Unlock()
	return news
}

// Forsaken reports whether p's attempt goes on although its call is over, unless that is no news or its stream
// is what the call has come to. The code has begun.
func (p *Permit) Forsaken() (news bool) {
	s := p.lock()
	defer s.Unlock()
	if stream := p.tally.stream(p); !p.live || stream != nil && stream.Keeps != nil {
		return false
	}
	news, p.told = !p.told, true
	return news
}

// Linger says what the outcome is of an attempt whose code has not ended, or whose stream has not.
// It reports whether code is inside; then the attempt is abandoned, and whether that is news.
func (p *Permit) Linger(list []Throttle) (inside, news bool) {
	s := p.lock()
	if p.live {
		s.throttle(p, list)
		if inside = p.Inside(); inside {
			now := s.Now()
			s.M.Judge(now, p.ticket, p.Outcome)
			news = p.abandon(now)
		} else {
			p.note() // the caller gets the record now
		}
	}
	s.Unlock()
	return inside, news
}

// Hindsight tells the breakers of an outcome that was long in coming. Whoever gives back what the
// attempt holds finds all that follows from it under the lock, or nothing. It answers as Linger.
func (p *Permit) Hindsight(list []Throttle) (inside, news bool) {
	s := p.lock()
	t := p.ticket
	if t != nil {
		s.throttle(p, list)
	}
	p.Know()
	if p.live {
		s.Unlock()
		return p.Linger(nil)
	}
	if t != nil {
		s.M.Judge(s.Now(), t, p.Outcome)
		p.free(s)
	}
	s.Unlock()
	return false, false
}

// Returned is what is left to do for who has given a permit back. It is nil if there is nothing.
type Returned struct {
	Abandoned bool         // the attempt had been counted as that
	Used      []admit.Used // what was reported
	Stream    *Stream      // whose end the call's end has waited for, or nil
}

// GiveBack gives back what an attempt holds, which nobody needs any more. If its outcome is not
// known yet, Hindsight does the rest.
func (p *Permit) GiveBack(now int64, list []Throttle) *Returned {
	defer p.letGo()
	s := p.lock()
	if begun, known, held := p.Flags(); begun && known && !held && len(list) == 0 && p.finish(s, now) {
		s.Unlock()
		return nil
	}
	r := p.giveBack(s, now, list)
	s.Unlock()
	return r
}

// Ending is what Finish did.
type Ending uint8

// The endings.
const (
	NotEnded  Ending = iota // nothing
	Ended                   // all there was to do
	EndedLate               // all but what is left of an attempt that had been counted as abandoned
)

// Finish is GiveBack of an attempt that is a success and whose handler has returned, all at once. Its
// code has begun, and if that is not the handler itself it has ended. Nobody else may say meanwhile that
// nobody waits for the attempt.
func (p *Permit) Finish(now int64) Ending {
	isCode := p.tool.Direct
	if p.quick && p.FinishAlone(isCode) {
		if p.finishQuick(now) {
			return EndedLate
		}
		return Ended
	}
	s, done := p.lock(), false
	if p.CanFinish(isCode) {
		p.Outcome = breaker.Success
		done = p.finish(s, now)
	}
	s.Unlock()
	if !done {
		return NotEnded
	}
	p.Finished(isCode)
	p.letGo()
	return Ended
}

// FinishUnseen is Finish of an attempt that has no ticket, if nobody has looked at its State but the
// caller and nobody will: the State stays that of an attempt that has just been admitted.
func (p *Permit) FinishUnseen(now int64) {
	p.giveQuick(now)
	p.tally.held = now - p.Granted
}

// Seen makes p, after FinishUnseen, what it would have been if somebody had looked at it.
func (p *Permit) Seen() {
	p.State.MakeOver()
	p.Outcome, p.tally.waited = breaker.Success, 0
}

// Renew makes p, and what the attempts of its call add up to, ready for another call after FinishUnseen.
func (p *Permit) Renew() {
	p.Attempt, p.quick = 0, false
	p.tally.held, p.tally.waited = 0, 0
}

// finishQuick gives back what an attempt holds that has no ticket, a success. It reports whether the
// attempt had been counted as one that nobody waits for.
func (p *Permit) finishQuick(now int64) (abandoned bool) {
	p.giveQuick(now)
	return p.tally.add(p, now-p.Granted, -1)
}

// giveQuick gives back what an attempt took that has no ticket.
func (p *Permit) giveQuick(now int64) {
	if left := p.tool.Needs.Give(now, &p.pass, p.Granted); left > 0 {
		s := p.tool.Stage.Lock()
		s.M.End(now, p.tool.Needs, &p.pass, left, p.Granted)
		s.Unlock()
	}
}

// finish gives back what an attempt holds, unless somebody has to be told.
func (p *Permit) finish(s *Stage, now int64) (done bool) {
	t, y := p.ticket, p.tally
	if p.left || y.isOver() || len(t.Settled()) > 0 {
		return false
	}
	s.M.Finish(now, t, p.Outcome)
	p.conclude(now, 1)
	p.live = false
	p.free(s)
	return true
}

// giveBack is GiveBack where there is more to do.
func (p *Permit) giveBack(s *Stage, now int64, list []Throttle) *Returned {
	t, y := p.ticket, p.tally
	s.throttle(p, list)
	begun, known, held := p.Flags()
	var stream *Stream
	if held {
		stream = y.stream(p)
	}
	switch {
	case !begun:
		s.M.Cancel(now, t)
	case !known:
		s.M.Unjudged(now, t)
	case stream != nil && stream.Err != nil:
		s.M.Finish(now, t, stream.outcome)
	default:
		s.M.Finish(now, t, p.Outcome)
	}
	waits := stream != nil && stream.Keeps != nil
	abandoned := p.left
	switch {
	case p.left:
	case waits:
		p.conclude(now, 0)
	default:
		abandoned = p.conclude(now, 1)
	}
	var r *Returned
	if used := t.Settled(); abandoned || waits || len(used) > 0 {
		r = &Returned{Abandoned: abandoned}
		if begun { // else what is said is that nothing was used
			r.Used = slices.Clone(used)
		}
		if waits {
			r.Stream, stream.Record = stream, stream.Record.With(t)
		}
	}
	p.live = false
	if known || !begun {
		p.free(s)
	}
	return r
}

// free lets go of p's ticket.
func (p *Permit) free(s *Stage) {
	t := p.ticket
	if p.ticket = nil; t.Place() > 0 {
		s.Free(t)
	} else { // it has no waiter
		s.M.Free(t)
	}
}

// abandon says that nobody waits for the attempt any more, and reports whether that is news.
func (p *Permit) abandon(now int64) (news bool) {
	if p.left {
		return false
	}
	p.left = true
	if !p.conclude(now, 1) { // else it is counted with the call's others
		p.tool.Count(1, 1)
	}
	news, p.told = !p.told, true
	return news
}

// note writes what admission knows of the attempt into the record of its call, once.
func (p *Permit) note() {
	if p.noted {
		return
	}
	p.noted = true
	p.tally.Note(p.tool, p.ticket, p.Attempt)
}

// conclude adds the attempt, which is over for its caller, to what its call's attempts add up to, and
// counts out those that somebody has waited for: it, or none. It reports whether the call is over.
func (p *Permit) conclude(now int64, waited int32) (over bool) {
	p.note()
	return p.tally.add(p, now-p.Granted, -waited)
}

// IsPlain reports whether there is nothing to say of the attempts but how long they ran.
func (y *Tally) IsPlain() bool { return y.more.Load() == nil }

// Conclusion is what the attempts of a call add up to in the end.
type Conclusion struct {
	Record *record.Record
	Queued time.Duration
	Held   time.Duration
	Err    error // what the stream that is the call's result has ended with already
	Waits  bool  // the call's end has to wait for that stream
}

// Conclude ends a call, and makes c, which is zero, what its attempts add up to. It is told x if some
// are under way, which nobody waits for any more; else x is nil, and the tally belongs to the caller.
//
// If a stream is the call's result, which it is only if that has not failed, and has not ended, then
// whoever ends the stream gets what keep answers, and one call more is counted until it does.
func (y *Tally) Conclude(c *Conclusion, x *Tool, failed bool, keep func() any) {
	if x != nil {
		s := x.Stage.Lock()
		defer s.Unlock()
	}
	c.Held = y.Held()
	var stream *Stream
	if m := y.more.Load(); m != nil {
		c.Record, c.Queued = m.record, y.Queued()
		if !failed && m.streams != nil && m.streams.p != nil {
			stream = &m.streams.Stream
		}
	}
	if x != nil {
		y.own().sealed = true
		if c.Waits = stream != nil && stream.p.live; c.Waits {
			if !stream.p.left {
				y.add(stream.p, 0, -1)
			}
			stream.Keeps, stream.Record = keep(), c.Record
			x.Count(1, 0)
		}
		left := y.end()
		x.Count(left, left)
	}
	if stream != nil && !c.Waits {
		c.Err = stream.Err
	}
}

// Sum makes c what the attempts of a call add up to that a stream has held open, and which has ended:
// others of it may be under way.
func (y *Tally) Sum(c *Conclusion, x *Tool, r *record.Record) {
	s := x.Stage.Lock()
	*c = Conclusion{Record: r, Queued: y.Queued(), Held: y.Held()}
	s.Unlock()
}
