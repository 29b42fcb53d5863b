package promises_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const ms = time.Millisecond

// bubble runs f on the virtual clock. What it leaves running fails the test.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// rig is an executor whose calls are recorded, and the instant it was made at.
type rig struct {
	*sluice.Executor
	t     *testing.T
	reg   *sluice.ToolRegistry
	pc    sluice.PipelineContext
	ctx   context.Context
	rec   *sluice.Recorder
	start time.Time
}

// newRig makes an executor over a registry of its own.
func newRig(t *testing.T, c sluice.Config) *rig {
	t.Helper()
	return rigOver(t, sluice.NewToolRegistry(), c)
}

func rigOver(t *testing.T, reg *sluice.ToolRegistry, c sluice.Config) *rig {
	t.Helper()
	pc, rec := sluice.NewTestPipelineContext()
	if c.State == nil {
		c.State = pc.State
	}
	e, err := sluice.NewExecutor(reg, c)
	require.NoError(t, err)
	return &rig{e, t, reg, pc, sluice.WithPipelineContext(t.Context(), pc), rec, time.Now()}
}

// end closes the executor and holds that nothing is left and every call was reported.
func (r *rig) end() {
	r.t.Helper()
	assert.NoError(r.t, r.Close(context.Background()), "Close")
	r.idle()
	assert.NoError(r.t, r.rec.Check())
	assert.NoError(r.t, r.pc.State.Close())
}

// idle holds that nobody runs or waits, and that no slot is taken.
func (r *rig) idle() {
	r.t.Helper()
	s := r.Snapshot()
	assert.Zero(r.t, s.InFlight, "in flight")
	assert.Zero(r.t, s.Queued, "queued")
	assert.Zero(r.t, s.Abandoned, "abandoned")
	assert.Empty(r.t, s.Lanes, "lanes")
	for _, g := range s.Gates {
		assert.Zero(r.t, g.Waiting, "waiting at gate %s %s", g.Name, g.Key)
		if strings.Contains(g.Name, "concurrency") {
			assert.Zero(r.t, g.Used, "slots used of gate %s %s", g.Name, g.Key)
		}
	}
}

// at is the virtual time since the executor was made.
func (r *rig) at() time.Duration { return time.Since(r.start) }

// call invokes a tool and answers its error.
func (r *rig) call(tool string) error {
	_, err := r.Invoke(r.ctx, sluice.Request{Tool: tool})
	return err
}

// withoutAbandoned is events as if none told of an abandoned attempt.
func withoutAbandoned(events []sluice.Event) (list []sluice.Event) {
	less := map[sluice.CallKey]uint32{}
	for _, e := range events {
		if e.Kind == sluice.ToolAbandoned {
			less[e.CallKey]++
			continue
		}
		e.Seq -= less[e.CallKey]
		list = append(list, e)
	}
	return list
}

// trace holds what the recorder has. An "abandoned?" may be there or not: whether code that ends with its
// context has ended when nobody waits for it any more depends on the scheduler.
func (r *rig) trace(want string) {
	r.t.Helper()
	if strings.Contains(want, "abandoned?") {
		want = strings.ReplaceAll(regexp.QuoteMeta(want), `abandoned\? `, `(abandoned )?`)
		assert.Regexp(r.t, "^"+want+"$", r.rec.Trace(), "trace")
		return
	}
	assert.Equal(r.t, want, r.rec.Trace(), "trace")
}

// tool registers a raw tool: arguments and result are JSON, which it ignores.
func (r *rig) tool(s sluice.Spec, f func(ctx context.Context) error) {
	r.t.Helper()
	rawTool(r.t, r.reg, s, f)
}

// slotsFree holds that exactly limit calls of tool can run at once, each taking d, by
// running twice as many. The tool must count in g.
func (r *rig) slotsFree(tool string, g *gauge, limit int) {
	r.t.Helper()
	g.peak.Store(0)
	parallel(2*limit, func(int) {
		assert.NoError(r.t, r.call(tool))
	})
	assert.Equal(r.t, int64(limit), g.peak.Load(), "at once after the test, want %d: slots are lost or made", limit)
}

// gateState is what a snapshot says of one gate.
func (r *rig) gateState(name, key string) sluice.GateState {
	r.t.Helper()
	for _, g := range r.Snapshot().Gates {
		if g.Name == name && g.Key == key {
			return g
		}
	}
	r.t.Errorf("no gate %q with key %q in the snapshot", name, key)
	return sluice.GateState{}
}

// as is the rig's context on behalf of somebody.
func (r *rig) as(p sluice.Priority, tenant string) context.Context {
	pc := r.pc
	pc.Priority, pc.Tenant = p, tenant
	return sluice.WithPipelineContext(r.t.Context(), pc)
}

// invokeApart runs a call on a goroutine of its own, so that a Goexit ends only that. It
// reports whether the call returned.
func (r *rig) invokeApart(ctx context.Context, q sluice.Request) (res sluice.Result, err error, returned bool) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		res, err = r.Invoke(ctx, q)
		returned = true
	}()
	<-done
	return res, err, returned
}

