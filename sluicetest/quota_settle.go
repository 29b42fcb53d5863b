package sluicetest

import (
	"time"

	"github.com/sluice-go/sluice/engine"
)

func quotaSettleDebt(r *run, q engine.Quota) {
	m := r.per(5)
	before := r.Now()
	r.settle(q, r.named(q, units(1, 1, m)), m, 7)
	g := r.take(q, units(1, 1, m))
	r.must(g.Units == 0, "a meter in debt granted a unit")
	due := before.Add(4 * r.Tick) // five were there, three are owed, one is wanted
	retry := r.Now().Add(g.Retry)
	r.must(!retry.Before(due) && retry.Sub(due) <= r.Slack, "a meter that owes 3 tokens says that one comes in after %v: at one per %v it must be after %v", retry.Sub(before), r.Tick, 4*r.Tick)
	r.Sleep(g.Retry + r.Slack)
	r.must(r.take(q, units(1, 1, m)).Units == 1, "a debt was not paid back at the meter's rate")
}

// named draws d in a name, which it returns.
func (r *run) named(q engine.Quota, d engine.Draw) engine.OpID {
	r.t.Helper()
	d.Op = engine.NewOpID()
	g := r.take(q, d)
	r.must(g.Units == d.Max, "Take of %d units of a full meter was granted %d", d.Max, g.Units)
	return d.Op
}

func (r *run) settle(q engine.Quota, of engine.OpID, m engine.Meter, delta int64) {
	r.t.Helper()
	err := q.Settle(r.ctx, engine.OpID{}, []engine.Correction{{Of: of, Meter: m, Delta: delta}})
	r.must(err == nil, "Settle of %d tokens returned %v", delta, err)
}

func quotaSettleBack(r *run, q engine.Quota) {
	m := r.slow(5)
	op := r.named(q, units(4, 4, m))
	r.settle(q, op, m, -3)
	got := r.left(q, m)
	r.must(got == 4, "4 of 5 tokens were taken, 3 given back, and %d are there: must be 4", got)
	for range 12 { // enough to overflow a sum of times that is kept without a bound
		r.settle(q, op, m, -1<<40)
	}
	got = r.left(q, m)
	r.must(got == 1, "after a Take of 4, of which 1 counted, gave back 12 times 1<<40, %d tokens came back: must be 1, a Take gives back no more than it took", got)

	m = r.slow(5)
	op = r.named(q, units(4, 4, m))
	r.settle(q, op, m, -1<<62)
	got = r.left(q, m)
	r.must(got == 5, "after more was given back than was taken a meter with a burst of 5 held %d: it is never filled beyond its burst", got)
	r.must(r.take(q, units(1, 1, m)).Units == 0, "a meter filled beyond its burst kept the rest for later")
	r.refused(q.Settle(r.ctx, engine.OpID{}, []engine.Correction{{Of: op, Meter: engine.Meter{Key: "x"}, Delta: 1}}), "Settle of an invalid meter")

	calls, words := r.slow(9), r.slow(100)
	words.Each = 30
	op = r.named(q, units(2, 2, calls, words))
	r.settle(q, op, words, -20)
	gotCalls, gotWords := r.left(q, calls), r.left(q, words)
	r.must(gotCalls == 7 && gotWords == 60, "2 units of one call and 30 words each, 20 words of which were given back, left %d of 9 calls and %d of 100 words: must be 7 and 60, each meter is settled by itself, in tokens", gotCalls, gotWords)
}

// quotaSettleLate: what a Take gives back after time has brought it back is worth nothing.
func quotaSettleLate(r *run, q engine.Quota) {
	m := r.per(5)
	op := r.named(q, units(5, 5, m))
	r.Sleep(7*r.Tick + r.Slack)
	before := r.Now()
	r.must(r.left(q, m) == 5, "7 ticks after it was drained a meter with a burst of 5 is not full")
	r.settle(q, op, m, -5)
	got := r.left(q, m)
	most := int64(r.Now().Sub(before) / r.Tick)
	r.must(got <= most, "a Take of 5, which time had brought back and others had taken since, was settled to nothing, and %d tokens more were there: must be at most %d, the others are spent twice", got, most)
	r.settle(q, op, m, 5)
	before = r.Now()
	r.Sleep(2*r.Tick + r.Slack)
	got = r.left(q, m)
	r.must(got >= 1, "a Take whose tokens had come back long ago was settled to nothing and to what it was again, and %v later nothing was there: it counts from its own instant on", r.Now().Sub(before))
}

// quotaSettlePartlyLate: time has brought back half of what a Take gives back.
func quotaSettlePartlyLate(r *run, q engine.Quota) {
	m := r.per(10)
	op := r.named(q, units(10, 10, m))
	r.Sleep(5*r.Tick + r.Slack)
	before := r.Now()
	others := r.left(q, m)
	drained := r.Now()
	r.must(others >= 5, "5 ticks after it was drained %d tokens of a meter were there: must be 5", others)
	r.settle(q, op, m, -10)
	asked := r.Now()
	got := r.left(q, m)
	least := 10 - others + int64((asked.Sub(drained)-r.Slack)/r.Tick)
	most := 10 - others + int64(r.Now().Sub(before)/r.Tick)
	r.must(got >= least, "a Take of all 10 was settled to nothing when others had taken %d, and %d were there: must be at least %d, as if it had never been", others, got, least)
	r.must(got <= most, "a Take of all 10 was settled to nothing when others had taken %d, and %d were there: cannot be more than %d, as if it had never been", others, got, most)
}

