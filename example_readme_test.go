package sluice_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
	"github.com/sluice-go/sluice/upstream"
	"github.com/stretchr/testify/require"
)

// A tool, as you have it.
type SearchIn struct {
	Query string `json:"query"`
}

type SearchOut struct {
	URLs []string `json:"urls"`
}

func searchWeb(ctx context.Context, in SearchIn) (SearchOut, error) {
	return SearchOut{URLs: []string{"https://go.dev/" + in.Query}}, nil
}

func Example() {
	ctx := context.Background()

	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{
		Limits: []sluice.Limit{{Max: 32}, {Max: 4, Scope: sluice.ForType("web")}}, // in all, and of type "web"
	}))
	quota := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{
		Name: "search api", Rates: []sluice.Rate{{N: 2, Per: time.Minute}}, // and two at once: Burst is N unless set
	}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{quota, limits}, // gates in any order: one decision
		Timeout:      30 * time.Second,                    // for the tool's code
		MaxWait:      5 * time.Second,                     // in the queue
	}))
	defer exec.Close(ctx)

	search := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "search", Type: "web"}, searchWeb))

	out, err := search(ctx, SearchIn{Query: "doc"}) // called as searchWeb was, but guarded
	fmt.Println(out.URLs, err)

	res, err := exec.Invoke(ctx, sluice.Request{ // or by its name, as a model asks for it
		ID: "call_1", Tool: "search", Args: json.RawMessage(`{"query":"blog"}`),
	})
	answer, _ := res.JSON()
	fmt.Println(string(answer), err)

	_, err = search(ctx, SearchIn{Query: "play"}) // the third in a minute
	if errors.Is(err, sluice.ErrRejected) {       // searchWeb did not run
		e, _ := errors.AsType[*sluice.Error](err)
		fmt.Println("refused:", e.Reason, "by", e.By, "- try again in", e.RetryAfter.Round(time.Second))
	}

	_, err = exec.Invoke(ctx, sluice.Request{Tool: "serch", Args: json.RawMessage(`{}`)})
	fmt.Println(sluice.ModelText(err)) // what the model should read of an error
	// Output:
	// [https://go.dev/doc] <nil>
	// {"urls":["https://go.dev/blog"]} <nil>
	// refused: wait too long by rate/search api calls per minute - try again in 30s
	// {"type":"unknown_tool","message":"there is no tool \"serch\"; did you mean \"search\"?","retryable":false}
}

// Each tenant may have two calls running; the third has to wait, or is refused.
func Example_limitPerTenant() {
	ctx := context.Background()

	slots := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 2, Scope: sluice.ByTenant}}}))
	rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ByTenant, Rates: []sluice.Rate{{N: 54, Per: time.Minute, Burst: 6}}}))
	acme := sluice.WithPipelineContext(ctx, sluice.PipelineContext{Tenant: "acme"})

	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{rate, slots}, MaxWait: sluice.NoWait,
	}))
	defer exec.Close(context.Background())
	running, end := make(chan string, 3), make(chan bool)
	export := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "export"}, func(_ context.Context, of string) (string, error) {
		running <- of
		<-end
		return of, nil
	}))

	globex := sluice.WithPipelineContext(ctx, sluice.PipelineContext{Tenant: "globex"})
	for _, c := range []context.Context{acme, acme, globex} {
		go export(c, "orders")
		<-running
	}
	_, err := export(acme, "orders")
	fmt.Println(err)
	close(end)
	// Output: sluice: tool "export": wait too long by concurrency per tenant: it could not start at once, and NoWait lets it not wait
}

// api answers the first request with a 429.
type api struct{ asked bool }

func (a *api) RoundTrip(r *http.Request) (*http.Response, error) {
	resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody, Request: r}
	if !a.asked {
		a.asked = true
		resp.StatusCode = http.StatusTooManyRequests
		resp.Header.Set("Retry-After", "20")
	}
	return resp, nil
}

// What one call is told by a 429, all that use the same key wait for.
func Example_pauseAt429() {
	var base http.RoundTripper = &api{}

	quota := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{
		Name: "openai", Rates: []sluice.Rate{{N: 10}}, Upstream: true,
	}))
	transport := sluice.Must(upstream.NewTransport(upstream.TransportConfig{Base: base})) // nil is http.DefaultTransport
	client := &http.Client{Transport: transport}
	get := func(ctx context.Context, url string) (string, error) { // a tool
		req, err := http.NewRequestWithContext(ctx, "GET", url, nil) // with its ctx: without it nothing pauses
		if err != nil {
			return "", err
		}
		resp, err := client.Do(req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return string(body), cmp.Or(upstream.Check(resp, body), err) // which a retry understands
	}

	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{quota}, MaxWait: sluice.NoWait,
	}))
	defer exec.Close(context.Background())
	ask := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "ask"}, get))
	ask(context.Background(), "https://api.example.com/")
	_, err := ask(context.Background(), "https://api.example.com/")
	e, _ := errors.AsType[*sluice.Error](err)
	fmt.Println(e.By, e.RetryAfter.Round(time.Second))
	// Output: rate/openai calls per second 20s
}

// A retry stands before the gates, and holds no slot while it waits.
func Example_retry() {
	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}}))

	retry := sluice.Must(resilience.NewRetry(resilience.RetryConfig{Attempts: 3, Base: 10 * time.Millisecond}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{retry, limits}, // before the gates: elsewhere it is refused
	}))
	spec := sluice.Spec{Name: "weather", Hints: sluice.Hints{ReadOnly: true}} // else only what did not run is repeated

	defer exec.Close(context.Background())
	calls := 0
	weather := sluice.Must(sluice.Wrap(exec, spec, func(context.Context, string) (string, error) {
		if calls++; calls < 3 {
			return "", errors.New("connection reset")
		}
		return "sunny", nil
	}))
	fmt.Println(weather(context.Background(), "Oslo"))
	fmt.Println(calls, "attempts")
	// Output:
	// sunny <nil>
	// 3 attempts
}

// Both tools count at one limit of 1, and the inner one does not wait for the outer one.
func Example_nested() {
	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{limits}}))
	defer exec.Close(context.Background())
	search := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "search"}, searchWeb))

	answer := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "answer"}, func(ctx context.Context, q string) (SearchOut, error) {
		return search(ctx, SearchIn{Query: q}) // with the ctx that it was given
	}))

	out, err := answer(context.Background(), "doc")
	fmt.Println(out.URLs, err)
	// Output: [https://go.dev/doc] <nil>
}

// newSearch is a tool with a rate of two a minute.
func newSearch(t *testing.T) func(context.Context, SearchIn) (SearchOut, error) {
	quota := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 2, Per: time.Minute}}}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{quota}}))
	t.Cleanup(func() { require.NoError(t, exec.Close(context.Background())) })
	return sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "search"}, searchWeb))
}

// The README's test of a tool.
func TestSearch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // a virtual clock: half a minute passes at once
		pc, rec := sluice.NewTestPipelineContext()
		ctx, search, start := sluice.WithPipelineContext(t.Context(), pc), newSearch(t), time.Now()
		for range 3 {
			if _, err := search(ctx, SearchIn{Query: "doc"}); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != 30*time.Second || !strings.Contains(rec.Trace(), "search: invoked queued started completed") {
			t.Fatal(took, rec.Trace())
		}
	})
}