// busy starts a call and waits until it is under way or queued.
func (r *rig) busy(tool string) {
	go func() { _ = r.call(tool) }()
	synctest.Wait()
}

// terminal is the last event of a tool's calls.
func (r *rig) terminal(tool string) sluice.Event {
	r.t.Helper()
	list := r.rec.Events(tool)
	require.NotEmpty(r.t, list, "no event")
	return list[len(list)-1]
}

// limitIs is where an adaptive limit stands.
func (r *rig) limitIs() int64 { return r.gateState("concurrency global", "").Limit }

// starts is when calls of a tool began, from the executor's beginning on.
func (r *rig) starts(tool string) (list []time.Duration) {
	for _, e := range r.rec.Events(tool) {
		if e.Kind == sluice.ToolStarted {
			list = append(list, e.Time.Sub(r.start))
		}
	}
	return list
}

func (r *rig) withKey(key string) context.Context {
	pc := r.pc
	pc.Attrs = map[string]string{"api_key": key}
	return sluice.WithPipelineContext(r.t.Context(), pc)
}

// unitLeft is how many tokens of a unit the gates of this name have.
func (r *rig) unitLeft(name, unit string) int64 {
	r.t.Helper()
	for _, g := range r.Snapshot().Gates {
		if strings.HasPrefix(g.Name, name) && strings.Contains(g.Name, unit) {
			return g.Limit - g.Used
		}
	}
	r.t.Errorf("no gate %q of %s in %+v", name, unit, r.Snapshot().Gates)
	return 0
}

func rawTool(t testing.TB, reg *sluice.ToolRegistry, s sluice.Spec, f func(ctx context.Context) error) {
	t.Helper()
	_, err := sluice.Register(reg, s, func(ctx context.Context, _ any) (json.RawMessage, error) { return nil, f(ctx) })
	require.NoError(t, err)
}

// sleeps is a tool that takes d.
func sleeps(d time.Duration) func(context.Context) error {
	return func(context.Context) error { time.Sleep(d); return nil }
}

// gauge counts who is inside, or how much they take.
type gauge struct{ inside, peak, total atomic.Int64 }

func (g *gauge) enter() { g.take(1) }
func (g *gauge) leave() { g.give(1) }

func (g *gauge) take(n int64) {
	now := g.inside.Add(n)
	g.total.Add(n)
	for {
		p := g.peak.Load()
		if now <= p || g.peak.CompareAndSwap(p, now) {
			return
		}
	}
}

func (g *gauge) give(n int64) { g.inside.Add(-n) }

// counts is a tool that takes d while g counts it.
func (g *gauge) counts(d time.Duration) func(context.Context) error {
	return func(context.Context) error {
		g.enter()
		defer g.leave()
		time.Sleep(d)
		return nil
	}
}

func newExec(t testing.TB, c sluice.Config) *sluice.Executor {
	t.Helper()
	e, err := sluice.NewExecutor(sluice.NewToolRegistry(), c)
	require.NoError(t, err)
	return e
}

func echo(_ context.Context, in string) (string, error) { return in, nil }

func errOf[A, B any](_ A, b B) B { return b }

// ending is a way in which a tool's code can end.
type ending struct {
	name string
	do   func()
	err  error // the tool's own
}

var endings = []ending{
	{"return", func() {}, nil},
	{"error", func() {}, errTool},
	{"panic", func() { panic("secret value") }, nil},
	{"panic nil", func() { panic(nil) }, nil}, //nolint:govet
	{"panic error", func() { panic(errTool) }, nil},
	{"Goexit", func() { runtime.Goexit() }, nil},
}

var passing = sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
	return func(ctx context.Context, c sluice.Call) (sluice.Result, error) { return next(ctx, c) }
})

// atOnce makes two attempts of each call, at once.
var atOnce = sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
	return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
		var errs [2]error
		parallel(2, func(i int) { _, errs[i] = next(ctx, c) })
		return sluice.Result{}, errors.Join(errs[:]...)
	}
})

// free fails the test unless n calls of the limiter's executor can run at once.
func free(t *testing.T, e *sluice.Executor, n int) {
	t.Helper()
	if _, ok := e.Plan("free"); !ok {
		sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "free"}, func(ctx context.Context, gate chan bool) (bool, error) { return <-gate, nil }))
	}
	gate := make(chan bool)
	var calls []*sluice.Future
	for range n {
		calls = append(calls, e.Submit(t.Context(), sluice.Request{Tool: "free", Input: gate}))
	}
	synctest.Wait()
	if s := e.Snapshot(); s.InFlight != n || s.Queued != 0 {
		t.Errorf("%d run and %d wait, want %d free slots", s.InFlight, s.Queued, n)
	}
	close(gate)
	for _, c := range calls {
		_, err := c.Wait(t.Context())
		assert.NoError(t, err)
	}
}

// ways in which a call is made, for a rig of that timeout.
var ways = []struct {
	name    string
	timeout time.Duration
	submit  bool
}{{"invoke", 0, false}, {"invoke with a timeout", time.Hour, false}, {"submit", 0, true}}

