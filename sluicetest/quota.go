package sluicetest

import (
	"cmp"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/sluice-go/sluice/engine"
)

// Quota checks what an [engine.Quota] must do. open is called once per rule and may
// return the same quota every time.
func Quota(t T, open func() engine.Quota, o Options) {
	t.Helper()
	each(t, "Quota", o, open, quotaRules)
}

var quotaRules = []rule[engine.Quota]{
	{"Burst", quotaBurst},
	{"Range", quotaRange},
	{"Invalid", quotaInvalid},
	{"Refill", quotaRefill},
	{"Retry", quotaRetry},
	{"NoFractionLoss", quotaNoFractionLoss},
	{"AllOrNothing", quotaAllOrNothing},
	{"Each", quotaEach},
	{"Booking", quotaBooking},
	{"BookingRange", quotaBookingRange},
	{"BookingTooLong", quotaBookingTooLong},
	{"Keep", quotaKeep},
	{"KeepBooking", quotaKeepBooking},
	{"SettleDebt", quotaSettleDebt},
	{"SettleBack", quotaSettleBack},
	{"SettleLate", quotaSettleLate},
	{"SettlePartlyLate", quotaSettlePartlyLate},
	{"SettleSum", quotaSettleSum},
	{"SettleUnnamed", quotaSettleUnnamed},
	{"SettleBound", quotaSettleBound},
	{"SettleList", quotaSettleList},
	{"Hold", quotaHold},
	{"HoldBooking", quotaHoldBooking},
	{"HoldEnds", quotaHoldEnds},
	{"OpID", quotaOpID},
	{"OpIDTogether", quotaOpIDTogether},
	{"EndedContext", quotaEndedContext},
	{"Exact", quotaExact},
}

// per is a meter of one token per tick.
func (r *run) per(burst int64) engine.Meter {
	return engine.Meter{Key: r.key("meter"), N: 1, Per: r.Tick, Burst: burst}
}

// slow is a meter that does not refill while a rule runs.
func (r *run) slow(burst int64) engine.Meter {
	return engine.Meter{Key: r.key("meter"), N: 1, Per: 10_000 * r.Tick, Burst: burst}
}

func units(least, most int64, list ...engine.Meter) engine.Draw {
	return engine.Draw{Meters: list, Min: least, Max: most}
}

func (r *run) take(q engine.Quota, d engine.Draw) engine.Grant {
	r.t.Helper()
	g, err := q.Take(r.ctx, d)
	r.must(err == nil, "Take of %d to %d units returned %v: a denial is an answer, not an error", d.Min, d.Max, err)
	err = d.Check(g)
	r.must(err == nil, "Take of %d to %d units, waiting at most %v: %v", d.Min, d.Max, d.MaxWait, err)
	return g
}

// left takes what is there, at most 1000, and says how much that was.
func (r *run) left(q engine.Quota, m engine.Meter) int64 {
	r.t.Helper()
	m.Each = 1
	return r.take(q, units(1, 1000, m)).Units
}

func quotaBurst(r *run, q engine.Quota) {
	m := r.slow(5)
	for i := range 5 {
		g := r.take(q, units(1, 1, m))
		r.must(g.Units == 1 && g.After == 0, "Take number %d of a fresh meter with a burst of 5 returned %d units after %v: a new meter is full", i+1, g.Units, g.After)
	}
	g := r.take(q, units(1, 1, m))
	r.must(g.Units == 0, "Take number 6 of a meter with a burst of 5 was granted")
	r.must(g.Retry > 0, "a denial came with Retry %v: must be how long it takes until Min come in", g.Retry)
	other := r.slow(1)
	r.must(r.take(q, units(1, 1, other)).Units == 1, "a meter was empty because another was: keys are apart")
}

func quotaRange(r *run, q engine.Quota) {
	m := r.slow(10)
	r.must(r.take(q, units(2, 4, m)).Units == 4, "Take of 2 to 4 of 10 did not return Max")
	g := r.take(q, units(2, 8, m))
	r.must(g.Units == 6, "Take of 2 to 8 returned %d with 6 there: as many as are there, between Min and Max", g.Units)
	r.must(g.Retry > 0, "Take granted less than Max and Retry is %v: must be how long it takes until one more comes in", g.Retry)

	m = r.slow(5)
	r.take(q, units(3, 3, m))
	r.must(r.take(q, units(3, 8, m)).Units == 0, "Take of 3 to 8 was granted with 2 there: fewer than Min are worth nothing")
	got := r.left(q, m)
	r.must(got == 2, "a denied Take left %d of 2 units: a denial must charge nothing", got)
}

