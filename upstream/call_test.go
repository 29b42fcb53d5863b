package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/upstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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
	header string // "Key: value|Key: value"
	takes  time.Duration
	body   string
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
	for line := range strings.SplitSeq(a.header, "|") {
		if key, value, ok := strings.Cut(line, ": "); ok {
			h.Add(key, value)
		}
	}
	return &http.Response{StatusCode: a.status, Header: h, Body: io.NopCloser(strings.NewReader(a.body)), Request: r}, nil
}

// agent is an executor with one tool that asks the server, in a bubble.
func agent(t *testing.T, s *server, interceptors ...sluice.Interceptor) func(context.Context, string) (int, error) {
	t.Helper()
	s.start = time.Now()
	transport, err := upstream.NewTransport(upstream.TransportConfig{Base: s})
	require.NoError(t, err)
	exec, err := sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: interceptors})
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, exec.Close(context.Background()))
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
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return 0, err
		}
		return resp.StatusCode, upstream.Check(resp, body)
	})
	require.NoError(t, err)
	return get
}

func upstreamRate(t *testing.T) *sluice.RateLimiter {
	t.Helper()
	l, err := sluice.NewRateLimiter(sluice.RateLimiterConfig{Upstream: true, Rates: []sluice.Rate{{N: 1000}}})
	require.NoError(t, err)
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
		{"refused", answer{status: 429, header: "Retry-After: 7"}, limited, 7 * time.Second, "upstream: GET api.example.com: 429 Too Many Requests, retry in 7s"},
		{"refused, without an Upstream limiter", answer{status: 429, header: "Retry-After: 7"}, unlimited, 7 * time.Second, "upstream: GET api.example.com: 429 Too Many Requests, retry in 7s"},
		{"the last of a quota", answer{status: 200, header: `RateLimit: "d";r=0;t=9`}, limited, 9 * time.Second, ""},
		{"quota left", answer{status: 200, header: `RateLimit: "d";r=1;t=9`}, limited, 0, ""},
		{"broken", answer{status: 500, header: "Retry-After: 7"}, limited, 0, "upstream: GET api.example.com: 500 Internal Server Error"},
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
		require.NoError(t, err)
		defer func() {
			assert.NoError(t, exec.Close(context.Background()))
		}()
		s := &server{answers: []answer{{status: 429, header: "Retry-After: 4"}, {status: 200}}, start: time.Now()}
		transport, err := upstream.NewTransport(upstream.TransportConfig{Base: s})
		require.NoError(t, err)
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
		require.NoError(t, err)
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
		assert.Equal(t, 4*time.Second, s.asked[1], "asked at")
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
				require.NoError(t, err)
				s := &server{answers: []answer{{status: c.status, takes: time.Millisecond}}}
				get := agent(t, s, breaker, upstreamRate(t))
				open := false
				for range 12 {
					_, err := get(t.Context(), "https://api.example.com/")
					open = open || errors.Is(err, sluice.ErrBreakerOpen)
				}
				assert.Equal(t, c.opens, open, "breaker opened")
			})
		})
	}
}

// Outside a call there is nobody to pause.
func TestTransport_OutsideACall(t *testing.T) {
	s := &server{answers: []answer{{status: 429, header: "Retry-After: 7"}}}
	transport, err := upstream.NewTransport(upstream.TransportConfig{Base: s})
	require.NoError(t, err)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://a/", nil)
	require.NoError(t, err)
	if resp, err := transport.RoundTrip(r); err != nil || resp.StatusCode != 429 {
		t.Errorf("got %v, %v", resp, err)
	}
}