// limitsOf is a concurrency limiter of these limits.
func limitsOf(limits ...sluice.Limit) *sluice.ConcurrencyLimiter {
	return sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: limits}))
}

// atMost is a limiter of n calls in all.
func atMost(n int) *sluice.ConcurrencyLimiter { return limitsOf(sluice.Limit{Max: n}) }

// rates is a rate limiter that counts everything together.
func rates(list ...sluice.Rate) *sluice.RateLimiter {
	return sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: list}))
}

func breakerOf(c sluice.CircuitBreakerConfig) *sluice.CircuitBreaker {
	return sluice.Must(sluice.NewCircuitBreaker(c))
}

func scheduler(c sluice.PrioritySchedulerConfig) *sluice.PriorityScheduler {
	return sluice.Must(sluice.NewPriorityScheduler(c))
}

func interceptors(list ...sluice.Interceptor) []sluice.Interceptor { return list }

const day = 24 * time.Hour

// byAPIKey counts by an attribute of the run.
var byAPIKey = sluice.ByKey("api key", func(c sluice.Call) string { return c.Pipeline.Attrs["api_key"] })

func adaptive(lo, hi int) *sluice.ConcurrencyLimiter {
	return limitsOf(sluice.Limit{Adaptive: &sluice.Adaptive{Min: lo, Max: hi}})
}

// reasons is every reason that an error of a call can have.
var reasons = []error{
	sluice.ErrUnknownTool, sluice.ErrInvalidArguments, sluice.ErrBreakerOpen, sluice.ErrRateLimited,
	sluice.ErrSaturated, sluice.ErrQueueFull, sluice.ErrWaitTooLong, sluice.ErrDenied, sluice.ErrNesting,
	sluice.ErrClosed, sluice.ErrTimeout,
}

// wantRefusal holds that err is a refusal for exactly this reason, by this constraint,
// with this time to retry, and answers it.
func wantRefusal(t *testing.T, err, reason error, by string, after time.Duration) *sluice.Error {
	t.Helper()
	var e *sluice.Error
	if !assert.ErrorAs(t, err, &e) {
		return nil
	}
	assert.True(t, e.Reason == reason, "refused for %q, want %q (%v)", e.Reason, reason, err)
	assert.Equal(t, by, e.By, "refused by another: %v", err)
	assert.Equal(t, after, e.RetryAfter, "time to retry: %v", err)
	assert.ErrorIs(t, err, sluice.ErrRejected)
	assert.ErrorIs(t, err, reason)
	for _, r := range reasons {
		if r != reason {
			assert.NotErrorIs(t, err, r)
		}
	}
	return e
}

var errTool = errors.New("the tool's own error")

// retryIn is an upstream's answer.
type retryIn time.Duration

func (d retryIn) Error() string             { return "429 in " + time.Duration(d).String() }
func (d retryIn) RetryAfter() time.Duration { return time.Duration(d) }

// oddError is an error one of whose methods does something else first, once.
type oddError struct {
	method string
	do     func()
	once   *sync.Once
}

func newOddError(method string, do func()) *oddError { return &oddError{method, do, new(sync.Once)} }

func (e *oddError) in(method string) {
	if e.method == method {
		e.once.Do(e.do)
	}
}

func (e *oddError) Error() string { e.in("Error"); return "odd" }
func (e *oddError) Is(error) bool { e.in("Is"); return false }
func (e *oddError) As(any) bool   { e.in("As"); return false }
func (e *oddError) Unwrap() error { e.in("Unwrap"); return nil }

// errBusy is what a backend above its capacity answers.
var errBusy = errors.New("too busy")

// busyError says the same so that the library sees it: an overload, without a pause.
type busyError struct{}

func (busyError) Error() string             { return errBusy.Error() }
func (busyError) RetryAfter() time.Duration { return 0 }

// parallel runs f(0) … f(n-1) at once and waits.
func parallel(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

// inOrder starts f(0) … f(n-1) as goroutines, each once the one before is blocked, and
// returns a function that waits for all. Only inside a bubble.
func inOrder(n int, f func(i int)) (wait func()) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
		synctest.Wait()
	}
	return wg.Wait
}

// log keeps what happened in the order it was written.
type log struct {
	mu   sync.Mutex
	list []string
}

func (l *log) add(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, fmt.Sprintf(format, args...))
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.list, " ")
}

// permutations calls f with every order of list.
func permutations[T any](list []T, f func([]T)) {
	var rec func(done, left []T)
	rec = func(done, left []T) {
		if len(left) == 0 {
			f(slices.Clone(done))
			return
		}
		for i := range left {
			rest := slices.Delete(slices.Clone(left), i, i+1)
			rec(append(slices.Clone(done), left[i]), rest)
		}
	}
	rec(nil, list)
}

// heapBytes is what is in use after a collection.
func heapBytes() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// rounds is how often a race is tried: less often under the race detector, where the
// tests are run many times.
func rounds(n int) int {
	if underRace || testing.Short() {
		return n/10 + 1
	}
	return n
}