func quotaInvalid(r *run, q engine.Quota) {
	m := r.slow(5)
	for what, d := range map[string]engine.Draw{
		"no meter":                {},
		"Min above Burst":         units(6, 6, m),
		"a negative Min":          units(-1, 1, m),
		"Max below Min":           units(2, 1, m),
		"an empty key":            units(1, 1, engine.Meter{N: 1, Per: r.Tick, Burst: 1}),
		"N of zero":               units(1, 1, engine.Meter{Key: m.Key, Per: r.Tick, Burst: 1}),
		"a negative Per":          units(1, 1, engine.Meter{Key: m.Key, N: 1, Per: -1, Burst: 1}),
		"the same meter twice":    units(1, 1, m, m),
		"a negative MaxWait":      {Meters: []engine.Meter{m}, Min: 1, Max: 1, MaxWait: -1},
		"units beyond any burst":  units(1<<62, 1<<62, m),
		"a negative cost of each": units(1, 1, engine.Meter{Key: m.Key, N: 1, Per: 1, Burst: 1, Each: -1}),
	} {
		_, err := q.Take(r.ctx, d)
		r.refused(err, "Take with "+what)
	}
	got := r.left(q, m)
	r.must(got == 5, "refused Takes left %d of 5 units: a refusal must charge nothing", got)
}

func quotaRefill(r *run, q engine.Quota) {
	m := r.per(5)
	before := r.Now()
	r.must(r.left(q, m) == 5, "a new meter is not full")
	drained := r.Now()
	r.Sleep(3 * r.Tick)
	asked := r.Now()
	got := r.left(q, m)
	least := int64((asked.Sub(drained) - r.Slack) / r.Tick)
	most := int64(r.Now().Sub(before) / r.Tick)
	r.must(got >= min(least, 5), "%v after it was drained, a meter of one token per %v held %d: must be at least %d", asked.Sub(drained), r.Tick, got, least)
	r.must(got <= most, "%v after it was drained, a meter of one token per %v held %d: cannot be more than %d", r.Now().Sub(before), r.Tick, got, most)
	r.Sleep(20 * r.Tick)
	got = r.left(q, m)
	r.must(got == 5, "after a long rest a meter with a burst of 5 held %d", got)
}

func quotaRetry(r *run, q engine.Quota) {
	m := r.per(3)
	before := r.Now()
	r.left(q, m)
	g := r.take(q, units(2, 2, m))
	after := r.Now()
	r.must(g.Units == 0, "a drained meter granted 2 units at once")
	r.must(after.Add(g.Retry).Sub(before) >= 2*r.Tick, "a denial said that 2 units come in %v after the meter was drained: at one per %v that is too early", after.Add(g.Retry).Sub(before), r.Tick)
	r.must(g.Retry <= 2*r.Tick, "a denial said that 2 units come in after %v, at one per %v", g.Retry, r.Tick)
	r.Sleep(g.Retry + r.Slack)
	r.must(r.take(q, units(2, 2, m)).Units == 2, "a denied Take was denied again after its Retry, %v", g.Retry)
}

func quotaNoFractionLoss(r *run, q engine.Quota) {
	m := r.per(10)
	before := r.Now()
	r.left(q, m)
	drained := r.Now()
	var got, spilled int64
	for range 12 {
		begin := r.Now()
		r.Sleep(r.Tick + r.Tick/2) // one token and a half
		got += r.take(q, units(1, 10, m)).Units
		spilled += max(0, int64(r.Now().Sub(begin)/r.Tick)+1-m.Burst) // this test slept too long
	}
	least := int64((r.Now().Sub(drained)-r.Slack)/r.Tick) - 1 - spilled
	most := int64(r.Now().Sub(before) / r.Tick)
	r.must(got >= least, "polling a range every one and a half tokens brought %d units, and %d came in: the fraction was charged and not granted; round down before charging", got, least)
	r.must(got <= most, "polling a range brought %d units, and only %d came in", got, most)
}

