package resilience

import (
	"cmp"
	"container/list"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice"
)

// Once lets a tool have its effect once for a key, however many calls bring that key. They may come one after the
// other or at the same time: one of them executes, and the others get its result, each a copy. It is an interceptor that stands before the gates, outside what repeats; its other part,
// [Once.Inner], stands after them.
//
// What somebody further in has answered instead of the tool ([sluice.Result.AnsweredBy]) is not kept. With Inner the
// key is free then unless the tool's code goes on; without, nobody knows whether it does, and the key is in doubt.
//
// Keys count for a tenant and a tool. What is known of a key is kept in a [sluice.SharedState], so that it
// holds for all who share that. If it cannot be kept there the tool does not run: [*OnceStateError]. A call
// that brings a known key with other arguments ends with a [*OnceMismatchError].
//
// An execution that is refused leaves the key free, and so does one that fails, panics or exits, unless
// [OnceConfig].Errors says otherwise. Its error reaches those who wait for it here. If there is none to
// share, since it was refused or panicked or its caller left, the next who waits executes at once. While it
// is not known whether there has been an effect, as the code goes on after its caller did or a process has
// died, the key is in doubt, and nobody executes: [*OnceInDoubtError].
//
// Make it with [NewOnce]; it is safe for concurrent use. A call waits while another with its key is under
// way, or until its context ends. One nested in such a call is refused.
type Once struct {
	conf  settings[OnceConfig]
	inner atomic.Bool // Inner is in use

	mu      sync.Mutex
	flights map[onceID]*onceFlight
}

// OnceConfig configures a [Once]. Key is required.
type OnceConfig struct {
	Name  string                      // empty means "once"
	Tools func(tool sluice.Spec) bool // asked for each call, must not wait; nil means all

	// Key is what a call and its duplicates have in common: 1 to 255 bytes of UTF-8, as an order's number
	// or what a request's Idempotency-Key header says; ok is false for a call that has none, and is not
	// looked at. A call's ID will not do, since a model that asks again gives another. It must not wait; a
	// panic ends the call.
	Key func(c sluice.Call) (key string, ok bool)

	State    *sluice.SharedState // nil means that of the call's context, see [sluice.StateFrom]; not one in a Txn
	TTL      time.Duration       // of results, from their end on; zero means 24 h
	DoubtTTL time.Duration       // a key that is in doubt for so long is free again; zero means TTL

	// Lease is for how long a process that has not been heard of is taken to live; it is renewed three
	// times in that. Clocks of processes should differ by less. Zero means 30 s; from 10 ms to 24 h.
	Lease time.Duration

	// Errors says which errors, of code that has ended, are kept as results are, so that the key is not
	// free; a duplicate ends with a [*OnceFailedError]. nil means none. It must not wait.
	Errors func(err error) bool
	_      struct{}
}

const (
	minLease = 10 * time.Millisecond
	maxLease = 24 * time.Hour
	maxKey   = 255 // bytes
)

// complete fills in the defaults.
func (c OnceConfig) complete() (OnceConfig, error) {
	c.Name = cmp.Or(c.Name, "once")
	c.TTL, c.Lease = cmp.Or(c.TTL, 24*time.Hour), cmp.Or(c.Lease, 30*time.Second)
	c.DoubtTTL = cmp.Or(c.DoubtTTL, c.TTL)
	switch {
	case c.Key == nil:
		return c, errors.New("resilience: OnceConfig.Key is nil: must say which calls are the same")
	case c.TTL < 0:
		return c, fmt.Errorf("resilience: OnceConfig.TTL is %v: must be zero (24 h) or positive", c.TTL)
	case c.DoubtTTL < 0:
		return c, fmt.Errorf("resilience: OnceConfig.DoubtTTL is %v: must be zero (TTL) or positive", c.DoubtTTL)
	case c.Lease < minLease || c.Lease > maxLease:
		return c, fmt.Errorf("resilience: OnceConfig.Lease is %v: must be zero (30 s) or from %v to %v", c.Lease, minLease, maxLease)
	}
	if err := unit("OnceConfig.TTL", c.TTL); err != nil { // any DoubtTTL will do: one that is over at once
		return c, err
	}
	if c.Tools == nil {
		c.Tools = func(sluice.Spec) bool { return true }
	}
	if c.Errors == nil {
		c.Errors = func(error) bool { return false }
	}
	return c, nil
}

func (c OnceConfig) title() (kind, name string) { return "OnceConfig", c.Name }

