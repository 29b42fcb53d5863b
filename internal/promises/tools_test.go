package promises_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
)

// The code of a declared tool comes with each call: with its arguments, its limits and its events
// it is a tool like any other.
func TestDo_TheCodeComesWithTheCall(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{})
		require.NoError(t, sluice.Declare(r.Registry(), sluice.Spec{Name: "fetch", InputSchema: json.RawMessage(`{"required":["url"]}`), Policy: sluice.Policy{Concurrency: 1}}))
		start := r.at()
		parallel(3, func(i int) {
			args := json.RawMessage(fmt.Sprintf(`{"url":"u%d"}`, i))
			got, err := sluice.Do(r.ctx, r.Executor, sluice.Request{Tool: "fetch", Args: args}, func(ctx context.Context) (string, error) {
				if c, ok := sluice.CallFrom(ctx); !ok || c.Tool != "fetch" {
					t.Errorf("the context is of %q", c.Tool)
				}
				time.Sleep(time.Second)
				return fmt.Sprint("page ", i), nil
			})
			if err != nil || got != fmt.Sprint("page ", i) {
				t.Errorf("call %d got %q, %v", i, got, err)
			}
		})
		if d := r.at() - start; d != 3*time.Second {
			t.Errorf("three calls took %v, one at a time they take 3s", d)
		}
		_, err := sluice.Do(r.ctx, r.Executor, sluice.Request{Tool: "fetch", Args: json.RawMessage(`{}`)}, func(context.Context) (int, error) { return 1, nil })
		wantRefusal(t, err, sluice.ErrInvalidArguments, "", 0)
		_, err = sluice.Do(r.ctx, r.Executor, sluice.Request{Tool: "fetch", Input: 7}, func(context.Context) (int, error) { return 0, errTool })
		if err != errTool {
			t.Errorf("the code's own error came as %v", err)
		}
		var p *sluice.PanicError
		_, err = sluice.Do(r.ctx, r.Executor, sluice.Request{Tool: "fetch", Input: "u"}, func(context.Context) (int, error) { panic("no") })
		if !errors.As(err, &p) || p.Value != "no" {
			t.Errorf("a panic came as %v", err)
		}
		r.end()
	})
}

// Declaring again changes what is said of a tool and nothing of what its limits have counted.
func TestDeclare_AgainKeepsWhatLimitsCounted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{MaxWait: sluice.NoWait})
		reg := r.Registry()
		spec := sluice.Spec{Name: "x", Description: "first", Policy: sluice.Policy{Rates: []sluice.Rate{{N: 2, Per: time.Minute}}}}
		require.NoError(t, sluice.Declare(reg, spec))
		do := func() error {
			_, err := sluice.Do(r.ctx, r.Executor, sluice.Request{Tool: "x"}, func(context.Context) (int, error) { return 1, nil })
			return err
		}
		require.NoError(t, do())
		spec.Description, spec.Policy = "second", sluice.Policy{}
		require.NoError(t, sluice.Declare(reg, spec))
		if s, _ := reg.Lookup("x"); s.Description != "second" || len(s.Policy.Rates) != 1 {
			t.Errorf("declared again it is %+v", s)
		}
		require.NoError(t, do())
		wantRefusal(t, do(), sluice.ErrWaitTooLong, "tool/x calls per minute", 30*time.Second)
		require.NoError(t, sluice.Reconfigure("me", reg.WithPolicy("x", sluice.Policy{})))
		require.NoError(t, do())
		require.NoError(t, sluice.Declare(reg, spec))
		require.NoError(t, do())
		r.end()
	})
}

