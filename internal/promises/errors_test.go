package promises_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Promise 12: every refusal names its reason, what refused and when to retry; the tool's
// code did not run.
func TestPromise12_EveryRefusalNamesReasonConstraintAndTime(t *testing.T) {
	type setting struct {
		*rig
		g *gauge
	}
	hour := sluice.Rate{N: 1, Per: time.Hour}
	for _, tc := range []struct {
		name   string
		config sluice.Config
		policy sluice.Policy
		call   func(s setting) error // the refused one
		reason error
		by     string
		after  time.Duration
		code   string
	}{
		{name: "unknown tool", call: func(s setting) error { return s.call("other") }, reason: sluice.ErrUnknownTool, code: "unknown tool"},
		{name: "invalid arguments", call: func(s setting) error {
			_, err := s.Invoke(s.ctx, sluice.Request{Tool: "work", Args: json.RawMessage(`{"a":1,"a":2}`)})
			return err
		}, reason: sluice.ErrInvalidArguments, code: "invalid arguments"},
		{name: "priority out of range", call: func(s setting) error {
			pc := s.pc
			pc.Priority = 10
			_, err := s.Invoke(sluice.WithPipelineContext(s.ctx, pc), sluice.Request{Tool: "work"})
			return err
		}, reason: sluice.ErrInvalidArguments, code: "invalid arguments"},
		{name: "negative cost", policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { return -1 }},
			config: sluice.Config{Interceptors: interceptors(rates(sluice.Rate{N: 1, Unit: "tokens"}))},
			call:   func(s setting) error { return s.call("work") }, reason: sluice.ErrInvalidArguments, code: "invalid arguments"},
		{name: "breaker open", config: sluice.Config{Interceptors: interceptors(breakerOf(sluice.CircuitBreakerConfig{Name: "b", Failures: 1, Cooldown: time.Minute}))},
			call: func(s setting) error {
				_ = s.call("fail")
				time.Sleep(time.Second)
				return s.call("fail")
			}, reason: sluice.ErrBreakerOpen, by: "breaker/b", after: 59 * time.Second, code: "breaker open"},
		{name: "rate limited", config: sluice.Config{Interceptors: interceptors(sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "api", Refuse: true, Rates: []sluice.Rate{hour}})))},
			call: func(s setting) error {
				assert.NoError(s.t, s.call("work"))
				return s.call("work")
			}, reason: sluice.ErrRateLimited, by: "rate/api calls per hour", after: time.Hour, code: "rate limited"},
		{name: "saturated", config: sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 1, Refuse: true}))},
			call: func(s setting) error {
				s.busy("block")
				return s.call("work")
			}, reason: sluice.ErrSaturated, by: "concurrency global", code: "saturated"},
		{name: "too wide", config: sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 3, Unit: "MB", Scope: sluice.ByType}))},
			policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { return 4 }},
			call:   func(s setting) error { return s.call("work") }, reason: sluice.ErrSaturated, by: "concurrency MB per type", code: "saturated"},
		{name: "all keys busy", config: sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 1, MaxKeys: 1, Scope: sluice.ByTenant}))},
			call: func(s setting) error {
				s.busy("block")
				pc := s.pc
				pc.Tenant = "another"
				_, err := s.Invoke(sluice.WithPipelineContext(s.ctx, pc), sluice.Request{Tool: "work"})
				return err
			}, reason: sluice.ErrSaturated, by: "concurrency per tenant", code: "saturated"},
		{name: "queue full", config: sluice.Config{Interceptors: interceptors(atMost(1), scheduler(sluice.PrioritySchedulerConfig{MaxQueue: 1}))},
			call: func(s setting) error {
				s.busy("block")
				s.busy("work")
				return s.call("work")
			}, reason: sluice.ErrQueueFull, by: "queue", code: "queue full"},
		{name: "would wait longer than MaxWait", config: sluice.Config{MaxWait: time.Minute, Interceptors: interceptors(rates(hour))},
			call: func(s setting) error {
				assert.NoError(s.t, s.call("work"))
				return s.call("work")
			}, reason: sluice.ErrWaitTooLong, by: "rate calls per hour", after: time.Hour, code: "wait too long"},
		{name: "waited longer than MaxWait", config: sluice.Config{MaxWait: time.Minute, Interceptors: interceptors(atMost(1))},
			call: func(s setting) error {
				s.busy("block")
				err := s.call("work")
				assert.Equal(s.t, time.Minute, s.at(), "refused at")
				return err
			}, reason: sluice.ErrWaitTooLong, by: "concurrency global", code: "wait too long"},
		{name: "denied", config: sluice.Config{Interceptors: interceptors(sluice.InterceptorFunc(func(sp sluice.Spec, next sluice.Handler) sluice.Handler {
			if sp.Name != "work" {
				return next
			}
			return func(context.Context, sluice.Call) (sluice.Result, error) { return sluice.Result{}, errTool }
		}))},
			call: func(s setting) error { return s.call("work") }, reason: sluice.ErrDenied, code: "denied"},
		{name: "nesting", config: sluice.Config{MaxDepth: 1}, call: func(s setting) error {
			var inner error
			s.tool(sluice.Spec{Name: "outer"}, func(ctx context.Context) error {
				_, err := s.Invoke(ctx, sluice.Request{Tool: "middle"})
				return err
			})
			s.tool(sluice.Spec{Name: "middle"}, func(ctx context.Context) error {
				_, inner = s.Invoke(ctx, sluice.Request{Tool: "work"})
				return nil
			})
			assert.NoError(s.t, s.call("outer"))
			return inner
		}, reason: sluice.ErrNesting, code: "nesting"},
		{name: "closed", call: func(s setting) error {
			assert.NoError(s.t, s.Close(s.ctx))
			return s.call("work")
		}, reason: sluice.ErrClosed, code: "executor closed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, tc.config)
				s := setting{r, new(gauge)}
				r.tool(sluice.Spec{Name: "work", Policy: tc.policy}, s.g.counts(0))
				r.tool(sluice.Spec{Name: "fail"}, func(context.Context) error { return errTool })
				r.tool(sluice.Spec{Name: "block"}, func(ctx context.Context) error { time.Sleep(24 * time.Hour); return nil })
				before := int64(0)
				if tc.reason == sluice.ErrRateLimited || strings.HasPrefix(tc.name, "would") {
					before = 1
				}
				err := tc.call(s)
				e := wantRefusal(t, err, tc.reason, tc.by, tc.after)
				if e == nil {
					return
				}
				b, jerr := json.Marshal(e)
				var got struct {
					Tool   string `json:"tool_name"`
					CallID string `json:"action_id"`
					Reason string `json:"reason"`
					By     string `json:"by"`
					After  int64  `json:"retry_after_ms"`
				}
				if err := json.Unmarshal(b, &got); err != nil || jerr != nil {
					t.Fatal(err, jerr)
				}
				require.Equal(t, tc.code, got.Reason, "JSON %s", b)
				require.Equal(t, tc.by, got.By, "JSON %s", b)
				require.Equal(t, got.After, tc.after.Milliseconds(), "JSON %s", b)
				require.Equal(t, e.Tool, got.Tool, "JSON %s", b)
				require.NotEmpty(t, got.CallID, "JSON %s", b)
				assert.Equal(t, e.CallID, got.CallID, "JSON %s", b)
				if tc.name != "nesting" && tc.name != "queue full" && s.g.total.Load() != before {
					t.Errorf("the tool ran %d times, want %d", s.g.total.Load(), before)
				}
				time.Sleep(25 * time.Hour)
				r.end()
			})
		})
	}
}

