// Package oneshot has a value that comes once, and that any number of goroutines may wait for.
//
// Millions may be awaited at a time, most of them by nobody, so one takes a pointer until
// somebody asks for it or it comes: only then is there a channel. It takes no lock.
package oneshot

import (
	"context"
	"sync/atomic"
)

// Value comes once. The zero value has not come. It is safe for concurrent use.
type Value[T any] struct{ p atomic.Pointer[state[T]] }

type state[T any] struct {
	done chan struct{} // closed once v is set
	v    T
}

// isDone is the channel of every value that nobody asked for before it came.
var isDone = make(chan struct{})

func init() { close(isDone) }

// Set has the value come. It must be called once.
func (o *Value[T]) Set(v T) {
	s := &state[T]{isDone, v}
	if o.p.CompareAndSwap(nil, s) {
		return
	}
	s = o.p.Load()
	s.v = v
	close(s.done)
}

func (o *Value[T]) state() *state[T] {
	if s := o.p.Load(); s != nil {
		return s
	}
	o.p.CompareAndSwap(nil, &state[T]{done: make(chan struct{})})
	return o.p.Load()
}

// Done is closed when the value has come.
func (o *Value[T]) Done() <-chan struct{} { return o.state().done }

// Wait returns the value once it has come, also if ctx has ended; or else, when ctx ends, why.
func (o *Value[T]) Wait(ctx context.Context) (T, error) {
	s := o.state()
	select {
	case <-s.done:
		return s.v, nil
	default:
	}
	select {
	case <-s.done:
		return s.v, nil
	case <-ctx.Done():
	}
	select {
	case <-s.done: // meanwhile
		return s.v, nil
	default:
		var none T
		return none, context.Cause(ctx)
	}
}
