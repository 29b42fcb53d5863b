package promises_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Each test here is named after a mistake that a library of this field has shipped.

func newExec(t testing.TB, c sluice.Config) *sluice.Executor {
	t.Helper()
	e, err := sluice.NewExecutor(sluice.NewToolRegistry(), c)
	require.NoError(t, err)
	return e
}

func limiter(n int) *sluice.ConcurrencyLimiter {
	return sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: n}}}))
}

func echo(_ context.Context, in string) (string, error) { return in, nil }

// A slow handler of one tool must hold up nothing that another needs.
func TestSlowToolHoldsNoLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newExec(t, sluice.Config{})
		block := make(chan struct{})
		slow := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "slow"}, func(ctx context.Context, _ string) (string, error) {
			<-block
			return "", nil
		}))
		done := make(chan error, 1)
		go func() { _, err := slow(t.Context(), ""); done <- err }()
		synctest.Wait()
		start := time.Now()
		fast := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "fast"}, echo))
		got, err := fast(t.Context(), "x")
		assert.Equal(t, "x", got, "fast")
		assert.NoError(t, err, "fast")
		assert.Equal(t, 1, e.Snapshot().InFlight, "in flight")
		_, ok := e.Plan("slow")
		assert.True(t, ok, "no plan of slow")
		assert.Zero(t, time.Since(start), "took")
		close(block)
		assert.NoError(t, <-done)
	})
}

func TestRefusalsAreTyped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "api", Rates: []sluice.Rate{{N: 1}}}))
		e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{rates}})
		f := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "a"}, echo))
		if _, err := f(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
		defer cancel()
		_, err := f(ctx, "")
		var x *sluice.Error
		if !errors.As(err, &x) {
			t.Fatalf("%T is no *Error", err)
		}
		if x.Reason != sluice.ErrWaitTooLong || x.RetryAfter != time.Second || x.By != "rate/api calls per second" || x.Tool != "a" {
			t.Errorf("got %+v", x)
		}
		for target, want := range map[error]bool{
			sluice.ErrRejected: true, sluice.ErrWaitTooLong: true,
			sluice.ErrRateLimited: false, sluice.ErrTimeout: false, context.DeadlineExceeded: false,
		} {
			assert.Equal(t, want, errors.Is(err, target), "errors.Is(err, %v)", target)
		}
	})
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
	if typ := reflect.TypeFor[sluice.Request](); true {
		for _, name := range []string{"Priority", "Tenant", "Sink"} {
			_, ok := typ.FieldByName(name)
			assert.False(t, ok, "Request has a field %s", name)
		}
	}
	ctx = sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{Priority: 10})
	if _, err := f(ctx, in{}); !errors.Is(err, sluice.ErrInvalidArguments) {
		t.Errorf("priority 10: %v", err)
	}
}

// Waiters of one instant go in the order they came.
func TestDispatchIsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1, Per: time.Millisecond}}}))
		e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{rates}})
		var mu sync.Mutex
		var order []int
		f := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "a"}, func(_ context.Context, i int) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			order = append(order, i)
			return i, nil
		}))
		_, err := f(t.Context(), 0)
		require.NoError(t, err)
		var wg sync.WaitGroup
		for i := 1; i <= 50; i++ {
			wg.Go(func() {
				_, err := f(t.Context(), i)
				assert.NoError(t, err)
			})
			synctest.Wait()
		}
		wg.Wait()
		for i, n := range order {
			require.Equal(t, i, n, "order %v", order)
		}
	})
}