// A tool that passes the refusal of a nested call on did run itself.
func TestPromise12_NestedRefusalPassedOnDidRun(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{})
		defer r.end()
		r.tool(sluice.Spec{Name: "outer"}, func(ctx context.Context) error {
			_, err := r.Invoke(ctx, sluice.Request{Tool: "nobody"})
			assert.ErrorIs(t, err, sluice.ErrRejected, "nested")
			return fmt.Errorf("outer: %w", err)
		})
		err := r.call("outer")
		var e *sluice.Error
		if errors.Is(err, sluice.ErrRejected) || !errors.Is(err, sluice.ErrUnknownTool) || !errors.As(err, &e) || e.Tool != "nobody" {
			t.Errorf("%v: want no ErrRejected, since outer ran, but what else it was", err)
		}
		r.trace("outer: invoked started failed; nobody: invoked failed")
	})
}

// A tool's own error passes through untouched, and a success is what it was.
func TestPromise12_OwnErrorsUntouched(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Timeout: time.Second})
		defer r.end()
		own := []error{errTool, context.Canceled, context.DeadlineExceeded, fmt.Errorf("x: %w", errTool), &sluice.Error{Reason: sluice.ErrTimeout}}
		f := sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "own"}, func(_ context.Context, i int) (int, error) { return 1, own[i] }))
		for i, want := range own {
			if v, err := f(r.ctx, i); err != want || v != 0 {
				t.Errorf("got %d, %v, want 0, %v", v, err, want)
			}
		}
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

