package resilience

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"
	"sync"

	"github.com/sluice-go/sluice"
)

// Join lets calls that ask for the same at the same time share one execution. It is an interceptor that
// stands before the gates: of what is shared only the execution takes slots and tokens. Each call has its
// own events and outcome; a tool's error, or panic, reaches all.
//
// Who leaves does not take the others' execution along: its context ends when the last of them leaves.
// Whoever comes then, or finds that the execution was refused because its own caller left, has one of
// its own. So has each that finds that the outcome is none to share: a stream, see [sluice.Hold], which is
// its own caller's alone, or what is not of an attempt of the tool, as the answer of a [Fallback] further in.
//
// A [Timeout] bounds an execution if it stands further in, and else each call; one that began the execution
// takes that along. Make it with [NewJoin]; it is safe for concurrent use. A call that shares waits for the
// outcome, or until its context ends.
type Join struct {
	conf settings[JoinConfig]

	mu      sync.Mutex
	flights map[flightKey]*flight
}

// flightKey tells executions apart. Those of before and after a change have nothing in common.
type flightKey struct {
	conf *JoinConfig
	key  string
}

// JoinConfig configures a [Join].
type JoinConfig struct {
	Name  string                      // empty means "join"
	Tools func(tool sluice.Spec) bool // asked for each call, must not wait; nil means those hinted ReadOnly or Idempotent

	// Key tells what calls ask for; ok is false for one that shares nothing. nil means tool, tenant,
	// arguments and priority: who is urgent does not wait for who is not. It must not wait; a panic ends
	// the call.
	Key func(c sluice.Call) (key string, ok bool)
	_   struct{}
}

// complete fills in the defaults. There are no others to check.
func (c JoinConfig) complete() (JoinConfig, error) {
	c.Name = cmp.Or(c.Name, "join")
	if c.Tools == nil {
		c.Tools = harmless
	}
	if c.Key == nil {
		c.Key = func(c sluice.Call) (string, bool) {
			key, ok := callKey(c)
			return strconv.Itoa(int(c.Priority)) + " " + key, ok
		}
	}
	return c, nil
}

func (c JoinConfig) title() (kind, name string) { return "JoinConfig", c.Name }

func (c JoinConfig) keeps(was *JoinConfig) (JoinConfig, error) {
	c.Name = was.Name
	return c, nil
}

// NewJoin returns a Join.
func NewJoin(c JoinConfig) (*Join, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	j := &Join{flights: make(map[flightKey]*flight)}
	j.conf.Store(&c)
	return j, nil
}

// String is the name.
func (j *Join) String() string { return j.conf.Load().Name }

// Config returns a copy, defaults filled in.
func (j *Join) Config() JoinConfig { return *j.conf.Load() }

// Change changes all but the name, by [sluice.Reconfigure], for calls that come from then on: they share nothing
// with those of before.
func (j *Join) Change(c JoinConfig) sluice.Change { return j.conf.change(j, c, nil) }

// Inspect is how many executions are under way that calls can share, for snapshots.
func (j *Join) Inspect() []sluice.GateState {
	j.mu.Lock()
	defer j.mu.Unlock()
	return []sluice.GateState{{Name: j.String(), Used: int64(len(j.flights))}}
}

// Wrap makes j an interceptor.
func (j *Join) Wrap(tool sluice.Spec, next sluice.Handler) sluice.Handler {
	return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
		conf := j.conf.Load()
		if !conf.Tools(tool) {
			return next(ctx, c)
		}
		key, ok := conf.Key(c)
		if !ok || ctx.Err() != nil { // who has left before is refused
			return next(ctx, c)
		}
		for {
			f, own := j.board(ctx, flightKey{conf, key})
			switch {
			case !own:
			case ctx.Done() == nil || !c.Go(func() { f.run(next, c) }): // it will not leave
				f.run(next, c)
			}
			if cause := f.wait(ctx, c); cause != nil {
				if j.leave(f, own) {
					c.Go(f.dispose)
				}
				return sluice.Result{}, cause
			}
			switch j.leave(f, false); {
			case own:
				f.release(ctx, c)
				return f.res, f.err
			case f.isVoid():
			case f.private:
				return next(ctx, c)
			default:
				c.Emit(ctx, joinShared)
				return f.share(tool)
			}
		}
	}
}

