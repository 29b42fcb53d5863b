package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// roundTripFunc is a server without a network.
type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// untouched is a body that must be neither read nor closed.
type untouched struct {
	t      *testing.T
	closed atomic.Bool
}

func (b *untouched) Read([]byte) (int, error) { b.t.Error("the body was read"); return 0, io.EOF }
func (b *untouched) Close() error             { b.closed.Store(true); return nil }

// pauses is what was reported to sluice, with the contexts it came with.
type pauses struct {
	mu   sync.Mutex
	got  []time.Duration
	ctxs []context.Context
}

func (p *pauses) throttle(ctx context.Context, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.got = append(p.got, d)
	p.ctxs = append(p.ctxs, ctx)
}

func (p *pauses) take() []time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	got := p.got
	p.got = nil
	return got
}

// newTransport is a Transport that reports to p, without jitter.
func newTransport(t *testing.T, c TransportConfig, p *pauses) *Transport {
	t.Helper()
	tr, err := NewTransport(c)
	require.NoError(t, err)
	tr.throttle = p.throttle
	tr.jitter = func(d time.Duration) time.Duration { return d }
	return tr
}

func answer429(t *testing.T, status int, lines ...string) roundTripFunc {
	return func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: status, Header: header(lines...), Body: &untouched{t: t}, Request: r}, nil
	}
}

func send(t *testing.T, tr http.RoundTripper, ctx context.Context, url string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	require.NoError(t, err)
	resp, err := tr.RoundTrip(r)
	require.NoError(t, err)
	return resp
}

func equal[T comparable](a, b []T) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func TestTransport_Reports(t *testing.T) {
	type key struct{}
	for _, c := range []struct {
		name   string
		config TransportConfig
		status int
		lines  []string
		want   []time.Duration
		source string
	}{
		{"nothing said", TransportConfig{}, 200, nil, nil, ""},
		{"refused with a time", TransportConfig{}, 429, []string{"Retry-After: 7"}, []time.Duration{7 * time.Second}, "retry-after"},
		{"refused without a time", TransportConfig{}, 429, nil, []time.Duration{time.Second}, "backoff"},
		{"refused with time zero", TransportConfig{Backoff: 3 * time.Second}, 429, []string{"Retry-After: 0"}, []time.Duration{3 * time.Second}, "backoff"},
		{"backoff within a short bound", TransportConfig{MaxPause: time.Millisecond}, 429, nil, []time.Duration{time.Millisecond}, "backoff"},
		{"bounded", TransportConfig{MaxPause: 5 * time.Second}, 429, []string{"Retry-After: 7"}, []time.Duration{5 * time.Second}, "retry-after"},
		{"bounded, longer", TransportConfig{MaxPause: 24 * time.Hour}, 429, []string{"Retry-After: 7200"}, []time.Duration{2 * time.Hour}, "retry-after"},
		{"the last of a quota", TransportConfig{}, 200, []string{`RateLimit: "d";r=0;t=9`}, []time.Duration{9 * time.Second}, "ratelimit"},
		{"the last of a quota, reactive", TransportConfig{Reactive: true}, 200, []string{`RateLimit: "d";r=0;t=9`}, nil, "ratelimit"},
		{"refused, reactive", TransportConfig{Reactive: true}, 429, []string{`RateLimit: "d";r=0;t=9`}, []time.Duration{9 * time.Second}, "ratelimit"},
		{"quota left", TransportConfig{}, 200, []string{`RateLimit: "d";r=1;t=9`}, nil, ""},
		{"GitHub's secondary limit", TransportConfig{}, 429, []string{"X-GitHub-Request-Id: 1"}, []time.Duration{time.Minute}, "github-secondary"},
		{"broken", TransportConfig{}, 500, []string{"Retry-After: 7"}, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var p pauses
				var seen []Signals
				c.config.Base = answer429(t, c.status, c.lines...)
				c.config.OnSignal = func(r *http.Request, s Signals) {
					assert.Equal(t, "api.example.com", r.URL.Host, "request %v", r.URL)
					seen = append(seen, s)
				}
				tr := newTransport(t, c.config, &p)
				ctx := context.WithValue(t.Context(), key{}, "the call's")
				resp := send(t, tr, ctx, "https://api.example.com/x")
				if resp.Body.(*untouched).closed.Load() || resp.StatusCode != c.status {
					t.Errorf("the response was touched: %+v", resp)
				}
				got := p.take()
				assert.True(t, equal(got, c.want), "pauses %v, want %v", got, c.want)
				for _, ctx := range p.ctxs {
					if ctx.Value(key{}) != "the call's" {
						t.Error("reported with another context than the request's")
					}
				}
				source := ""
				if len(seen) == 1 {
					source = seen[0].Source
				}
				if len(seen) > 1 || source != c.source {
					t.Errorf("signals %+v, want one of source %q", seen, c.source)
				}
				if len(c.want) == 1 && seen[0].Pause != c.want[0] {
					t.Errorf("OnSignal saw %v, sluice %v", seen[0].Pause, c.want[0])
				}
			})
		})
	}
}

