package sluice_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice"
)

// frozen is the error of a rule, with a code of its own.
type frozen struct{ until string }

func (f frozen) Error() string { return "no exports until " + f.until }
func (frozen) Code() string    { return "frozen" }

// An interceptor's error, like a tool's, may say in one word what it is.
func ExampleCodeOf() {
	freeze := sluice.InterceptorFunc(func(tool sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			return sluice.Result{}, frozen{"Monday"}
		}
	})
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{freeze}}))
	defer exec.Close(context.Background())
	export := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "export"}, func(context.Context, string) (string, error) { return "", nil }))

	_, err := export(context.Background(), "")
	fmt.Println(sluice.CodeOf(err))
	fmt.Println(err)
	fmt.Println(sluice.ModelText(err))
	// Output:
	// frozen
	// sluice: tool "export": denied: no exports until Monday
	// {"type":"frozen","message":"the call was denied: no exports until Monday","retryable":false}
}

// pacer has calls that are refused made once more, when who refused them says.
type pacer struct{}

func (pacer) Steps(sluice.Spec) sluice.Steps {
	return sluice.Steps{After: func(_ context.Context, s *sluice.Step) {
		if a := s.Attempt(); !a.Ran && a.N == 1 && a.RetryAfter > 0 {
			s.Again(a.RetryAfter)
		}
	}}
}

func (p pacer) Wrap(tool sluice.Spec, next sluice.Handler) sluice.Handler {
	return p.Steps(tool).Wrap(next)
}

// An interceptor whose steps do not wait takes no goroutine of a submitted call, also where the call does.
func ExampleStepper() {
	rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{
		Rates: []sluice.Rate{{N: 1, Per: 20 * time.Millisecond}}, Refuse: true,
	}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{pacer{}, rate},
		Sink: sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
			fmt.Println(e.Kind, e.Call.ID)
			return nil
		}),
	}))
	defer exec.Close(context.Background())
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "search"}, func(context.Context, string) (string, error) { return "found", nil }))

	for _, id := range []string{"a", "b"} {
		res, err := exec.Submit(context.Background(), sluice.Request{ID: id, Tool: "search", Input: "x"}).Wait(context.Background())
		fmt.Println(res.Value, err)
	}
	// Output:
	// tool.invoked a
	// tool.started a
	// tool.completed a
	// found <nil>
	// tool.invoked b
	// tool.retrying b
	// tool.started b
	// tool.completed b
	// found <nil>
}

// Who gets a result can see that it is not the tool's.
func ExampleResult_AnsweredBy() {
	closed := sluice.InterceptorFunc(func(sluice.Spec, sluice.Handler) sluice.Handler {
		return func(context.Context, sluice.Call) (sluice.Result, error) {
			return sluice.Result{Value: "out of office"}.By("office hours"), nil
		}
	})
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{closed}}))
	defer exec.Close(context.Background())
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "ask"}, func(context.Context, string) (string, error) { return "yes", nil }))

	res, _ := exec.Invoke(context.Background(), sluice.Request{Tool: "ask", Input: "?"})
	fmt.Println(res.Value, "–", res.AnsweredBy())
	// Output: out of office – office hours
}

// A cache keeps results as JSON, and answers with what the tool would.
func ExampleSpec_Decode() {
	var kept sync.Map // of json.RawMessage
	cache := sluice.InterceptorFunc(func(tool sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			key := fmt.Sprint(c.Tool, c.Input)
			if raw, ok := kept.Load(key); ok {
				v, err := tool.Decode(raw.(json.RawMessage))
				return sluice.Result{Value: v}, err
			}
			res, err := next(ctx, c)
			if raw, bad := res.JSON(); err == nil && bad == nil {
				kept.Store(key, raw)
			}
			return res, err
		}
	})
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{cache}}))
	defer exec.Close(context.Background())
	square := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "square"}, func(_ context.Context, n int) (int, error) {
		fmt.Println("squaring", n)
		return n * n, nil
	}))
	for range 2 {
		fmt.Println(square(context.Background(), 7))
	}
	// Output:
	// squaring 7
	// 49 <nil>
	// 49 <nil>
}

// Who waits for another's call, and gets its outcome, has failed as that has.
func ExampleElsewhere() {
	errDisk := errors.New("disk full")
	shared := sluice.InterceptorFunc(func(tool sluice.Spec, next sluice.Handler) sluice.Handler {
		var first sync.Once
		var res sluice.Result
		var err error
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			own := false
			first.Do(func() {
				own = true
				res, err = next(ctx, c)
			})
			if own {
				return res, err
			}
			return res, sluice.Elsewhere(err)
		}
	})
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{shared}}))
	defer exec.Close(context.Background())
	save := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "save"}, func(context.Context, string) (string, error) { return "", errDisk }))
	for range 2 {
		_, err := save(context.Background(), "")
		fmt.Println(err == errDisk, errors.Is(err, sluice.ErrRejected))
	}
	// Output:
	// true false
	// true false
}

