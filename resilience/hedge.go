package resilience

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice"
)

// Hedge has calls that take long answered by a second attempt, if that is faster. It is an interceptor that
// stands before the gates: each of the two is admitted and charged anew. Both get the same input at once,
// so a tool must not change it; by default only tools that read are hedged. Attempts at once are no retries.
//
// Whichever attempt succeeds first is the call's result. The other is cancelled, with [ErrHedged] as its
// cause: it holds its slot until its code has ended, what it used counts, Close waits for it, and nobody
// gets its result; a stream is closed, if it is an io.Closer. If one fails while the other goes on, the call
// waits for that; if both fail, it ends as the first did, or as the second if the first alone was refused, as
// it does when its caller leaves then. One that fails before the second was due is not hedged: to repeat it is for
// a [Retry], which stands further out.
//
// The second attempt waits in the queue as any, one priority below the first. An open breaker or a full
// queue refuses it, which is no more than that: the call waits for the first. So nothing is hedged into what
// is down, and there is no rule about long queues beside the queue's own.
//
// A result that goes on using its context must be a stream, see [sluice.Hold]: that goes on until its caller
// leaves. Make it with [NewHedge]; it is safe for concurrent use. A call waits for its attempts, as it would
// for one; when its caller leaves, both end as one would.
type Hedge struct{ conf settings[HedgeConfig] }

// HedgeConfig configures a [Hedge]. The zero value hedges calls of tools that read after a second.
type HedgeConfig struct {
	Name  string                      // empty means "hedge"
	Tools func(tool sluice.Spec) bool // asked for each call, must not wait; nil means those hinted ReadOnly
	After time.Duration               // from where the call meets this interceptor to its second attempt; zero means 1 s

	// Quantile, as 0.95, has a call's second attempt begin when it has taken longer than that share of its
	// tool's last 128 first attempts that succeeded, but not within 1 ms. One that was overtaken counts with
	// what it had taken until then. After counts until there are 20, or 100 for 0.99. Zero means After alone.
	Quantile float64

	// Budget is asked when a second attempt is due, and gets back what was not admitted. It may be shared;
	// nil means one of its own, by a Share of 0.1.
	Budget *Budget
	_      struct{}
}

// hedgeFloor is the shortest time after which a call is hedged.
const hedgeFloor = time.Millisecond

// complete fills in the defaults.
func (c HedgeConfig) complete() (HedgeConfig, error) {
	c.Name, c.After = cmp.Or(c.Name, "hedge"), cmp.Or(c.After, time.Second)
	switch {
	case c.After < hedgeFloor:
		return c, fmt.Errorf("resilience: HedgeConfig.After is %v: must be zero (1 s) or at least 1 ms", c.After)
	case c.Quantile != 0 && !(c.Quantile >= 0.5 && c.Quantile <= 0.99):
		return c, fmt.Errorf("resilience: HedgeConfig.Quantile is %v: must be zero (After alone) or from 0.5 to 0.99", c.Quantile)
	}
	if c.Tools == nil {
		c.Tools = readOnly
	}
	return c, nil
}

func (c HedgeConfig) title() (kind, name string) { return "HedgeConfig", c.Name }

func (c HedgeConfig) keeps(was *HedgeConfig) (HedgeConfig, error) {
	c.Name, c.Budget = was.Name, cmp.Or(c.Budget, was.Budget)
	return c, nil
}

// NewHedge returns a Hedge, or an error that names the wrong field.
func NewHedge(c HedgeConfig) (*Hedge, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	if c.Budget == nil {
		if c.Budget, err = NewBudget(BudgetConfig{Share: 0.1}); err != nil {
			return nil, err
		}
	}
	h := new(Hedge)
	h.conf.Store(&c)
	return h, nil
}

// String is the name.
func (h *Hedge) String() string { return h.conf.Load().Name }

// Config returns a copy, defaults filled in.
func (h *Hedge) Config() HedgeConfig { return *h.conf.Load() }

// Change changes all but the name, by [sluice.Reconfigure], for calls that come from then on. Without a
// Budget it keeps the one that it has.
func (h *Hedge) Change(c HedgeConfig) sluice.Change { return h.conf.change(h, c, nil) }

// Inspect is the budget, for snapshots.
func (h *Hedge) Inspect() []sluice.GateState {
	c := h.conf.Load()
	return c.Budget.inspect(c.Name)
}

// Wrap makes h an interceptor.
func (h *Hedge) Wrap(tool sluice.Spec, next sluice.Handler) sluice.Handler {
	took := new(latencies)
	return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
		conf := h.conf.Load()
		if !conf.Tools(tool) {
			return next(ctx, c)
		}
		conf.Budget.sees()
		x := &hedging{conf: conf, ctx: ctx, call: c, next: next, took: took, ended: make(chan *entry, 2)}
		return x.run()
	}
}

// after is how long to wait for a first attempt, where others took as long as took has it.
func (c *HedgeConfig) after(took *latencies) time.Duration {
	if c.Quantile > 0 {
		if d, ok := took.quantile(c.Quantile); ok {
			return max(d, hedgeFloor)
		}
	}
	return c.After
}

// hedging is a call of which there may be two attempts.
type hedging struct {
	conf  *HedgeConfig
	ctx   context.Context
	call  sluice.Call
	next  sluice.Handler
	took  *latencies
	ended chan *entry // attempts, as they end; has room for both
}

