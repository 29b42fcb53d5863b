package sluicetest

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/sluice-go/sluice/engine"
)

// Setup says how [Engine] reaches the engine that it checks.
type Setup struct {
	Open func() engine.Engine // called once per rule; it may return the same every time

	// Far, if not nil, returns the same engine, reached over a link on which whatever is
	// sent takes d in each direction. The rules about distance are skipped without it.
	Far func(d time.Duration) engine.Engine

	// Lose, if not nil, makes the engine lose all it knows, as a restart without its data
	// does; what Open and Far have returned goes on with it. The rules about that are
	// skipped without it.
	Lose func()

	// Cut, if not nil, cuts the connections by which the engine that Open returned is told of
	// changes, as a network that fails does. The rules about that are skipped without it.
	Cut func()
}

// Engine checks what concerns an [engine.Engine] as a whole: what it says of itself, what
// holds behind a slow link, and what holds after it has lost its data.
func Engine(t T, s Setup, o Options) {
	t.Helper()
	each(t, "Engine", o, func() Setup { return s }, engineRules)
}

var engineRules = []rule[Setup]{
	{"Limits", engineLimits},
	{"Epoch", engineEpoch},
	{"Cold", engineCold},
	{"FarLease", engineFarLease},
	{"FarBooking", engineFarBooking},
	{"FarUnsure", engineFarUnsure},
	{"Lost", engineLost},
	{"LostMeters", engineLostMeters},
	{"FarCommit", engineFarCommit},
	{"LostSlots", engineLostSlots},
	{"CutFollow", engineCutFollow},
	{"CutSlots", engineCutSlots},
}

func engineLimits(r *run, s Setup) {
	e := s.Open()
	l := e.Limits()
	r.must(l.MinTTL > 0 && l.OpMemory > 0 && l.MaxValue > 0, "Limits returned %+v: none of them is zero", l)
	key := r.key("limits")
	most := bytes.Repeat([]byte{'x'}, l.MaxValue)
	rev, err := e.Store().Write(r.ctx, key, 0, most, 0)
	r.must(err == nil, "Write of MaxValue bytes, %d, returned %v", l.MaxValue, err)
	_, err = e.Store().Write(r.ctx, key, rev, append(most, 'x'), 0)
	r.refused(err, "Write of more than MaxValue bytes")
	err = e.Store().Erase(r.ctx, key, rev)
	r.must(err == nil, "a Write of more than MaxValue bytes was refused, and then Erase of what was there returned %v", err)

	_, err = e.Store().Write(r.ctx, key, 0, []byte("brief"), l.MinTTL)
	r.must(err == nil, "Write with a ttl of MinTTL, %v, returned %v", l.MinTTL, err)
	r.Sleep(l.MinTTL + r.Slack)
	r.absent(e.Store(), key, "it was to end after MinTTL")
	if !r.Exact {
		return // OpMemory may be long
	}
	m := r.slow(9)
	d := units(3, 3, m)
	d.Op = r.named(e.Quota(), d)
	r.Sleep(l.OpMemory - 1)
	r.take(e.Quota(), d)
	got := r.left(e.Quota(), m)
	r.must(got == 6, "Take of 3, repeated %v later with its OpID, left %d of 9: an OpID is remembered for OpMemory, %v", l.OpMemory-1, got, l.OpMemory)
}

func (r *run) epoch(e engine.Engine) (id uint64, age time.Duration) {
	r.t.Helper()
	id, age, err := e.Epoch(r.ctx)
	r.must(err == nil, "Epoch returned %v", err)
	r.must(id != 0 && age >= 0, "Epoch returned %d and %v: an id is not zero, and no age negative", id, age)
	return id, age
}

func engineEpoch(r *run, s Setup) {
	e := s.Open()
	r.epoch(e)
	before := r.Now()
	id, age := r.epoch(e)
	asked := r.Now()
	r.Sleep(3 * r.Tick)
	then := r.Now()
	same, older := r.epoch(e)
	r.must(same == id, "Epoch returned another id, and nothing was lost")
	grown := older - age
	r.must(grown >= then.Sub(asked)-r.Slack && grown <= r.Now().Sub(before)+r.Slack, "an engine's age grew by %v in %v", grown, then.Sub(asked))
	_, _, err := e.Epoch(endedContext())
	r.must(err != nil, "Epoch with a context that had ended returned no error")
}