// A panic in any code that a call runs leaves the process alive. The child process would
// exit with 2 otherwise.
func TestPanicsDoNotEndTheProcess(t *testing.T) {
	if os.Getenv("SLUICE_PANICS") != "" {
		panicEverywhere(t)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestPanicsDoNotEndTheProcess$")
	cmd.Env = append(os.Environ(), "SLUICE_PANICS=1")
	out, err := cmd.CombinedOutput()
	assert.NoError(t, err, "%s", out)
	assert.NotContains(t, string(out), "no tests to run")
}

type badError struct{}

func (badError) Error() string   { panic("in Error") }
func (badError) Is(error) bool   { panic("in Is") }
func (badError) As(any) bool     { panic("in As") }
func (badError) Unwrap() []error { panic("in Unwrap") }

func panicEverywhere(t *testing.T) {
	boom := func(sluice.Call) string { panic("in key") }
	sinks := sluice.MultiSink(sluice.NewJSONSink(new(strings.Builder)), sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { panic("in sink") }))
	around := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
		switch s.Name {
		case "before":
			return func(context.Context, sluice.Call) (sluice.Result, error) { panic("before") }
		case "after":
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				next(ctx, c)
				panic("after")
			}
		case "wrap":
			panic("in Wrap")
		case "nil":
			return nil
		}
		return next
	})
	keyed := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1, Scope: sluice.ByKey("k", func(c sluice.Call) string {
		if c.Tool == "key" {
			return boom(c)
		}
		return ""
	})}}}))
	one := limiter(1)
	e := newExec(t, sluice.Config{Sink: sinks, Interceptors: []sluice.Interceptor{around, keyed, one}})
	tool := func(name string, p sluice.Policy, f func() error) func(context.Context, string) (string, error) {
		return sluice.Must(sluice.Wrap(e, sluice.Spec{Name: name, Policy: p}, func(context.Context, string) (string, error) { return "", f() }))
	}
	fine := func() error { return nil }
	for _, f := range []func(context.Context, string) (string, error){
		tool("panic", sluice.Policy{}, func() error { panic("in tool") }),
		tool("nilpanic", sluice.Policy{}, func() error { panic(nil) }), //nolint:govet // a tool may
		tool("runtime", sluice.Policy{}, func() error { var m []int; return fmt.Errorf("%d", m[len(m)]) }),
		tool("timed", sluice.Policy{Timeout: time.Hour}, func() error { panic(errors.New("in timed tool")) }),
		tool("error", sluice.Policy{}, func() error { return badError{} }),
		tool("before", sluice.Policy{}, fine),
		tool("after", sluice.Policy{}, fine),
		tool("wrap", sluice.Policy{}, fine),
		tool("nil", sluice.Policy{}, fine),
		tool("key", sluice.Policy{}, fine),
		tool("cost", sluice.Policy{Rates: []sluice.Rate{{N: 9, Unit: "u"}}, Cost: func(sluice.Call, string) int64 { panic("in Cost") }}, fine),
	} {
		for range 2 { // the second finds the slot of the first free
			_, err := f(t.Context(), "")
			assert.Error(t, err, "no error")
		}
	}
	class := tool("classify", sluice.Policy{Classify: func(sluice.Call, sluice.Result, error) sluice.Outcome { panic("in Classify") }}, fine)
	for range 2 {
		_, err := class(t.Context(), "")
		assert.NoError(t, err)
	}
	assert.Zero(t, e.Snapshot().InFlight, "in flight")
}

