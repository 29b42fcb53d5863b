package sluice

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/deadline"
	"github.com/sluice-go/sluice/internal/permit"
)

// maxHold bounds for how long a stream can hold a call open.
const maxHold = 10 * time.Minute

// Hold keeps the running call open beyond the return of its tool, for a tool that answers
// with a stream: its slots stay taken, [ReportUsage] counts, and the terminal event and
// [Executor.Close] wait until done is called. The caller of the tool has its result at
// once.
//
// The stream uses the context that Hold returns. It ends with the one that Hold was given,
// when done has been called, and when the time of the attempt is over that its Timeout gives
// it, or after ten minutes if that is sooner or there is none: then the hold is given up, and
// the call ends as timed out. With a Timeout, an earlier deadline of the caller gives it up too.
//
// An error given to done is what the call ends with, to sinks and breakers; an error of the
// tool ends its holds at once. Only the first done counts, from whichever goroutine. A call
// may have several holds, and ends with the last. If an interceptor drops a result, it must
// see to it that its stream ends.
//
// Outside a call, after the tool has returned or its time is over, and beyond 1,000 holds of a
// call at once, Hold answers an error. Neither it nor
// done waits for anybody, but done may call the sinks.
func Hold(ctx context.Context) (stream context.Context, done func(error), err error) {
	r := scopeOf(ctx).call
	if r == nil {
		return nil, nil, errors.New("sluice: Hold: the context belongs to no call: must be the one that a tool gets, or made from it")
	}
	exec := r.inv.plan.exec
	now := exec.clock.Now()
	due := now + int64(maxHold)
	if x, ok := r.Context.(*timedRun); ok {
		due = min(due, x.Due())
	}
	h := &hold{r: r}
	stream, h.cancel = context.WithCancelCause(ctx)
	if err := r.hold(h); err != nil {
		h.cancel(nil)
		return nil, nil, err
	}
	exec.deadlines.Add(h, due)
	if h.over.Load() { // already: it was not there yet to be removed
		exec.deadlines.Remove(h)
	}
	return stream, h.done, nil
}

// hold is one stream that holds an attempt open.
type hold struct {
	deadline.Entry
	r      *running
	cancel context.CancelCauseFunc
	asked  atomic.Bool // done has been called
	over   atomic.Bool // it is given up
	failed atomic.Pointer[error]
}

// holds are those of a call. The stage's lock guards them.
type holds struct {
	list  []*hold
	early []stream // that failed before their tool has returned
	stream
}

// holds is what streams do to the call's attempts, nil without one.
func (f *first) holds() *holds {
	if x := f.aside.Load(); x != nil {
		return x.holds.Load()
	}
	return nil
}

// stream is what became of the attempt whose result the caller has, and which is held.
type stream struct {
	r       *running // nil until it has returned
	err     error    // what the stream ended with
	outcome breaker.Outcome
	end     *ending // the call's, if that has to wait for the stream
}

// of is the stream if that is the attempt r's, else nil.
func (h *holds) of(r *running) *stream {
	if h == nil || h.r != r {
		return nil
	}
	return &h.stream
}

// hold adds h, or says why it cannot.
func (r *running) hold(h *hold) error {
	s := r.adm.stage.Lock()
	defer s.Unlock()
	switch r.state.Hold() {
	case permit.Returned:
		return errors.New("sluice: Hold: the tool has returned: a call can be held open only while its code runs")
	case permit.Late:
		return errors.New("sluice: Hold: the time of the attempt is over: a call can be held open only before that")
	case permit.TooMany:
		return fmt.Errorf("sluice: Hold: the call is held open %d times: must be at most that at once", permit.MaxHolds)
	}
	sum := r.inv.ownTotals()
	if sum.holds() == nil {
		sum.remembers().holds.Store(new(holds))
	}
	sum.holds().list = append(sum.holds().list, h)
	return nil
}

// streams says that the result of r, which has returned it, is the call's as far as anybody
// knows yet.
func (r *running) streams() {
	if !r.state.WasHeld() {
		return
	}
	s := r.adm.stage.Lock()
	if h := r.inv.first.holds(); h.end == nil {
		h.stream = stream{r: r}
		if i := slices.IndexFunc(h.early, func(x stream) bool { return x.r == r }); i >= 0 {
			h.stream = h.early[i]
		}
	}
	s.Unlock()
}

// endStreams ends the holds of an attempt that has failed.
func (r *running) endStreams(err error) {
	if !r.state.IsHeld() {
		return
	}
	s := r.adm.stage.Lock()
	list := slices.Clone(r.inv.first.holds().list)
	s.Unlock()
	for _, h := range list {
		if h.r == r && h.over.CompareAndSwap(false, true) {
			h.end(nil, breaker.Success, context.Canceled)
		}
	}
}

// done ends the hold, with the stream's error.
func (h *hold) done(err error) {
	if h.over.Load() || !h.asked.CompareAndSwap(false, true) { // nobody asks any more after Close
		return
	}
	outcome, r := breaker.Success, h.r
	defer func() { // also if the error's own code calls Goexit
		if h.over.CompareAndSwap(false, true) {
			h.end(err, outcome, nil)
		}
	}()
	if err == nil {
		return
	}
	outcome = breaker.Failure
	if exec := r.inv.plan.exec; !tame(err) || r.adm.classify != nil {
		given := err
		h.failed.Store(&given)
		exec.deadlines.Remove(h)
		exec.deadlines.Add(h, exec.clock.Now()+int64(maxJudging))
		if h.over.Load() { // already: it was not there yet to be removed
			exec.deadlines.Remove(h)
			return
		}
	}
	var c Call
	r.inv.fill(&c)
	c.Attempt = r.attempt
	o, pauses := r.adm.judge(r, &c, Result{}, err)
	outcome = o
	err = r.inv.verdict(err, true) // which may be a refusal of a nested call
	if len(pauses) > 0 {
		s := r.adm.stage.Lock()
		if r.live {
			r.adm.throttle(s, r, pauses)
		}
		s.Unlock()
	}
}

// Expire ends a hold that has lasted too long, or whose end has been judged for too long.
func (h *hold) Expire() {
	if !h.over.CompareAndSwap(false, true) {
		return
	}
	if err := h.failed.Load(); err != nil {
		h.end(passedOn(*err, h.r.inv.key), breaker.Failure, nil)
		return
	}
	outcome := breaker.Failure
	if x, ok := h.r.Context.(*timedRun); ok && x.Borrowed() || h.r.caller().Err() != nil { // the time was the caller's
		outcome = breaker.Neutral
	}
	err := h.r.inv.refused(ErrTimeout, "", context.DeadlineExceeded)
	h.end(err, outcome, err)
}

// end gives back what h kept.
func (h *hold) end(err error, outcome breaker.Outcome, cause error) {
	r := h.r
	r.inv.plan.exec.deadlines.Remove(h)
	s := r.adm.stage.Lock()
	all := r.inv.first.holds()
	all.list = slices.DeleteFunc(all.list, func(x *hold) bool { return x == h })
	switch x := all.of(r); {
	case err == nil:
	case x == nil: // the tool has not returned yet
		all.early = append(all.early, stream{r: r, err: err, outcome: outcome})
	case x.err == nil:
		x.err, x.outcome = err, outcome
	}
	s.Unlock()
	h.cancel(cause)
	if r.state.EndHold() {
		r.adm.giveBack(r, nil)
	}
}