func TestTransport_ErrorsPassUntouched(t *testing.T) {
	boom := errors.New("boom")
	var p pauses
	tr := newTransport(t, TransportConfig{Base: roundTripFunc(func(*http.Request) (*http.Response, error) { return nil, boom })}, &p)
	r, _ := http.NewRequest(http.MethodGet, "http://a", nil)
	if resp, err := tr.RoundTrip(r); resp != nil || err != boom {
		t.Errorf("got %v, %v, want boom itself", resp, err)
	}
	assert.Nil(t, p.take(), "pauses, want none")
}

func TestTransport_Backoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pauses
		status, takes := 429, time.Duration(0)
		tr := newTransport(t, TransportConfig{MaxPause: 10 * time.Second, Base: roundTripFunc(func(r *http.Request) (*http.Response, error) {
			answer := status
			time.Sleep(takes)
			return &http.Response{StatusCode: answer, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
		})}, &p)
		step := func(wait time.Duration, answer int, want ...time.Duration) {
			t.Helper()
			time.Sleep(wait)
			status = answer
			send(t, tr, t.Context(), "http://a/")
			got := p.take()
			require.True(t, equal(got, want), "pauses %v, want %v", got, want)
		}
		step(0, 429, time.Second)
		step(0, 429, time.Second)                             // the same incident
		step(400*time.Millisecond, 429, 600*time.Millisecond) // what is left of it
		step(0, 200)                                          // and no proof that it is over
		step(600*time.Millisecond, 429, 2*time.Second)
		step(2*time.Second, 429, 4*time.Second)
		step(4*time.Second, 500) // no refusal, but no health either
		step(0, 429, 8*time.Second)
		step(8*time.Second, 429, 10*time.Second) // the bound
		step(10*time.Second, 429, 10*time.Second)
		step(10*time.Second, 200) // over
		step(0, 429, time.Second)
		step(time.Second, 429, 2*time.Second)
		step(2*time.Second+10*time.Second+1, 429, time.Second) // so long ago that it says nothing

		// An answer that comes after the pause to a request from before it.
		takes = 3 * time.Second
		time.Sleep(20 * time.Second)
		send(t, tr, t.Context(), "http://b/")
		p.take()
		done := make(chan struct{})
		go func() { defer close(done); send(t, tr, t.Context(), "http://b/") }()
		time.Sleep(time.Millisecond)
		<-done
		if got := p.take(); !equal(got, []time.Duration{time.Second}) {
			t.Errorf("late refusal: pauses %v, want the same pause again", got)
		}
	})
}

// Refusals that come together are one incident, however many they are.
func TestTransport_BackoffOfManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pauses
		tr := newTransport(t, TransportConfig{Base: answer429(t, 429)}, &p)
		for round, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() { send(t, tr, t.Context(), "http://a/") })
			}
			wg.Wait()
			got := p.take()
			require.Len(t, got, 50, "round %d: pauses", round)
			for _, d := range got {
				require.Equal(t, want, d, "round %d: pause", round)
			}
			time.Sleep(want)
		}
		send(t, tr, t.Context(), "http://other/")
		got := p.take()
		assert.True(t, equal(got, []time.Duration{time.Second}), "another host: %v, want 1s", got)
	})
}

func TestTransport_BackoffOfGitHubStartsAtAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pauses
		tr := newTransport(t, TransportConfig{Base: answer429(t, 429, "X-GitHub-Request-Id: 1")}, &p)
		for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
			send(t, tr, t.Context(), "https://api.github.com/")
			got := p.take()
			require.True(t, equal(got, []time.Duration{want * time.Minute}),
				"pauses %v, want %v", got, want*time.Minute)
			time.Sleep(want * time.Minute)
		}
	})
}