func engineCold(r *run, s Setup) {
	e := s.Open()
	const burst = 1000
	m := r.per(burst)
	m.Cold = true
	_, younger := r.epoch(e)
	got := r.left(e.Quota(), m)
	_, older := r.epoch(e)
	drained := r.Now()
	least, most := min(burst, int64((younger-r.Slack)/r.Tick)), min(burst, int64(older/r.Tick))
	r.must(got >= least && got <= most, "of one token per %v a new cold meter of an engine that is %v old had %d: must be as full as if it had been empty when the engine began, %d to %d", r.Tick, older, got, least, most)
	r.Sleep(3 * r.Tick)
	asked := r.Now()
	more := r.left(e.Quota(), m)
	r.must(more >= int64((asked.Sub(drained)-r.Slack)/r.Tick) && got+more <= int64((older+r.Now().Sub(drained))/r.Tick)+1, "a cold meter that was drained had %d tokens %v later, at one per %v", more, asked.Sub(drained), r.Tick)

	m = r.slow(5)
	r.must(r.left(e.Quota(), m) == 5, "a new meter that is not cold was not full")
}

// far is the engine behind a link that takes a while, and how long; nil if there is none.
func (r *run) far(s Setup) (far engine.Engine, delay time.Duration) {
	if s.Far == nil {
		r.t.Logf("%s: skipped, Setup.Far is nil", r.name)
		return nil, 0
	}
	delay = r.Tick/4 + r.Slack // more than what may be late
	return s.Far(delay), delay
}

// engineFarLease: a holder that is far away stops before the engine gives its slot on.
func engineFarLease(r *run, s Setup) {
	far, delay := r.far(s)
	if far == nil {
		return
	}
	near := s.Open()
	key := r.key("far")
	mine, next := r.claim(key, 1), r.claim(key, 1)
	mine.TTL, next.MaxWait = 6*r.Tick+4*delay, 100*r.Tick
	l := r.acquire(far.Slots(), mine)
	for _, what := range []string{"Acquire", "Renew"} {
		if what == "Renew" {
			l = r.renew(far.Slots(), mine.TTL, l)[0]
			r.must(l.Units > 0, "Renew over a link that takes %v each way says that the lease has ended", delay)
		}
		r.must(!l.Until.After(r.Now().Add(mine.TTL-delay)), "%s over a link that takes %v each way returned a lease until %v from now, of %v: Until counts from before the request was sent", what, delay, l.Until.Sub(r.Now()), mine.TTL)
		// In real time there may be more than one trip: to connect, to say a script.
		r.must(!r.Exact || l.Until.After(r.Now().Add(mine.TTL-2*delay-1)), "%s over a link that takes %v each way returned a lease until %v from now, of %v: Until counts from when the request was sent", what, delay, l.Until.Sub(r.Now()), mine.TTL)
	}
	_, err := near.Slots().Acquire(r.ctx, next)
	r.must(err == nil, "a far holder's lease ended and the next claim got %v", err)
	r.must(!r.Now().Before(l.Until), "the slot of a far holder was given on %v before its Until: two have it", l.Until.Sub(r.Now()))
}

// engineFarBooking: what is booked from far away is used no earlier than it is due, and late
// only by the way of the answer.
func engineFarBooking(r *run, s Setup) {
	far, delay := r.far(s)
	if far == nil {
		return
	}
	near := s.Open()
	m := r.per(2)
	m.Per += 4 * delay
	before := r.Now()
	r.left(near.Quota(), m)
	drained := r.Now()
	d := units(1, 1, m)
	d.MaxWait = 100 * m.Per
	for i := 1; i <= 3; i++ {
		sent := r.Now()
		g := r.take(far.Quota(), d)
		use, due, way := r.Now().Add(g.After), time.Duration(i)*m.Per, delay
		if !r.Exact {
			way = r.Now().Sub(sent) // more than one trip, perhaps, and time to be woken
		}
		r.must(g.Units == 1, "Take that waits %v, over a link that takes %v each way, was denied", d.MaxWait, delay)
		r.must(use.Sub(before) >= due, "booking number %d of a drained meter, over a link that takes %v each way, may be used after %v: at one per %v that is before its time", i, delay, use.Sub(before), m.Per)
		r.must(use.Sub(drained) <= due+way+r.Slack, "booking number %d of a drained meter, over a link that takes %v each way, is for %v later, at one per %v: it is late by more than the way of the answer", i, delay, use.Sub(drained), m.Per)
	}
	g := r.take(far.Quota(), units(1, 1, m))
	r.must(r.Now().Add(g.Retry).Sub(before) >= 4*m.Per, "a denial over a link that takes %v each way came with Retry %v: that is before the next token is there", delay, g.Retry)
}

