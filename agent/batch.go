package agent

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice"
)

// ErrSiblingFailed is the cause with which calls end that [Config].FailFast has cancelled.
var ErrSiblingFailed = errors.New("agent: another call of the turn has failed")

// Config configures a [Runner]. The zero value bounds nothing beyond what the executor does.
type Config struct {
	Parallel int           // calls of a turn under way at once, waiting ones included; zero means any number
	Deadline time.Duration // of a turn, from its beginning; zero means none
	FailFast bool          // the first call that fails cancels the others

	// Repair says what to call instead of a call that would be refused for its arguments or its tool's name;
	// why is that refusal, whose [sluice.ModelText] a model can act on. false leaves the call as it is, and so
	// does a panic, which is in the call's error. Each is asked about once, one after the other, before any
	// call of the turn starts; not those that a Codec could not read or that were cut off. The ID stays. nil
	// repairs nothing.
	Repair func(ctx context.Context, call sluice.Request, why error) (sluice.Request, bool)
	_      struct{}
}

// Runner makes the calls of a turn in parallel, and has a reply for each of them. Make it with [New]; it has no
// state of its own, and is safe for concurrent use.
//
// The executor decides which call starts when: all are submitted in their order, wait in its queue without a
// goroutine, and start by priority, then in that order. A turn holds nothing itself. If its own calls fill the
// queue, the next ones follow as places become free, tool by tool; only where the calls of others fill it, a call
// is refused with [sluice.ErrQueueFull]. Events tell of each time that a call has come to a full queue.
type Runner struct {
	exec *sluice.Executor
	conf Config
}

// New returns a Runner for the tools of e, or an error that names the wrong field of c.
func New(e *sluice.Executor, c Config) (*Runner, error) {
	switch {
	case e.Registry() == nil:
		return nil, errors.New("agent: the Executor is nil or zero: use sluice.NewExecutor")
	case c.Parallel < 0:
		return nil, fmt.Errorf("agent: Config.Parallel is %d: must be zero (any number) or positive", c.Parallel)
	case c.Deadline < 0:
		return nil, fmt.Errorf("agent: Config.Deadline is %v: must be zero (none) or positive", c.Deadline)
	}
	if err := unit("Config.Deadline", c.Deadline); err != nil {
		return nil, err
	}
	return &Runner{exec: e, conf: c}, nil
}

// Run makes the calls of one turn and returns a reply for each, at its index, whatever becomes of it or of others.
// Arguments that do not parse, an unknown tool, a refusal, a panic, [runtime.Goexit] in a tool: each is the Err of
// its own reply, as [sluice.Executor.Invoke] would return it.
//
// Run returns when every call has ended. When ctx is cancelled, calls that run see their contexts end, and those that
// have not started are refused with the context's cause; when a deadline is over, with [sluice.ErrWaitTooLong]. A
// tool that ignores its context and has no timeout keeps Run waiting, as it keeps Invoke. If code that runs before
// admission, as a Spec's Check, or a sink, calls [runtime.Goexit], that ends the goroutine of Run, as that of Invoke.
//
// The calls' context ends with the last of them, so what a tool streams by [sluice.Hold] can be read after Run.
func (r *Runner) Run(ctx context.Context, calls []sluice.Request) []Reply {
	replies := make([]Reply, len(calls))
	if ctx == nil {
		for i := range calls {
			replies[i] = r.refused(calls[i])
		}
		return replies
	}
	b := r.begin(ctx, calls, false)
	defer b.end()
	r.repair(b)
	return b.replies(replies)
}

// replies makes the calls, and fills all, which has room for a reply for each.
func (b *batch) replies(all []Reply) []Reply {
	b.run()
	for i := range all {
		all[i] = b.reply(i)
	}
	return all
}