// quotaSettleSum: the Settles of one Take add up, in whatever order.
func quotaSettleSum(r *run, q engine.Quota) {
	for _, list := range [][]int64{{3, -5, 1}, {-5, 3, 1}, {-9, 8}, {1 << 40, -1 << 40, -1}, {-1 << 40, 1 << 40, -1}} {
		m := r.slow(10)
		op := r.named(q, units(4, 4, m))
		for _, delta := range list {
			r.settle(q, op, m, delta)
		}
		got := r.left(q, m)
		r.must(got == 7, "a Take of 4 that was settled by %d left %d of 10: must be 7, Settles add up and it counted 3", list, got)
	}
}

func quotaSettleUnnamed(r *run, q engine.Quota) {
	for _, of := range []engine.OpID{{}, engine.NewOpID()} {
		what := "a Take without a name"
		if of != (engine.OpID{}) {
			what = "a Take that nobody knows"
		}
		m := r.slow(5)
		r.take(q, units(4, 4, m))
		r.settle(q, of, m, -4)
		got := r.left(q, m)
		r.must(got == 1, "Settle of -4 of %s gave back something, 1 token was there and %d were taken: nobody can tell what time has brought back since", what, got)

		m = r.slow(5)
		r.settle(q, of, m, 3)
		got = r.left(q, m)
		r.must(got == 2, "Settle of 3 of %s left %d of 5: must be 2, an increase is charged now", what, got)
	}
	m, other := r.slow(5), r.slow(5)
	op := r.named(q, units(4, 4, m))
	r.take(q, units(2, 2, other))
	r.settle(q, op, other, -2)
	got := r.left(q, other)
	r.must(got == 3, "Settle of -2 on a meter that the Take did not draw from left %d of 3 tokens: must give back nothing", got)
}

// quotaSettleBound: no report, however wrong, closes a meter for ever, and none is wrong for ever.
func quotaSettleBound(r *run, q engine.Quota) {
	const day = 24 * time.Hour
	for _, m := range []engine.Meter{
		{Key: r.key("meter"), N: 1, Per: time.Second, Burst: 5},
		{Key: r.key("meter"), N: 1, Per: 5 * day, Burst: 2},
	} {
		refill := m.Per * time.Duration(m.Burst)
		most := max(day, refill) + m.Per
		for range 3 {
			r.settle(q, engine.OpID{}, m, 1<<62)
		}
		g := r.take(q, units(1, 1, m))
		r.must(g.Units == 0 && g.Retry <= most, "after Settles of 1<<62 a meter whose burst comes in within %v says that a token comes in after %v: must be at most %v, debt is bounded", refill, g.Retry, most)
		r.must(g.Retry > most-2*m.Per, "after Settles of 1<<62 a meter says that a token comes in after %v: must be about %v, debt is bounded and not forgotten", g.Retry, most)
	}
	m := r.slow(5)
	op := r.named(q, units(2, 2, m))
	r.settle(q, op, m, 1<<40)
	r.settle(q, op, m, 1-1<<40)
	got := r.left(q, m)
	r.must(got == 2, "a Take of 2 was settled by 1<<40 and then by as much less, but 1: %d of 5 tokens were left, must be 2", got)
}

// quotaSettleList: the corrections of one Settle take effect together, or none does.
func quotaSettleList(r *run, q engine.Quota) {
	a, b := r.slow(9), r.slow(9)
	both, mine := r.named(q, units(4, 4, a, b)), r.named(q, units(3, 3, a))
	op := engine.NewOpID()
	list := []engine.Correction{{Of: both, Meter: a, Delta: -2}, {Of: both, Meter: b, Delta: 1}, {Of: mine, Meter: a, Delta: -3}, {Of: both, Meter: a, Delta: 1}}
	for range 3 {
		err := q.Settle(r.ctx, op, list)
		r.must(err == nil, "Settle of four corrections, named or repeated, returned %v", err)
	}
	r.refused(q.Settle(r.ctx, op, list[:3]), "Settle of another list with an OpID that is taken")
	bad := append(list[:2:2], engine.Correction{Of: mine, Meter: engine.Meter{Key: "x"}, Delta: 1})
	r.refused(q.Settle(r.ctx, engine.OpID{}, bad), "Settle of a list with an invalid meter")
	r.refused(q.Settle(r.ctx, engine.OpID{}, nil), "Settle of an empty list")
	r.refused(q.Settle(r.ctx, engine.OpID{}, make([]engine.Correction, engine.MaxMeters+1)), "Settle of more corrections than MaxMeters")
	gotA, gotB := r.left(q, a), r.left(q, b)
	r.must(gotA == 6 && gotB == 4, "of 9 tokens each, Takes of 4 and 3 and Settles of -2, -3 and 1 left %d, a Take of 4 and a Settle of 1 left %d: must be 6 and 4, all corrections of a list are made once, and none of a list that is refused", gotA, gotB)
}