// The JSON forms of errors hold no value and no stack of a panic, wherever one stands.
func TestErrorJSONHoldsNoPanic(t *testing.T) {
	p := &sluice.PanicError{Tool: "search", Value: errors.New("hunter2"), Stack: []byte("hunter2")}
	e := &sluice.Error{Tool: "search", CallID: "c", Reason: sluice.ErrRejected, Cause: fmt.Errorf("cost: %w", p)}
	for name, v := range map[string]any{
		"panic": p, "panic by value": *p, "in a field": struct{ Err error }{p}, "by value in a field": struct{ P sluice.PanicError }{*p},
		"behind an error": e, "behind an error by value": *e, "in a list": []error{e, p}, "in a map": map[string]any{"e": *e, "p": *p},
		"goexit": &sluice.PanicError{Tool: "hunt", Goexit: true, Stack: []byte("hunter2")}, "in a decision": sluice.Decision{Refusal: e},
	} {
		b := sluice.Must(json.Marshal(v))
		if strings.Contains(string(b), "hunter2") || strings.Contains(string(b), "aHVudGVyMg") || !strings.Contains(string(b), `"tool_name":"`) {
			t.Errorf("%s: %s", name, b)
		}
	}
	if got, want := string(sluice.Must(json.Marshal(p))), `{"tool_name":"search","reason":"panic","message":"sluice: code of tool \"search\" panicked"}`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := string(sluice.Must(json.Marshal((*sluice.PanicError)(nil)))); got != "null" {
		t.Errorf("a nil *PanicError is %s", got)
	}
}

// Names in the JSON form of an error are cut and escaped as in events.
func TestErrorJSON(t *testing.T) {
	e := &sluice.Error{Tool: "a\u202eb", CallID: "id\u200b\x1b" + strings.Repeat("x", 1<<20), Reason: sluice.ErrQueueFull, By: "queue\u2066", RetryAfter: 1500 * time.Microsecond, Cause: errors.New("c\u202e\nd")}
	got := string(sluice.Must(json.Marshal(e)))
	want := `{"tool_name":"a\u202eb","action_id":"id\u200b\u001b` + strings.Repeat("x", 256-6) + `…","reason":"queue full","by":"queue\u2066","retry_after_ms":2,` +
		`"message":"sluice: tool \"a\\u202eb\": queue full by queue\\u2066, retry in 1.5ms: c\\u202e\\nd"}`
	assert.Equal(t, want, got)
	assert.Equal(t, `{"reason":"failed","message":"sluice: failed"}`, string(sluice.Must(json.Marshal(&sluice.Error{}))))
}