// Each makes the calls of one turn when the result is ranged over, and yields the index and the reply of each as it
// ends: for who shows results as they come. It is for one range: a second one makes no calls and yields nothing.
//
// Calls go on while the loop's body runs. Each waits as [Runner.Run] does, but a loop that is left early, by break,
// a panic or in any other way, waits for nothing: calls that have not started do not, those that run see their
// contexts end, and their code is what [sluice.Executor.Close] waits for.
func (r *Runner) Each(ctx context.Context, calls []sluice.Request) iter.Seq2[int, Reply] {
	calls = slices.Clone(calls)
	used := new(atomic.Bool)
	return func(yield func(int, Reply) bool) {
		if used.Swap(true) {
			return
		}
		if ctx == nil {
			for i := range calls {
				if !yield(i, r.refused(calls[i])) {
					return
				}
			}
			return
		}
		b := r.begin(ctx, calls, true)
		defer b.end()
		r.repair(b)
		for range calls {
			i := b.nextEnded()
			reply := b.reply(i)
			b.leave()
			if !yield(i, reply) {
				return
			}
			b.back()
		}
	}
}

// refused is the reply to a call without a context.
func (r *Runner) refused(call sluice.Request) Reply {
	var none context.Context
	res, err := r.exec.Submit(none, call).Wait(context.Background()) // it is refused, and reported
	return Reply{call, res, err}
}

// batch is the calls of one turn under way. Its collector is the goroutine that waits for their outcomes.
//
// It learns from events where the calls are: it is one more sink of theirs. Whoever tells it of one only takes
// note; the collector submits what may go in, or while it runs code of the caller's, a goroutine that ends with
// that.
type batch struct {
	exec     *sluice.Executor
	ctx      context.Context // of the calls, without what tells them apart
	cancel   context.CancelCauseFunc
	stop     context.CancelFunc // of the deadline
	calls    []sluice.Request
	each     bool // outcomes are wanted one by one
	watches  bool // all that run are to be watched, see wait
	failFast bool
	grants   []string      // the approval of each call, empty without one; nil if none has any
	broken   map[int]error // of calls about which Repair has panicked
	wake     chan struct{} // of the collector

	mu      sync.Mutex
	feed    *feed
	state   []state // nil once all is told
	ended   []int32 // whose outcome is there, in that order, if they are wanted one by one
	taken   int     // of those
	untold  int     // submitted calls whose end no event has told of
	feeding bool    // somebody submits
	away    bool    // the collector runs code of the caller's
	left    bool    // there is no collector any more
	cases   []reflect.SelectCase
	watched []int32 // which calls cases are of
}

// state is where one call is.
type state struct {
	future *sluice.Future // once Submit has returned
	key    sluice.CallKey // of what was submitted last
	err    error          // that its last event has told of
	lost   bool           // Submit has ended its goroutine instead
	listed bool           // in ended
}

func (r *Runner) begin(ctx context.Context, calls []sluice.Request, each bool) *batch {
	b := &batch{
		exec: r.exec, calls: calls, each: each, watches: each || r.conf.Parallel > 0, failFast: r.conf.FailFast,
		wake: make(chan struct{}, 1), feed: newFeed(toolsOf(calls), r.conf.Parallel), state: make([]state, len(calls)),
	}
	b.ctx, b.stop = ctx, func() {}
	if r.conf.Deadline > 0 {
		b.ctx, b.stop = context.WithTimeout(b.ctx, r.conf.Deadline)
	}
	b.ctx, b.cancel = context.WithCancelCause(b.ctx)
	pc := sluice.PipelineContextFrom(ctx)
	if own := (*listener)(b); pc.Sink == nil {
		pc.Sink = own
	} else {
		pc.Sink = sluice.MultiSink(own, pc.Sink)
	}
	b.ctx = sluice.WithPipelineContext(b.ctx, pc)
	return b
}

// toolsOf is the tools of calls.
func toolsOf(calls []sluice.Request) []string {
	tools := make([]string, len(calls))
	for i := range calls {
		tools[i] = calls[i].Tool
	}
	return tools
}

// end says that nobody collects any more.
func (b *batch) end() {
	b.mu.Lock()
	b.left, b.feed.stopped = true, true
	early := b.feed.left > 0
	b.mu.Unlock()
	if early {
		b.cancel(nil)
	}
	b.release()
}

// release lets go of everything once all has been told and nobody collects.
func (b *batch) release() {
	b.mu.Lock()
	all := b.left && b.untold == 0
	if all {
		b.state, b.ended = nil, nil
	}
	b.mu.Unlock()
	if all {
		b.cancel(nil)
		b.stop()
	}
}

// run has all calls made.
func (b *batch) run() {
	for {
		b.submit()
		b.mu.Lock()
		n := b.feed.left
		b.mu.Unlock()
		if n == 0 {
			return
		}
		b.wait()
	}
}

