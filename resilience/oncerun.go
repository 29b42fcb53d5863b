package resilience

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/sluice-go/sluice"
)

// onceRun is one execution for a key.
type onceRun struct {
	once   *Once
	id     onceID
	record *onceRecord
	args   string
	by     string   // which execution it is
	call   string   // the ID of its call
	up     *onceRun // that this one is nested in
	ended  bool     // for its caller, whose goroutine it is that looks

	mu     sync.Mutex
	beat   *time.Timer    // renews the lease
	still  bool           // no more
	blind  bool           // Inner sees nothing
	ran    bool           // it has seen code run that has ended
	late   bool           // and succeed when its time was over
	hangs  bool           // code may go on, or have gone on, of which the outcome says nothing
	inside int            // code that goes on
	value  *sluice.Result // of code that has succeeded
	gone   bool           // the caller has left, and not the code
}

// onceRunKey asks a context for the innermost execution.
type onceRunKey struct{}

func onceRunOf(ctx context.Context) *onceRun {
	r, _ := ctx.Value(onceRunKey{}).(*onceRun)
	return r
}

// begin has the execution begin, or answers what there is of another; it waits while that is under way
// elsewhere, or until ctx ends.
func (r *onceRun) begin(ctx context.Context) (*onceEnding, error) {
	for {
		conf := r.once.conf.Load()
		had, taken, err := r.record.look()
		now := time.Now()
		if err == nil && !taken {
			r.by = rand.Text()
			had, taken, err = r.record.add(onceEntry{V: onceVersion, State: onceRunning, Args: r.args, By: r.by,
				Since: wall(now), Lease: wall(now.Add(conf.Lease))}, longer(conf.DoubtTTL, conf.Lease))
		}
		switch {
		case err != nil:
			return &onceEnding{err: &OnceStateError{err}}, nil
		case !taken:
			r.keep(conf.Lease)
			return nil, nil
		}
		if x := had.ending(r.id.OnceKey, r.args, now); x != nil {
			return x, nil
		}
		if err := r.record.await(ctx, &had); err != nil {
			return nil, err
		}
	}
}

// longer is the sum, or the longest time if there is none.
func longer(a, b time.Duration) time.Duration {
	if c := a + b; c > 0 {
		return c
	}
	return a
}

// keep has the lease, which is for so long now, be renewed until quiet: each time three times in what the entry says,
// whatever the configuration has come to.
func (r *onceRun) keep(lease time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.beat = time.AfterFunc(lease/3, func() {
		conf := r.once.conf.Load()
		err := r.record.change(r.by, false, longer(conf.DoubtTTL, conf.Lease), func(e *onceEntry) error {
			if e.State != onceRunning {
				return errOnceLost
			}
			e.Lease = wall(time.Now().Add(conf.Lease))
			return nil
		})
		r.mu.Lock()
		defer r.mu.Unlock()
		if err == nil {
			lease = conf.Lease
		}
		if !r.still && err != errOnceLost {
			r.beat.Reset(lease / 3)
		}
	})
}

// quietLocked ends that. A renewal that is under way changes nothing any more once the entry has changed.
func (r *onceRun) quietLocked() {
	r.still = true
	r.beat.Stop()
}

// onceFacts is what is known of an execution when its caller goes on.
type onceFacts struct {
	normal      bool // it returned
	failed      bool // with an error
	timedOut    bool // that says that its time is over
	rejected    bool // or that it did not run
	left        bool // the caller's own time is over
	cooperative bool // the code cannot go on without its caller
	instead     bool // the result is not the tool's, say of a Fallback further in
	attempt     sluice.Attempt

	listed  bool // Inner is, and tells this:
	entered bool // the code began
	inside  int  // how often it still runs
	value   bool // it has succeeded, in some attempt
	late    bool // when nobody waited for that any more

	hangs bool // without Inner: code that is not of the attempt may go on, or have succeeded late
}

// onceVerdict is what becomes of the key.
type onceVerdict uint8

