package sluice

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/sluice-go/sluice/internal/errtext"
	"github.com/sluice-go/sluice/internal/jsonx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The JSON forms of errors hold no value and no stack of a panic, wherever one stands.
func TestErrorJSONHoldsNoPanic(t *testing.T) {
	p := &PanicError{Tool: "search", Value: errors.New("hunter2"), Stack: []byte("hunter2")}
	e := &Error{Tool: "search", CallID: "c", Reason: ErrRejected, Cause: fmt.Errorf("cost: %w", p)}
	for name, v := range map[string]any{
		"panic": p, "panic by value": *p, "in a field": struct{ Err error }{p}, "by value in a field": struct{ P PanicError }{*p},
		"behind an error": e, "behind an error by value": *e, "in a list": []error{e, p}, "in a map": map[string]any{"e": *e, "p": *p},
		"goexit": &PanicError{Tool: "hunt", Goexit: true, Stack: []byte("hunter2")}, "in a decision": Decision{Refusal: e},
	} {
		b := Must(json.Marshal(v))
		if strings.Contains(string(b), "hunter2") || strings.Contains(string(b), "aHVudGVyMg") || !strings.Contains(string(b), `"tool_name":"`) {
			t.Errorf("%s: %s", name, b)
		}
	}
	if got, want := string(Must(json.Marshal(p))), `{"tool_name":"search","reason":"panic","message":"sluice: code of tool \"search\" panicked"}`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := string(Must(json.Marshal((*PanicError)(nil)))); got != "null" {
		t.Errorf("a nil *PanicError is %s", got)
	}
}

// Names in the JSON form of an error are cut and escaped as in events.
func TestErrorJSON(t *testing.T) {
	e := &Error{Tool: "a\u202eb", CallID: "id\u200b\x1b" + strings.Repeat("x", 1<<20), Reason: ErrQueueFull, By: "queue\u2066", RetryAfter: 1500 * time.Microsecond, Cause: errors.New("c\u202e\nd")}
	got := string(Must(json.Marshal(e)))
	want := `{"tool_name":"a\u202eb","action_id":"id\u200b\u001b` + strings.Repeat("x", 256-6) + `…","reason":"queue full","by":"queue\u2066","retry_after_ms":2,` +
		`"message":"sluice: tool \"a\\u202eb\": queue full by queue\\u2066, retry in 1.5ms: c\\u202e\\nd"}`
	assert.Equal(t, want, got)
	assert.Equal(t, `{"reason":"failed","message":"sluice: failed"}`, string(Must(json.Marshal(&Error{}))))
}