// An error is one line, whatever its cause says.
func TestErrorIsOneLine(t *testing.T) {
	for _, e := range []*sluice.Error{
		{Tool: "x", Reason: sluice.ErrDenied, Cause: errors.Join(errors.New("a"), errors.New("b"))},
		{Tool: "x\ny", Reason: errors.New("odd\nreason"), By: "by\r\nwhom", Cause: errors.New("c\u2028d\x85e\vf")},
		{Reason: sluice.ErrDenied, Cause: &sluice.Error{Reason: sluice.ErrQueueFull, Cause: errors.New("a\nb")}},
	} {
		if strings.ContainsAny(e.Error(), "\n\r\v\f\u2028\u2029\u0085") {
			t.Errorf("%q", e.Error())
		}
	}
	if got, want := (&sluice.Error{Tool: "x", Reason: sluice.ErrDenied, Cause: errors.Join(errors.New("a"), errors.New("b"))}).Error(), `sluice: tool "x": denied: a\nb`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A refusal says what happened, and the bound that was met.
func TestRefusalsNameTheirBound(t *testing.T) {
	for _, tt := range []struct {
		name   string
		limit  sluice.Limit
		queue  int
		conf   sluice.Config
		nested bool
		ctx    func(context.Context) (context.Context, context.CancelFunc)
		want   string
	}{
		{name: "queue", limit: sluice.Limit{Max: 1}, queue: 1, want: `sluice: tool "work": queue full: 1 calls of the executor wait already, and MaxQueue and MaxPerTenant allow no more`},
		{name: "saturated", limit: sluice.Limit{Max: 1, Refuse: true}, want: `sluice: tool "work": saturated by concurrency global: all of 1 are taken`},
		{name: "no tenant", limit: sluice.Limit{Max: 1, Refuse: true, Scope: sluice.ByTenant}, want: `sluice: tool "work": saturated by concurrency per tenant: all of 1 are taken; the run has no tenant, and runs without one count together`},
		{name: "MaxWait", limit: sluice.Limit{Max: 1}, conf: sluice.Config{MaxWait: 20 * time.Millisecond}, want: `sluice: tool "work": wait too long by concurrency global: it could not start within MaxWait, 20ms`},
		{name: "deadline", limit: sluice.Limit{Max: 1}, conf: sluice.Config{MaxWait: time.Hour},
			ctx: func(ctx context.Context) (context.Context, context.CancelFunc) {
				return context.WithTimeout(ctx, 20*time.Millisecond)
			},
			want: `sluice: tool "work": wait too long by concurrency global: it could not start before its caller's deadline`},
		{name: "late on arrival", limit: sluice.Limit{Max: 9},
			conf: sluice.Config{MaxWait: 20 * time.Millisecond, Interceptors: []sluice.Interceptor{sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1, Per: time.Hour}}}))}},
			want: `sluice: tool "work": wait too long by rate calls per hour, retry in `},
	} {
		synctest.Test(t, func(t *testing.T) {
			tt.conf.Interceptors = append(tt.conf.Interceptors, sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{tt.limit}})))
			if tt.queue > 0 {
				tt.conf.Interceptors = append(tt.conf.Interceptors, sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{MaxQueue: tt.queue})))
			}
			e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), tt.conf))
			inside, leave := make(chan struct{}, 10), make(chan struct{})
			work := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "work"}, func(context.Context, int) (int, error) { inside <- struct{}{}; <-leave; return 0, nil }))
			first := e.Submit(t.Context(), sluice.Request{Tool: "work", Input: 1})
			<-inside
			for range tt.queue {
				e.Submit(t.Context(), sluice.Request{Tool: "work", Input: 1})
			}
			ctx := t.Context()
			if tt.ctx != nil {
				var cancel context.CancelFunc
				ctx, cancel = tt.ctx(ctx)
				defer cancel()
			}
			_, err := work(ctx, 1)
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("%s:\ngot  %v\nwant %s", tt.name, err, tt.want)
			}
			if tt.name == "late on arrival" && !strings.HasSuffix(err.Error(), ": it could not start within MaxWait, 20ms") {
				t.Errorf("%v", err)
			}
			close(leave)
			if _, err := first.Wait(t.Context()); err != nil {
				t.Error(err)
			}
			assert.NoError(t, e.Close(context.Background()))
		})
	}
}