func TestDeclare_MisuseIsRefusedWithWords(t *testing.T) {
	reg := sluice.NewToolRegistry()
	e := sluice.Must(sluice.NewExecutor(reg, sluice.Config{MaxArgBytes: 20}))
	sluice.Must(sluice.Register(reg, sluice.Spec{Name: "own"}, echo))
	require.NoError(t, sluice.Declare(reg, sluice.Spec{Name: "declared"}))
	do := func(r sluice.Request) error {
		_, err := sluice.Do(t.Context(), e, r, func(context.Context) (int, error) { return 1, nil })
		return err
	}
	for _, tt := range []struct {
		name   string
		err    error
		reason error // nil: it is no refusal of a call
		text   string
	}{
		{"a name that has a function", sluice.Declare(reg, sluice.Spec{Name: "own"}), nil, `sluice: tool "own" is registered with a function of its own: must be another name`},
		{"no registry", sluice.Declare(nil, sluice.Spec{Name: "x"}), nil, "sluice: the ToolRegistry is nil: use NewToolRegistry"},
		{"a bad name", sluice.Declare(reg, sluice.Spec{Name: "x y"}), nil, ""},
		{"Do of one with a function", do(sluice.Request{Tool: "own", Input: "x"}), sluice.ErrInvalidArguments, `sluice: tool "own": invalid arguments: sluice: the tool has a function of its own: Do must call one that is declared`},
		{"Invoke of a declared one", errOf(e.Invoke(t.Context(), sluice.Request{Tool: "declared"})), sluice.ErrInvalidArguments, `sluice: tool "declared": invalid arguments: sluice: the tool is declared: must be called by Do, with the code of the call`},
		{"Submit of a declared one", errOf(e.Submit(t.Context(), sluice.Request{Tool: "declared"}).Wait(t.Context())), sluice.ErrInvalidArguments, ""},
		{"too large arguments", do(sluice.Request{Tool: "declared", Args: json.RawMessage(`{"q":"more than twenty bytes"}`)}), sluice.ErrInvalidArguments, ""},
		{"Do of none", do(sluice.Request{Tool: "nobody"}), sluice.ErrUnknownTool, ""},
		{"Register of a declared one", errOf(sluice.Register(reg, sluice.Spec{Name: "declared"}, echo)), nil, `sluice: tool "declared" is registered already: use Replace, or another name`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.err == nil || tt.text != "" && tt.err.Error() != tt.text || errors.Is(tt.err, sluice.ErrRejected) != (tt.reason != nil) || tt.reason != nil && !errors.Is(tt.err, tt.reason) {
				t.Errorf("got %v", tt.err)
			}
		})
	}
	if _, err := sluice.Do[int](t.Context(), e, sluice.Request{Tool: "declared"}, nil); err == nil {
		t.Error("a nil function ran")
	}
	if d := e.Explain(t.Context(), sluice.Request{Tool: "declared"}); d.Refusal != nil {
		t.Errorf("Explain refuses: %v", d.Refusal)
	}
	require.NoError(t, e.Close(t.Context()))
}

// Priority and tenant reach the library through the typed API only.
func TestIdentityCannotBeSpoofed(t *testing.T) {
	e := newExec(t, sluice.Config{})
	type in struct{ Tenant, Priority string }
	f := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "a"}, func(ctx context.Context, _ in) (sluice.Call, error) {
		c, _ := sluice.CallFrom(ctx)
		return c, nil
	}))
	//lint:ignore SA1029 a string key is what an attacker would try
	ctx := context.WithValue(context.WithValue(t.Context(), "priority", 99), "tenant", "root")
	c, err := f(ctx, in{Tenant: "root", Priority: "4"})
	require.NoError(t, err)
	require.Equal(t, sluice.PriorityNormal, c.Priority)
	assert.Empty(t, c.Pipeline.Tenant)
	for _, name := range []string{"Priority", "Tenant", "Sink"} {
		_, ok := reflect.TypeFor[sluice.Request]().FieldByName(name)
		assert.False(t, ok, "Request has a field %s", name)
	}
	ctx = sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{Priority: 10})
	if _, err := f(ctx, in{}); !errors.Is(err, sluice.ErrInvalidArguments) {
		t.Errorf("priority 10: %v", err)
	}
}