// run makes the call.
func (x *hedging) run() (sluice.Result, error) {
	first, second := x.begin(x.call, false), (*entry)(nil)
	if first == nil {
		return x.next(x.ctx, x.call)
	}
	timer := time.NewTimer(x.conf.after(x.took))
	defer timer.Stop()
	var gone <-chan struct{}             // its caller: matters once the first attempt has failed
	failed, also := false, (*entry)(nil) // the second, once it has failed
	for {
		select {
		case <-timer.C:
			second = x.hedge(first.began)
		case <-gone:
		case e := <-x.ended:
			switch {
			case succeeded(e.was, e.err):
				x.drop(also)
				return x.won(e, first, second, failed)
			case e == first:
				failed, gone = true, x.ctx.Done()
			default:
				if e.was.Ran && (e.was.Running || errors.Is(e.err, sluice.ErrTimeout)) {
					goesOn(x.ctx, x.call)
				}
				second, also = nil, e
			}
		}
		if failed && (second == nil || x.ctx.Err() != nil) {
			if second != nil {
				goesOn(x.ctx, x.call)
			}
			x.drop(second)
			return x.lost(first, also, second != nil)
		}
	}
}

// hedge begins the second attempt, which is due, or answers nil if there is to be none.
func (x *hedging) hedge(began time.Time) *entry {
	if x.ctx.Err() != nil || len(x.ended) > 0 || !x.conf.Budget.spend() {
		return nil
	}
	c := x.call
	c.Emit(x.ctx, hedgeStarted, slog.Duration("after", time.Since(began)))
	c.Priority = max(c.Priority-1, sluice.PriorityBatch)
	e := x.begin(c, true)
	if e == nil {
		x.conf.Budget.giveBack()
	}
	return e
}

// won ends the call with what e has come to, one of the two attempts. The first may have failed.
func (x *hedging) won(e, first, second *entry, failed bool) (sluice.Result, error) {
	if e == first {
		x.learn(e.was.N > 0, e.lasted)
		x.drop(second)
	} else {
		x.call.Emit(x.ctx, hedgeWon)
		x.learn(!failed, time.Since(first.began)) // at least: if what is slow did not count, the rest would seem to be
		x.drop(first)
	}
	e.release(x.call)
	return e.res, e.err
}

// lost ends the call, whose first attempt has failed, as has the second if there is one; or its caller has left while
// that is still under way.
func (x *hedging) lost(first, second *entry, still bool) (sluice.Result, error) {
	if hedged := still || second != nil && second.isRefused(); hedged && first.isRefused() && x.ctx.Err() != nil {
		x.drop(first) // whose refusal says nothing of code that runs
		x.drop(second)
		return sluice.Result{}, left(x.ctx)
	}
	e := first
	if second != nil && first.isRefused() && !second.isRefused() { // what the tool says tells more
		e, second = second, first
	}
	x.drop(second)
	e.release(x.call)
	return e.res, e.err
}

// isRefused reports whether e has not been admitted.
func (e *entry) isRefused() bool { return e.was.N > 0 && !e.was.Ran }

// learn notes how long a first attempt took, if that says something and somebody asks.
func (x *hedging) learn(says bool, d time.Duration) {
	if says && x.conf.Quantile > 0 {
		x.took.add(d)
	}
}

// drop cancels e, which is not what the call ends with, and has its result disposed of. There may be no e.
func (x *hedging) drop(e *entry) {
	if e == nil {
		return
	}
	e.cancel(ErrHedged)
	if !e.over.CompareAndSwap(false, true) && e.was.Held { // it has ended
		x.call.Go(e.dispose)
	}
}

// entry is one of a call's two attempts.
type entry struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	began  time.Time
	over   atomic.Bool // it has ended, or has lost: who comes second disposes of its result

	// What follows is known when it has ended.
	lasted time.Duration
	res    sluice.Result
	err    error
	was    sluice.Attempt
}

// begin begins an attempt on a goroutine of its own, or answers nil if the call has ended.
func (x *hedging) begin(c sluice.Call, hedge bool) *entry {
	e := &entry{began: time.Now()}
	e.ctx, e.cancel = context.WithCancelCause(x.ctx)
	if !c.Go(func() { x.attempt(e, c, hedge) }) {
		e.cancel(nil)
		return nil
	}
	return e
}

// attempt is one, whatever becomes of it.
func (x *hedging) attempt(e *entry, c sluice.Call, hedge bool) {
	e.err = &sluice.PanicError{Tool: c.Tool, Goexit: true} // unless it says more
	defer func() {
		if v := recover(); v != nil { // of an interceptor further in
			e.res, e.err = sluice.Result{}, &sluice.PanicError{Tool: c.Tool, Value: v, Stack: debug.Stack()}
		}
		if hedge && e.isRefused() {
			x.conf.Budget.giveBack()
		}
		if e.over.CompareAndSwap(false, true) {
			x.ended <- e
		} else {
			e.dispose()
		}
	}()
	e.res, e.err = x.next(e.ctx, c)
	e.lasted = time.Since(e.began)
	e.was = c.AttemptOf(e.res, e.err)
}

// ErrHedged is why the context of an attempt has ended whose call has been answered by another.
var ErrHedged = errors.New("resilience: the call has been answered by another attempt")

// dispose ends the stream that nobody gets.
func (e *entry) dispose() {
	if e.was.Held {
		disposeOf(e.res)
	}
}

// disposeOf closes a stream.
func disposeOf(res sluice.Result) {
	defer func() { _ = recover() }()
	if s, ok := res.Value.(io.Closer); ok {
		s.Close()
	}
}

// release lets go of the context of e, an attempt of c that has ended, once that can be of no use.
func (e *entry) release(c sluice.Call) {
	if end := func() { e.cancel(nil) }; !c.AfterStream(e.res, end) {
		end()
	}
}