// Any error can be compared with any reason.
func TestErrorIsWithWhatCannotBeCompared(t *testing.T) {
	e := &sluice.Error{Reason: uncomparable{}}
	assert.NotErrorIs(t, e, uncomparable{}, "equal, and they cannot be compared")
	assert.ErrorIs(t, e, sluice.ErrRejected, "want a rejection")
}

// A refusal of a nested call that a tool passes on is the tool's error, and is told in the
// same words without what only the operator knows, however it is wrapped.
func TestModelTextOfNestedRefusals(t *testing.T) {
	registry := sluice.NewToolRegistry()
	e := sluice.Must(sluice.NewExecutor(registry, sluice.Config{Interceptors: []sluice.Interceptor{
		sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Name: "backend", Limits: []sluice.Limit{{Max: 1, Refuse: true, Scope: sluice.ForTool("leaf")}}}))}}))
	inside, leave := make(chan struct{}), make(chan struct{})
	leaf := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "leaf"}, func(context.Context, int) (int, error) { inside <- struct{}{}; <-leave; return 0, nil }))
	var pass func(error) error
	outer := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "outer"}, func(ctx context.Context, _ int) (int, error) { _, err := leaf(ctx, 1); return 0, pass(err) }))
	done := make(chan error)
	go func() { _, err := leaf(t.Context(), 1); done <- err }()
	<-inside
	for name, tt := range map[string]struct {
		pass func(error) error
		want string
	}{
		"as it is": {func(err error) error { return err }, "a call that the tool made was refused: too many calls run at present"},
		"wrapped":  {func(err error) error { return fmt.Errorf("leaf: %w", err) }, "a call that the tool made was refused: leaf: too many calls run at present"},
		"joined":   {func(err error) error { return errors.Join(errors.New("odd"), err) }, "a call that the tool made was refused: odd\ntoo many calls run at present"},
		"as text":  {func(err error) error { return errors.New("no leaf") }, "no leaf"},
	} {
		pass = tt.pass
		_, err := outer(t.Context(), 1)
		var m struct {
			Type, Message string
			Retryable     bool
		}
		text := sluice.ModelText(err)
		require.NoError(t, json.Unmarshal([]byte(text), &m), "%s: %s", name, text)
		require.False(t, m.Retryable, "%s: and so nothing says to try again", name)
		if m.Type != "tool_error" || m.Message != tt.want || strings.Contains(text, "sluice") || strings.Contains(text, "backend") {
			t.Errorf("%s: %s, want %q", name, text, tt.want)
		}
	}
	close(leave)
	assert.NoError(t, <-done)
	assert.NoError(t, e.Close(context.Background()))
}