// A layer tells what it does where the call's own events stand.
func ExampleCall_Emit() {
	audit := sluice.InterceptorFunc(func(tool sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			if err := c.Emit(ctx, "audit.checked", slog.String("rule", "exports"), slog.Int("version", 3)); err != nil {
				return sluice.Result{}, err // it says what is wrong with the event
			}
			return next(ctx, c)
		}
	})
	rec := new(sluice.Recorder)
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{audit}, Sink: rec}))
	defer exec.Close(context.Background())
	export := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "export"}, func(context.Context, string) (string, error) { return "", nil }))

	_, _ = export(context.Background(), "all")
	fmt.Println(rec.Trace())
	fmt.Println(rec.Events()[1].Attrs)
	// Output:
	// export: invoked audit.checked started completed
	// [rule=exports version=3]
}

// What an interceptor learns of a call goes to whoever hears of the call's end, by a key that no other call has.
func ExampleCall_Key() {
	var regions sync.Map // of calls under way
	route := sluice.InterceptorFunc(func(tool sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			regions.Store(c.Key, "eu-west")
			return next(ctx, c)
		}
	})
	sink := sluice.EventSinkFunc(func(ctx context.Context, e *sluice.Event) error {
		if e.Kind == sluice.ToolCompleted {
			region, _ := regions.LoadAndDelete(e.CallKey)
			fmt.Println(e.Call.ID, "ran in", region)
		}
		return nil
	})
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{route}, Sink: sink}))
	defer exec.Close(context.Background())
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "export"}, func(context.Context, string) (string, error) { return "", nil }))

	_, _ = exec.Invoke(context.Background(), sluice.Request{ID: "call_0", Tool: "export", Input: "all"})
	// Output: call_0 ran in eu-west
}

// spent is an interceptor that counts calls, and shows how many in snapshots.
type spent struct{ calls atomic.Int64 }

func (s *spent) Wrap(tool sluice.Spec, next sluice.Handler) sluice.Handler {
	return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
		s.calls.Add(1)
		return next(ctx, c)
	}
}

func (s *spent) Inspect() []sluice.GateState {
	return []sluice.GateState{{Name: "calls", Used: s.calls.Load()}}
}

// An interceptor that has a method Inspect stands in snapshots beside the gates.
func ExampleExecutor_Snapshot() {
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{new(spent)}}))
	defer exec.Close(context.Background())
	ping := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "ping"}, func(context.Context, string) (string, error) { return "", nil }))
	ping(context.Background(), "")
	for _, g := range exec.Snapshot().Gates {
		fmt.Println(g.Kind, g.Name, g.Used)
	}
	// Output:
	// concurrency tool/ping concurrency 0
	// layer calls 1
}

// A tool that runs out of time has shown for something.
func ExampleReportPartial() {
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Timeout: 20 * time.Millisecond}))
	defer exec.Close(context.Background())
	crawl := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "crawl"}, func(ctx context.Context, site string) ([]string, error) {
		pages := []string{site + "/", site + "/about"}
		sluice.ReportPartial(ctx, pages)
		<-ctx.Done() // the rest takes too long
		return nil, ctx.Err()
	}))
	pages, err := crawl(context.Background(), "example.org")
	fmt.Println(pages, errors.Is(err, sluice.ErrTimeout))
	// Output: [example.org/ example.org/about] true
}

// A retry that looks at what an attempt was: what has not run may run again.
func ExampleCall_AttemptOf() {
	retry := sluice.InterceptorFunc(func(tool sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (res sluice.Result, err error) {
			for range 3 {
				res, err = next(ctx, c)
				a := c.AttemptOf(res, err)
				fmt.Println(a.N, a.Ran, a.RetryAfter > 0)
				if a.Ran || a.RetryAfter == 0 {
					return res, err
				}
				c.ReportRetry(ctx, a.RetryAfter, err)
				time.Sleep(a.RetryAfter)
			}
			return res, err
		}
	})
	rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1, Per: 50 * time.Millisecond}}, Refuse: true}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{retry, rate}}))
	defer exec.Close(context.Background())
	ping := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "ping"}, func(context.Context, string) (string, error) { return "", nil }))
	for range 2 {
		_, err := ping(context.Background(), "")
		fmt.Println(err)
	}
	// Output:
	// 1 true false
	// <nil>
	// 1 false true
	// 2 true false
	// <nil>
}