func TestPromise21_BackoffIsBounded(t *testing.T) {
	var b backoff
	none := func(d time.Duration) time.Duration { return d }
	for i := range 3 * maxQuotaRows {
		require.Equal(t, time.Second, b.refused(fmt.Sprint(i), now, now, time.Second, time.Hour, none),
			"host %d: pause", i)
		if len(b.quotas) > maxQuotaRows {
			t.Fatalf("%d quotas, want at most %d", len(b.quotas), maxQuotaRows)
		}
	}
	if d := b.refused("0", now.Add(time.Second), now.Add(time.Second), time.Second, time.Hour, none); d != 2*time.Second {
		t.Errorf("a host that is remembered: %v, want 2s", d)
	}
	later := now.Add(time.Minute)
	b.refused("late", later, later, time.Second, time.Hour, none)
	if d := b.refused("late", later.Add(time.Second), later.Add(time.Second), time.Second, time.Hour, none); d != 2*time.Second {
		t.Errorf("a host that came when others were over: %v, want 2s", d)
	}
	assert.Len(t, b.quotas, 1, "quotas, want those that are over forgotten")
	b.passed("late", later.Add(time.Hour))
	n := b.known.Load()
	assert.Zero(t, n)
	assert.Empty(t, b.quotas)
}

func TestBackoff_JitterIsWithinAQuarterAndTheBound(t *testing.T) {
	seen := map[bool]bool{}
	for range 2000 {
		var b backoff
		at, want := now, time.Second
		for range 4 {
			d := b.refused("a", at, at, time.Second, 5*time.Second, jittered)
			if d < want || d > min(want+want/4+1, 5*time.Second) {
				t.Fatalf("pause %v, want %v and up to a quarter more", d, want)
			}
			seen[d > want+want/8] = true
			at, want = at.Add(d), min(2*want, 5*time.Second)
		}
	}
	assert.Len(t, seen, 2, "the jitter is always on one side of its middle")
}

// Whatever happens, a pause is in [0, bound] and the next refusal after it is no shorter.
func TestBackoff_Storm(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	none := func(d time.Duration) time.Duration { return d }
	for range 200 {
		var b backoff
		at := now
		for range 200 {
			at = at.Add(time.Duration(r.Int64N(int64(3 * time.Second))))
			sent := at.Add(-time.Duration(r.Int64N(int64(5 * time.Second))))
			host := string(rune('a' + r.IntN(3)))
			if r.IntN(3) == 0 {
				b.passed(host, sent)
				continue
			}
			if d := b.refused(host, sent, at, time.Second, 7*time.Second, none); d <= 0 || d > 7*time.Second {
				t.Fatalf("pause %v", d)
			}
			if int(b.known.Load()) != len(b.quotas) {
				t.Fatalf("known %d of %d", b.known.Load(), len(b.quotas))
			}
		}
	}
}

// OnSignal is foreign code: it runs under no lock, and its panic takes no response away.
func TestPromise11_OnSignalPanics(t *testing.T) {
	var p pauses
	tr := newTransport(t, TransportConfig{
		Base:     answer429(t, 429, "Retry-After: 1"),
		OnSignal: func(*http.Request, Signals) { panic("mine") },
	}, &p)
	resp := send(t, tr, t.Context(), "http://a/")
	assert.False(t, resp.Body.(*untouched).closed.Load(), "the body was closed")
	got := p.take()
	assert.True(t, equal(got, []time.Duration{time.Second}), "pauses %v, want 1s", got)
}

func TestPromise11_OnSignalGoexits(t *testing.T) {
	var p pauses
	body := &untouched{t: t}
	tr := newTransport(t, TransportConfig{
		Base: roundTripFunc(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 429, Header: http.Header{}, Body: body, Request: r}, nil
		}),
		OnSignal: func(*http.Request, Signals) { runtime.Goexit() },
	}, &p)
	done, returned := make(chan struct{}), false
	go func() {
		defer close(done)
		r, _ := http.NewRequest(http.MethodGet, "http://a/", nil)
		_, _ = tr.RoundTrip(r)
		returned = true
	}()
	<-done
	if returned || !body.closed.Load() {
		t.Errorf("returned %v, body closed %v, want the goroutine ended and the body closed", returned, body.closed.Load())
	}
	assert.Len(t, p.take(), 1, "pauses")
}

// A callback that sends requests by the same Transport would hang if it ran under a lock.
func TestPromise21_OnSignalRunsUnderNoLock(t *testing.T) {
	var p pauses
	var tr *Transport
	depth := 0
	tr = newTransport(t, TransportConfig{Base: answer429(t, 429), OnSignal: func(*http.Request, Signals) {
		if depth++; depth < 3 {
			send(t, tr, t.Context(), "http://a/")
		}
	}}, &p)
	send(t, tr, t.Context(), "http://a/")
	assert.Len(t, p.take(), 3, "pauses")
}