// Near names of an unknown tool are those its caller may have meant, few, in one order.
func TestUnknownToolsAreToldNearNames(t *testing.T) {
	reg := sluice.NewToolRegistry()
	e := sluice.Must(sluice.NewExecutor(reg, sluice.Config{}))
	for _, name := range []string{"search", "search_web", "fetch", "fetch2", "fetch3", "fetch4", "delete-file", "x", "Convert.Currency"} {
		sluice.Must(sluice.Wrap(e, sluice.Spec{Name: name}, func(context.Context, int) (int, error) { return 0, nil }))
	}
	for asked, want := range map[string]string{
		"serch": `"search"`, "Search": `"search" or "search_web"`, "functions.search": `"search"`, "searchWeb": `"search_web" or "search"`,
		"fetch1": `"fetch" or "fetch2" or "fetch3"`, "delete_file": `"delete-file"`, "DELETE FILE": `"delete-file"`, "convert_currency": `"Convert.Currency"`, "fecth": `"fetch" or "fetch2" or "fetch3"`,
		"weather": "", "y": "", "": "", "X": `"x"`, strings.Repeat("search", 50): "", "hctef": "",
	} {
		_, err := e.Invoke(t.Context(), sluice.Request{Tool: asked})
		var x *sluice.Error
		if !errors.As(err, &x) || x.Reason != sluice.ErrUnknownTool {
			t.Fatal(err)
		}
		got := ""
		if x.Cause != nil {
			got = x.Cause.Error()
		}
		if want != "" {
			want = "did you mean " + want + "?"
		}
		if got != want || !strings.HasSuffix(err.Error(), want) || (want != "") != strings.Contains(sluice.ModelText(err), "did you mean") {
			t.Errorf("%q: %q, want %q: %v %s", asked, got, want, err, sluice.ModelText(err))
		}
	}
	// Where an interceptor may hide tools, none is named: the library cannot know whose.
	hides := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler { return next })
	e = sluice.Must(sluice.NewExecutor(reg, sluice.Config{Interceptors: []sluice.Interceptor{hides}}))
	_, err := e.Invoke(t.Context(), sluice.Request{Tool: "serch"})
	assert.NotContains(t, err.Error(), "search", "named a tool that may be hidden: %v", err)
}

// A run's own sink can go without error texts, and what it is shown of values stays the same.
func TestWithoutErrorTextOfARun(t *testing.T) {
	plain, run := new(sluice.Recorder), new(sluice.Recorder)
	e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Sink: plain}))
	work := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "work"}, func(_ context.Context, in string) (string, error) {
		if in == "fail" {
			return "", errors.New("sk-CANARY")
		}
		return in, nil
	}))
	ctx := sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{Sink: sluice.WithoutErrorText(sluice.Must(sluice.WithPayloads(run, sluice.PayloadConfig{})))})
	_, err := work(ctx, "fail")
	assert.EqualError(t, err, "sk-CANARY", "the caller gets")
	if _, err := work(ctx, "fine"); err != nil {
		t.Error(err)
	}
	events := run.Events()
	if got := events[2].Err.Error(); got != "tool_error" || plain.Events()[2].Err.Error() != "sk-CANARY" {
		t.Errorf("the run's sink reads %q, the executor's %q", got, plain.Events()[2].Err)
	}
	assert.Equal(t, `"fine" "fine"`, fmt.Sprintf("%s %s", events[3].Call.Input, events[5].Result.Value), "values")
	assert.NoError(t, run.Check())
	assert.NoError(t, e.Close(context.Background()))
}

type uncomparable struct{ _ []int }

func (uncomparable) Error() string { return "uncomparable" }

// TestNilErrorDoesNoHarm: a tool that answers a nil *Error, which is an error that is not nil, does
// no harm.
func TestNilErrorDoesNoHarm(t *testing.T) {
	r := newRig(t, sluice.Config{})
	r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { var e *sluice.Error; return e })
	assert.Error(t, r.call("x"), "no error")
	r.trace("x: invoked started failed")
	r.end()
}

// coded is an error with a code of its own.
type coded string

func (coded) Error() string  { return "text" }
func (c coded) Code() string { return string(c) }

// An error's own code stands in events where the library would say denied or tool_error, and an event of it is
// still one of its kind.
func TestCodes_OfErrorsThemselves(t *testing.T) {
	bubble(t, func(t *testing.T) {
		rule := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				if s.Name == "denied" {
					return sluice.Result{}, coded("frozen")
				}
				return next(ctx, c)
			}
		})
		r := newRig(t, sluice.Config{Interceptors: interceptors(rule)})
		r.tool(sluice.Spec{Name: "denied"}, func(context.Context) error { return nil })
		r.tool(sluice.Spec{Name: "fails"}, func(context.Context) error { return coded("not_found") })
		for tool, want := range map[string][]string{
			"denied": {`"type":"tool.denied"`, `"error_code":"frozen"`, `"reason":"text"`},
			"fails":  {`"type":"tool.failed"`, `"error_code":"not_found"`, `"error_message":"text"`},
		} {
			require.Error(t, r.call(tool))
			b, err := json.Marshal(r.terminal(tool))
			require.NoError(t, err)
			for _, w := range want {
				require.Contains(t, string(b), w)
			}
		}
		require.ErrorIs(t, r.call("denied"), sluice.ErrDenied)
		r.end()
	})
}