func (c OnceConfig) keeps(was *OnceConfig) (OnceConfig, error) {
	switch {
	case c.Key != nil:
		return c, errors.New("resilience: OnceConfig.Key is set: cannot change, must be nil")
	case c.State != nil && c.State != was.State:
		return c, errors.New("resilience: OnceConfig.State is another: cannot change, must be nil or the one of before")
	}
	c.Name, c.Key, c.State = was.Name, was.Key, was.State
	return c, nil
}

// NewOnce returns a Once, or an error that names the wrong field.
func NewOnce(c OnceConfig) (*Once, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	o := &Once{flights: make(map[onceID]*onceFlight)}
	o.conf.Store(&c)
	return o, nil
}

// String is the name.
func (o *Once) String() string { return o.conf.Load().Name }

// Config returns a copy, defaults filled in, to be changed: it is without Key, which stays.
func (o *Once) Config() OnceConfig {
	c := *o.conf.Load()
	c.Key = nil
	return c
}

// Change changes all but Name, Key and State, by [sluice.Reconfigure], also while calls are under way: no key is
// executed twice for it, and nothing that is kept is lost. Key must be nil, and State nil or the same, since with
// others a duplicate would not be known as one.
//
// TTL and Errors are for executions that end from then on, DoubtTTL is for keys that come to be in doubt from then on;
// what is kept has the time that it was given. An execution under way has the new Lease, and the new DoubtTTL after
// it, from its next renewal on. A tool that Tools leaves out has no keys any more: its calls execute, whatever is kept.
func (o *Once) Change(c OnceConfig) sluice.Change { return o.conf.change(o, c, nil) }

// Inspect is how many keys calls are under way for, for snapshots.
func (o *Once) Inspect() []sluice.GateState {
	o.mu.Lock()
	defer o.mu.Unlock()
	return []sluice.GateState{{Name: o.String(), Used: int64(len(o.flights))}}
}

// Inner is the part of o that stands after the gates, last, in each executor that o stands in. It sees when the
// tool's code ends, and with what, also if nobody waits for it any more: the key is in doubt no longer then,
// and a late result is what duplicates get. In an executor without gates it sees nothing.
//
// Without it the key of a call that failed stays in doubt for DoubtTTL, or until somebody decides, if one of its
// attempts timed out, or went on when a [Hedge] did not wait for it; and so does that of a call that another
// interceptor, between o and the gates, has ended by an error of its own.
func (o *Once) Inner() sluice.Interceptor {
	o.inner.Store(true)
	return onceInner{o}
}

// Wrap makes o an interceptor.
func (o *Once) Wrap(tool sluice.Spec, next sluice.Handler) sluice.Handler {
	return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
		conf := o.conf.Load()
		if !conf.Tools(tool) {
			return next(ctx, c)
		}
		key, ok := conf.Key(c)
		if !ok {
			return next(ctx, c)
		}
		id, args, err := o.identify(ctx, &c, key)
		if err != nil {
			return sluice.Result{}, err
		}
		f, w, err := o.join(id, args)
		if err != nil {
			return sluice.Result{}, err
		}
		bounded, cancel := o.bounded(ctx, c)
		defer cancel()
		if w != nil {
			x, cause := o.wait(bounded, f, w)
			if cause != nil {
				return sluice.Result{}, cause
			}
			if x != nil {
				x.tell(ctx, c)
				return x.answer(tool)
			}
		}
		return o.lead(ctx, bounded, c, tool, next, f)
	}
}

// bounded is ctx with the time that an interceptor further out has left the call.
func (o *Once) bounded(ctx context.Context, c sluice.Call) (context.Context, context.CancelFunc) {
	if at, ok := c.Deadline(context.Background()); ok {
		return context.WithDeadline(ctx, at)
	}
	return ctx, func() {}
}

// onceID is a key in all its scope.
type onceID struct {
	OnceKey
	state *sluice.SharedState
}

// OnceKey is a key and where it counts.
type OnceKey struct {
	Tenant string // as in [sluice.PipelineContext], or the OrgID without one
	Tool   string
	Key    string
}

// identify says what c is of, and what it asks for.
func (o *Once) identify(ctx context.Context, c *sluice.Call, key string) (id onceID, args string, err error) {
	id = onceID{OnceKey{cmp.Or(c.Pipeline.Tenant, c.Pipeline.OrgID), c.Tool, key}, o.state(ctx)}
	if id.state == nil {
		return id, "", &OnceStateError{sluice.ErrNoState}
	}
	if err = id.check(); err != nil {
		return id, "", err
	}
	for r := onceRunOf(ctx); r != nil; r = r.up {
		if r.id == id {
			return id, "", errOnceNested
		}
	}
	if args, err = argsHash(*c); err != nil {
		return id, "", fmt.Errorf("resilience: arguments that cannot be compared: %w", err)
	}
	return id, args, nil
}

