package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"runtime/debug"
	"sync/atomic"

	"github.com/sluice-go/sluice"
)

// maxYields bounds how many parts a result can have that is read as a whole.
const maxYields = 100_000

// YieldTool is a tool that yields its result in parts. Make it with [RegisterYield]. It is safe for concurrent
// use.
type YieldTool[In, Out any] struct {
	of   *sluice.Tool[In, any]
	self *byte // tells it from others
}

// RegisterYield registers a tool that yields its result in parts, as it has them: lines, rows, words. Who calls
// it in Go ranges over the parts while they come, by [YieldTool.Range]. Who calls it in any other way, as a
// model does, gets all of them at the end, as a list. Then each is left by [sluice.ReportPartial], so that a
// call whose time is over has a list of those that came before. A list has 100,000 parts at most.
//
// fn gets a context that ends when the time of the attempt is over, when the caller has gone, and when whoever
// ranges is done; the sequence should end then. Its first error ends it, and is the call's. Until it ends it may
// report what it used, and the call holds its slots. A panic of it fails the call with a [sluice.PanicError].
func RegisterYield[In, Out any](r *sluice.ToolRegistry, s sluice.Spec, fn func(context.Context, In) iter.Seq2[Out, error]) (*YieldTool[In, Out], error) {
	if fn == nil {
		return nil, fmt.Errorf("agent: RegisterYield: the function of %q is nil: must not be", s.Name)
	}
	self := new(byte)
	of, err := sluice.Register(r, s, func(ctx context.Context, in In) (any, error) {
		x, _ := ctx.Value(ranging{}).(*ranged)
		if x == nil || x.tool != self || !x.taken.CompareAndSwap(false, true) {
			return wholeOf(ctx, fn(ctx, in))
		}
		stream, done, err := sluice.Hold(ctx)
		if err != nil {
			return nil, err
		}
		p := &parts[Out]{tool: s.Name, stream: stream, done: done}
		context.AfterFunc(stream, func() { _ = p.Close() })
		p.open = func() iter.Seq2[Out, error] { return fn(stream, in) }
		return p, nil
	})
	if err != nil {
		return nil, err
	}
	return &YieldTool[In, Out]{of, self}, nil
}

// ranging is the key of a ranged.
type ranging struct{}

// ranged is that the caller of a tool ranges over its parts: of the first attempt that runs. What others find,
// and calls nested in it, is read as a whole.
type ranged struct {
	tool  *byte
	taken atomic.Bool
}

// wholeOf is all parts of seq.
func wholeOf[Out any](ctx context.Context, seq iter.Seq2[Out, error]) ([]Out, error) {
	list := []Out{}
	for v, err := range seq {
		if err != nil {
			return nil, err
		}
		if len(list) == maxYields {
			return nil, fmt.Errorf("agent: the tool yields more than %d parts: must be at most that to be read as a whole", maxYields)
		}
		list = append(list, v)
		sluice.ReportPartial(ctx, list[:len(list):len(list)])
	}
	if err := context.Cause(ctx); err != nil { // nobody knows whether these are all
		return nil, err
	}
	return list, nil
}

// Range calls the tool whenever it is ranged over, and yields the parts of its result as they come, on the
// caller's goroutine. The call is under way until the loop ends, by itself, by a break, a panic or
// runtime.Goexit: so long it holds its slots, counts what it uses, and [sluice.Executor.Close] waits. To leave
// the loop is no failure of the tool.
//
// An error comes last, with a zero Out: the sequence's own, a refusal, or that the time is over. The time of an
// attempt is that of the whole stream, with what the loop's body takes; without a timeout and a deadline it has
// ten minutes, see [sluice.Hold]. Once it is over the call has ended, and its slots are free, though the loop
// gets to know that only when the sequence answers.
func (t *YieldTool[In, Out]) Range(ctx context.Context, e *sluice.Executor, in In) iter.Seq2[Out, error] {
	return func(yield func(Out, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel() // which ends a stream that an interceptor has dropped
		var zero Out
		v, err := t.of.Invoke(context.WithValue(ctx, ranging{}, &ranged{tool: t.self}), e, in)
		if err != nil {
			yield(zero, err)
			return
		}
		if p, ok := v.(*parts[Out]); ok {
			p.each(yield)
			return
		}
		list, err := listOf[Out](v)
		for _, x := range list {
			if !yield(x, nil) {
				return
			}
		}
		if err != nil {
			yield(zero, err)
		}
	}
}

// listOf is a result that was read as a whole, by another attempt or call, or stored as JSON.
func listOf[Out any](v any) (list []Out, err error) {
	if list, ok := v.([]Out); ok {
		return list, nil
	}
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	err = json.Unmarshal(text, &list)
	return list, err
}

// parts is a result that comes in parts. It is ranged over once or closed.
type parts[Out any] struct {
	tool   string
	stream context.Context
	done   func(error)
	open   func() iter.Seq2[Out, error]
	used   atomic.Bool
}

// Close ends p, if nobody has begun to range over it.
func (p *parts[Out]) Close() error {
	if p.used.CompareAndSwap(false, true) {
		p.done(context.Cause(p.stream))
	}
	return nil
}

// each ranges over p.
func (p *parts[Out]) each(yield func(Out, error) bool) {
	left, err := false, errOver
	if p.used.CompareAndSwap(false, true) {
		left, err = p.run(yield)
	} else if cause := context.Cause(p.stream); cause != nil {
		err = cause
	}
	if err != nil && !left {
		var zero Out
		yield(zero, err)
	}
}

var errOver = errors.New("agent: the stream has been closed before it was ranged over")

// run is each without the error that comes last. It ends the call.
func (p *parts[Out]) run(yield func(Out, error) bool) (left bool, err error) {
	normal, inBody := false, false
	defer func() {
		switch {
		case inBody: // which panics, or calls Goexit: the loop is left
			err = nil
		case !normal:
			v := recover()
			err = &sluice.PanicError{Tool: p.tool, Value: v, Goexit: v == nil, Stack: debug.Stack()}
		}
		p.done(err)
	}()
	for v, e := range p.open() {
		if err = e; e != nil {
			break
		}
		inBody = true
		left = !yield(v, nil)
		if inBody = false; left {
			break
		}
	}
	if cause := context.Cause(p.stream); cause != nil && !left &&
		(err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		err = cause // what it yielded may not be all
	}
	normal = true
	return left, err
}