// A call that shares the outcome of another fails as that has, whose tool ran; a refusal stays one.
func TestPromise12_OutcomesOfOtherCalls(t *testing.T) {
	boom := errors.New("boom")
	nested := &sluice.Error{Tool: "inner", CallID: "inner-1", Reason: sluice.ErrDenied}
	for _, tt := range []struct {
		name     string
		err      error // of the other call
		around   func(error) error
		kind     sluice.EventKind
		code     string
		rejected bool
		same     bool
	}{
		{"own", boom, nil, sluice.ToolFailed, "tool_error", false, true},
		{"wrapped", boom, func(err error) error { return fmt.Errorf("x: %w", err) }, sluice.ToolFailed, "tool_error", false, false},
		{"coded", coded("not_found"), nil, sluice.ToolFailed, "not_found", false, true},
		{"timeout", &sluice.Error{Tool: "x", Reason: sluice.ErrTimeout, Cause: context.DeadlineExceeded}, nil, sluice.ToolFailed, "timeout", false, true},
		{"panic", &sluice.PanicError{Tool: "x", Value: 1}, nil, sluice.ToolFailed, "panic", false, true},
		{"cancelled", context.Canceled, nil, sluice.ToolFailed, "canceled", false, true},
		{"refused", &sluice.Error{Tool: "x", Reason: sluice.ErrQueueFull}, nil, sluice.ToolFailed, "queue_full", true, true},
		{"denied", &sluice.Error{Tool: "x", Reason: sluice.ErrDenied}, nil, sluice.ToolDenied, "denied", true, true},
		{"refusal and more", errors.Join(boom, nested), nil, sluice.ToolFailed, "denied", true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				share := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
					return func(context.Context, sluice.Call) (sluice.Result, error) {
						err := sluice.Elsewhere(tt.err)
						if tt.around != nil {
							err = tt.around(err)
						}
						return sluice.Result{}, err
					}
				})
				r := newRig(t, sluice.Config{Interceptors: interceptors(share)})
				r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { return errors.New("ran") })
				err := r.call("x")
				if tt.same {
					require.True(t, err == tt.err || errors.Is(err, tt.err), "%v", err)
				}
				require.ErrorIs(t, err, tt.err)
				require.Equal(t, tt.rejected, errors.Is(err, sluice.ErrRejected), "%v", err)
				require.Equal(t, tt.kind, r.terminal("x").Kind)
				require.Equal(t, tt.code, sluice.CodeOf(r.terminal("x").Err))
				r.end()
			})
		})
	}
	require.NoError(t, sluice.Elsewhere(nil))
	bubble(t, func(t *testing.T) { // what the other's tool returned of a call nested in it
		var kept error
		share := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				if kept != nil {
					return sluice.Result{}, sluice.Elsewhere(kept)
				}
				return next(ctx, c)
			}
		})
		r := newRig(t, sluice.Config{Interceptors: interceptors(share)})
		r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { return nested })
		kept = r.call("x")
		err := r.call("x")
		require.ErrorIs(t, err, sluice.ErrDenied)
		require.NotErrorIs(t, err, sluice.ErrRejected)
		require.Equal(t, sluice.ToolFailed, r.terminal("x").Kind)
		require.Equal(t, sluice.CodeOf(kept), sluice.CodeOf(err))
		r.end()
	})
}