var errOnceNested = errors.New("resilience: the call is nested in one with the same key: it would wait for itself")

// state is where what is known of keys is kept, under ctx; nil if there is none.
func (o *Once) state(ctx context.Context) *sluice.SharedState {
	return cmp.Or(o.conf.Load().State, sluice.StateFrom(ctx))
}

// onceFlight is the calls of one key that are under way here: one leads, the others wait for what it gets.
type onceFlight struct {
	id      onceID
	args    string
	waiting list.List // of *onceWaiter; guarded by Once.mu
}

// onceWaiter is a call that waits. It is told once: how the execution has ended, or nil if it is to lead.
type onceWaiter struct {
	told chan *onceEnding
	at   *list.Element // nil once it is told; guarded by Once.mu
}

// onceEnding is how an execution has ended, for those who share it.
type onceEnding struct {
	raw json.RawMessage // the result, or
	err error           // as an interceptor is to answer it
}

// answer is what a call of the tool gets.
func (x *onceEnding) answer(tool sluice.Spec) (sluice.Result, error) {
	if x.err != nil {
		return sluice.Result{}, x.err
	}
	v, err := tool.Decode(x.raw)
	if err != nil {
		return sluice.Result{}, sluice.Elsewhere(&OnceStateError{fmt.Errorf("its result is not what the tool gives now: %w", err)})
	}
	return sluice.Result{Value: v}, nil
}

// tell has it be told that c, which has not executed, ends so.
func (x *onceEnding) tell(ctx context.Context, c sluice.Call) {
	var mismatch *OnceMismatchError
	var state *OnceStateError
	if !x.tellDoubt(ctx, c) && !errors.As(x.err, &mismatch) && !errors.As(x.err, &state) {
		c.Emit(ctx, onceReplayed, slog.Bool("failed", x.err != nil))
	}
}

// tellDoubt has it be told that the key of c is in doubt, if it is. There may be no x.
func (x *onceEnding) tellDoubt(ctx context.Context, c sluice.Call) bool {
	if x == nil {
		return false
	}
	doubt, ok := errors.AsType[*OnceInDoubtError](x.err)
	if ok {
		c.Emit(ctx, onceInDoubt, slog.Time("since", doubt.Since))
	}
	return ok
}

// join has a call wait with the others of its key. The first does not, but leads: w is nil.
func (o *Once) join(id onceID, args string) (f *onceFlight, w *onceWaiter, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f = o.flights[id]
	switch {
	case f == nil:
		f = &onceFlight{id: id, args: args}
		o.flights[id] = f
		return f, nil, nil
	case f.args != args:
		return nil, nil, &OnceMismatchError{id.OnceKey}
	}
	w = &onceWaiter{told: make(chan *onceEnding, 1)}
	w.at = f.waiting.PushBack(w)
	return f, w, nil
}

// wait waits until w is told, or until ctx ends, and answers why that has. Both nil means that the call
// leads.
func (o *Once) wait(ctx context.Context, f *onceFlight, w *onceWaiter) (x *onceEnding, cause error) {
	select {
	case x = <-w.told:
	case <-ctx.Done():
		o.mu.Lock()
		if w.at != nil {
			f.waiting.Remove(w.at)
			o.mu.Unlock()
			return nil, context.Cause(ctx)
		}
		o.mu.Unlock()
		x = <-w.told // at the same time
	}
	if x == nil && ctx.Err() != nil { // it cannot lead
		o.release(f, nil)
		return nil, context.Cause(ctx)
	}
	return x, nil
}

// release tells those who wait what the leader has come to; nil means that the next is to lead.
func (o *Once) release(f *onceFlight, x *onceEnding) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for e := f.waiting.Front(); e != nil; e = f.waiting.Front() {
		w := f.waiting.Remove(e).(*onceWaiter)
		w.at = nil
		w.told <- x // there is room
		if x == nil {
			return
		}
	}
	delete(o.flights, f.id)
}