// Transport and Check together do no harm: where only the body names a time, that is when
// the next is asked, however often.
func TestTransport_AndCheckOfTheBody(t *testing.T) {
	for _, pause := range []int{2, 5, 35, 300} {
		synctest.Test(t, func(t *testing.T) {
			s := &server{answers: []answer{{status: 429, body: fmt.Sprintf(`{"error":{"details":[{"@type":"google.rpc.RetryInfo","retryDelay":"%ds"}]}}`, pause)}}}
			l, err := sluice.NewRateLimiter(sluice.RateLimiterConfig{Upstream: true, Rates: []sluice.Rate{{N: 1000}}, Scope: sluice.ByKey("host", func(sluice.Call) string { return "api.example.com" })})
			require.NoError(t, err)
			get := agent(t, s, l)
			for range 9 {
				_, err := get(t.Context(), "https://api.example.com/")
				assert.Error(t, err, "want the refusal")
			}
			for i, at := range s.asked {
				if want := time.Duration(i*pause) * time.Second; at < want || at > want+time.Duration(i)*refill {
					t.Fatalf("asked at %v, want every %d s", s.asked, pause)
				}
			}
		})
	}
}

// A throttle of one host, or of one resource, holds back those calls alone.
func TestTransport_PausesWhatTheAnswerTellsApart(t *testing.T) {
	keyed := func(kind string, key func(sluice.Call) string) sluice.Interceptor {
		l, err := sluice.NewRateLimiter(sluice.RateLimiterConfig{Upstream: true, Name: kind, Rates: []sluice.Rate{{N: 1000}}, Scope: sluice.ByKey(kind, key)})
		require.NoError(t, err)
		return l
	}
	host := func(c sluice.Call) string { u, _ := url.Parse(c.Input.(string)); return u.Host }
	resource := func(c sluice.Call) string { u, _ := url.Parse(c.Input.(string)); return strings.Trim(u.Path, "/") }
	for _, x := range []struct {
		name     string
		first    answer
		limits   func() []sluice.Interceptor
		next     string
		from, to time.Duration // when the next is asked
	}{
		{"another host", answer{status: 429, header: "Retry-After: 600"}, func() []sluice.Interceptor { return []sluice.Interceptor{keyed("host", host)} }, "https://b/search", 0, 0},
		{"the same host", answer{status: 429, header: "Retry-After: 600"}, func() []sluice.Interceptor { return []sluice.Interceptor{keyed("host", host)} }, "https://a/core", 600 * time.Second, 601 * time.Second},
		{"another host, and no limiter", answer{status: 429, header: "Retry-After: 600"}, func() []sluice.Interceptor { return nil }, "https://b/search", time.Minute, 61 * time.Second},
		{"another host, and one key", answer{status: 429, header: "Retry-After: 600"}, func() []sluice.Interceptor { return []sluice.Interceptor{upstreamRate(t)} }, "https://b/search", time.Minute, 61 * time.Second},
		{"another resource", answer{status: 403, header: "X-RateLimit-Resource: search|X-RateLimit-Remaining: 0|X-RateLimit-Reset: 600"}, func() []sluice.Interceptor {
			return []sluice.Interceptor{keyed("host", host), keyed("resource", resource)}
		}, "https://a/core", 0, 0},
		{"the same resource", answer{status: 403, header: "X-RateLimit-Resource: search|X-RateLimit-Remaining: 0|X-RateLimit-Reset: 600"}, func() []sluice.Interceptor {
			return []sluice.Interceptor{keyed("host", host), keyed("resource", resource)}
		}, "https://a/search", 600 * time.Second, 601 * time.Second},
		{"another policy", answer{status: 429, header: `RateLimit: "search";r=0;t=600, "core";r=9;t=600`}, func() []sluice.Interceptor {
			return []sluice.Interceptor{keyed("policy", resource)}
		}, "https://a/core", 0, 0},
		{"another partition", answer{status: 429, header: `RateLimit: "p";r=0;t=600;pk=:c2VhcmNo:`}, func() []sluice.Interceptor {
			return []sluice.Interceptor{keyed("partition", resource)}
		}, "https://a/c2VhcmNo", 600 * time.Second, 601 * time.Second},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &server{answers: []answer{x.first, {status: 200}}}
				get := agent(t, s, x.limits()...)
				_, _ = get(t.Context(), "https://a/search")
				_, err := get(t.Context(), x.next)
				assert.NoError(t, err)
				if at := s.asked[1]; at < x.from || at > x.to {
					t.Errorf("asked at %v, want %v to %v", at, x.from, x.to)
				}
			})
		})
	}
}
