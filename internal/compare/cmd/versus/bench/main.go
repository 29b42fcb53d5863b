// Command bench measures one row of cmd/versus for one slice of time and prints what an
// operation took: wall nanoseconds, processor nanoseconds, allocations and bytes. It is built
// once for each state of the library, so it uses only what all states since v0 have; what they
// spell differently is left to type inference.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/sluice-go/sluice"
)

// A row makes its work: n operations, and what is to be done between two portions of them,
// outside the measured time. Nil is nothing.
type row struct {
	name  string
	work  func() (ops func(n int), between func())
	least int // of one portion, where the cost of an operation depends on it
}

var rows = []row{
	{"whole call", func() (func(int), func()) { return invoke(sluice.Config{}, asValue) }, 0},
	{"typed", typed, 0},
	{"timeout", func() (func(int), func()) { return invoke(sluice.Config{Timeout: time.Hour}, asValue) }, 0},
	{"queued", queued, 50_000},
	{"nested", nested, 0},
	{"keyed", keyed, 0},
	{"sink", func() (func(int), func()) { return invoke(sluice.Config{Sink: discard}, asValue) }, 0},
	{"json sink", func() (func(int), func()) {
		return invoke(sluice.Config{Sink: sluice.NewJSONSink(io.Discard)}, asValue)
	}, 0},
	{"args", func() (func(int), func()) { return invoke(sluice.Config{}, asJSON) }, 0},
	{"submit", submit, 100_000},
}

var (
	ctx     = sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{Tenant: "acme"})
	asValue = sluice.Request{ID: "call_1", Tool: "noop", Input: input{N: 7}}
	asJSON  = sluice.Request{ID: "call_1", Tool: "noop", Args: json.RawMessage(`{"query":"weather in Berlin","n":7}`)}
)

type input struct {
	Query string `json:"query,omitempty"`
	N     int    `json:"n"`
}

func noop(_ context.Context, in input) (int, error) { return in.N, nil }

// drop is generic because events are passed by value in one state and by pointer in another.
func drop[E any](context.Context, E) error { return nil }

var discard sluice.EventSinkFunc = drop

// limiter has room for max calls in each scope.
func limiter(name string, max int, scopes ...sluice.Scope) sluice.Interceptor {
	c := sluice.ConcurrencyLimiterConfig{Name: name}
	for _, s := range scopes {
		c.Limits = append(c.Limits, sluice.Limit{Max: max, Scope: s})
	}
	return sluice.Must(sluice.NewConcurrencyLimiter(c))
}

// executor is one with all four gates, none of which ever binds, and those of c.
func executor(c sluice.Config) *sluice.Executor {
	c.Interceptors = append([]sluice.Interceptor{
		sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{MaxQueue: 1 << 30})),
		limiter("wide", 1<<20, sluice.Global),
		sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1e12}}})),
		sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Failures: 5})),
	}, c.Interceptors...)
	return sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), c))
}

// calls is n calls of r, each of which must succeed.
func calls(e *sluice.Executor, r sluice.Request) func(n int) {
	return func(n int) {
		for range n {
			if res, err := e.Invoke(ctx, r); err != nil || res.Value != any(7) {
				fail(res.Value, err)
			}
		}
	}
}

func invoke(c sluice.Config, r sluice.Request) (func(int), func()) {
	e := executor(c)
	sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "noop"}, noop))
	return calls(e, r), nil
}

func keyed() (func(int), func()) {
	user := sluice.ByKey("user", func(c sluice.Call) string { return c.Pipeline.Tenant })
	return invoke(sluice.Config{Interceptors: []sluice.Interceptor{limiter("keyed", 1<<20, sluice.ByTenant, user)}}, asValue)
}

func typed() (func(int), func()) {
	f := sluice.Must(sluice.Wrap(executor(sluice.Config{}), sluice.Spec{Name: "noop"}, noop))
	return typedCalls(f), nil
}

func typedCalls(f func(context.Context, input) (int, error)) func(n int) {
	return func(n int) {
		for range n {
			if v, err := f(ctx, input{N: 7}); err != nil || v != 7 {
				fail(v, err)
			}
		}
	}
}

// nested is a call in a call, on its slot.
func nested() (func(int), func()) {
	e := executor(sluice.Config{Interceptors: []sluice.Interceptor{limiter("one", 1, sluice.Global)}})
	inner := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "inner"}, noop))
	outer := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "outer"}, inner))
	return typedCalls(outer), nil
}

// queued is calls of which one runs and all others wait. On one processor, with a tool that lets
// others run, every call queues, whatever else the machine does.
func queued() (func(int), func()) {
	const callers = 64
	runtime.GOMAXPROCS(1)
	e := executor(sluice.Config{Interceptors: []sluice.Interceptor{limiter("one", 1, sluice.Global)}})
	sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "noop"}, func(ctx context.Context, in input) (int, error) {
		runtime.Gosched()
		return noop(ctx, in)
	}))
	call := calls(e, asValue)
	return func(n int) {
		var wg sync.WaitGroup
		for i := range callers {
			wg.Go(func() { call((n + i) / callers) })
		}
		wg.Wait()
	}, nil
}

// submit is calls that wait, with nobody waiting for them.
func submit() (func(int), func()) {
	var e *sluice.Executor
	next := func() {
		if e != nil {
			if err := e.Close(context.Background()); err != nil {
				fail(nil, err)
			}
		}
		slow := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{
			Name: "slow", Rates: []sluice.Rate{{N: 1, Per: 24 * time.Hour}}}))
		e = executor(sluice.Config{Interceptors: []sluice.Interceptor{slow}})
		sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "noop"}, noop))
	}
	next()
	return func(n int) {
		for range n {
			e.Submit(ctx, asValue)
		}
	}, next
}

func fail(v any, err error) {
	fmt.Fprintln(os.Stderr, "a call gave", v, err)
	os.Exit(1)
}

func main() {
	if len(os.Args) == 1 {
		for _, r := range rows {
			fmt.Println(r.name)
		}
		return
	}
	slice, err := time.ParseDuration(os.Args[2])
	if err != nil {
		fail(nil, err)
	}
	for _, r := range rows {
		if r.name == os.Args[1] {
			measure(r, slice)
			return
		}
	}
	fail(os.Args[1], fmt.Errorf("no such row"))
}

// measure does portions of about a fiftieth of the slice each, the first of which are not counted.
func measure(r row, slice time.Duration) {
	ops, between := r.work()
	if between == nil {
		between = func() {}
	}
	n := max(128, r.least)
	for {
		start := time.Now()
		ops(n)
		took := time.Since(start)
		between()
		if took >= slice/50 {
			break
		}
		n *= 2
	}
	runtime.GC()
	var total int
	var wall, cpu time.Duration
	var before, after runtime.MemStats
	var allocs, bytes uint64
	for end := time.Now().Add(slice); time.Now().Before(end); between() {
		runtime.ReadMemStats(&before)
		c, t := processor(), time.Now()
		ops(n)
		wall += time.Since(t)
		cpu += processor() - c
		runtime.ReadMemStats(&after)
		allocs += after.Mallocs - before.Mallocs
		bytes += after.TotalAlloc - before.TotalAlloc
		total += n
	}
	per := func(x float64) float64 { return x / float64(total) }
	fmt.Println(per(float64(wall)), per(float64(cpu)), per(float64(allocs)), per(float64(bytes)))
}