// flight is one execution that calls share.
type flight struct {
	join   *Join
	key    flightKey
	ctx    context.Context // of the execution
	cancel context.CancelFunc
	aboard int  // calls that wait for it; guarded by join.mu
	orphan bool // its own caller has left; likewise
	over   bool // it has ended; likewise

	done    chan struct{} // closed when what follows is known
	res     sluice.Result
	err     error
	ran     bool            // the tool has
	held    bool            // res is a stream
	private bool            // it is nobody's but its own caller's
	raw     json.RawMessage // of res, for those who share it; nil if it has none
}

// wait waits for the outcome, or until ctx or the time of c ends, and answers why that has.
func (f *flight) wait(ctx context.Context, c sluice.Call) error {
	if at, ok := c.Deadline(context.Background()); ok { // which an interceptor further out has set
		bounded, cancel := context.WithDeadline(ctx, at)
		defer cancel()
		ctx = bounded
	}
	select {
	case <-f.done:
		return nil
	case <-ctx.Done():
	}
	select {
	case <-f.done: // at the same time
		return nil
	default:
		return left(ctx)
	}
}

// left is why ctx has ended: not the cause alone, which may be any error, but that its owner left, too.
func left(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// board is the flight of key, made if there is none that somebody waits for: then it is the caller's to run.
func (j *Join) board(ctx context.Context, key flightKey) (f *flight, own bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if f = j.flights[key]; f != nil {
		f.aboard++
		return f, false
	}
	f = &flight{join: j, key: key, aboard: 1, done: make(chan struct{})}
	f.ctx, f.cancel = context.WithCancel(context.WithoutCancel(ctx))
	j.flights[key] = f
	return f, true
}

// leave says that one call waits no more for f, whose own it may be, so that it does not get the outcome. It reports
// whether that is for this one to dispose of.
func (j *Join) leave(f *flight, own bool) (disposes bool) {
	j.mu.Lock()
	f.aboard--
	f.orphan = f.orphan || own
	last, used := f.aboard == 0, f.over && f.held && !f.orphan
	if last {
		j.removeLocked(f)
	}
	disposes = own && f.over && f.held
	j.mu.Unlock()
	if last && !used || disposes {
		f.cancel()
	}
	return disposes
}

// release lets go of the context of f once that can be of no use. The outcome is that of c, with ctx, its own caller.
func (f *flight) release(ctx context.Context, c sluice.Call) {
	if !f.held { // leave has
		return
	}
	stop := context.AfterFunc(ctx, f.cancel)
	if end := func() { stop(); f.cancel() }; !c.AfterStream(f.res, end) {
		end()
	}
}

// dispose ends the stream that nobody gets.
func (f *flight) dispose() { disposeOf(f.res) }

// removeLocked has nobody board f any more.
func (j *Join) removeLocked(f *flight) {
	if j.flights[f.key] == f {
		delete(j.flights, f.key)
	}
}

// run executes c, whatever becomes of it.
func (f *flight) run(next sluice.Handler, c sluice.Call) {
	f.err, f.ran = &sluice.PanicError{Tool: c.Tool, Goexit: true}, true // unless it says more
	defer func() {
		if v := recover(); v != nil { // of an interceptor further in
			f.res, f.err = sluice.Result{}, &sluice.PanicError{Tool: c.Tool, Value: v, Stack: debug.Stack()}
		}
		f.join.mu.Lock()
		f.over = true
		f.join.removeLocked(f)
		shared, orphan := f.aboard > 1, f.orphan
		f.join.mu.Unlock()
		if shared && f.err == nil && !f.private { // before anybody has it, and may change it
			f.raw, _ = f.res.JSON()
		}
		if close(f.done); f.held && orphan {
			f.cancel()
			f.dispose()
		}
	}()
	f.res, f.err = next(f.ctx, c)
	a := c.AttemptOf(f.res, f.err)
	f.ran, f.held, f.private = a.Ran, a.Held, a.Held || a.N == 0 || fellBack(f.err)
}

// isVoid reports whether f has come to nothing: it has not run since its own caller has left.
func (f *flight) isVoid() bool {
	f.join.mu.Lock()
	defer f.join.mu.Unlock()
	return f.err != nil && !f.ran && f.orphan
}

// share is the outcome for a call that has not run f.
func (f *flight) share(tool sluice.Spec) (sluice.Result, error) {
	if f.err != nil {
		return sluice.Result{}, sluice.Elsewhere(f.err)
	}
	if f.raw != nil { // what one changes no other sees
		if v, err := tool.Decode(f.raw); err == nil {
			return sluice.Result{Value: v}, nil
		}
	}
	return sluice.Result{Value: f.res.Value}, nil
}
