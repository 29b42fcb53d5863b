package sluice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
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
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got, want := string(Must(json.Marshal(&Error{}))), `{"reason":"failed","message":"sluice: failed"}`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
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
			if err := e.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
}

// Any error can be compared with any reason.
func TestErrorIsWithWhatCannotBeCompared(t *testing.T) {
	e := &Error{Reason: uncomparable{}}
	if errors.Is(e, uncomparable{}) {
		t.Error("equal, and they cannot be compared")
	}
	if !errors.Is(e, ErrRejected) {
		t.Error("want a rejection")
	}
}