// lead finds out for f what there is for its key, or executes c.
func (o *Once) lead(ctx, bounded context.Context, c sluice.Call, tool sluice.Spec, next sluice.Handler, f *onceFlight) (res sluice.Result, err error) {
	var shared *onceEnding
	defer func() { o.release(f, shared) }()
	r := &onceRun{once: o, id: f.id, args: f.args, call: c.ID, up: onceRunOf(ctx)}
	r.record = recordOf(f.id)
	if shared, err = r.begin(bounded); err != nil {
		return res, err
	} else if shared != nil {
		shared.tell(ctx, c)
		return shared.answer(tool)
	}
	normal := false
	defer func() {
		if !normal && !r.ended {
			exit := &sluice.PanicError{Tool: c.Tool, Goexit: true} // or an interceptor's panic
			shared = r.end(onceFacts{left: bounded.Err() != nil}, res, exit)
		}
	}()
	res, err = next(context.WithValue(ctx, onceRunKey{}, r), c)
	facts := onceFacts{normal: true, attempt: c.AttemptOf(res, err), cooperative: tool.Policy.Cooperative,
		instead: res.AnsweredBy() != ""}
	if err != nil {
		facts.left = bounded.Err() != nil
		facts.timedOut, facts.rejected = errors.Is(err, sluice.ErrTimeout), errors.Is(err, sluice.ErrRejected)
		facts.failed = true
	}
	shared = r.end(facts, res, err)
	normal = true
	shared.tellDoubt(ctx, c)
	return res, err
}

// Forget says that the effect of a key in doubt has not happened: the key is free. It also forgets a result.
// It fails, with an error that says so, if there is nothing, or while a call is under way.
func (o *Once) Forget(ctx context.Context, k OnceKey) error {
	r, err := o.recordFor(ctx, k)
	if err != nil {
		return err
	}
	return r.forget()
}

// Resolve says that the effect of a key in doubt has happened: duplicates get result, which must be what
// the tool gives, or its JSON as a json.RawMessage. It fails, with an error that says so, if the key is not
// in doubt.
func (o *Once) Resolve(ctx context.Context, k OnceKey, result any) error {
	r, err := o.recordFor(ctx, k)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(result)
	if err != nil {
		return fmt.Errorf("resilience: Once.Resolve: the result has no JSON: %w", err)
	}
	return r.resolve(raw, o.conf.Load().TTL)
}

func (o *Once) recordFor(ctx context.Context, k OnceKey) (*onceRecord, error) {
	id := onceID{k, o.state(ctx)}
	if id.state == nil {
		return nil, &OnceStateError{sluice.ErrNoState}
	}
	if err := id.check(); err != nil {
		return nil, err
	}
	return recordOf(id), nil
}

// OnceMismatchError is what a call ends with whose key was brought before with other arguments. The tool has
// not run for it. Its code is once_mismatch.
type OnceMismatchError struct{ OnceKey }

// Error is one line, without the key.
func (e *OnceMismatchError) Error() string {
	return fmt.Sprintf("resilience: the key was used for a call of tool %q with other arguments: must be another for another call", e.Tool)
}

// Code is once_mismatch.
func (e *OnceMismatchError) Code() string { return "once_mismatch" }

// OnceInDoubtError is what a call ends with of whose key it is not known whether there has been an effect.
// It is no refusal. Once the code has ended, or after DoubtTTL, or when [Once.Forget] or [Once.Resolve] has
// decided, the key is in doubt no longer. Its code is once_in_doubt.
type OnceInDoubtError struct {
	OnceKey
	Since time.Time // that the caller left, or the process was last known to live
}

// Error is one line, without the key.
func (e *OnceInDoubtError) Error() string {
	return fmt.Sprintf("resilience: tool %q may have had its effect already, or may be having it: in doubt since %s",
		e.Tool, e.Since.UTC().Format(time.RFC3339))
}

// Code is once_in_doubt.
func (e *OnceInDoubtError) Code() string { return "once_in_doubt" }

// OnceFailedError is what a duplicate of a call ends with whose error was kept. Its code is the reason, or
// tool_error if that is one of package sluice's own.
type OnceFailedError struct {
	Reason string    // its code, or once_not_stored if the call's result or error could not be kept
	Text   string    // of the error, at most 1 KiB
	At     time.Time // when the call ended
}

// Error is the text.
func (e *OnceFailedError) Error() string { return e.Text }

// Code is the reason.
func (e *OnceFailedError) Code() string { return e.Reason }

// OnceStateError is what a call ends with if what is known of its key cannot be read or kept. It wraps why,
// as [sluice.ErrNoState] or [sluice.ErrFull]. Its code is once_state.
type OnceStateError struct{ Err error }

// Error is one line.
func (e *OnceStateError) Error() string {
	return fmt.Sprintf("resilience: what is known of the key cannot be used: %v", e.Err)
}

// Unwrap is why.
func (e *OnceStateError) Unwrap() error { return e.Err }

// Code is once_state.
func (e *OnceStateError) Code() string { return "once_state" }
