package sluice

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestSubmit_ContextsThatEndTogether: calls whose contexts have one Done channel are
// watched together, end together, and leave nothing behind.
func TestSubmit_ContextsThatEndTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		exec := Must(NewExecutor(NewToolRegistry(), Config{}))
		release := make(chan struct{})
		Must(Wrap(exec, Spec{Name: "x", Policy: Policy{Concurrency: 1}}, func(_ context.Context, n int) (int, error) {
			<-release
			return n, nil
		}))
		watched := func(want int) {
			t.Helper()
			synctest.Wait()
			exec.watches.mu.Lock()
			defer exec.watches.mu.Unlock()
			if got := len(exec.watches.byDone); got != want {
				t.Errorf("%d contexts are watched, want %d", got, want)
			}
		}
		holder := exec.Submit(t.Context(), Request{Tool: "x", Input: 0})
		watched(0) // it does not wait
		odd, cancel := context.WithCancelCause(t.Context())
		even, stop := context.WithCancel(t.Context())
		defer stop()
		mine := errors.New("mine")
		var futures []*Future
		for i := range 50 {
			ctx := WithPipelineContext([]context.Context{even, odd}[i%2], PipelineContext{Tenant: "a"})
			futures = append(futures, exec.Submit(ctx, Request{Tool: "x", Input: i}))
		}
		never := exec.Submit(context.Background(), Request{Tool: "x", Input: 50})
		watched(2)
		cancel(mine)
		watched(1)
		for i, f := range futures {
			select {
			case <-f.Done():
				if _, err := f.Wait(t.Context()); i%2 == 0 || !errors.Is(err, mine) || !errors.Is(err, ErrRejected) {
					t.Errorf("call %d ended with %v", i, err)
				}
			default:
				if i%2 == 1 {
					t.Errorf("call %d still waits", i)
				}
			}
		}
		close(release)
		for i, f := range append(futures, never, holder) {
			if r, err := f.Wait(t.Context()); i%2 == 0 && (err != nil || i < 50 && r.Value != i) {
				t.Errorf("call %d: %v, %v", i, r.Value, err)
			}
		}
		watched(0)
		late, err := exec.Submit(odd, Request{Tool: "x", Input: 1}).Wait(t.Context())
		if !errors.Is(err, mine) || late.Value != nil {
			t.Errorf("a call whose context has ended: %v, %v", late.Value, err)
		}
		watched(0)
		if err := exec.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// askedContext runs code of its own whenever somebody asks to be told of its end.
type askedContext struct {
	context.Context
	asked func()
}

func (c askedContext) AfterFunc(f func()) (stop func() bool) {
	c.asked()
	end := context.AfterFunc(c.Context, f)
	return func() bool { c.asked(); return end() }
}

// Value hides what the standard library would ask instead.
func (askedContext) Value(any) any { return nil }

