package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/sluice-go/sluice/upstream"
)

func ExampleParse() {
	h := http.Header{}
	h.Set("RateLimit-Policy", `"minute";q=60;w=60`)
	h.Set("RateLimit", `"minute";r=0;t=12`)
	s := upstream.Parse(h, http.StatusTooManyRequests, time.Now())
	fmt.Println(s.Throttled, s.Pause, s.Source)
	for _, q := range s.Quotas {
		fmt.Printf("%s: %d of %d %s left\n", q.Name, q.Remaining, q.Limit, q.Unit)
	}
	// Output:
	// true 12s ratelimit
	// minute: 0 of 60 requests left
}

func ExampleParseBody() {
	body := []byte(`{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [
		{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"}]}}`)
	fmt.Println(upstream.ParseBody(body))
	// Output:
	// 34s retry-info
}

// provider stands for an API on the network.
type provider struct{}

func (provider) RoundTrip(r *http.Request) (*http.Response, error) {
	h := http.Header{}
	h.Set("X-RateLimit-Limit-Requests", "60")
	h.Set("X-RateLimit-Remaining-Requests", "59")
	h.Set("X-RateLimit-Reset-Requests", "1s")
	return &http.Response{StatusCode: http.StatusOK, Header: h, Body: io.NopCloser(strings.NewReader("sunny")), Request: r}, nil
}

func ExampleNewTransport() {
	transport, err := upstream.NewTransport(upstream.TransportConfig{
		Base: provider{}, // usually nil: http.DefaultTransport
		OnSignal: func(r *http.Request, s upstream.Signals) {
			for _, q := range s.Quotas {
				fmt.Printf("%s: %d of %d %s left\n", r.URL.Host, q.Remaining, q.Limit, q.Unit)
			}
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: transport}

	// A tool: the context it was given tells sluice which call a pause belongs to.
	weather := func(ctx context.Context, city string) (string, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://weather.example.com/"+city, nil)
		if err != nil {
			return "", err
		}
		resp, err := client.Do(r)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(io.LimitReader(resp.Body, upstream.MaxBody))
		if err != nil {
			return "", err
		}
		return string(body), upstream.Check(resp, body)
	}
	fmt.Println(weather(context.Background(), "rome"))
	// Output:
	// weather.example.com: 59 of 60 requests left
	// sunny <nil>
}

func ExampleCheck() {
	resp := &http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"30"}}, Body: http.NoBody}
	err := upstream.Check(resp, nil)
	fmt.Println(err)
	var throttled *upstream.ThrottledError
	if errors.As(err, &throttled) {
		fmt.Println(throttled.RetryAfter())
	}
	// Output:
	// upstream: 429 Too Many Requests, retry in 30s
	// 30s
}

// A server that asks for a day is not believed beyond a minute.
func ExampleParseWithin() {
	h := http.Header{}
	h.Set("Retry-After", "86400")
	fmt.Println(upstream.ParseWithin(h, http.StatusTooManyRequests, time.Now(), time.Minute).Pause)
	// Output:
	// 1m0s
}
