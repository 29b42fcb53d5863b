package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
)

// Layers of package resilience stand around the gates, in any order, and no promise breaks: the
// model says what each does to a call, and holds everything else as it does without them.

// layers is what stands around the gates in one sequence.
type layers struct {
	names   []string // outermost first
	falls   bool     // a Fallback answers for some calls
	within  bool     // it stands inside the Retry, which then sees an answer
	keeps   bool     // a Cache
	joins   bool     // a Join, by which nobody shares: code has a goroutine that it has started
	total   int64    // of a Timeout; zero is none
	each    bool     // it stands inside the Retry: each attempt has so much
	hedges  bool     // a Hedge, which has no second attempt made
	rests   bool     // a Retry
	base    int64    // of its waits
	longest int64

	onces *sluice.SharedState // of a Once, whose keys no two calls share; nil if there is none

	repeat  map[error]bool // what the Retry is to repeat
	resting []*call        // that wait for their second attempt
	tied    []*call        // of those, who leave at once
}

// instead is what a Fallback answers.
const instead = -1

var errDeclined = errors.New("the fallback's own error")

// stack draws the layers, and makes them. What a Hedge does with a second attempt, and a Once with duplicates, is for
// TestHedgeAndOnce: here they have none.
func (w *world) stack() (list []sluice.Interceptor) {
	if w.repeat = map[error]bool{}; !w.one("layers", 2) {
		return nil
	}
	all := func(sluice.Spec) bool { return true }
	kinds := []layer{
		{"fallback", func() (sluice.Interceptor, error) {
			w.falls, w.within = true, w.rests
			return resilience.NewFallback(resilience.FallbackConfig{Func: w.insteadOf})
		}},
		{"cache", func() (sluice.Interceptor, error) {
			w.keeps = true
			return resilience.NewCache(resilience.CacheConfig{Tools: all, TTL: 1 << 61})
		}},
		{"join", func() (sluice.Interceptor, error) {
			w.joins = true
			return resilience.NewJoin(resilience.JoinConfig{Tools: all})
		}},
		{"timeout", func() (sluice.Interceptor, error) {
			if w.total, w.each = int64(ticks(w.draw("total ticks", 10, 60))), w.rests; w.one("endless", 3) {
				w.total = 1 << 61
			}
			return resilience.NewTimeout(resilience.TimeoutConfig{Total: time.Duration(w.total)})
		}},
		{"retry", func() (sluice.Interceptor, error) {
			w.rests, w.base = true, int64(ticks(w.draw("base ticks", 1, 8)))
			w.longest = w.base * int64(w.draw("longest", 1, 2))
			return resilience.NewRetry(resilience.RetryConfig{
				Attempts: 2, Base: time.Duration(w.base), Max: time.Duration(w.longest), Jitter: resilience.NoJitter, If: w.repeats,
				Budget: sluice.Must(resilience.NewBudget(resilience.BudgetConfig{Min: 1 << 20})),
			})
		}},
	}
	for _, k := range w.alone() {
		if k.name != "hedge" || !w.nests { // with which what is nested ends as the call around it does, at one instant
			kinds = append(kinds, k)
		}
	}
	for len(kinds) > 0 {
		i := w.draw("layer", 0, len(kinds)-1)
		if k := kinds[i]; w.one("stands", 2) {
			list = append(list, sluice.Must(k.make()))
			w.names = append(w.names, k.name)
		}
		kinds = slices.Delete(kinds, i, i+1)
	}
	w.logf("layers %v, total %d, waits %d to %d", w.names, w.total, w.base, w.longest)
	return list
}

// layer is one that may stand.
type layer struct {
	name string
	make func() (sluice.Interceptor, error)
}

// alone are the layers of which calls see nothing here but that they stand.
func (w *world) alone() []layer {
	all := func(sluice.Spec) bool { return true }
	return []layer{
		{"hedge", func() (sluice.Interceptor, error) {
			w.hedges = true
			return resilience.NewHedge(resilience.HedgeConfig{Tools: all, After: 1 << 61})
		}},
		{"once", func() (sluice.Interceptor, error) {
			w.onces = sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
			return resilience.NewOnce(resilience.OnceConfig{
				Key:   func(c sluice.Call) (string, bool) { return fmt.Sprint(c.Input), true },
				State: w.onces, TTL: 365 * 24 * time.Hour, Lease: 24 * time.Hour,
			})
		}},
	}
}

