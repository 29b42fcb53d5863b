package sluice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/sluice-go/sluice/internal/jsonx"
)

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
		{"queue", own(ErrQueueFull, &refusalDetail{waiting: 50}), `{"type":"queue_full","message":"too many calls wait at present; try again later","retryable":true}`},
		{"wait", in(own(ErrWaitTooLong, &refusalDetail{within: time.Second}), 5*time.Minute), `{"type":"wait_too_long","message":"the call could not start in time; try again in 5 min","retryable":true,"retry_after_ms":300000}`},
		{"saturated", in(own(ErrSaturated, &refusalDetail{limit: 4, anonymous: true}), 3*time.Hour), `{"type":"saturated","message":"too many calls run at present; try again in 3 h","retryable":true,"retry_after_ms":10800000}`},
		{"too wide", own(ErrSaturated, errTooWide), `{"type":"saturated","message":"the call asks for more than is allowed at once; ask for less","retryable":false}`},
		{"unknown tool", &Error{Tool: "se\narch", Reason: ErrUnknownTool}, `{"type":"unknown_tool","message":"there is no tool \"se\narch\"","retryable":false}`},
		{"unknown tool, near", &Error{Tool: "serch", Reason: ErrUnknownTool, Cause: nearTools{"search", "fetch"}}, `{"type":"unknown_tool","message":"there is no tool \"serch\"; did you mean \"search\" or \"fetch\"?","retryable":false}`},
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
		{"nested refusal", ranError{in(own(ErrRateLimited, nil), time.Second), 7}, `{"type":"rate_limited","message":"too many calls for now; try again in 1 s","retryable":true,"retry_after_ms":1000}`},
		{"nested refusal, wrapped", fmt.Errorf("weather: %w", own(ErrSaturated, &refusalDetail{limit: 4})), `{"type":"saturated","message":"too many calls run at present; try again later","retryable":true}`},
		{"nested timeout", errors.Join(errors.New("a"), own(ErrTimeout, nil)), `{"type":"timeout","message":"the tool did not finish in time","retryable":false}`},
		{"hand-made", own(nil, nil), `{"type":"tool_error","message":"the call failed","retryable":false}`},
		{"hand-made with its own reason", own(errors.New("odd"), errors.New("why")), `{"type":"tool_error","message":"the call failed: why","retryable":false}`},
		{"typed nil", (*Error)(nil), `{"type":"tool_error","message":"the call failed","retryable":false}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := ModelText(tt.err); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
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
		if jerr := json.Unmarshal([]byte(text), &m); jerr != nil {
			t.Fatalf("%s: %v: %s", name, jerr, text)
		}
		if m.Type != "tool_error" || m.Message != tt.want || strings.Contains(text, "sluice") || strings.Contains(text, "backend") {
			t.Errorf("%s: %s, want %q", name, text, tt.want)
		}
	}
	close(leave)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := e.Close(context.Background()); err != nil {
		t.Error(err)
	}
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
	passed.next = []error{ranError{passed, 1}}
	return map[string]error{
		"panics": panickingError{}, "wraps itself": selfWrapping{}, "cycle": loop, "wide cycle": wide,
		"huge": errors.New(strings.Repeat("é\n", 50<<20)), "its own cause": itself, "two in a circle": a, "long circle": chain,
		"passed on in a circle": passed, "refusal passed on in a circle": ranError{passed, 1},
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
			for _, err := range []error{err, ranError{err, 1}, &Error{Tool: "t", Reason: ErrDenied, Cause: err}, fmt.Errorf("%w", &Error{Reason: ErrInvalidArguments, Cause: err})} {
				if code := CodeOf(err); code == "" {
					t.Error("no code")
				}
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
				if w := withoutText(&e); CodeOf(w) == "" || w.Error() == "" {
					t.Error("lost without its text")
				}
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
	if _, err := e.Invoke(t.Context(), Request{Tool: "serch"}); strings.Contains(err.Error(), "search") {
		t.Errorf("named a tool that may be hidden: %v", err)
	}
}