const (
	onceKeep   onceVerdict = iota // the result is kept
	onceRescue                    // so is the one that the code gave, though its caller did not wait for it
	onceUnsure                    // in doubt
	onceOver                      // the code has ended: free, unless the error is kept
	onceIdle                      // it did not run: free
)

// verdict says what becomes of the key.
func (f *onceFacts) verdict() onceVerdict {
	a := f.attempt
	switch ran := f.entered || a.Ran; {
	case f.normal && !f.failed && !f.instead && (a.N == 0 || a.Outcome == sluice.OutcomeSuccess):
		return onceKeep
	case f.inside > 0, !f.entered && (a.Running || f.hangs): // who has seen the code knows sooner that it has ended
		return onceUnsure
	case f.value && (f.instead || f.failed && (f.timedOut || f.left || f.late)):
		return onceRescue
	case f.entered:
		return onceOver
	case ran && f.timedOut && !f.cooperative: // it may have succeeded at the last moment
		return onceUnsure
	case ran:
		return onceOver
	case f.listed, a.N > 0, f.rejected:
		return onceIdle
	case !f.normal: // it came up through this goroutine
		return onceOver
	}
	return onceUnsure
}

// end says how the execution has ended for its caller, and answers what those get who wait for it; nil if
// they get nothing, and the next is to execute.
func (r *onceRun) end(f onceFacts, res sluice.Result, err error) (shared *onceEnding) {
	r.ended = true
	r.mu.Lock()
	r.quietLocked()
	f.listed, f.entered, f.inside, f.value = r.once.inner.Load() && !r.blind, r.ran || r.inside > 0, r.inside, r.value != nil
	f.late, f.hangs = r.late, r.hangs && !f.listed
	v := f.verdict()
	r.gone = v == onceUnsure
	r.mu.Unlock()
	conf := r.once.conf.Load()
	switch v {
	case onceKeep:
		return r.store(conf, res)
	case onceRescue:
		return r.store(conf, *r.value)
	case onceUnsure:
		return r.doubt(conf)
	case onceIdle:
		r.free()
		return nil
	}
	kept := r.over(conf, err)
	var panicked *sluice.PanicError
	switch {
	case err == nil: // a failing result
		if raw, err := res.JSON(); err == nil {
			return &onceEnding{raw: raw}
		}
		return nil
	case kept, f.normal && !f.left && !errors.As(err, &panicked):
		return &onceEnding{err: sluice.Elsewhere(err)}
	}
	return nil
}

// over says that the code has ended with err, nil for a failing result, and reports whether that is kept.
func (r *onceRun) over(conf *OnceConfig, err error) (kept bool) {
	decided := false
	defer func() {
		if !decided || !kept {
			r.free()
		}
	}()
	kept = err != nil && conf.Errors(err)
	decided = true
	if kept {
		r.fail(conf, sluice.CodeOf(err), err.Error())
	}
	return kept
}

// free lets go of the key. If it cannot, the key is in doubt when the lease has run out.
func (r *onceRun) free() {
	_ = r.record.remove(func(e *onceEntry) error {
		if e.By != r.by {
			return errOnceLost
		}
		return nil
	})
}

// doubt has the key be in doubt, unless the code has ended meanwhile.
func (r *onceRun) doubt(conf *OnceConfig) *onceEnding {
	now := time.Now()
	_ = r.record.change(r.by, false, conf.DoubtTTL, func(e *onceEntry) error {
		if e.State != onceRunning {
			return errOnceLost
		}
		e.become(onceDoubt, now)
		e.By = r.by
		return nil
	})
	return &onceEnding{err: sluice.Elsewhere(&OnceInDoubtError{r.id.OnceKey, wall(now)})}
}

// store keeps a result, or that there is one which cannot be kept.
func (r *onceRun) store(conf *OnceConfig, res sluice.Result) *onceEnding {
	raw, err := res.JSON()
	if err == nil {
		err = r.conclude(conf, onceDone, func(e *onceEntry) { e.Result = raw })
		if err == nil || err == errOnceLost { // it was decided about the key meanwhile: that stands
			return &onceEnding{raw: raw}
		}
	}
	r.fail(conf, onceNotStored, "")
	if raw != nil {
		return &onceEnding{raw: raw}
	}
	e := onceEntry{Args: r.args, State: onceFailed, Code: onceNotStored, Since: wall(time.Now())}
	return e.ending(r.id.OnceKey, r.args, e.Since)
}