func quotaAllOrNothing(r *run, q engine.Quota) {
	a, dry, b := r.slow(5), r.slow(1), r.slow(7)
	r.take(q, units(1, 1, dry))
	for _, list := range [][]engine.Meter{{a, dry, b}, {dry, a, b}, {a, b, dry}} {
		g := r.take(q, units(1, 1, list...))
		r.must(g.Units == 0, "Take of three meters, one of them dry, was granted")
	}
	gotA, gotB := r.left(q, a), r.left(q, b)
	r.must(gotA == 5 && gotB == 7, "Take of three meters, one of them dry, was denied and left %d of 5 and %d of 7 in the others: either all are charged or none; look at all before charging any", gotA, gotB)

	a, b, c := r.slow(5), r.slow(3), r.slow(9)
	g := r.take(q, units(1, 4, a, b, c))
	r.must(g.Units == 3, "Take of 1 to 4 of meters that hold 5, 3 and 9 returned %d: as many as all of them have, 3", g.Units)
	gotA, gotB, gotC := r.left(q, a), r.left(q, b), r.left(q, c)
	r.must(gotA == 2 && gotB == 0 && gotC == 6, "a grant of 3 units left %d of 5, %d of 3 and %d of 9: every meter must be charged what was granted", gotA, gotB, gotC)
}

func quotaEach(r *run, q engine.Quota) {
	calls, words := r.slow(10), r.slow(100)
	words.Each = 30
	g := r.take(q, units(1, 5, calls, words))
	r.must(g.Units == 3, "Take of 1 to 5 units that cost 30 of 100 tokens each returned %d units: must be 3", g.Units)
	gotCalls, gotWords := r.left(q, calls), r.left(q, words)
	r.must(gotCalls == 7 && gotWords == 10, "3 units of one call and 30 words each left %d of 10 calls and %d of 100 words: must be 7 and 10", gotCalls, gotWords)
}

func quotaBooking(r *run, q engine.Quota) {
	m := r.per(2)
	before := r.Now()
	r.left(q, m)
	d := units(1, 1, m)
	d.MaxWait = 100 * r.Tick
	for i := 1; i <= 5; i++ {
		g := r.take(q, d)
		use := r.Now().Add(g.After)
		due := before.Add(time.Duration(i) * r.Tick)
		r.must(g.Units == 1, "Take that waits %v was denied, and its unit comes in within %v", d.MaxWait, time.Duration(i)*r.Tick)
		r.must(!use.Before(due), "booking number %d of a drained meter may be used %v after it was drained: at one per %v that is before its time", i, use.Sub(before), r.Tick)
		r.must(use.Sub(due) <= r.Slack, "booking number %d of a drained meter is for %v after it was drained: at one per %v that is %v late", i, use.Sub(before), r.Tick, use.Sub(due))
	}
	g := r.take(q, units(1, 1, m))
	r.must(g.Units == 0, "a meter with five bookings granted a sixth unit at once")
}

func quotaBookingRange(r *run, q engine.Quota) {
	m := r.per(4)
	before := r.Now()
	r.left(q, m)
	d := units(2, 10, m)
	d.MaxWait = 5*r.Tick + r.Tick/2
	g := r.take(q, d)
	after := r.Now()
	r.must(g.Units >= 2, "Take of 2 to 10 that waits %v was denied, at one token per %v", d.MaxWait, r.Tick)
	r.must(after.Add(g.After).Sub(before) >= 2*r.Tick, "the first Min, 2, of a booked range may be used %v after the meter was drained: at one per %v that is before their time", after.Add(g.After).Sub(before), r.Tick)
	r.must(g.Units == 2 || g.Every >= r.Tick, "the units of a booked range come every %v: at one per %v that is before their time", g.Every, r.Tick)
	r.must(g.After <= 2*r.Tick && (g.Units == 2 || g.Every <= r.Tick), "a booked range of 2 to 10 comes after %v and then every %v: must be %v and %v", g.After, g.Every, 2*r.Tick, r.Tick)
	if r.Exact {
		r.must(g.Units == 5, "a booked range within %v returned %d units: must be as many as come in, 5", d.MaxWait, g.Units)
	}
	next := units(1, 1, m)
	next.MaxWait = 100 * r.Tick
	use := r.take(q, next).After + r.Now().Sub(before)
	r.must(use >= time.Duration(g.Units+1)*r.Tick, "after a booked range of %d units the next comes %v after the meter was drained: the range was not charged", g.Units, use)
}

func quotaBookingTooLong(r *run, q engine.Quota) {
	m := r.per(3)
	before := r.Now()
	r.left(q, m)
	d := units(3, 3, m)
	d.MaxWait = 2 * r.Tick
	for range 5 {
		g := r.take(q, d)
		r.must(g.Units == 0, "Take of 3 units that waits %v was granted on a drained meter of one token per %v", d.MaxWait, r.Tick)
	}
	d = units(1, 1, m)
	d.MaxWait = 100 * r.Tick
	g := r.take(q, d)
	late := r.Now().Add(g.After).Sub(before) - r.Tick
	r.must(g.Units == 1 && late <= r.Slack, "after bookings that were denied because they would have come too late, the next unit comes %v late: a denial must charge nothing", late)
}