func TestNamesAreExact(t *testing.T) {
	e := newExec(t, sluice.Config{})
	sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "delete_file"}, echo))
	sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "send"}, echo))
	for _, name := range []string{"", "Delete_file", "DELETE_FILE", "delete_fıle", "ſend", "send ", " send", "send\x00", "ѕend", "delete-file"} {
		_, err := e.Invoke(t.Context(), sluice.Request{Tool: name, Input: ""})
		assert.ErrorIs(t, err, sluice.ErrUnknownTool, "%q", name)
	}
	long := strings.Repeat("x", 1<<20)
	if _, err := e.Invoke(t.Context(), sluice.Request{Tool: long}); len(err.Error()) > 300 {
		t.Errorf("the error quotes %d bytes", len(err.Error()))
	}
	for _, name := range []string{"", "a b", "a/b", "ä", "a\n", strings.Repeat("x", 129)} {
		_, err := sluice.Wrap(e, sluice.Spec{Name: name}, echo)
		assert.ErrorContains(t, err, "Spec.Name", "%q", name)
	}
}

// A name in a request that was cut from a long text does not keep that, whether there is such a tool or not.
func TestNamesKeepNothingElse(t *testing.T) {
	const size = 16 << 20
	r := newRig(t, sluice.Config{})
	r.ctx = t.Context() // without a recorder, which keeps events
	for name, call := range map[string]func(sluice.Request){
		"Invoke":  func(q sluice.Request) { _, _ = r.Invoke(r.ctx, q) },
		"Submit":  func(q sluice.Request) { _, _ = r.Submit(r.ctx, q).Wait(r.ctx) },
		"Explain": func(q sluice.Request) { r.Explain(r.ctx, q) },
	} {
		rawTool(t, r.reg, sluice.Spec{Name: name}, func(context.Context) error { return nil })
		for _, tool := range []string{name, "no " + name} {
			before := heapBytes()
			long := tool + strings.Repeat("x", size)
			for range 2 { // the first call of a tool, and a later one
				call(sluice.Request{Tool: long[:len(tool)]})
			}
			if more := heapBytes() - before; more > size/2 {
				t.Errorf("%s of %q: %d MiB are kept", name, tool, more>>20)
			}
		}
	}
	r.end()
}

func TestTakenNamesAreRefused(t *testing.T) {
	r := sluice.NewToolRegistry()
	e := sluice.Must(sluice.NewExecutor(r, sluice.Config{}))
	const n = 50
	won := make(chan int, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if _, err := sluice.Register(r, sluice.Spec{Name: "x"}, func(context.Context, string) (int, error) { return i, nil }); err == nil {
				won <- i
			}
		})
	}
	wg.Wait()
	require.Len(t, won, 1, "registrations won")
	res, err := e.Invoke(t.Context(), sluice.Request{Tool: "x", Input: ""})
	if first := <-won; err != nil || res.Value != first {
		t.Errorf("%v, %v; want %d", res.Value, err, first)
	}
	if _, err := sluice.Replace(r, sluice.Spec{Name: "y"}, echo); err == nil {
		t.Error("Replace of a free name")
	}
	if !r.Remove("x") || r.Remove("x") {
		t.Error("Remove")
	}
}

// Registering, replacing and removing while calls run: each call keeps the tool it resolved.
func TestEachCallKeepsTheToolItResolved(t *testing.T) {
	r := sluice.NewToolRegistry()
	e := sluice.Must(sluice.NewExecutor(r, sluice.Config{Interceptors: []sluice.Interceptor{atMost(4)}}))
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		defer close(stop)
		for i := range 300 {
			f := func(context.Context, string) (int, error) { return i, nil }
			_, err := sluice.Register(r, sluice.Spec{Name: "x"}, f)
			assert.NoError(t, err)
			_, err = sluice.Replace(r, sluice.Spec{Name: "x"}, f)
			assert.NoError(t, err)
			for s := range r.Tools() {
				assert.Equal(t, "x", s.Name, "what is listed")
			}
			r.Remove("x")
		}
	})
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := e.Invoke(context.Background(), sluice.Request{Tool: "x", Input: ""}); err != nil && !errors.Is(err, sluice.ErrUnknownTool) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// The zero ToolRegistry is an empty one, for readers and for executors made before its
// first tool.
func TestZeroRegistryIsEmpty(t *testing.T) {
	var reg sluice.ToolRegistry
	e := sluice.Must(sluice.NewExecutor(&reg, sluice.Config{}))
	defer func() { require.NoError(t, e.Close(t.Context())) }()
	if _, ok := reg.Lookup("x"); ok || reg.Remove("x") || len(e.Snapshot().Gates) != 0 {
		t.Error("the zero registry has something")
	}
	_, err := e.Invoke(t.Context(), sluice.Request{Tool: "x"})
	assert.ErrorIs(t, err, sluice.ErrUnknownTool, "want ErrUnknownTool")
	sluice.Must(sluice.Register(&reg, sluice.Spec{Name: "x"}, echo))
	require.NoError(t, errOf(e.Invoke(t.Context(), sluice.Request{Tool: "x", Input: ""})))
}

