package upstream_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/upstream"
)

// server answers by a script and notes when it was asked.
type server struct {
	mu      sync.Mutex
	answers []answer // the last one again and again
	start   time.Time
	asked   []time.Duration
}

type answer struct {
	status int
	header string // "Key: value"
	takes  time.Duration
}

func (s *server) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	a := s.answers[0]
	if len(s.answers) > 1 {
		s.answers = s.answers[1:]
	}
	s.asked = append(s.asked, time.Since(s.start))
	s.mu.Unlock()
	time.Sleep(a.takes)
	h := http.Header{}
	if key, value, ok := strings.Cut(a.header, ": "); ok {
		h.Set(key, value)
	}
	return &http.Response{StatusCode: a.status, Header: h, Body: http.NoBody, Request: r}, nil
}

// agent is an executor with one tool that asks the server, in a bubble.
func agent(t *testing.T, s *server, interceptors ...sluice.Interceptor) func(context.Context, string) (int, error) {
	t.Helper()
	s.start = time.Now()
	transport, err := upstream.NewTransport(upstream.TransportConfig{Base: s})
	if err != nil {
		t.Fatal(err)
	}
	exec, err := sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: interceptors})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := exec.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	get, err := sluice.Wrap(exec, sluice.Spec{Name: "get"}, func(ctx context.Context, url string) (int, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return 0, err
		}
		resp, err := transport.RoundTrip(r)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		return resp.StatusCode, upstream.Check(resp, nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	return get
}

func upstreamRate(t *testing.T) *sluice.RateLimiter {
	t.Helper()
	l, err := sluice.NewRateLimiter(sluice.RateLimiterConfig{Upstream: true, Rates: []sluice.Rate{{N: 1000}}})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// One refusal holds back every call that waits for the same key, with or without an
// Upstream limiter, and also the last of a quota does.
func TestTransport_PausesCalls(t *testing.T) {
	for _, c := range []struct {
		name   string
		first  answer
		limits func(*testing.T) []sluice.Interceptor
		next   time.Duration // when the next is asked
		err    string
	}{
		{"refused", answer{429, "Retry-After: 7", 0}, limited, 7*time.Second + refill, "upstream: GET api.example.com: 429 Too Many Requests, retry in 7s"},
		{"refused, without an Upstream limiter", answer{429, "Retry-After: 7", 0}, unlimited, 7 * time.Second, "upstream: GET api.example.com: 429 Too Many Requests, retry in 7s"},
		{"the last of a quota", answer{200, `RateLimit: "d";r=0;t=9`, 0}, limited, 9*time.Second + refill, ""},
		{"quota left", answer{200, `RateLimit: "d";r=1;t=9`, 0}, limited, 0, ""},
		{"broken", answer{500, "Retry-After: 7", 0}, limited, 0, "upstream: GET api.example.com: 500 Internal Server Error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &server{answers: []answer{c.first, {status: 200}}}
				get := agent(t, s, c.limits(t)...)
				_, err := get(t.Context(), "https://api.example.com/")
				if (err == nil) != (c.err == "") || err != nil && err.Error() != c.err {
					t.Errorf("got %v, want %q", err, c.err)
				}
				var wg sync.WaitGroup
				for range 5 {
					wg.Go(func() {
						if status, err := get(t.Context(), "https://api.example.com/"); status != 200 || err != nil {
							t.Errorf("after the pause: %d, %v", status, err)
						}
					})
				}
				wg.Wait()
				for i, at := range s.asked[1:] {
					if at < c.next || i == 0 && at != c.next {
						t.Errorf("asked at %v, want the next at %v and none before", s.asked, c.next)
					}
				}
			})
		})
	}
}

// refill is how long a bucket of upstreamRate, which a pause leaves empty, needs for a call.
const refill = time.Millisecond

func limited(t *testing.T) []sluice.Interceptor { return []sluice.Interceptor{upstreamRate(t)} }
func unlimited(*testing.T) []sluice.Interceptor { return nil }

// The pause counts from the response, even while the tool that got it still runs.
func TestTransport_PausesOthersBeforeItsCallEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := upstreamRate(t)
		exec, err := sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{limit}})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := exec.Close(context.Background()); err != nil {
				t.Error(err)
			}
		}()
		s := &server{answers: []answer{{429, "Retry-After: 4", 0}, {status: 200}}, start: time.Now()}
		transport, err := upstream.NewTransport(upstream.TransportConfig{Base: s})
		if err != nil {
			t.Fatal(err)
		}
		get, err := sluice.Wrap(exec, sluice.Spec{Name: "get"}, func(ctx context.Context, linger time.Duration) (int, error) {
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://a/", nil)
			if err != nil {
				return 0, err
			}
			resp, err := transport.RoundTrip(r)
			if err != nil {
				return 0, err
			}
			time.Sleep(linger)
			return resp.StatusCode, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if status, err := get(t.Context(), time.Hour); status != 429 || err != nil {
				t.Errorf("the refused: %d, %v", status, err)
			}
		})
		time.Sleep(time.Second)
		if status, err := get(t.Context(), 0); status != 200 || err != nil {
			t.Errorf("the next: %d, %v", status, err)
		}
		if at := s.asked[1]; at != 4*time.Second+refill {
			t.Errorf("asked at %v, want %v", at, 4*time.Second+refill)
		}
		wg.Wait()
	})
}

// A refusal is no failure of the backend: a breaker stays closed.
func TestPromise16_ThrottledErrorIsNoBreakerFailure(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		opens  bool
	}{{"refused", 429, false}, {"broken", 500, true}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				breaker, err := sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{})
				if err != nil {
					t.Fatal(err)
				}
				s := &server{answers: []answer{{status: c.status, takes: time.Millisecond}}}
				get := agent(t, s, breaker, upstreamRate(t))
				open := false
				for range 12 {
					_, err := get(t.Context(), "https://api.example.com/")
					open = open || errors.Is(err, sluice.ErrBreakerOpen)
				}
				if open != c.opens {
					t.Errorf("breaker opened: %v, want %v", open, c.opens)
				}
			})
		})
	}
}

// Outside a call there is nobody to pause.
func TestTransport_OutsideACall(t *testing.T) {
	s := &server{answers: []answer{{429, "Retry-After: 7", 0}}}
	transport, err := upstream.NewTransport(upstream.TransportConfig{Base: s})
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://a/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := transport.RoundTrip(r); err != nil || resp.StatusCode != 429 {
		t.Errorf("got %v, %v", resp, err)
	}
}