// An error is one line, whatever its cause says.
func TestErrorIsOneLine(t *testing.T) {
	for _, e := range []*Error{
		{Tool: "x", Reason: ErrDenied, Cause: errors.Join(errors.New("a"), errors.New("b"))},
		{Tool: "x\ny", Reason: errors.New("odd\nreason"), By: "by\r\nwhom", Cause: errors.New("c\u2028d\x85e\vf")},
		{Reason: ErrDenied, Cause: &Error{Reason: ErrQueueFull, Cause: errors.New("a\nb")}},
	} {
		if strings.ContainsAny(e.Error(), "\n\r\v\f\u2028\u2029\u0085") {
			t.Errorf("%q", e.Error())
		}
	}
	if got, want := (&Error{Tool: "x", Reason: ErrDenied, Cause: errors.Join(errors.New("a"), errors.New("b"))}).Error(), `sluice: tool "x": denied: a\nb`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A refusal says what happened, and the bound that was met.
func TestRefusalsNameTheirBound(t *testing.T) {
	for _, tt := range []struct {
		name   string
		limit  Limit
		queue  int
		conf   Config
		nested bool
		ctx    func(context.Context) (context.Context, context.CancelFunc)
		want   string
	}{
		{name: "queue", limit: Limit{Max: 1}, queue: 1, want: `sluice: tool "work": queue full: 1 calls of the executor wait already, and MaxQueue and MaxPerTenant allow no more`},
		{name: "saturated", limit: Limit{Max: 1, Refuse: true}, want: `sluice: tool "work": saturated by concurrency global: all of 1 are taken`},
		{name: "no tenant", limit: Limit{Max: 1, Refuse: true, Scope: ByTenant}, want: `sluice: tool "work": saturated by concurrency per tenant: all of 1 are taken; the run has no tenant, and runs without one count together`},
		{name: "MaxWait", limit: Limit{Max: 1}, conf: Config{MaxWait: 20 * time.Millisecond}, want: `sluice: tool "work": wait too long by concurrency global: it could not start within MaxWait, 20ms`},
		{name: "deadline", limit: Limit{Max: 1}, conf: Config{MaxWait: time.Hour},
			ctx: func(ctx context.Context) (context.Context, context.CancelFunc) {
				return context.WithTimeout(ctx, 20*time.Millisecond)
			},
			want: `sluice: tool "work": wait too long by concurrency global: it could not start before its caller's deadline`},
		{name: "late on arrival", limit: Limit{Max: 9},
			conf: Config{MaxWait: 20 * time.Millisecond, Interceptors: []Interceptor{Must(NewRateLimiter(RateLimiterConfig{Rates: []Rate{{N: 1, Per: time.Hour}}}))}},
			want: `sluice: tool "work": wait too long by rate calls per hour, retry in `},
	} {
		synctest.Test(t, func(t *testing.T) {
			tt.conf.Interceptors = append(tt.conf.Interceptors, Must(NewConcurrencyLimiter(ConcurrencyLimiterConfig{Limits: []Limit{tt.limit}})))
			if tt.queue > 0 {
				tt.conf.Interceptors = append(tt.conf.Interceptors, Must(NewPriorityScheduler(PrioritySchedulerConfig{MaxQueue: tt.queue})))
			}
			e := Must(NewExecutor(NewToolRegistry(), tt.conf))
			inside, leave := make(chan struct{}, 10), make(chan struct{})
			work := Must(Wrap(e, Spec{Name: "work"}, func(context.Context, int) (int, error) { inside <- struct{}{}; <-leave; return 0, nil }))
			first := e.Submit(t.Context(), Request{Tool: "work", Input: 1})
			<-inside
			for range tt.queue {
				e.Submit(t.Context(), Request{Tool: "work", Input: 1})
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
	e := &Error{Reason: uncomparable{}}
	assert.NotErrorIs(t, e, uncomparable{}, "equal, and they cannot be compared")
	assert.ErrorIs(t, e, ErrRejected, "want a rejection")
}

// A model reads what happened and what to do, in one JSON object, and nothing of the
// operator's: no constraint, no name of this library, no nanoseconds, no value of a panic.
func TestModelText(t *testing.T) {
	own := func(reason, cause error) *Error {
		return &Error{Tool: "search", CallID: "call-1", Reason: reason, By: "rate/openai tokens per minute", Cause: cause}
	}
	in := func(e *Error, d time.Duration) *Error { e.RetryAfter = d; return e }
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"nil", nil, ""},
		{"rate", in(own(ErrRateLimited, nil), 333_333_334), `{"type":"rate_limited","message":"too many calls for now; try again in 334 ms","retryable":true,"retry_after_ms":334}`},
		{"rate, nobody knows", own(ErrRateLimited, nil), `{"type":"rate_limited","message":"too many calls for now; try again later","retryable":true}`},
		{"breaker", in(own(ErrBreakerOpen, nil), 29*time.Second+1), `{"type":"breaker_open","message":"the tool keeps failing and is not called for now; do without it, or try again in 30 s","retryable":true,"retry_after_ms":29001}`},
		{"queue", own(ErrQueueFull, &errtext.Bound{Waiting: 50}), `{"type":"queue_full","message":"too many calls wait at present; try again later","retryable":true}`},
		{"wait", in(own(ErrWaitTooLong, &errtext.Bound{Within: time.Second}), 5*time.Minute), `{"type":"wait_too_long","message":"the call could not start in time; try again in 5 min","retryable":true,"retry_after_ms":300000}`},
		{"saturated", in(own(ErrSaturated, &errtext.Bound{Limit: 4, Anonymous: true}), 3*time.Hour), `{"type":"saturated","message":"too many calls run at present; try again in 3 h","retryable":true,"retry_after_ms":10800000}`},
		{"too wide", own(ErrSaturated, errTooWide), `{"type":"saturated","message":"the call asks for more than is allowed at once; ask for less","retryable":false}`},
		{"unknown tool", &Error{Tool: "se\narch", Reason: ErrUnknownTool}, `{"type":"unknown_tool","message":"there is no tool \"se\narch\"","retryable":false}`},
		{"unknown tool, near", &Error{Tool: "serch", Reason: ErrUnknownTool, Cause: errtext.Names{"search", "fetch"}}, `{"type":"unknown_tool","message":"there is no tool \"serch\"; did you mean \"search\" or \"fetch\"?","retryable":false}`},
		{"arguments", own(ErrInvalidArguments, errors.New("sluice: $.limit is 1.5: must be a whole number")), `{"type":"invalid_arguments","message":"the arguments do not fit the tool: $.limit is 1.5: must be a whole number","retryable":false}`},
		{"arguments that panic", own(ErrInvalidArguments, &PanicError{Value: "hunter2"}), `{"type":"invalid_arguments","message":"the arguments could not be read","retryable":false}`},
		{"denied", own(ErrDenied, errors.New("not on Sundays")), `{"type":"denied","message":"the call was denied: not on Sundays","retryable":false}`},
		{"nesting", own(ErrNesting, errors.New("concurrency/a global -> concurrency/b global")), `{"type":"nesting","message":"the call was refused: tools called each other too deeply, too often or in a circle","retryable":false}`},
		{"closed", own(ErrClosed, nil), `{"type":"closed","message":"the program is shutting down and takes no more calls","retryable":false}`},
		{"timeout", own(ErrTimeout, context.DeadlineExceeded), `{"type":"timeout","message":"the tool did not finish in time","retryable":false}`},
		{"caller gave up", own(ErrRejected, context.Canceled), `{"type":"canceled","message":"the call was cancelled","retryable":false}`},
		{"cancelled", context.Canceled, `{"type":"canceled","message":"the call was cancelled","retryable":false}`},
		{"deadline", fmt.Errorf("get: %w", context.DeadlineExceeded), `{"type":"timeout","message":"the tool did not finish in time","retryable":false}`},
		{"panic", &PanicError{Tool: "search", Value: "hunter2", Stack: []byte("hunter2")}, `{"type":"panic","message":"the tool failed","retryable":false}`},
		{"cost function panicked", own(ErrRejected, &PanicError{Value: "hunter2"}), `{"type":"panic","message":"the tool failed","retryable":false}`},
		{"goexit", &PanicError{Goexit: true}, `{"type":"goexit","message":"the tool failed","retryable":false}`},
		{"tool", errors.New("no such \x00 city\u202e"), `{"type":"tool_error","message":"no such \u0000 city\u202e","retryable":false}`},
		{"tool, joined", errors.Join(errors.New("a"), errors.New("b")), `{"type":"tool_error","message":"a\nb","retryable":false}`},
		{"tool, throttled", throttled(1500 * time.Millisecond), `{"type":"tool_error","message":"429","retryable":true,"retry_after_ms":1500}`},
		{"nested refusal", passedOn(in(own(ErrRateLimited, nil), time.Second), 7), `{"type":"rate_limited","message":"too many calls for now; try again in 1 s","retryable":true,"retry_after_ms":1000}`},
		{"nested refusal, wrapped", fmt.Errorf("weather: %w", own(ErrSaturated, &errtext.Bound{Limit: 4})), `{"type":"saturated","message":"too many calls run at present; try again later","retryable":true}`},
		{"nested timeout", errors.Join(errors.New("a"), own(ErrTimeout, nil)), `{"type":"timeout","message":"the tool did not finish in time","retryable":false}`},
		{"hand-made", own(nil, nil), `{"type":"tool_error","message":"the call failed","retryable":false}`},
		{"hand-made with its own reason", own(errors.New("odd"), errors.New("why")), `{"type":"tool_error","message":"the call failed: why","retryable":false}`},
		{"typed nil", (*Error)(nil), `{"type":"tool_error","message":"the call failed","retryable":false}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, ModelText(tt.err))
		})
	}
}

type throttled time.Duration

func (e throttled) Error() string             { return "429" }
func (e throttled) RetryAfter() time.Duration { return time.Duration(e) }

// A refusal of a nested call that a tool passes on is the tool's error, and is told in the
// same words without what only the operator knows, however it is wrapped.
func TestModelTextOfNestedRefusals(t *testing.T) {
	registry := NewToolRegistry()
	e := Must(NewExecutor(registry, Config{Interceptors: []Interceptor{
		Must(NewConcurrencyLimiter(ConcurrencyLimiterConfig{Name: "backend", Limits: []Limit{{Max: 1, Refuse: true, Scope: ForTool("leaf")}}}))}}))
	inside, leave := make(chan struct{}), make(chan struct{})
	leaf := Must(Wrap(e, Spec{Name: "leaf"}, func(context.Context, int) (int, error) { inside <- struct{}{}; <-leave; return 0, nil }))
	var pass func(error) error
	outer := Must(Wrap(e, Spec{Name: "outer"}, func(ctx context.Context, _ int) (int, error) { _, err := leaf(ctx, 1); return 0, pass(err) }))
	done := make(chan error)
	go func() { _, err := leaf(t.Context(), 1); done <- err }()
	<-inside
	for name, tt := range map[string]struct {
		pass func(error) error
		want string
	}{
		"as it is": {func(err error) error { return err }, "a call that the tool made was refused: too many calls run at present; try again later"},
		"wrapped":  {func(err error) error { return fmt.Errorf("leaf: %w", err) }, "a call that the tool made was refused: leaf: too many calls run at present; try again later"},
		"joined":   {func(err error) error { return errors.Join(errors.New("odd"), err) }, "a call that the tool made was refused: odd\ntoo many calls run at present; try again later"},
		"as text":  {func(err error) error { return errors.New("no leaf") }, "no leaf"},
	} {
		pass = tt.pass
		_, err := outer(t.Context(), 1)
		var m struct {
			Type, Message string
			Retryable     bool
		}
		text := ModelText(err)
		require.NoError(t, json.Unmarshal([]byte(text), &m), "%s: %s", name, text)
		if m.Type != "tool_error" || m.Message != tt.want || strings.Contains(text, "sluice") || strings.Contains(text, "backend") {
			t.Errorf("%s: %s, want %q", name, text, tt.want)
		}
	}
	close(leave)
	assert.NoError(t, <-done)
	assert.NoError(t, e.Close(context.Background()))
}

// cyclic is an error behind itself, by way of others.
type cyclic struct {
	text string
	next []error
}

func (c *cyclic) Error() string   { return c.text }
func (c *cyclic) Unwrap() []error { return c.next }

// hostileErrors are errors whose methods do what they should not.
func hostileErrors() map[string]error {
	loop := &cyclic{text: "loop"}
	loop.next = []error{loop, errors.New("x"), loop}
	wide := &cyclic{text: "wide", next: make([]error, 1_000_000)}
	for i := range wide.next {
		wide.next[i] = wide
	}
	itself := &Error{Tool: "t", Reason: ErrDenied}
	itself.Cause = itself
	a, b := &Error{Reason: ErrDenied}, &Error{Reason: ErrInvalidArguments}
	a.Cause, b.Cause = fmt.Errorf("b: %w", error(b)), errors.Join(errors.New("a"), a)
	chain := &Error{Reason: ErrDenied}
	last := chain
	for range 1000 {
		last = &Error{Reason: ErrDenied, Cause: last}
	}
	chain.Cause = last
	passed := &cyclic{text: "passed"}
	passed.next = []error{passedOn(passed, 1)}
	return map[string]error{
		"panics": panickingError{}, "wraps itself": selfWrapping{}, "cycle": loop, "wide cycle": wide,
		"huge": errors.New(strings.Repeat("é\n", 50<<20)), "its own cause": itself, "two in a circle": a, "long circle": chain,
		"passed on in a circle": passed, "refusal passed on in a circle": passedOn(passed, 1),
		"odd reason": &Error{Reason: panickingError{}, Cause: panickingError{}}, "uncomparable": uncomparable{},
		"typed nil": (*Error)(nil), "typed nil panic": (*PanicError)(nil), "panic with itself": &PanicError{Value: loop},
		"joined with a panicking one": errors.Join(panickingError{}, &Error{Reason: ErrQueueFull}),
		"huge names":                  &Error{Tool: strings.Repeat("t", 1<<20), CallID: strings.Repeat("\u202e", 1<<20), By: strings.Repeat("\n", 1<<20), Reason: ErrDenied, Cause: errors.New("\xff\u2028\x1b")},
	}
}

// Hostile errors have a code, a text for models and a JSON form: valid, bounded, on one line.
func TestHostileErrorsHaveCodesAndTexts(t *testing.T) {
	for name, err := range hostileErrors() {
		t.Run(name, func(t *testing.T) {
			for _, err := range []error{err, passedOn(err, 1), &Error{Tool: "t", Reason: ErrDenied, Cause: err}, fmt.Errorf("%w", &Error{Reason: ErrInvalidArguments, Cause: err})} {
				assert.NotEmpty(t, CodeOf(err), "no code")
				text := ModelText(err)
				if !json.Valid([]byte(text)) || len(text) > 8<<10 || !utf8.ValidString(text) || strings.ContainsFunc(text, jsonx.Unsafe) {
					t.Errorf("a model reads %.200q of %d bytes", text, len(text))
				}
				e := testEvent(ToolFailed)
				e.Err = err
				for _, s := range []string{string(Must(e.MarshalJSON())), e.LogValue().String()} {
					if len(s) > 16<<10 {
						t.Errorf("an event of %d bytes", len(s))
					}
				}
				w := withoutText(&e)
				require.NotEmpty(t, CodeOf(w), "lost without its text")
				assert.NotEmpty(t, w.Error(), "lost without its text")
				x, ok := err.(*Error)
				if !ok || x == nil {
					continue
				}
				line := x.Error()
				if strings.ContainsAny(line, "\n\r\x1b") || strings.ContainsFunc(line, jsonx.Unsafe) || len(line) > 12<<10 || !utf8.ValidString(line) {
					t.Errorf("text %.200q of %d bytes", line, len(line))
				}
				if b := Must(json.Marshal(err)); len(b) > 16<<10 || strings.ContainsFunc(string(b), jsonx.Unsafe) {
					t.Errorf("JSON %.200s of %d bytes", b, len(b))
				}
			}
		})
	}
}

// Near names of an unknown tool are those its caller may have meant, few, in one order.
func TestUnknownToolsAreToldNearNames(t *testing.T) {
	reg := NewToolRegistry()
	e := Must(NewExecutor(reg, Config{}))
	for _, name := range []string{"search", "search_web", "fetch", "fetch2", "fetch3", "fetch4", "delete-file", "x", "Convert.Currency"} {
		Must(Wrap(e, Spec{Name: name}, func(context.Context, int) (int, error) { return 0, nil }))
	}
	for asked, want := range map[string]string{
		"serch": `"search"`, "Search": `"search" or "search_web"`, "functions.search": `"search"`, "searchWeb": `"search_web" or "search"`,
		"fetch1": `"fetch" or "fetch2" or "fetch3"`, "delete_file": `"delete-file"`, "DELETE FILE": `"delete-file"`, "convert_currency": `"Convert.Currency"`, "fecth": `"fetch" or "fetch2" or "fetch3"`,
		"weather": "", "y": "", "": "", "X": `"x"`, strings.Repeat("search", 50): "", "hctef": "",
	} {
		_, err := e.Invoke(t.Context(), Request{Tool: asked})
		var x *Error
		if !errors.As(err, &x) || x.Reason != ErrUnknownTool {
			t.Fatal(err)
		}
		got := ""
		if x.Cause != nil {
			got = x.Cause.Error()
		}
		if want != "" {
			want = "did you mean " + want + "?"
		}
		if got != want || !strings.HasSuffix(err.Error(), want) || (want != "") != strings.Contains(ModelText(err), "did you mean") {
			t.Errorf("%q: %q, want %q: %v %s", asked, got, want, err, ModelText(err))
		}
	}
	// Where an interceptor may hide tools, none is named: the library cannot know whose.
	hides := InterceptorFunc(func(_ Spec, next Handler) Handler { return next })
	e = Must(NewExecutor(reg, Config{Interceptors: []Interceptor{hides}}))
	_, err := e.Invoke(t.Context(), Request{Tool: "serch"})
	assert.NotContains(t, err.Error(), "search", "named a tool that may be hidden: %v", err)
}

// A sink without error texts sees none, in no form, wherever it stands; codes, reasons and
// times are kept, and other sinks lose nothing.
func TestWithoutErrorText(t *testing.T) {
	const canary = "sk-CANARY"
	text := errors.New(canary)
	for _, tt := range []struct {
		name     string
		err      error
		code     string
		rejected bool
		reason   error
	}{
		{"tool", text, "tool_error", false, nil},
		{"wrapped", fmt.Errorf("x: %w", text), "tool_error", false, nil},
		{"joined", errors.Join(text, io.EOF), "tool_error", false, nil},
		{"denied", &Error{CallID: "call-1", Reason: ErrDenied, Cause: text}, "denied", true, ErrDenied},
		{"arguments", &Error{CallID: "call-1", Reason: ErrInvalidArguments, Cause: text}, "invalid_arguments", true, ErrInvalidArguments},
		{"wrapped refusal", fmt.Errorf(canary+": %w", &Error{CallID: "call-1", Reason: ErrQueueFull}), "queue_full", true, ErrQueueFull},
		{"refusal after it ran", passedOn(&Error{CallID: "call-1", Reason: ErrQueueFull, Cause: text}, 0), "queue_full", false, ErrQueueFull},
		{"timeout", &Error{CallID: "call-1", Reason: ErrTimeout, Cause: text}, "timeout", false, ErrTimeout},
		{"odd reason", &Error{CallID: "call-1", Reason: text}, "tool_error", false, nil},
		{"cancelled", fmt.Errorf(canary+": %w", context.Canceled), "canceled", false, context.Canceled},
		{"out of time", fmt.Errorf(canary+": %w", context.DeadlineExceeded), "timeout", false, context.DeadlineExceeded},
		{"panic", &PanicError{Tool: "search", Value: text, Stack: []byte(canary)}, "panic", false, nil},
		{"panic of a cost function", &Error{CallID: "call-1", Reason: ErrRejected, Cause: &PanicError{Value: text, Stack: []byte(canary)}}, "panic", true, nil},
		{"panics", panickingError{}, "tool_error", false, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var logged, lines bytes.Buffer
			kept, whole, queued := new(Recorder), new(Recorder), new(Recorder)
			async := Must(NewAsyncSink(WithoutErrorText(queued), AsyncSinkConfig{MaxQueue: 10}))
			asyncInside := Must(NewAsyncSink(kept, AsyncSinkConfig{MaxQueue: 10}))
			asyncPayloads := Must(NewAsyncSink(WithoutErrorText(Must(WithPayloads(kept, PayloadConfig{}))), AsyncSinkConfig{MaxQueue: 10}))
			s := MultiSink(whole,
				WithoutErrorText(NewSlogSink(slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug})))),
				WithoutErrorText(NewJSONSink(&lines)),
				WithoutErrorText(Must(WithPayloads(kept, PayloadConfig{}))), Must(WithPayloads(WithoutErrorText(kept), PayloadConfig{})),
				WithoutErrorText(MultiSink(kept, WithoutErrorText(MultiSink(kept)))), WithoutErrorText(asyncInside), async, asyncPayloads)
			for _, k := range []EventKind{ToolRetrying, ToolFailed, ToolDenied} {
				e := testEvent(k)
				e.Err = tt.err
				if ok, err := deliverTo(t.Context(), s, e); !ok || err != nil {
					t.Fatal(ok, err)
				}
			}
			for _, a := range []*AsyncSink{async, asyncInside, asyncPayloads} {
				require.NoError(t, a.Close(context.Background()))
			}
			events := append(kept.Events(), queued.Events()...)
			require.Len(t, events, 21, "events")
			for _, e := range events {
				b := Must(json.Marshal(e))
				for form, s := range map[string]string{"JSON": string(b), "log": e.LogValue().String(), "Err": e.Err.Error(), "Go": fmt.Sprintf("%+v %#v", e.Err, e.Err)} {
					assert.NotContains(t, s, canary, "%s of %s", form, e.Kind)
				}
				for err := e.Err; err != nil; err = errors.Unwrap(err) {
					if strings.Contains(err.Error(), canary) || errors.Is(err, text) {
						t.Errorf("the text is behind Err: %v", err)
					}
				}
				if errors.Is(e.Err, ErrRejected) != tt.rejected || tt.reason != nil && !errors.Is(e.Err, tt.reason) || CodeOf(e.Err) != tt.code {
					t.Errorf("%s is %s, rejected %v", e.Err, CodeOf(e.Err), errors.Is(e.Err, ErrRejected))
				}
				assert.True(t, bytes.Contains(b, []byte(`"error_code":"`+tt.code+`"`)), "code %s: %s", tt.code, b)
			}
			if all := logged.String() + lines.String(); strings.Contains(all, canary) || strings.Count(all, tt.code) < 6 {
				t.Error(all)
			}
			got := whole.Events()[0].Err
			assert.Equal(t, fmt.Sprintf("%T", tt.err), fmt.Sprintf("%T", got), "the sink beside it got %T", got)
		})
	}
	if s := WithoutErrorText(nil); s.Enabled(ToolFailed) || emitTo(t.Context(), s, Event{}) != nil {
		t.Error("a nil sink does not discard")
	}
}

// A run's own sink can go without error texts, and what it is shown of values stays the same.
func TestWithoutErrorTextOfARun(t *testing.T) {
	plain, run := new(Recorder), new(Recorder)
	e := Must(NewExecutor(NewToolRegistry(), Config{Sink: plain}))
	work := Must(Wrap(e, Spec{Name: "work"}, func(_ context.Context, in string) (string, error) {
		if in == "fail" {
			return "", errors.New("sk-CANARY")
		}
		return in, nil
	}))
	ctx := WithPipelineContext(t.Context(), PipelineContext{Sink: WithoutErrorText(Must(WithPayloads(run, PayloadConfig{})))})
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