// An interceptor that gives attempts a context of its own keeps it for a stream as long as that lasts.
func ExampleCall_AfterStream() {
	own := sluice.InterceptorFunc(func(tool sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			ctx, cancel := context.WithCancel(ctx)
			release := func() { fmt.Println("released"); cancel() }
			res, err := next(ctx, c)
			if !c.AfterStream(res, release) {
				release()
			}
			return res, err
		}
	})
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{own}}))
	defer exec.Close(context.Background())
	tail := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "tail"}, func(ctx context.Context, file string) (func(error), error) {
		_, done, err := sluice.Hold(ctx)
		return done, err
	}))
	done, err := tail(context.Background(), "log")
	fmt.Println("reading", err)
	done(nil)
	// Output:
	// reading <nil>
	// released
}

// patience is an interceptor whose setting can be changed along with the limits of others.
type patience struct{ tries atomic.Int64 }

func (p *patience) Wrap(tool sluice.Spec, next sluice.Handler) sluice.Handler {
	return func(ctx context.Context, c sluice.Call) (res sluice.Result, err error) {
		for range p.tries.Load() {
			if res, err = next(ctx, c); err == nil {
				break
			}
		}
		return res, err
	}
}

func (p *patience) Change(tries int64) sluice.Change {
	return sluice.NewChange(p, func() error {
		if tries < 1 {
			return fmt.Errorf("patience: tries is %d: must be positive", tries)
		}
		return nil
	}, func() { p.tries.Store(tries) })
}

// What is changed together is changed, or not, together.
func ExampleNewChange() {
	p := new(patience)
	p.tries.Store(1)
	limit := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 8}}}))
	wider := limit.Config()
	wider.Limits[0].Max = 32

	fmt.Println(sluice.Reconfigure("operator", limit.Change(wider), p.Change(0)), limit.Config().Limits[0].Max)
	fmt.Println(sluice.Reconfigure("operator", limit.Change(wider), p.Change(3)), limit.Config().Limits[0].Max, p.tries.Load())
	// Output:
	// patience: tries is 0: must be positive 8
	// <nil> 32 3
}

// Where one tool fails another answers, in the same call.
func ExampleCall_Invoke() {
	mirror := sluice.InterceptorFunc(func(tool sluice.Spec, next sluice.Handler) sluice.Handler {
		if tool.Name != "weather" {
			return next
		}
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			res, err := next(ctx, c)
			if err != nil {
				return c.Invoke(ctx, sluice.Request{Tool: "almanac", Input: c.Input})
			}
			return res, err
		}
	})
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{mirror}}))
	defer exec.Close(context.Background())
	weather := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "weather"}, func(context.Context, string) (string, error) {
		return "", errors.New("no connection")
	}))
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "almanac"}, func(_ context.Context, city string) (string, error) {
		return city + ": rain, as in most years", nil
	}))
	fmt.Println(weather(context.Background(), "Bergen"))
	// Output: Bergen: rain, as in most years <nil>
}

// An interceptor that warms a cache leaves that to a goroutine of its own, which Close waits for.
func ExampleCall_Go() {
	warm := sluice.InterceptorFunc(func(tool sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			res, err := next(ctx, c)
			c.Go(func() { fmt.Println("keeping what", c.Tool, "has found") })
			return res, err
		}
	})
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{warm}}))
	find := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "find"}, func(context.Context, string) (string, error) { return "", nil }))
	find(context.Background(), "")
	exec.Close(context.Background())
	// Output: keeping what find has found
}

// An interceptor gives each try a thirtieth of a second, the wait in the queue included.
func ExampleCall_Within() {
	patience := sluice.InterceptorFunc(func(tool sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (res sluice.Result, err error) {
			for range 2 {
				if res, err = next(ctx, c.Within(time.Second/30, errors.New("no patience"))); err == nil {
					break
				}
				fmt.Println(err)
			}
			return res, err
		}
	})
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{patience}}))
	defer exec.Close(context.Background())
	var calls atomic.Int64
	find := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "find"}, func(ctx context.Context, _ string) (string, error) {
		if calls.Add(1) == 1 {
			time.Sleep(time.Second / 10)
		}
		return "found", nil
	}))
	fmt.Println(find(context.Background(), ""))
	// Output:
	// sluice: tool "find": tool timed out: no patience
	// found <nil>
}
