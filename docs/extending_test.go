package docs_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/sluicetest"
	"github.com/stretchr/testify/require"
)

// freeze is an interceptor that denies destructive calls while it is on.
type freeze struct{ on atomic.Bool }

func (f *freeze) String() string { return "freeze" } // its name in Plan

func (f *freeze) Wrap(tool sluice.Spec, next sluice.Handler) sluice.Handler {
	if !tool.Hints.Destructive {
		return next // other tools pay nothing
	}
	return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
		if f.on.Load() {
			return sluice.Result{}, errors.New("no changes before Monday")
		}
		return next(ctx, c)
	}
}

// failures is a sink that counts the tools whose calls fail.
type failures struct {
	mu sync.Mutex
	of map[string]int
}

func (f *failures) Enabled(k sluice.EventKind) bool { return k == sluice.ToolFailed }

func (f *failures) Emit(_ context.Context, e *sluice.Event) error {
	f.mu.Lock() // many goroutines emit at once
	defer f.mu.Unlock()
	f.of[e.Call.Tool]++ // a copy of a text; e itself is valid until Emit returns
	return nil
}

func Example_extending() {
	stop, failed := new(freeze), &failures{of: map[string]int{}}
	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 8}}}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{stop, limits}, // before the gates: a denied call does not queue
		Sink:         failed,
	}))
	defer exec.Close(context.Background())
	drop := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "drop", Hints: sluice.Hints{Destructive: true}},
		func(_ context.Context, table string) (string, error) { return "", errors.New("no such table") }))

	fmt.Println(exec.Plan("drop"))
	drop(context.Background(), "users")
	stop.on.Store(true)
	_, err := drop(context.Background(), "users")
	fmt.Println(err, "|", sluice.CodeOf(err), errors.Is(err, sluice.ErrRejected))
	fmt.Println(failed.of) // a denied call has not failed
	// Output:
	// freeze → admit[concurrency] → drop true
	// sluice: tool "drop": denied: no changes before Monday | denied true
	// map[drop:1]
}

// kept is a sink that keeps events, and so copies them.
type kept struct {
	mu  sync.Mutex
	all []sluice.Event
}

func (k *kept) Enabled(sluice.EventKind) bool { return true }

func (k *kept) Emit(_ context.Context, e *sluice.Event) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.all = append(k.all, *e)
	return nil
}

func TestKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sluicetest.Sink(t, func() (sluice.EventSink, func() []sluice.Event) {
			k := new(kept)
			return k, func() []sluice.Event { return k.all } // what it was given
		}, sluicetest.Options{Exact: true})
	})
}

// counted is an engine that counts what is asked of another's quota.
type counted struct {
	engine.Engine // the other parts are its own
	takes         atomic.Int64
}

func (c *counted) Quota() engine.Quota { return countedQuota{c.Engine.Quota(), c} }

type countedQuota struct {
	engine.Quota
	in *counted
}

func (q countedQuota) Take(ctx context.Context, d engine.Draw) (engine.Grant, error) {
	q.in.takes.Add(1)
	return q.Quota.Take(ctx, d)
}

func TestCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory, err := engine.NewMemory(engine.MemoryConfig{})
		require.NoError(t, err)
		c := &counted{Engine: memory}
		defer c.Close()
		exact := sluicetest.Options{Exact: true}
		sluicetest.Quota(t, c.Quota, exact)
		sluicetest.Slots(t, c.Slots, exact)
		sluicetest.Store(t, c.Store, exact)
		require.Positive(t, c.takes.Load())
	})
}