// fail keeps an error, or that there is an end which cannot be kept: that takes no more room than what there
// was. If not even that can be, the key is in doubt when the lease has run out.
func (r *onceRun) fail(conf *OnceConfig, code, text string) {
	err := r.conclude(conf, onceFailed, func(e *onceEntry) { e.Code, e.Text = code, cutText(text) })
	if err != nil && err != errOnceLost && code != onceNotStored {
		r.fail(conf, onceNotStored, "")
	}
}

// conclude makes the entry one of that state, for its lifetime.
func (r *onceRun) conclude(conf *OnceConfig, state string, f func(e *onceEntry)) error {
	now := time.Now()
	return r.record.change(r.by, true, conf.TTL, func(e *onceEntry) error {
		e.Args = r.args
		e.become(state, now)
		f(e)
		return nil
	})
}

// cutText is s as valid UTF-8 of bounded length.
func cutText(s string) string {
	if len(s) > maxErrorText {
		s = s[:maxErrorText]
	}
	b, _ := json.Marshal(s)
	_ = json.Unmarshal(b, &s)
	return s
}

// onceInner is [Once.Inner].
type onceInner struct{ once *Once }

// String is the name.
func (x onceInner) String() string { return x.once.String() + " inner" }

// Wrap makes x an interceptor.
func (x onceInner) Wrap(_ sluice.Spec, next sluice.Handler) sluice.Handler {
	return func(ctx context.Context, c sluice.Call) (res sluice.Result, err error) {
		r := onceRunOf(ctx) // of a call that has a key, whatever tools have one by now
		for r != nil && (r.once != x.once || r.id.Tool != c.Tool || r.call != c.ID) {
			r = r.up
		}
		if r == nil { // a call without a key
			return next(ctx, c)
		}
		if c.Attempt == 0 { // x stands before the gates, where no code is seen
			r.astray()
			return next(ctx, c)
		}
		normal := false
		r.enter()
		defer func() {
			if !normal {
				err = &sluice.PanicError{Tool: c.Tool, Goexit: true}
			}
			r.leave(ctx, c, res, err)
		}()
		res, err = next(ctx, c)
		normal = true
		return res, err
	}
}

// astray says that Inner stands where it sees nothing.
func (r *onceRun) astray() {
	r.mu.Lock()
	r.blind = true
	r.mu.Unlock()
}

// goesOn tells the executions that c is of that code of it may go on, or have succeeded when its time was over, and
// that what c comes to will not say so.
func goesOn(ctx context.Context, c sluice.Call) {
	for r := onceRunOf(ctx); r != nil; r = r.up {
		if r.id.Tool == c.Tool && r.call == c.ID {
			r.mu.Lock()
			r.hangs = true
			r.mu.Unlock()
		}
	}
}

// enter says that code begins.
func (r *onceRun) enter() {
	r.mu.Lock()
	r.inside++
	r.mu.Unlock()
}

// leave says that the code of c has ended, as late as that may be, or has not begun.
func (r *onceRun) leave(ctx context.Context, c sluice.Call, res sluice.Result, err error) {
	over := ctx.Err() != nil
	own, refused := errors.AsType[*sluice.Error](err)
	refused = refused && own.CallID == c.ID && own.Tool == c.Tool && own.Is(sluice.ErrRejected)
	r.mu.Lock()
	r.ran = r.ran || !refused
	if r.inside--; err == nil {
		r.value, r.late = &res, r.late || over
	}
	late, ran, value := r.gone && r.inside == 0, r.ran, r.value
	r.mu.Unlock()
	switch {
	case !late:
	case value != nil:
		r.store(r.once.conf.Load(), *value)
	case ran:
		r.over(r.once.conf.Load(), err)
	default:
		r.free()
	}
}
