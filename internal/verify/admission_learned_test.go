package verify

import (
	"math"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/sluice-go/sluice"
)

// What is not the library's to say, or not configured: limits that follow what calls meet, and
// a bucket that other code takes from too.

// aimd is what an adaptive limit has learned.
type aimd struct {
	limit int64          // zero: that it begins with
	calls map[*call]bool // that run, and have started since the last cut
	cut   bool           // there has been one
	good  int64          // successes at the limit since that last changed
}

// max is how many slots c has.
func (c *cell) max() int64 {
	if c.of.adaptive == nil {
		return c.of.max
	}
	if c.aimd.limit == 0 {
		return int64(c.of.adaptive.Min)
	}
	return c.aimd.limit
}

// learn moves the limit of c by how x, which still has its slots, ends: up by one with each
// success when all are taken, once it was cut with ten for each slot; down by a tenth, at least
// by one, once for all that were under way.
func (c *cell) learn(x *call, e ending) (moved bool) {
	since := c.aimd.calls[x]
	delete(c.aimd.calls, x)
	if c.of.adaptive == nil {
		return false
	}
	limit, most := c.max(), int64(c.of.adaptive.Max)
	switch e.how {
	case "return":
		if used, _ := c.used(nil); used < limit || limit >= most {
			return false
		}
		if c.aimd.good++; c.aimd.cut && c.aimd.good < 10*limit {
			return false
		}
		c.aimd.limit, c.aimd.good = limit+1, 0
		return true
	case "throttle":
		if !since {
			return false
		}
		c.aimd.calls = map[*call]bool{}
		tenth := int64(math.Ceil(float64(limit) / 10))
		c.aimd.limit, c.aimd.good, c.aimd.cut = max(int64(c.of.adaptive.Min), limit-tenth), 0, true
		return true
	}
	return false
}

// adapt changes the bounds of all cells.
func (l *limit) adapt(a *sluice.Adaptive) {
	for _, c := range l.cells {
		c.aimd.limit = min(max(c.max(), int64(a.Min)), int64(a.Max))
	}
	l.adaptive = a
}

func (w *world) drawAdaptive() *sluice.Adaptive {
	least := []int{1, 2, 3, 11}[w.draw("adaptive min", 0, 3)] // a tenth of the last may be two
	return &sluice.Adaptive{Min: least, Max: least + w.draw("adaptive span", 0, 4)}
}

// addAdaptive makes l, the last of w's, adaptive.
func (w *world) addAdaptive(l *sluice.Limit) {
	m := w.limits[len(w.limits)-1]
	if m.maxKeys > 0 {
		return // which would forget what it has learned whenever another needs the room
	}
	l.Max, l.Adaptive, w.adaptive = 0, w.drawAdaptive(), true
	m.max, m.adaptive = 0, l.Adaptive
	w.logf("%s: %+v", m.name, *l.Adaptive)
}

// addShared makes a rate limiter over a bucket of x/time/rate.
func (w *world) addShared() sluice.Interceptor {
	every, burst := rate.Every(ticks(w.draw("shared ticks", 1, 8))), w.draw("shared burst", 1, 4)
	w.shared = &limit{name: "rate/shared shared limiter", tokens: true, key: global, max: 0, burst: int64(burst), per: 1, count: 1,
		shared: rate.NewLimiter(every, burst), twin: rate.NewLimiter(every, burst), born: w.born, cells: map[string]*cell{}}
	w.shared.refuse = w.one("refuse", 12)
	return sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "shared", Limiter: w.shared.shared, Refuse: w.shared.refuse}))
}

// othersTake has code outside the library take a token of the shared bucket.
func (w *world) othersTake() {
	if w.shared == nil {
		w.rt.Skip("nothing is shared")
	}
	w.begin("others take")
	w.unseen(false)
	w.counts.others++
	now, ok := w.now(), w.shared.shared.Allow()
	edge := w.shared.onEdge(now)
	switch twin := w.shared.twin.AllowN(w.shared.instant(now), 1); {
	case twin == ok:
	case !edge:
		w.fatal("others got a token: %v, want %v", ok, twin)
	case ok:
		w.shared.twin.ReserveN(w.shared.instant(now), 1)
	default:
		w.shared.twin.ReserveN(w.shared.instant(now), -1)
	}
	w.observe()
}

func (l *limit) instant(at int64) time.Time { return l.born.Add(time.Duration(at)) }