// quotaKeep: what a draw keeps is there for those that keep less, and for nobody else.
func quotaKeep(r *run, q engine.Quota) {
	calls, words := r.slow(10), r.slow(100)
	words.Each = 8
	d := units(1, 20, calls, words)
	d.Keep = 6
	g := r.take(q, d)
	r.must(g.Units == 4, "Take of 1 to 20 units that keeps 6 of 10 got %d: must be 4", g.Units)
	r.must(g.Retry > 0, "Take that keeps 6 got less than Max and Retry is %v: must be how long it takes until one more comes in", g.Retry)
	g = r.take(q, d)
	r.must(g.Units == 0 && g.Retry > 0, "Take that keeps 6 got %d units with 6 there, and Retry is %v: what it keeps is for others", g.Units, g.Retry)
	d.Keep = 4
	g = r.take(q, d)
	r.must(g.Units == 2, "Take that keeps 4 got %d units with 6 there: must be 2", g.Units)
	gotCalls, gotWords := r.left(q, calls), r.left(q, words)
	r.must(gotCalls == 4 && gotWords == 52, "6 units of one call and 8 words each were granted by draws that keep some, and %d of 10 calls and %d of 100 words are there: must be 4 and 52, what is kept is not charged", gotCalls, gotWords)

	m := r.slow(10)
	for _, keep := range []int64{10, -1} {
		d := units(1, 1, m)
		d.Keep = keep
		_, err := q.Take(r.ctx, d)
		r.refused(err, "Take of 1 unit that keeps what with it exceeds a burst of 10, or less than nothing,")
	}
}

// quotaKeepBooking: a booking that keeps units is for when they are there as well.
func quotaKeepBooking(r *run, q engine.Quota) {
	m := r.per(4)
	before := r.Now()
	r.left(q, m)
	d := units(1, 1, m)
	d.Keep, d.MaxWait = 2, 10*r.Tick
	g := r.take(q, d)
	after := r.Now()
	r.must(g.Units == 1, "Take of 1 that keeps 2 and waits %v was denied, at one token per %v", d.MaxWait, r.Tick)
	r.must(after.Add(g.After).Sub(before) >= 3*r.Tick, "a booking of 1 that keeps 2 may be used %v after the meter was drained: at one per %v that is before what it keeps is there", after.Add(g.After).Sub(before), r.Tick)
	r.must(g.After <= 3*r.Tick, "a booking of 1 that keeps 2 is for %v later, at one per %v", g.After, r.Tick)
	urgent := units(1, 1, m)
	urgent.MaxWait = 10 * r.Tick
	use := r.take(q, urgent).After + r.Now().Sub(before)
	r.must(use >= 2*r.Tick && use <= 2*r.Tick+r.Slack, "a draw that keeps nothing, after a booking of 1 that keeps 2, gets its unit %v after the meter was drained: must be %v, one unit was charged and it waits for no more", use, 2*r.Tick)
	late := d
	late.MaxWait = r.Tick
	denied := r.take(q, late)
	r.must(denied.Units == 0, "Take of 1 that keeps 2 was granted on a drained meter within %v", late.MaxWait)
	r.must(denied.Retry <= 5*r.Tick, "a denial of 1 that keeps 2, with 2 booked, comes with Retry %v: must be %v less what has passed", denied.Retry, 5*r.Tick)
	r.Sleep(denied.Retry + r.Slack)
	r.must(r.take(q, late).Units == 1, "a denied Take that keeps 2 was denied again after its Retry, %v", denied.Retry)
}

func quotaOpID(r *run, q engine.Quota) {
	m := r.slow(10)
	d := units(1, 3, m)
	d.Op = engine.NewOpID()
	for range 3 {
		g := r.take(q, d)
		r.must(g.Units == 3, "Take repeated with its OpID returned %d units: must be answered like the first, 3", g.Units)
	}
	op := engine.NewOpID()
	for range 3 {
		err := q.Settle(r.ctx, op, []engine.Correction{{Meter: m, Delta: 2}})
		r.must(err == nil, "Settle repeated with its OpID returned %v", err)
	}
	got := r.left(q, m)
	r.must(got == 5, "Take of 3 and Settle of 2, each repeated with its OpID, left %d of 10: a repetition takes effect once", got)

	m = r.per(1)
	r.left(q, m)
	d = units(1, 1, m)
	d.Op, d.MaxWait = engine.NewOpID(), 10*r.Tick
	before := r.Now()
	first := r.take(q, d)
	r.Sleep(r.Tick / 2)
	second := r.take(q, d)
	r.must(second.Units == first.Units, "a booking repeated with its OpID returned %d units, the first %d", second.Units, first.Units)
	drift := r.Now().Add(second.After).Sub(before) - first.After
	r.must(drift <= r.Slack, "a booking repeated with its OpID is for %v later than the first: After counts from the answer", drift)
}