// timed reports whether attempts may be over before their code is.
func (w *world) timed() bool { return w.timeout > 0 || w.total > 0 }

// away reports whether code has another goroutine than who calls.
func (w *world) away() bool { return w.timed() || w.detached() }

// detached reports whether code has a context of its own, which ends a little later than who called goes on.
func (w *world) detached() bool { return w.joins || w.hedges }

// insteadOf is the Fallback's function: of a call for which it has no answer it says so.
func (w *world) insteadOf(_ context.Context, c sluice.Call, err error) (any, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.calls[c.Input.(int)]
	if !x.falls {
		return nil, errDeclined
	}
	x.hidden = err
	return instead, nil
}

// repeats is the Retry's rule.
func (w *world) repeats(_ sluice.Spec, _ sluice.Attempt, _ sluice.Result, err error) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for ; err != nil; err = errors.Unwrap(err) {
		if w.repeat[err] {
			return true
		}
	}
	return false
}

// bounds books for how long x may go on, which arrives now, as the Timeout has it.
func (w *world) bounds(now int64, x *call) {
	if x.due == 0 {
		x.due = never
		if w.total > 0 {
			x.due = now + w.total
		}
	}
	if x.due < never {
		x.limit = min(x.limit, x.due-1)
	}
}

// rest books that x, which has failed, is to be tried again, and when, if the Retry is to wait for it.
func (w *world) rest(x *call, e ending) {
	w.mu.Lock()
	w.repeat[e.err] = true
	w.mu.Unlock()
	now := w.now()
	wait, left := max(w.base, int64(e.pause)), never
	if d, ok := x.ctx.Deadline(); ok && !w.outside("join", "retry") { // of which the execution does not know
		left = int64(d.Sub(w.born)) - now
	}
	if !w.each && x.due < never {
		left = min(left, x.due-now)
	}
	if wait > w.longest || wait >= left || x.ctx.Err() != nil || w.closing[x.exec] || w.within && x.falls {
		return
	}
	w.logf("  %v is tried again at %d", x, now+wait)
	x.resume = now + wait
	w.resting = append(w.resting, x)
	if w.leaves(x) == x.resume { // nobody knows what comes first: it leaves before
		w.logf("  it leaves before that")
		w.tied = append(w.tied, x)
	}
}

// untie has those leave that would leave just when they are to be tried again.
func (w *world) untie() {
	if len(w.tied) == 0 {
		return
	}
	w.begin("leave instead of coming again")
	for _, x := range w.tied {
		x.cancel()
	}
	w.tied = nil
	w.observe()
}

// resume has the second attempts arrive that are due.
func (w *world) resume() {
	now, place := w.now(), 0
	for _, x := range slices.Clone(w.resting) {
		if x.resume > now {
			continue
		}
		w.stay(x)
		w.again(x)
		w.counts.rests++
		if place == 0 {
			place = w.place
		}
		x.tries[len(x.tries)-1].place = place // nobody knows which of them comes first
	}
}

// letGo books that those leave which wait for their second attempt and whose context has ended.
func (w *world) letGo() {
	for _, x := range slices.Clone(w.resting) {
		if x.ctx.Err() != nil {
			x.gone = true
			w.stay(x)
			w.counts.ended++
		}
	}
}

// stay has x wait for no second attempt.
func (w *world) stay(x *call) {
	w.resting = slices.DeleteFunc(w.resting, func(y *call) bool { return y == x })
}

// leavesRest has the caller of x leave, which waits for its second attempt and holds nothing.
func (w *world) leavesRest() {
	x := pick(w, "call", w.resting)
	if p := x.parent; p != nil && !w.tangled(p) && w.one("with what it is nested in", 2) {
		w.begin("end around one that waits")
		w.goOn(p, w.drawEnding)
		w.observe()
		return
	}
	w.begin("leave between attempts")
	w.logf("  %v", x)
	x.gone = true
	w.stay(x)
	x.cancel()
	w.counts.leftRest++
	w.observe()
}