// engineFarUnsure: whoever stops waiting for an answer that is on its way does not know, and
// learns it by asking again.
func engineFarUnsure(r *run, s Setup) {
	far, delay := r.far(s)
	if far == nil {
		return
	}
	near := s.Open()
	m := r.slow(9)
	d := units(4, 4, m)
	d.Op = engine.NewOpID()
	short, cancel := context.WithTimeout(r.ctx, delay+delay/2)
	defer cancel()
	before := r.Now()
	_, err := far.Quota().Take(short, d)
	r.must(err != nil, "Take with a context of %v returned no error over a link that takes %v each way", delay+delay/2, delay)
	late := r.just()
	if !r.Exact {
		late = 10 * r.Tick // whoever is woken on a busy machine
	}
	r.must(r.Now().Sub(before) <= delay+delay/2+late, "Take with a context of %v returned after %v: every wait ends with its context", delay+delay/2, r.Now().Sub(before))
	refused := errors.Is(err, engine.ErrRefused)
	r.Sleep(4 * delay)
	if refused {
		r.must(r.left(near.Quota(), m) == 9, "a Take whose answer was on its way returned %v, and was charged: ErrRefused means certainly not", err)
		return
	}
	g := r.take(far.Quota(), d)
	r.must(g.Units == 4, "Take repeated after an unknown outcome returned %d units, not 4", g.Units)
	got := r.left(near.Quota(), m)
	r.must(got == 5, "Take of 4, repeated with its OpID after an unknown outcome, left %d of 9: it takes effect once", got)
}

// lose makes the engine of s lose its data, and waits until it is back; it says when.
func (r *run) lose(s Setup, e engine.Engine) (before time.Time, ok bool) {
	r.t.Helper()
	if s.Lose == nil {
		r.t.Logf("%s: skipped, Setup.Lose is nil", r.name)
		return before, false
	}
	id, _ := r.epoch(e)
	before = r.Now()
	s.Lose()
	next, answers := id, 0
	r.must(r.until(func() bool { // a connection that was cut may be found out late
		n, _, err := e.Epoch(r.ctx)
		if next = n; err == nil {
			answers++
		} else {
			answers = 0
		}
		return answers == 10
	}), "an engine that lost its data does not answer")
	_, age := r.epoch(e)
	r.must(next != id, "an engine lost its data and has the same epoch: nobody can know that it forgot what it acknowledged")
	r.must(age <= r.Now().Sub(before), "an engine that lost its data %v ago says that its data are %v old", r.Now().Sub(before), age)
	return before, true
}

// engineLost: what an engine has lost is gone, and nothing that it tells apart comes again.
func engineLost(r *run, s Setup) {
	e := s.Open()
	key := r.key("lost")
	rev := r.write(e.Store(), key, 0, "x", 0)
	l := r.acquire(e.Slots(), r.claim(key, 1))
	if _, ok := r.lose(s, e); !ok {
		return
	}
	r.absent(e.Store(), key, "the engine lost its data")
	again, next := r.write(e.Store(), key, 0, "y", 0), r.acquire(e.Slots(), r.claim(key, 1))
	r.lost(e.Slots(), l, "the engine lost it and gave its slot to another, whose claim was not Cold")
	if e.Promises().Has(engine.FencedForever) {
		r.must(next.Fence > l.Fence, "an engine that promises FencedForever gave fence %d after it had lost its data, and %d before", next.Fence, l.Fence)
		r.must(again > rev, "an engine that promises FencedForever gave revision %d after it had lost its data, and %d before", again, rev)
	}
}

// engineLostMeters: a cold meter grants no second burst when its balance is lost.
func engineLostMeters(r *run, s Setup) {
	e := s.Open()
	q := e.Quota()
	m := r.per(4)
	m.Cold = true
	r.epoch(e)
	r.Sleep(4*r.Tick + r.Slack)
	op := r.named(q, units(4, 4, m))
	lost, ok := r.lose(s, e)
	if !ok {
		return
	}
	got := r.left(q, m)
	r.settle(q, op, m, -4)
	got += r.left(q, m)
	r.must(got <= int64(r.Now().Sub(lost)/r.Tick), "an engine lost a cold meter's balance after a Take of 4, and had %d tokens for it %v later, a Settle of that Take by -4 included: it fills from empty", got, r.Now().Sub(lost))
	back := r.Now()
	r.Sleep(6*r.Tick + r.Slack)
	got = r.left(q, m)
	r.must(got == 4, "%v after an engine had lost it a cold meter with a burst of 4 had %d tokens", r.Now().Sub(back), got)
}