// A context of the caller's own type is asked under no lock: its code may submit calls, and
// see others end. If it panics or calls Goexit, the call ends by that, and nothing is left.
func TestSubmit_ContextWithCodeOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		exec := Must(NewExecutor(NewToolRegistry(), Config{}))
		release := make(chan struct{})
		Must(Wrap(exec, Spec{Name: "x", Policy: Policy{Concurrency: 1}}, func(_ context.Context, n int) (int, error) {
			<-release
			return n, nil
		}))
		holder := exec.Submit(t.Context(), Request{Tool: "x", Input: 0})
		synctest.Wait()
		base, cancel := context.WithCancel(t.Context())
		var others []*Future
		asked := 0
		inner := func() {
			if asked++; asked > 10 {
				return
			}
			if exec.watches.mu.TryLock() {
				exec.watches.mu.Unlock()
			} else {
				t.Error("the context is asked under a lock")
				return
			}
			others = append(others, exec.Submit(base, Request{Tool: "x", Input: 1}))
		}
		f := exec.Submit(askedContext{base, inner}, Request{Tool: "x", Input: 2})
		own, cancelOwn := context.WithCancel(t.Context())
		g := exec.Submit(askedContext{own, inner}, Request{Tool: "x", Input: 3})
		bad := exec.Submit(askedContext{own, func() { panic("asked") }}, Request{Tool: "x", Input: 4})
		for range 2 {
			var p *PanicError
			lone, end := context.WithCancel(t.Context())
			if _, err := exec.Submit(askedContext{lone, func() { panic("asked") }}, Request{Tool: "x", Input: 5}).Wait(t.Context()); !errors.As(err, &p) || !errors.Is(err, ErrRejected) {
				t.Errorf("a context that panics: %v", err)
			}
			end()
		}
		cancel()
		synctest.Wait()
		for i, f := range append(others, f) {
			if _, err := f.Wait(t.Context()); !errors.Is(err, context.Canceled) || !errors.Is(err, ErrRejected) {
				t.Errorf("call %d ended with %v", i, err)
			}
		}
		close(release)
		for _, f := range []*Future{holder, g, bad} {
			if _, err := f.Wait(t.Context()); err != nil {
				t.Error(err)
			}
		}
		cancelOwn()
		if len(others) == 0 {
			t.Error("the context was not asked")
		}
		if err := exec.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// oddContext has a method that misbehaves once it is armed.
type oddContext struct {
	context.Context
	armed *atomic.Bool
	how   func()
}

func (c oddContext) Err() error {
	if c.armed.Load() {
		c.how()
	}
	return c.Context.Err()
}

// A context that panics or calls Goexit while its call waits ends that call, however it waits
// and whatever is decided. What it held is given back, and others go on.
func TestPromise10_ContextThatMisbehavesWhileItsCallWaits(t *testing.T) {
	for name, how := range map[string]func(){"panic": func() { panic("asked") }, "Goexit": runtime.Goexit} {
		for _, submit := range []bool{false, true} {
			for _, end := range []string{"admitted", "cancelled", "refused"} {
				t.Run(fmt.Sprint(name, ", submit ", submit, ", ", end), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						policy := Policy{Concurrency: 1}
						if end == "refused" {
							policy.MaxWait = time.Second
						}
						exec := Must(NewExecutor(NewToolRegistry(), Config{}))
						release := make(chan struct{})
						x := Must(Wrap(exec, Spec{Name: "x", Policy: policy}, func(_ context.Context, n int) (int, error) {
							if n == 0 {
								<-release
							}
							return n, nil
						}))
						holder := exec.Submit(t.Context(), Request{Tool: "x", Input: 0})
						synctest.Wait()
						base, cancel := context.WithCancel(t.Context())
						defer cancel()
						ctx := oddContext{base, new(atomic.Bool), how}
						var f *Future
						if submit {
							f = exec.Submit(ctx, Request{Tool: "x", Input: 1})
						} else {
							go func() {
								defer func() { recover() }()
								exec.Invoke(ctx, Request{Tool: "x", Input: 1})
							}()
						}
						synctest.Wait()
						ctx.armed.Store(true)
						switch end {
						case "cancelled":
							cancel()
							synctest.Wait()
						case "refused":
							time.Sleep(2 * time.Second)
						}
						close(release)
						synctest.Wait()
						if f != nil {
							select {
							case <-f.Done():
							default:
								t.Error("the call has not ended")
							}
						}
						for range 3 { // one slot, and nobody holds it
							if n, err := x(t.Context(), 7); n != 7 || err != nil {
								t.Fatalf("later: %d, %v", n, err)
							}
							if res, err := exec.Submit(t.Context(), Request{Tool: "x", Input: 8}).Wait(t.Context()); res.Value != any(8) || err != nil {
								t.Fatalf("later: %v, %v", res.Value, err)
							}
						}
						if _, err := holder.Wait(t.Context()); err != nil {
							t.Error(err)
						}
						ctx.armed.Store(false)
						if err := exec.Close(t.Context()); err != nil {
							t.Error(err)
						}
					})
				})
			}
		}
	}
}
