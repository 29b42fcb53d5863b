package sluice

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice/internal/stage"
)

// handing is an executor whose one slot is held, and a call that waits for it with a context of its
// own.
type handing struct {
	exec    *Executor
	slots   *ConcurrencyLimiter
	cancel  context.CancelFunc
	release chan struct{} // closed: those that run end
	started chan string
	ended   chan error // of who waits
}

func newHanding(t *testing.T) *handing {
	h := &handing{release: make(chan struct{}), started: make(chan string, 2), ended: make(chan error, 1)}
	h.slots = Must(NewConcurrencyLimiter(ConcurrencyLimiterConfig{Limits: []Limit{{Max: 1}}}))
	h.exec = Must(NewExecutor(NewToolRegistry(), Config{Interceptors: []Interceptor{h.slots}}))
	f := Must(Wrap(h.exec, Spec{Name: "x"}, func(_ context.Context, who string) (string, error) {
		h.started <- who
		<-h.release
		return who, nil
	}))
	go f(context.Background(), "holder")
	require.Equal(t, "holder", <-h.started)
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel = cancel
	go func() {
		_, err := f(ctx, "waiter")
		h.ended <- err
	}()
	for waiting := 0; waiting == 0; runtime.Gosched() {
		s := h.exec.stage.Lock()
		waiting = s.M.Waiting()
		s.Unlock()
	}
	return h
}

// decide has the waiter decided, who is told of it by following what is answered.
func (h *handing) decide() stage.Aftermath {
	s := h.exec.stage.Lock()
	s.M.SetLimit(s.Now(), h.slots.core.limits[0].Class, 2)
	return s.Release()
}

// Whoever is woken needs no lock to go on: not that of the one who woke it, nor anybody's.
func TestHandOver_WhoIsWokenTakesNoLock(t *testing.T) {
	h := newHanding(t)
	a := h.decide()
	s := h.exec.stage.Lock()
	a.Follow()
	select {
	case who := <-h.started:
		require.Equal(t, "waiter", who)
	case <-time.After(10 * time.Second):
		t.Fatal("whoever is woken waits for the lock")
	}
	s.Unlock()
	close(h.release)
	require.NoError(t, <-h.ended)
	require.NoError(t, h.exec.Close(t.Context()))
}

// Whoever leaves while it is decided does not run, and gives back what it was given.
func TestHandOver_WhoLeavesAsItIsDecided(t *testing.T) {
	for range 100 {
		h := newHanding(t)
		a := h.decide()
		h.cancel()
		a.Follow()
		select {
		case err := <-h.ended:
			require.ErrorIs(t, err, ErrRejected)
			require.ErrorIs(t, err, context.Canceled)
		case who := <-h.started:
			t.Fatalf("%s, who has left, runs", who)
		}
		s := h.exec.stage.Lock()
		require.Equal(t, 1, s.M.Running(), "the holder runs")
		s.Unlock()
		close(h.release)
		require.NoError(t, h.exec.Close(t.Context()))
	}
}

// A call that an open breaker refuses does not wait for whoever holds the lock, once one has been refused
// under it.
func TestRefused_WithoutTheLock(t *testing.T) {
	b := Must(NewCircuitBreaker(CircuitBreakerConfig{}))
	e := Must(NewExecutor(NewToolRegistry(), Config{Interceptors: []Interceptor{b}}))
	f := Must(Wrap(e, Spec{Name: "x"}, func(_ context.Context, in string) (string, error) { return in, nil }))
	require.NoError(t, b.Trip("x"))
	refused := func() error { _, err := f(context.Background(), ""); return err }
	want := refused()
	require.ErrorIs(t, want, ErrBreakerOpen)
	s := e.stage.Lock()
	defer s.Unlock()
	got := refused()
	require.ErrorIs(t, got, ErrBreakerOpen)
	require.Equal(t, want.Error(), got.Error())
}

// Nor does one that a full limit refuses, once one has been refused, and the error is the same.
func TestRefused_ByAFullLimit(t *testing.T) {
	gates := []Interceptor{
		Must(NewConcurrencyLimiter(ConcurrencyLimiterConfig{Limits: []Limit{{Max: 1, Refuse: true}}})),
		Must(NewRateLimiter(RateLimiterConfig{Rates: []Rate{{N: 1e9, Per: time.Second}}})),
		Must(NewCircuitBreaker(CircuitBreakerConfig{})),
	}
	e := Must(NewExecutor(NewToolRegistry(), Config{Interceptors: gates}))
	inside, leave, once := make(chan struct{}), make(chan struct{}), new(sync.Once)
	Must(Wrap(e, Spec{Name: "x"}, func(_ context.Context, in string) (string, error) {
		once.Do(func() {
			close(inside)
			<-leave
		})
		return in, nil
	}))
	holder := e.Submit(t.Context(), Request{Tool: "x", Input: ""})
	<-inside
	refused := func() error {
		_, err := e.Invoke(context.Background(), Request{ID: "a", Tool: "x", Input: ""})
		return err
	}
	want := refused()
	require.ErrorIs(t, want, ErrSaturated)
	s := e.stage.Lock()
	got := refused()
	s.Unlock()
	own := *got.(*Error)
	own.key = want.(*Error).key
	require.Equal(t, want, &own)
	require.NotEqual(t, want.(*Error).key, got.(*Error).key)
	close(leave)
	<-holder.Done()
	require.NoError(t, refused())
}

// A call that succeeds takes no lock where a breaker counts results.
func TestRatio_WithoutTheLock(t *testing.T) {
	b := Must(NewCircuitBreaker(CircuitBreakerConfig{Ratio: 0.5, Window: 24 * time.Hour}))
	e := Must(NewExecutor(NewToolRegistry(), Config{Interceptors: []Interceptor{b}}))
	f := Must(Wrap(e, Spec{Name: "x"}, func(_ context.Context, in string) (string, error) { return in, nil }))
	call := func() error { _, err := f(context.Background(), ""); return err }
	require.NoError(t, call())
	s := e.stage.Lock()
	defer s.Unlock()
	require.NoError(t, call())
}

// A submitted call that nothing speaks against takes no lock.
func TestSubmit_WithoutTheLock(t *testing.T) {
	gates := []Interceptor{
		Must(NewConcurrencyLimiter(ConcurrencyLimiterConfig{Limits: []Limit{{Max: 1}}})),
		Must(NewRateLimiter(RateLimiterConfig{Rates: []Rate{{N: 100}}})),
		Must(NewCircuitBreaker(CircuitBreakerConfig{})),
	}
	e := Must(NewExecutor(NewToolRegistry(), Config{Interceptors: gates}))
	Must(Wrap(e, Spec{Name: "x"}, func(_ context.Context, in string) (string, error) { return in, nil }))
	call := func() { // the slot is given back before the outcome is known
		_, err := e.Submit(context.Background(), Request{Tool: "x", Input: "in"}).Wait(context.Background())
		require.NoError(t, err)
	}
	call()
	s := e.stage.Lock()
	call()
	call()
	s.Unlock()
	require.NoError(t, e.Close(t.Context()))
}