// quotaHold: while a meter is held nobody uses it, and it opens with one token.
func quotaHold(r *run, q engine.Quota) {
	m, other := r.per(5), r.per(5)
	r.must(r.take(q, units(2, 2, m)).Units == 2, "a new meter is not full")
	before := r.Now()
	r.hold(q, m, 4*r.Tick)
	r.hold(q, m, 2*r.Tick) // ends before that
	held := r.Now()
	g := r.take(q, units(1, 1, m))
	r.must(g.Units == 0, "Take of a meter that is held was granted")
	r.must(r.Now().Add(g.Retry).Sub(before) >= 4*r.Tick, "a meter that is held for %v says %v later that a token can be had after %v: of several holds the one that ends last counts", 4*r.Tick, r.Now().Sub(before), g.Retry)
	r.must(g.Retry <= 4*r.Tick, "a meter that is held for %v says that a token can be had after %v", 4*r.Tick, g.Retry)
	both := units(1, 1, other, m)
	r.must(r.take(q, both).Units == 0 && r.left(q, other) == 5, "Take of two meters, one of them held, was granted or charged")
	r.Sleep(g.Retry + r.Slack)
	got := r.left(q, m)
	most := 1 + int64((r.Now().Sub(before)-4*r.Tick)/r.Tick)
	r.must(got >= 1, "a meter had nothing at the end of its hold, %v after it was held for %v", r.Now().Sub(held), 4*r.Tick)
	r.must(got <= most, "a meter had %d tokens at the end of its hold: it opens with one at most, or all that waited start at once", got)

	slow := r.slow(6) // takes longer to refill than a minute
	slow.Per = max(slow.Per, time.Hour)
	r.take(q, units(2, 2, slow))
	r.hold(q, slow, r.Tick)
	r.must(r.take(q, units(1, 1, slow)).Units == 0, "Take of a meter that is held was granted")
	r.Sleep(r.Tick + r.Slack)
	got = r.left(q, slow)
	r.must(got == 4, "a meter that takes more than a minute to refill had 4 tokens before it was held for %v, and %d after: must have what it had", r.Tick, got)
	r.refused(q.Hold(r.ctx, m, -1), "Hold for a negative time")
	r.refused(q.Hold(r.ctx, engine.Meter{Key: "x"}, r.Tick), "Hold of an invalid meter")
	r.must(q.Hold(endedContext(), slow, 100*r.Tick) != nil, "Hold with a context that had ended returned no error")
}

// quotaHoldBooking: bookings come from the hold's end on, one after the other.
func quotaHoldBooking(r *run, q engine.Quota) {
	m := r.per(5)
	before := r.Now()
	r.hold(q, m, 3*r.Tick)
	held := r.Now()
	d := units(1, 1, m)
	d.MaxWait = 100 * r.Tick
	for i := range 3 {
		g := r.take(q, d)
		use := r.Now().Add(g.After)
		due := time.Duration(3+i) * r.Tick
		r.must(g.Units == 1, "Take that waits %v was denied, and the meter is held for %v", d.MaxWait, 3*r.Tick)
		r.must(use.Sub(before) >= due, "booking number %d of a meter held for %v may be used after %v: must not be before %v", i+1, 3*r.Tick, use.Sub(before), due)
		r.must(use.Sub(held) <= due+r.Slack, "booking number %d of a meter held for %v is for %v later: must be %v", i+1, 3*r.Tick, use.Sub(held), due)
	}
}

// quotaHoldEnds: a hold of zero ends one, and what is owed.
func quotaHoldEnds(r *run, q engine.Quota) {
	m := r.per(5)
	r.hold(q, m, 0)
	r.must(r.left(q, m) == 5, "a hold of zero of a new meter took something from it")
	r.settle(q, engine.OpID{}, m, 50)
	r.hold(q, m, 400*r.Tick)
	before := r.Now()
	r.hold(q, m, 0)
	ended := r.Now()
	g := r.take(q, units(1, 1, m))
	r.must(g.Units == 0 || r.Now().Sub(before) >= r.Tick, "a meter was not empty when its hold and its debt were ended: a hold of zero creates no tokens")
	r.must(g.Retry <= r.Tick, "a hold was ended, and a token can be had after %v: must be at most %v", g.Retry, r.Tick)
	r.Sleep(2*r.Tick + r.Slack)
	got := g.Units + r.left(q, m)
	r.must(got >= 2 && got <= int64(r.Now().Sub(before)/r.Tick), "%v after a hold and a debt were ended %d tokens had come in, at one per %v", r.Now().Sub(ended), got, r.Tick)
}

func (r *run) hold(q engine.Quota, m engine.Meter, d time.Duration) {
	r.t.Helper()
	err := q.Hold(r.ctx, m, d)
	r.must(err == nil, "Hold for %v returned %v", d, err)
}
