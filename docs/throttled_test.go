package docs_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
	"github.com/sluice-go/sluice/upstream"
)

// overloaded is an API that answers its fourth request with a 429, from a second on.
type overloaded struct {
	start    time.Time
	mu       sync.Mutex
	requests int
}

func (o *overloaded) RoundTrip(r *http.Request) (*http.Response, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.requests++
	resp := &http.Response{
		StatusCode: 200, Header: http.Header{}, Request: r,
		Body: io.NopCloser(strings.NewReader("ok")),
	}
	if o.requests == 4 {
		resp.StatusCode = 429
		resp.Header.Set("Retry-After", "10")
	}
	fmt.Printf("%4.1fs  %d\n", time.Since(o.start).Seconds(), resp.StatusCode)
	return resp, nil
}

// throttled has ten calls meet an API that throttles one of them.
func throttled() {
	api := &overloaded{start: time.Now()}
	// the line that reads what APIs say about their limits
	client := &http.Client{Transport: sluice.Must(upstream.NewTransport(upstream.TransportConfig{Base: api}))}

	quota := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{
		Name: "api", Upstream: true, // what a throttle pauses
		Rates: []sluice.Rate{{N: 5, Burst: 1}},
	}))
	retry := sluice.Must(resilience.NewRetry(resilience.RetryConfig{}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{retry, quota}, // retries go around the gates
	}))
	defer exec.Close(context.Background())
	get := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "get", Hints: sluice.Hints{ReadOnly: true}},
		func(ctx context.Context, path string) (string, error) {
			req, err := http.NewRequestWithContext(ctx, "GET", "https://api.example"+path, nil)
			if err != nil {
				return "", err
			}
			resp, err := client.Do(req) // with the context that the tool was given
			if err != nil {
				return "", err
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				return "", err
			}
			return string(body), upstream.Check(resp, body) // an error that says when to come again
		}))

	var wg sync.WaitGroup
	var failed atomic.Int64
	for range 10 {
		wg.Go(func() {
			if _, err := get(context.Background(), "/"); err != nil {
				failed.Add(1)
			}
		})
	}
	wg.Wait()
	fmt.Println("failed:", failed.Load())
}

// busy is an error that asks for a pause, for a client that is none of net/http's.
type busy struct{ after time.Duration }

func (b busy) Error() string             { return "the database is busy" }
func (b busy) RetryAfter() time.Duration { return b.after }

func Example_throttle() {
	tables := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{
		Name: "db", Upstream: true, Rates: []sluice.Rate{{N: 100}},
	}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{tables}}))
	defer exec.Close(context.Background())
	query := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "query", Policy: sluice.Policy{MaxWait: sluice.NoWait}},
		func(context.Context, string) (string, error) {
			return "", busy{time.Minute}
		}))
	for range 2 {
		_, err := query(context.Background(), "select 1")
		fmt.Println(sluice.CodeOf(err))
	}
	tables.Lift("") // an operator knows better
	_, err := query(context.Background(), "select 1")
	fmt.Println(sluice.CodeOf(err))
	// Output:
	// tool_error
	// wait_too_long
	// tool_error
}