// sharedAt is the first instant at which the shared bucket has a token.
func (l *limit) sharedAt(now int64) int64 {
	has := func(at int64) bool { return l.twin.TokensAt(l.instant(at)) >= 1 }
	if has(now) {
		return now
	}
	lo, hi := now, now+int64(time.Hour)
	for lo+1 < hi {
		if mid := lo + (hi-lo)/2; has(mid) {
			hi = mid
		} else {
			lo = mid
		}
	}
	return hi
}

// sharedLate is by how many nanoseconds the library may see that otherwise: how long to wait is
// computed in fractions of tokens, and rounded.
const sharedLate = 2

// onEdge reports whether the shared bucket may have a token at now or not: one comes at about that instant, and twin
// has not been asked all that the bucket was.
func (l *limit) onEdge(now int64) bool {
	if !l.blurred {
		return false
	}
	at := l.sharedAt(now - sharedLate)
	return at > now-sharedLate && at <= now+sharedLate
}

// blur notes that a token of each shared bucket that x needs may have come and gone.
func (x *call) blur() {
	for _, n := range x.needs {
		n.cell.of.blurred = n.cell.of.blurred || n.cell.of.shared != nil
	}
}

func (w *world) slack() int64 {
	if w.shared == nil {
		return 0
	}
	return sharedLate
}

// fresh reports whether c has got its token just now.
func (c *cell) fresh(now int64) bool {
	return c.of.shared != nil && c.of.sharedAt(now-sharedLate) > now-sharedLate
}

// waitedForFresh reports whether x needs a token that has come just now, or is about to.
func (x *call) waitedForFresh(now int64) bool {
	return slices.ContainsFunc(x.needs, func(n need) bool { return n.cell.fresh(now) })
}

// giveBack returns the token of a call that has not run: only if it has left at once, since
// nobody can tell otherwise how much of it time has brought.
func (l *limit) giveBack(now, since int64) {
	if float64(now-since)/1e9*float64(l.twin.Limit()) < 0.01 {
		l.twin.ReserveN(l.instant(now), -1)
	}
}

// guess reports whether x may have been refused by an estimate: on arrival, if asked for, since it
// has to wait and has not for ever. Where it waits for tokens alone for which nobody else does, no
// estimate is needed.
func (w *world) guess(now int64, x *call) bool {
	if w.sched == nil || !w.sched.Config().RefuseLate || x.act != w.act || x.limit == never {
		return false
	}
	if w.racy {
		return true
	}
	_, deadline := x.ctx.Deadline()
	if (deadline || x.due < never) && !w.could(now, x) {
		return true // it may not be done by then
	}
	alone := true
	for _, n := range x.needs {
		others := slices.ContainsFunc(w.came, func(y *call) bool {
			return slices.ContainsFunc(y.needs, func(k need) bool { return k.cell == n.cell })
		})
		alone = alone && n.cell.of.shared == nil && (n.cell.agrees(now, x, n.n) || n.cell.of.tokens && n.cell.opens(now) == now) && !others
	}
	return !alone
}

// mean moves an eighth of the way to each of a row of durations; it begins with the first.
type mean int64

func (m *mean) add(d int64) {
	if *m == 0 {
		*m = mean(d)
	} else {
		*m += mean(floorDiv(d-int64(*m), 8))
	}
}

// standing notes since when calls have waited.
func (w *world) standing(now int64) {
	for i := range w.stands {
		switch waits := slices.ContainsFunc(w.waiting, func(x *call) bool { return x.exec == i }); {
		case !waits:
			w.stands[i] = never
		case w.stands[i] == never:
			w.stands[i] = now
		}
	}
}

// stood reports whether x may have been shed since the queue has stood for too long, as is
// found out when another starts, also if that is cancelled at once: for at least twenty times as long as calls took, on average, with nobody
// less urgent there, but for those who are refused in the same step.
func (w *world) stood(now int64, x *call) bool {
	return w.sched != nil && w.sched.Config().ShedStanding && x.act < w.act && w.stands[x.exec] != never && w.quick != never &&
		(slices.ContainsFunc(w.mayHaveStarted(), func(y *call) bool { return y.exec == x.exec }) || slices.ContainsFunc(w.began, func(y *call) bool { return y.exec == x.exec })) &&
		now-w.stands[x.exec] >= 20*w.quick &&
		!slices.ContainsFunc(w.waiting, func(y *call) bool {
			return y.exec == x.exec && y.act < w.act && y.priority < x.priority && !slices.Contains(w.leaving, y)
		})
}