func TestPromise22_BadTransportConfig(t *testing.T) {
	for _, c := range []struct {
		config TransportConfig
		want   string
	}{
		{TransportConfig{MaxPause: -time.Second}, "upstream: TransportConfig.MaxPause is -1s: must be zero (1h0m0s) or positive"},
		{TransportConfig{Backoff: -1}, "upstream: TransportConfig.Backoff is -1ns: must be zero (1s) or positive"},
		{TransportConfig{Backoff: 2 * time.Hour}, "upstream: TransportConfig.Backoff is 2h0m0s: must be at most MaxPause (1h0m0s)"},
		{TransportConfig{Backoff: 2 * time.Second, MaxPause: time.Second}, "upstream: TransportConfig.Backoff is 2s: must be at most MaxPause (1s)"},
		{TransportConfig{Backoff: 5}, "upstream: TransportConfig.Backoff is 5ns: must be at least 1µs; a Duration without a unit? 5 seconds are 5*time.Second"},
		{TransportConfig{MaxPause: 999}, "upstream: TransportConfig.MaxPause is 999ns: must be at least 1µs; a Duration without a unit? 999 seconds are 999*time.Second"},
	} {
		tr, err := NewTransport(c.config)
		require.Nil(t, tr)
		require.Error(t, err)
		assert.EqualError(t, err, c.want)
	}
}

// The zero value is what the zero config makes.
func TestTransport_ZeroValue(t *testing.T) {
	var p pauses
	var tr Transport
	tr.base, tr.throttle = answer429(t, 429, "Retry-After: 99999"), p.throttle
	send(t, &tr, t.Context(), "http://a/")
	tr.base = answer429(t, 429)
	send(t, &tr, t.Context(), "http://a/")
	got := p.take()
	if len(got) != 2 || got[0] != MaxPause || got[1] < time.Second || got[1] > 1250*time.Millisecond {
		t.Errorf("pauses %v, want 1h and 1s with its jitter", got)
	}
}

type closer struct {
	roundTripFunc
	closed bool
}

func (c *closer) CloseIdleConnections() { c.closed = true }

func TestTransport_CloseIdleConnections(t *testing.T) {
	var p pauses
	c := &closer{}
	(&http.Client{Transport: newTransport(t, TransportConfig{Base: c}, &p)}).CloseIdleConnections()
	assert.True(t, c.closed, "Base was not told")
	newTransport(t, TransportConfig{Base: c.roundTripFunc}, &p).CloseIdleConnections() // cannot, and need not
}

// Once over a real connection: redirects, keys in whatever case, the body for the caller.
func TestTransport_OverLoopback(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/moved" {
			w.Header()["retry-after"] = []string{"50"}
			http.Redirect(w, r, "/there", http.StatusFound)
			return
		}
		w.Header()["retry-after"] = []string{"3"}
		w.Header()["x-ratelimit-remaining-tokens"] = []string{"12"}
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = io.WriteString(w, "later")
	}))
	defer server.Close()
	var p pauses
	var seen []Signals
	tr := newTransport(t, TransportConfig{Base: &http.Transport{}, OnSignal: func(_ *http.Request, s Signals) { seen = append(seen, s) }}, &p)
	client := &http.Client{Transport: tr}
	defer client.CloseIdleConnections()
	resp, err := client.Get(server.URL + "/moved")
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != "later" {
		t.Errorf("body %q, %v", body, err)
	}
	got := p.take()
	assert.True(t, equal(got, []time.Duration{3 * time.Second}), "pauses %v, want 3s", got)
	require.Len(t, seen, 1)
	require.Len(t, seen[0].Quotas, 1)
	assert.Equal(t, int64(12), seen[0].Quotas[0].Remaining)
	var throttled *ThrottledError
	if err := Check(resp, body); !errors.As(err, &throttled) || throttled.RetryAfter() != 3*time.Second || !strings.HasPrefix(throttled.Host, "127.0.0.1:") {
		t.Errorf("Check: %v", err)
	}
}

func TestTransport_ConcurrentUse(t *testing.T) {
	var p pauses
	var signals atomic.Int64
	var n atomic.Int64
	tr := newTransport(t, TransportConfig{
		Base: roundTripFunc(func(r *http.Request) (*http.Response, error) {
			status := []int{200, 429, 500, 429}[n.Add(1)%4]
			return &http.Response{StatusCode: status, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
		}),
		OnSignal: func(*http.Request, Signals) { signals.Add(1) },
	}, &p)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for range 200 {
				send(t, tr, t.Context(), fmt.Sprintf("http://host%d/", i%3))
			}
		})
	}
	wg.Wait()
	got := len(p.take())
	assert.Equal(t, 1600, got)
	assert.Equal(t, int64(1600), signals.Load())
}