// Whoever has an executor can register tools with it.
func TestExecutor_RegistryTakesTools(t *testing.T) {
	reg := sluice.NewToolRegistry()
	e := sluice.Must(sluice.NewExecutor(reg, sluice.Config{}))
	if e.Registry() != reg {
		t.Error("it is not the registry that the executor was made with")
	}
	sluice.Must(sluice.Register(e.Registry(), sluice.Spec{Name: "x"}, echo))
	require.NoError(t, errOf(e.Invoke(t.Context(), sluice.Request{Tool: "x", Input: ""})))
	require.NoError(t, e.Close(t.Context()))
	var none *sluice.Executor
	if none.Registry() != nil || new(sluice.Executor).Registry() != nil {
		t.Error("an executor that nobody made has a registry")
	}
}

// Tools that come and go leave nothing behind, whatever their limits counted, once that is
// over; what runs meanwhile still counts.
func TestRemovedTools_LeaveNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(
			limitsOf(sluice.Limit{Max: 4, Scope: sluice.ByTool}, sluice.Limit{Max: 9, Scope: sluice.ByType}, sluice.Limit{Max: 100}),
			sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ByTool, Rates: []sluice.Rate{{N: 10}}})),
			breakerOf(sluice.CircuitBreakerConfig{}))})
		defer r.end()
		r.ctx = t.Context()
		release := make(chan struct{})
		for i := range 3000 {
			s := sluice.Spec{Name: fmt.Sprint("session-", i), Type: fmt.Sprint("type-", i), Policy: sluice.Policy{Rates: []sluice.Rate{{N: 5}}, Breaker: &sluice.BreakerPolicy{}}}
			r.tool(s, func(ctx context.Context) error {
				if i < 10 {
					<-release
				}
				if i%3 == 0 {
					return errTool // remembered for a while
				}
				return nil
			})
			if i < 10 {
				go r.call(s.Name)
				synctest.Wait()
			} else {
				_ = r.call(s.Name)
			}
			r.reg.Remove(s.Name)
		}
		s := r.Snapshot()
		assert.Equal(t, 10, s.InFlight, "in flight")
		if n := len(s.Gates); n > 2100 || n < 40 {
			t.Errorf("%d constraints while 3000 removed tools have just been called: want those that remember, at most 1,000 a limit", n)
		}
		close(release)
		time.Sleep(time.Hour)
		if s := r.Snapshot(); len(s.Gates) != 1 || s.Gates[0].Name != "concurrency global" {
			t.Errorf("no tool is registered, and there is %+v", s.Gates)
		}
	})
}

// Twenty thousand tools that came and went leave no memory behind.
func TestRemovedTools_LeaveNoMemory(t *testing.T) {
	r := newRig(t, sluice.Config{Interceptors: interceptors(passing, limitsOf(sluice.Limit{Max: 4, Scope: sluice.ByTool}), breakerOf(sluice.CircuitBreakerConfig{}))})
	r.ctx = t.Context()
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	round := func(from int) {
		for i := range 10_000 {
			name := fmt.Sprint("session-", from+i)
			rawTool(t, r.reg, sluice.Spec{Name: name}, func(context.Context) error { return nil })
			require.NoError(t, r.call(name))
			r.reg.Remove(name)
		}
	}
	round(0)
	before := heap()
	round(10_000)
	if d := heap() - before; d > 1<<20 {
		t.Errorf("%d KiB more after ten thousand tools that came and went", d>>10)
	}
	n := len(r.Snapshot().Gates)
	assert.Zero(t, n, "no tool is registered, and there are %d constraints", n)
	r.end()
}