func quotaOpIDTogether(r *run, q engine.Quota) {
	m := r.slow(100)
	d := units(1, 5, m)
	d.Op = engine.NewOpID()
	r.together(8, func(int) {
		if g, err := q.Take(r.ctx, d); err != nil || g.Units != 5 {
			r.fail("Take repeated at once with its OpID returned %d units, %v: all must be answered like the first, 5", g.Units, err)
		}
	})
	got := r.left(q, m)
	r.must(got == 95, "Take of 5, sent 8 times at once with one OpID, left %d of 100: it takes effect once", got)
}

func quotaEndedContext(r *run, q engine.Quota) {
	m := r.slow(5)
	_, err := q.Take(endedContext(), units(1, 1, m))
	r.must(err != nil, "Take with a context that had ended returned no error")
	errSettle := q.Settle(endedContext(), engine.OpID{}, []engine.Correction{{Meter: m, Delta: 1}})
	r.must(errSettle != nil, "Settle with a context that had ended returned no error")
	r.Sleep(r.Tick)
	got := r.left(q, m)
	if errors.Is(err, engine.ErrRefused) && errors.Is(errSettle, engine.ErrRefused) {
		r.must(got == 5, "Take and Settle returned ErrRefused, and %d of 5 units are left: ErrRefused means certainly not charged", got)
	}
}

// use is a unit that may be used; the engine granted it no earlier than Lo, no later than Hi.
type use struct{ Lo, Hi time.Duration }

// quotaExact lets several clients draw as fast as they can, now and booked, and looks at
// every window. It begins at different points of a tick: an engine that counts by windows
// of its own grants twice the burst at the edge of two.
func quotaExact(r *run, q engine.Quota) {
	for round := range 3 {
		r.Sleep(r.Tick*time.Duration(3*round+2)/10 + 1)
		r.saturate(q, uint64(round))
	}
}

func (r *run) saturate(q engine.Quota, round uint64) {
	const clients, burst, ticks = 4, 10, 3
	m := engine.Meter{Key: r.key("exact"), N: 10, Per: r.Tick, Burst: burst}
	var mu sync.Mutex
	var uses []use
	var late time.Duration // the longest that a client slept too long, or an answer took
	asked := 0
	start := r.Now()
	r.together(clients, func(i int) {
		rnd := rand.New(rand.NewPCG(r.Seed+round, uint64(i)))
		for r.Now().Sub(start) < ticks*r.Tick {
			d := units(1, 1+rnd.Int64N(3), m)
			if i%2 == 0 {
				d.MaxWait = r.Tick / 5
			}
			lo := r.Now().Sub(start)
			g, err := q.Take(r.ctx, d)
			hi := r.Now().Sub(start)
			if err == nil {
				err = d.Check(g)
			}
			if err != nil {
				r.fail("Take returned %v", err)
				return
			}
			mu.Lock()
			last := time.Duration(0)
			for n := range g.Units {
				last = g.After + time.Duration(n)*g.Every
				uses = append(uses, use{lo + last, hi + last})
			}
			mu.Unlock()
			sleep := max(last, min(g.Retry, r.Tick/7)) + 1
			r.Sleep(sleep)
			mu.Lock()
			late = max(late, r.Now().Sub(start)-hi-sleep, hi-lo)
			asked++
			mu.Unlock()
		}
	})
	r.windows(uses, m)
	const least = burst + ticks*10/2
	r.must(len(uses) >= least || late > r.Tick/2 || asked < 10*clients && !r.Exact, "%d clients that draw all the time got %d units in %v: the burst of %d and most of the %d that came in are theirs", clients, len(uses), ticks*r.Tick, burst, ticks*10)
}

// windows looks at every window of uses, which are of single tokens of m.
func (r *run) windows(uses []use, m engine.Meter) {
	r.t.Helper()
	slices.SortFunc(uses, func(a, b use) int { return cmp.Compare(a.Hi, b.Hi) })
	for _, first := range uses {
		sum := int64(0)
		for _, last := range uses {
			if last.Lo < first.Lo {
				continue
			}
			sum++
			window := last.Hi - first.Lo
			most := m.Burst + int64(window/m.Every())
			r.must(sum <= most, "%d units were granted in a window of %v: at most B + r*W = %d + %d (seed %d)", sum, window, m.Burst, most-m.Burst, r.Seed)
		}
	}
}