// nextEnded is the next call whose outcome is there.
func (b *batch) nextEnded() int {
	for {
		b.mu.Lock()
		if b.taken < len(b.ended) {
			i := b.ended[b.taken]
			b.taken++
			b.mu.Unlock()
			return int(i)
		}
		if b.feeding || !b.feed.mayGo() {
			b.mu.Unlock()
			b.wait()
			continue
		}
		b.mu.Unlock()
		b.submit()
	}
}

// reply is the outcome of call i, which has ended.
func (b *batch) reply(i int) Reply {
	b.mu.Lock()
	f, err := b.state[i].future, b.state[i].err
	b.mu.Unlock()
	r := Reply{Request: b.calls[i]}
	if f == nil {
		r.Err = err
	} else {
		r.Result, r.Err = f.Wait(context.Background()) // it has told its end, and comes at once
	}
	if broken := b.broken[i]; broken != nil && r.Err != nil {
		r.Err = fmt.Errorf("%w; %w", r.Err, broken)
	}
	return r
}

// leave says that the collector is going to run code of the caller's, and back that it has returned.
func (b *batch) leave() {
	b.mu.Lock()
	b.away = true
	b.tellLocked()
	b.mu.Unlock()
}

func (b *batch) back() {
	b.mu.Lock()
	b.away = false
	b.mu.Unlock()
}

// tellLocked has somebody submit what may go in, or look at what has ended.
func (b *batch) tellLocked() {
	if !b.away {
		select {
		case b.wake <- struct{}{}:
		default: // it is told already
		}
	} else if !b.feeding && !b.left && b.feed.mayGo() {
		b.feeding = true
		go b.feedAll()
	}
}

// submit submits what may go in.
func (b *batch) submit() {
	b.mu.Lock()
	if b.feeding || !b.feed.mayGo() {
		b.mu.Unlock()
		return
	}
	b.feeding = true
	b.mu.Unlock()
	b.feedAll()
}

// feedAll submits what may go in; b.feeding says so. Code of the tools' owner runs on this goroutine, as that of
// sinks, and may end it.
func (b *batch) feedAll() {
	i := -1
	defer func() {
		if i < 0 {
			return
		}
		b.mu.Lock()
		b.feeding = false
		b.lostLocked(i)
		b.tellLocked()
		b.mu.Unlock()
	}()
	b.mu.Lock()
	for {
		next, ok := b.feed.next()
		if !ok {
			b.feeding, i = false, -1
			b.mu.Unlock()
			return
		}
		i = next
		b.state[i] = state{}
		b.untold++
		b.mu.Unlock()
		f := b.exec.Submit(&callContext{b.ctx, b, i}, b.calls[i])
		b.mu.Lock()
		if b.state == nil { // nobody collects any more, and all is told
			continue
		}
		b.state[i].future = f
		if p := b.feed.calls[i].phase; p == over {
			b.listLocked(i)
			b.tellLocked()
		} else if p == passed {
			b.tellLocked() // it could not be watched before
		}
	}
}

// lostLocked says that Submit has ended its goroutine, and the call with that.
func (b *batch) lostLocked(i int) {
	if b.state == nil {
		return
	}
	s := &b.state[i]
	s.lost = true
	if b.feed.calls[i].phase == pending { // it is to be submitted again
		return
	}
	if s.err == nil {
		s.err = errors.New("agent: the call has ended the goroutine that submitted it")
	}
	b.feed.ends(i)
	b.listLocked(i)
}

// listLocked says that the outcome of call i is there.
func (b *batch) listLocked(i int) {
	if s := &b.state[i]; b.each && !s.listed && (s.future != nil || s.lost) {
		s.listed = true
		b.ended = append(b.ended, int32(i))
	}
}

// maxWatched is how many calls that run are watched at once.
const maxWatched = 64