// replay asks again what the cache has an answer for: it comes at once, whatever limits say.
func (w *world) replay() {
	if !w.keeps {
		w.rt.Skip("no cache")
	}
	x := pick(w, "call", slices.DeleteFunc(slices.Clone(w.calls), func(x *call) bool { return !x.kept }))
	w.begin("replay")
	w.last = w.draw("exec", 0, len(w.execs)-1)
	ctx := sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{Tenant: x.tenant, Priority: x.asked})
	f := w.execs[w.last].Submit(ctx, sluice.Request{ID: fmt.Sprint("r", w.act), Tool: x.tool.name, Input: x.seq})
	w.observe()
	select {
	case <-f.Done():
	default:
		w.fatal("%v is not answered again", x)
	}
	r, err := f.Wait(context.Background())
	switch closed := w.closing[w.last]; {
	case closed && !errors.Is(err, sluice.ErrClosed), !closed && (err != nil || r.Value != x.seq):
		w.fatal("%v is answered again with %v, %v", x, r.Value, err)
	}
	w.counts.replays++
}

// outside reports whether the one layer stands around the other.
func (w *world) outside(one, other string) bool {
	i := slices.Index(w.names, one)
	return i >= 0 && i < slices.Index(w.names, other)
}

// isLate reports whether nobody waits for an answer of the fallback's any more.
func isLate(ctx context.Context) bool {
	at, ok := ctx.Deadline()
	return ok && time.Until(at) <= time.Nanosecond
}

// unhide has e say what the call has come to, if the Fallback has answered for it, and checks that it has whenever it
// must.
func (w *world) unhide(now int64, e *entry) {
	x := e.x.first
	if !w.falls || e.start || e.exited {
		return
	}
	if e.err == nil && e.value == instead {
		if e.err = x.hidden; e.err == nil || !x.falls {
			w.fatal("%v has an answer of the fallback's", x)
		}
		e.hidden = true
		w.counts.instead++
		return
	}
	var both *resilience.FallbackError
	var p *sluice.PanicError
	switch {
	case e.err == nil, errors.As(e.err, &both) && !x.falls && both.Fallback == errDeclined:
	case x.ctx.Err() != nil, errors.Is(e.err, sluice.ErrClosed):
	case isLate(x.ctx), w.outside("timeout", "fallback") && now >= x.due-1: // a wait ends a nanosecond before
	case errors.As(e.err, &p) && p.Goexit && !w.timed(): // which no layer sees but a Join
	case w.joins && w.timed() && now == e.x.expires: // its wait ends as what it waits for does
	default:
		w.fatal("%v ended with %v, and the fallback was not asked", x, e.err)
	}
}

// last is what the last attempt came to of a call that a Retry has given up, else err.
func last(err error) error {
	var gaveUp *resilience.RetryError
	if errors.As(err, &gaveUp) {
		return gaveUp.Tried[len(gaveUp.Tried)-1].Err
	}
	return err
}

// refusal is what of err says why x was refused, and whether that is to be asked.
func (w *world) refusal(x *call, err error) (error, bool) {
	var gaveUp *resilience.RetryError
	if errors.As(err, &gaveUp) {
		n := len(gaveUp.Tried)
		if n == 1 && w.lets(x, err) && errors.Is(err, x.first.said.err) {
			return err, false // a Join further in lets a caller go that leaves, and says nothing of the attempt
		}
		if n != 2 || !errors.Is(err, x.first.said.err) {
			w.fatal("%v has given up after %d attempts, with %v", x, n, err)
		}
		return last(err), true
	}
	return err, !(x != x.first && w.lets(x, err))
}

// lets reports whether a Join may have let x go, so that err is why it has left.
func (w *world) lets(x *call, err error) bool {
	return w.joins && x.ctx.Err() != nil && errors.Is(err, x.ctx.Err())
}