// A tool that is removed and comes back at once finds what limits by tool and by type remember:
// its debts, its pause, its open breaker, and the calls that still run.
func TestRemovedTools_FindWhatIsRemembered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ByTool, Refuse: true, Rates: []sluice.Rate{{N: 3, Per: time.Hour}}}))
		byType := breakerOf(sluice.CircuitBreakerConfig{Name: "type", Scope: sluice.ByType, Failures: 3, Cooldown: time.Hour})
		l := limitsOf(sluice.Limit{Max: 2, Scope: sluice.ByTool, Refuse: true})
		r := newRig(t, sluice.Config{Interceptors: interceptors(q, byType, l)})
		defer r.end()
		add := func(name string, f func(context.Context) error) {
			r.reg.Remove(name)
			r.tool(sluice.Spec{Name: name, Type: "type of " + name}, f)
		}
		ran := 0
		for range 10 {
			add("quota", func(context.Context) error { ran++; return nil })
			_ = r.call("quota")
		}
		assert.Equal(t, 3, ran, "calls ran under 3 an hour, of a tool that came and went")
		for i := range 4 {
			add("broken", func(context.Context) error { return errTool })
			err := r.call("broken")
			assert.Equal(t, i == 3, errors.Is(err, sluice.ErrBreakerOpen), "call %d: %v", i, err)
		}
		var g gauge
		for range 5 {
			add("slow", g.counts(time.Minute))
			go r.call("slow")
			synctest.Wait()
		}
		assert.Equal(t, int64(2), g.peak.Load(), "at once under a limit of 2, of a tool that came and went")
		time.Sleep(time.Minute)
	})
}

// A tool whose policy was changed keeps what limits by tool have of it until it is called again.
func TestRemovedTools_ChangedOnesAreKept(t *testing.T) {
	r := newRig(t, sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 3, Scope: sluice.ByTool}))})
	defer r.end()
	for _, n := range []string{"x", "y"} {
		r.tool(sluice.Spec{Name: n}, func(context.Context) error { return nil })
	}
	for i := range 3 {
		require.NoError(t, r.call("x"))
		require.NoError(t, sluice.Reconfigure("me", r.reg.WithPolicy("x", sluice.Policy{Concurrency: 5 + i})))
		require.NoError(t, r.call("y")) // compiles for the changed registry
		g := r.gateState("concurrency per tool", "x")
		assert.Equal(t, int64(3), g.Limit, "the limit's cell of a tool that was changed: %+v", g)
	}
	r.reg.Remove("x")
	for _, g := range r.Snapshot().Gates {
		assert.NotEqual(t, "x", g.Key, "the limit's cell of a tool that was removed: %+v", g)
	}
}

// A call that holds on to a tool that has been removed counts with the one that came after it.
func TestRemovedTools_LateAttemptsCount(t *testing.T) {
	bubble(t, func(t *testing.T) {
		late := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				time.Sleep(time.Second) // the tool is removed meanwhile
				return next(ctx, c)
			}
		})
		r := newRig(t, sluice.Config{Interceptors: interceptors(late, limitsOf(sluice.Limit{Max: 1, Scope: sluice.ByTool}))})
		defer r.end()
		var g gauge
		var wg sync.WaitGroup
		for range 3 {
			r.reg.Remove("x")
			r.tool(sluice.Spec{Name: "x"}, g.counts(10*time.Second))
			wg.Go(func() { assert.NoError(t, r.call("x")) })
			synctest.Wait()
			r.reg.Remove("x")
		}
		wg.Wait()
		if g.peak.Load() != 1 || g.total.Load() != 3 || r.at() != 31*time.Second {
			t.Errorf("%d at once, %d ran, until %v: want 1, 3, 31s", g.peak.Load(), g.total.Load(), r.at())
		}
		assert.Empty(t, r.Snapshot().Gates, "constraints are left")
	})
}
