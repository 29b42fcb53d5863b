package compare

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/sluice-go/sluice"
)

// stalled is an executor whose only token is taken: all further calls wait. Its tools have the
// names.
func stalled(names []string, calls int) (*sluice.Executor, error) {
	order, err := sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{MaxQueue: calls})
	if err != nil {
		return nil, err
	}
	rates, err := sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1, Per: time.Hour}}})
	if err != nil {
		return nil, err
	}
	reg := sluice.NewToolRegistry()
	exec, err := sluice.NewExecutor(reg, sluice.Config{Interceptors: []sluice.Interceptor{rates, order}})
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if _, err := sluice.Register(reg, sluice.Spec{Name: name}, tool); err != nil {
			return nil, err
		}
	}
	_, err = exec.Invoke(context.Background(), sluice.Request{Tool: names[0], Input: input})
	return exec, err
}

// submitted are calls that wait through Submit, of 20 tools, 100 tenants and 5 levels. Their
// input is there already.
func submitted(ks []string) (any, error) {
	names := make([]string, queueTools)
	for i := range names {
		names[i] = "tool-" + strconv.Itoa(i)
	}
	exec, err := stalled(names, len(ks))
	if err != nil {
		return nil, err
	}
	var ctxs []context.Context
	for i := range queueTenants {
		for p := range queueLevels {
			ctxs = append(ctxs, sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{
				Tenant: "tenant-" + strconv.Itoa(i), Priority: sluice.PriorityBatch + sluice.Priority(p)}))
		}
	}
	var in any = input
	for i := range ks {
		exec.Submit(ctxs[i%len(ctxs)], sluice.Request{Tool: names[i/len(ctxs)%len(names)], Input: in})
	}
	if s := exec.Snapshot(); s.Queued != len(ks) {
		return nil, fmt.Errorf("compare: %d of %d calls wait: %w", s.Queued, len(ks), errWrong)
	}
	return exec, nil
}

// waiters are goroutines that wait until end is called.
type waiters struct {
	sync.WaitGroup
	end   func() error
	wrong error // of one of them, once all have ended
	once  sync.Once
}

// wait has n goroutines call, and returns when as many wait. Each must come to the reason once
// they end.
func (w *waiters) wait(n int, call func() error, reason error, waiting func() int) {
	for range n {
		w.Go(func() {
			if err := call(); !errors.Is(err, reason) {
				w.once.Do(func() { w.wrong = fmt.Errorf("%w: %w", errWrong, err) })
			}
		})
	}
	for waiting() < n {
		runtime.Gosched()
	}
}

// Close ends the wait.
func (w *waiters) Close(context.Context) error {
	err := w.end()
	w.Wait()
	return errors.Join(err, w.wrong)
}

func queuedInvokes(ks []string) (any, error) {
	exec, err := stalled([]string{toolName}, len(ks))
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	w := &waiters{end: func() error { return exec.Close(ctx) }}
	w.wait(len(ks), func() error {
		_, err := exec.Invoke(ctx, request)
		return err
	}, sluice.ErrRejected, func() int { return exec.Snapshot().Queued })
	return w, nil
}

func queuedFused(ks []string) (any, error) {
	x := newFused(tool, 1, dropSink{})
	x.slots.used = 1
	ctx, cancel := context.WithCancel(context.Background())
	w := &waiters{end: func() error { cancel(); return nil }}
	w.wait(len(ks), func() error {
		_, err := x.invoke(ctx, "call_1", toolName, input)
		return err
	}, context.Canceled, func() int {
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.slots.queued
	})
	return w, nil
}

// idleTools is an executor with a tool for each name.
func idleTools(names []string, called bool) (*sluice.Executor, error) {
	reg := sluice.NewToolRegistry()
	exec, err := sluice.NewExecutor(reg, sluice.Config{})
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if _, err := sluice.Register(reg, sluice.Spec{Name: name, Policy: sluice.Policy{Concurrency: 8}}, tool); err != nil {
			return nil, err
		}
	}
	if called {
		for _, name := range names {
			if err := invokes(context.Background(), exec, sluice.Request{ID: "call_1", Tool: name, Input: input}, 1); err != nil {
				return nil, err
			}
		}
	}
	return exec, nil
}

// executors are closed together.
type executors []*guarded

func (list executors) Close(ctx context.Context) error {
	var errs []error
	for _, g := range list {
		errs = append(errs, g.exec.Close(ctx))
	}
	return errors.Join(errs...)
}

func idleExecutors(ks []string) (any, error) {
	var out executors
	for range ks {
		g, _, err := newGuarded(tool, oursConfig{limit: wide})
		if err != nil {
			return nil, err
		}
		if err := invokes(context.Background(), g.exec, request, 1); err != nil {
			return nil, err
		}
		out = append(out, g)
	}
	return out, nil
}