// A tool that calls runtime.Goexit is answered for, wherever somebody can be answered.
func TestGoexit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pc, rec := sluice.NewTestPipelineContext()
		ctx := sluice.WithPipelineContext(t.Context(), pc)
		e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{limiter(1)}})
		quit := func(context.Context, string) (string, error) { runtime.Goexit(); return "", nil }
		inline := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "inline"}, quit))
		timed := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "timed", Policy: sluice.Policy{Timeout: time.Second}}, quit))
		returned := false
		var wg sync.WaitGroup
		wg.Go(func() {
			inline(ctx, "")
			returned = true
		})
		wg.Wait()
		assert.False(t, returned, "Goexit did not end the calling goroutine")
		check := func(err error) {
			t.Helper()
			var p *sluice.PanicError
			if !errors.As(err, &p) || !p.Goexit {
				t.Errorf("got %v, want a PanicError of Goexit", err)
			}
		}
		_, err := timed(ctx, "")
		check(err)
		_, err = e.Submit(ctx, sluice.Request{Tool: "inline", Input: ""}).Wait(t.Context())
		check(err)
		assert.NoError(t, rec.Check())
		assert.Zero(t, e.Snapshot().InFlight, "in flight")
	})
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
func TestRegistryUnderLoad(t *testing.T) {
	r := sluice.NewToolRegistry()
	e := sluice.Must(sluice.NewExecutor(r, sluice.Config{Interceptors: []sluice.Interceptor{limiter(4)}}))
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

func TestArgumentsAreStrict(t *testing.T) {
	type in struct {
		Name  string `json:"name"`
		ID    int64  `json:"id"`
		Param string `json:"params"`
	}
	e := newExec(t, sluice.Config{MaxArgBytes: 1000})
	sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, func(_ context.Context, v in) (in, error) { return v, nil }))
	sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "raw"}, func(_ context.Context, v json.RawMessage) (json.RawMessage, error) { return v, nil }))
	for args, want := range map[string]string{
		`{"name":"a","id":9007199254740993}`:           `{"name":"a","id":9007199254740993,"params":""}`,
		`{"name":"a","NAME":"b"}`:                      "",
		`{"name":"a","name":"b"}`:                      "",
		`{"paramſ":"x"}`:                               "",
		`{"unknown":1}`:                                "",
		`{"name":1}`:                                   "",
		`{"name":"a"} x`:                               "",
		`{"name":"` + strings.Repeat("a", 1000) + `"}`: "",
		`[`: "",
	} {
		res, err := e.Invoke(t.Context(), sluice.Request{Tool: "x", Args: json.RawMessage(args)})
		if want == "" {
			assert.ErrorIs(t, err, sluice.ErrInvalidArguments, "%.40s", args)
			assert.ErrorIs(t, err, sluice.ErrRejected, "%.40s", args)
			continue
		}
		if got, err2 := res.JSON(); err != nil || err2 != nil || string(got) != want {
			t.Errorf("%s: %s, %v, %v", args, got, err, err2)
		}
	}
	args := json.RawMessage(`{"a":[1,2]}`)
	res, err := e.Invoke(t.Context(), sluice.Request{Tool: "raw", Args: args})
	args[2] = 'b'
	if got, _ := res.JSON(); err != nil || string(got) != `{"a":[1,2]}` {
		t.Errorf("raw: %s, %v", got, err)
	}
	if _, err := e.Invoke(t.Context(), sluice.Request{Tool: "raw", Args: json.RawMessage(strings.Repeat("[", 100) + strings.Repeat("]", 100))}); !errors.Is(err, sluice.ErrInvalidArguments) {
		t.Errorf("depth: %v", err)
	}
	if _, err := e.Invoke(t.Context(), sluice.Request{Tool: "x", Input: 7}); !errors.Is(err, sluice.ErrInvalidArguments) || !strings.Contains(err.Error(), "Request.Input is int") {
		t.Errorf("wrong type: %v", err)
	}
}

func TestCloseManyTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newExec(t, sluice.Config{})
		var inside error
		f := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, func(ctx context.Context, _ string) (string, error) {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			inside = e.Close(ctx) // would wait for itself
			return "", nil
		}))
		start := time.Now()
		_, err := f(t.Context(), "")
		assert.NoError(t, err)
		require.ErrorContains(t, inside, `tool "x"`, "Close inside")
		assert.Zero(t, time.Since(start), "Close inside")
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				assert.NoError(t, e.Close(t.Context()))
			})
		}
		wg.Wait()
	})
}

func TestUnusedCostsNothing(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 1000 {
		e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{limiter(1)}})
		f := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, echo))
		_, err := f(context.Background(), "")
		require.NoError(t, err)
		require.NoError(t, e.Close(context.Background()))
	}
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines, %d before", n, before)
	}
}

// A limiter's numbers are read while they change.
func TestReconfigureWhileCalling(t *testing.T) {
	lim := limiter(2)
	rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1_000_000}}}))
	e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{lim, rates}})
	f := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, echo))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 300 {
				_, err := f(context.Background(), "")
				assert.NoError(t, err)
			}
		})
	}
	wg.Go(func() {
		for i := range 300 {
			c, r := lim.Config(), rates.Config()
			c.Limits[0].Max = 1 + i%5
			r.Rates[0].N = int64(1_000_000 + i)
			assert.NoError(t, sluice.Reconfigure("test", lim.Change(c), rates.Change(r)))
			assert.NotEmpty(t, fmt.Sprint(e.Snapshot().InFlight), "no snapshot")
		}
	})
	wg.Wait()
}