// wait returns when there may be something to do.
//
// A call tells its end by an event, but not one that a stream holds open: its outcome comes before its end. So
// what runs is watched too: a part of it if that is very much, or no more than one call if only all of them count.
func (b *batch) wait() {
	const told, stopped, first = 0, 1, 2
	b.mu.Lock()
	recv := func(c <-chan struct{}, i int) {
		b.cases = append(b.cases, reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(c)})
		b.watched = append(b.watched, int32(i))
	}
	b.cases, b.watched = b.cases[:0], b.watched[:0]
	recv(b.wake, -1)
	if b.feed.pending > 0 && !b.feed.open {
		recv(b.ctx.Done(), -1)
	} else {
		recv(nil, -1)
	}
	for _, i := range b.feed.started {
		if f := b.state[i].future; f != nil {
			recv(f.Done(), int(i))
		}
		if n := len(b.cases) - first; n == maxWatched || n == 1 && !b.watches && b.feed.pending == 0 {
			break
		}
	}
	b.mu.Unlock()
	at, _, _ := reflect.Select(b.cases)
	b.mu.Lock()
	defer b.mu.Unlock()
	switch at {
	case told:
	case stopped:
		b.feed.hurry()
	default:
		i := int(b.watched[at])
		if f := b.state[i].future; f != nil && b.feed.calls[i].phase != pending {
			select {
			case <-f.Done(): // a stream holds it open, or it has told its end
				b.feed.ends(i)
				b.listLocked(i)
			default: // it has been submitted again
			}
		}
	}
}

// callContext is the context with which one call is submitted.
type callContext struct {
	context.Context
	batch *batch
	index int
}

// Value answers a batch's own question.
func (c *callContext) Value(key any) any {
	if key == any(c.batch) {
		return c
	}
	if c.batch.grants != nil && key == any(approvalKey{}) {
		return c.batch.grants[c.index]
	}
	return c.Context.Value(key)
}

// String keeps what prints the context from looking inside.
func (c *callContext) String() string { return "agent: the context of a call" }

// listener is a batch as a sink of the events of its calls, and of those that they make.
type listener batch

// Enabled reports whether the batch has to know of such events.
func (l *listener) Enabled(k sluice.EventKind) bool {
	switch k {
	case sluice.ToolInvoked, sluice.ToolQueued, sluice.ToolStarted, sluice.ToolRetrying,
		sluice.ToolCompleted, sluice.ToolFailed, sluice.ToolDenied:
		return true
	}
	return false
}

// Emit takes note of e. It submits nothing, and waits for nobody.
func (l *listener) Emit(ctx context.Context, e *sluice.Event) error {
	b := (*batch)(l)
	c, ok := ctx.Value(b).(*callContext)
	if !ok {
		return nil
	}
	full := e.Kind == sluice.ToolFailed && isFull(e.Err)
	failed, all := b.hear(c.index, e, full)
	if failed && b.failFast && !isPending(e.Err) {
		b.cancel(ErrSiblingFailed)
	}
	if all {
		b.release()
	}
	return nil
}

// isFull reports whether err refuses a call because the queue is full. It may be anybody's error.
func isFull(err error) (full bool) {
	defer func() {
		if recover() != nil {
			full = false
		}
	}()
	return errors.Is(err, sluice.ErrQueueFull) && errors.Is(err, sluice.ErrRejected)
}

// hear takes note of e, which is of call i or of one nested in it, and reports whether the call has failed, and
// whether all has been told of a batch that nobody collects any more.
func (b *batch) hear(i int, e *sluice.Event, full bool) (failed, all bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == nil {
		return false, false
	}
	s, f := &b.state[i], b.feed
	if s.key == 0 {
		s.key = e.CallKey // of its first event, before which there is none nested in it
	}
	if s.key != e.CallKey {
		return false, false
	}
	switch e.Kind {
	case sluice.ToolInvoked:
		return false, false
	case sluice.ToolQueued:
		f.waits(i)
	case sluice.ToolStarted:
		f.starts(i)
		if len(b.watched) < 2+maxWatched && (b.watches || len(b.watched) <= 2) {
			b.tellLocked() // it is to be watched
			return false, false
		}
	case sluice.ToolRetrying:
		f.rests(i)
	default:
		b.untold--
		if !full || !f.full(i) {
			failed = e.Err != nil && f.calls[i].phase != over
			s.err = e.Err
			f.ends(i)
			b.listLocked(i)
		}
		all = b.left && b.untold == 0
	}
	if f.mayGo() || f.left == 0 || b.each && b.taken < len(b.ended) {
		b.tellLocked()
	}
	return failed, all
}
