package sluiceopenai_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// script is a server that answers with one body after the other, and keeps what it was asked.
type script struct {
	bodies []string
	mu     sync.Mutex
	asked  []string
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, string(body))
	if err != nil || len(s.asked) > len(s.bodies) {
		http.Error(w, `{"error":{"message":"the script is over"}}`, http.StatusBadRequest)
		return
	}
	answer := s.bodies[len(s.asked)-1]
	w.Header().Set("Content-Type", "application/json")
	if strings.HasPrefix(answer, "data: ") || strings.HasPrefix(answer, "event: ") {
		w.Header().Set("Content-Type", "text/event-stream")
	}
	_, _ = io.WriteString(w, answer)
}

// RoundTrip answers without a network, for bubbles.
func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w.Result(), nil
}

// client speaks with s without a network.
func (s *script) client() openai.Client {
	return openai.NewClient(option.WithAPIKey("k"), option.WithMaxRetries(0), option.WithBaseURL("http://model/"),
		option.WithHTTPClient(&http.Client{Transport: s}))
}

// dialled speaks with s over HTTP.
func (s *script) dialled(t *testing.T) openai.Client {
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	return openai.NewClient(option.WithAPIKey("k"), option.WithMaxRetries(0), option.WithBaseURL(srv.URL))
}

// request is what the model was asked the n-th time, by the name of each member.
func (s *script) request(t *testing.T, n int) map[string]json.RawMessage {
	t.Helper()
	require.Greater(t, len(s.asked), n)
	var members map[string]json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(s.asked[n]), &members))
	return members
}

// list is a member of what the model was asked, as texts.
func (s *script) list(t *testing.T, n int, name string) (out []string) {
	t.Helper()
	var all []json.RawMessage
	require.NoError(t, json.Unmarshal(s.request(t, n)[name], &all))
	for _, raw := range all {
		out = append(out, string(raw))
	}
	return out
}

// gauge knows how many are inside at most.
type gauge struct{ now, peak, ran atomic.Int64 }

func (g *gauge) enter() {
	g.ran.Add(1)
	n := g.now.Add(1)
	for m := g.peak.Load(); n > m && !g.peak.CompareAndSwap(m, n); m = g.peak.Load() {
	}
}

func (g *gauge) leave() { g.now.Add(-1) }

type in struct {
	Query string `json:"query"`
}

type out struct {
	Hits int `json:"hits"`
}

const querySchema = `{"type":"object","properties":{"query":{"type":"string","maxLength":9007199254740993}},"required":["query"]}`

// search takes 10 ms, and does what it is asked for.
func (g *gauge) search(ctx context.Context, in in) (out, error) {
	g.enter()
	defer g.leave()
	switch in.Query {
	case "panic":
		panic("secret sk-123")
	case "exit":
		runtime.Goexit()
	case "fail":
		return out{}, errors.New("backend says no")
	case "hang":
		<-ctx.Done()
		return out{}, ctx.Err()
	}
	time.Sleep(10 * time.Millisecond)
	return out{len(in.Query)}, nil
}

// tools is an executor with the tool search and its like, to be closed with the test.
func tools(t *testing.T, c sluice.Config) (*sluice.Executor, *gauge) {
	t.Helper()
	exec, err := sluice.NewExecutor(sluice.NewToolRegistry(), c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, exec.Close(context.Background())) })
	g := new(gauge)
	_, err = sluice.Wrap(exec, sluice.Spec{Name: "search", Description: "search the web", InputSchema: json.RawMessage(querySchema)}, g.search)
	require.NoError(t, err)
	return exec, g
}

func runner(t *testing.T, e *sluice.Executor, c agent.Config) *agent.Runner {
	t.Helper()
	r, err := agent.New(e, c)
	require.NoError(t, err)
	return r
}

// limit is a gate that lets n calls run at once.
func limit(t *testing.T, n int) sluice.Interceptor {
	t.Helper()
	l, err := sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: n}}})
	require.NoError(t, err)
	return l
}

// turnOfCalls are ten calls, of which six run; the last finds no token.
var turnOfCalls = []struct{ name, args string }{
	{"search", `{"query":"a"}`}, {"search", `{"query":"bb"}`}, {"search", `{"quary":"x"}`}, {"search", `{"query":`}, {"serach", `{}`},
	{"search", `{"query":"panic"}`}, {"search", `{"query":"fail"}`}, {"search", `{"query":"hang"}`}, {"search", `{"query":"exit"}`},
	{"search", `{"query":"h"}`},
}

// answersOfCalls is what the model reads of them.
var answersOfCalls = []string{
	`{"hits":1}`,
	`{"hits":2}`,
	`{"error":{"type":"invalid_arguments","message":"the arguments do not fit the tool: $ has an unknown key \"quary\": allowed are \"query\"","retryable":false}}`,
	`{"error":{"type":"invalid_arguments","message":"the arguments do not fit the tool: $.query ends at byte 9: must have a value there","retryable":false}}`,
	`{"error":{"type":"unknown_tool","message":"there is no tool \"serach\"; did you mean \"search\"?","retryable":false}}`,
	`{"error":{"type":"panic","message":"the tool failed","retryable":false}}`,
	`{"error":{"type":"tool_error","message":"backend says no","retryable":false}}`,
	`{"error":{"type":"timeout","message":"the tool did not finish in time","retryable":false}}`,
	`{"error":{"type":"goexit","message":"the tool failed","retryable":false}}`,
	`{"error":{"type":"rate_limited","message":"too many calls for now; try again in 10 s","retryable":true,"retry_after_ms":9990}}`,
}

// strict limits for turnOfCalls: two at once, six a minute, and 200 ms each.
func strict(t *testing.T) sluice.Config {
	t.Helper()
	rate, err := sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "web", Refuse: true, Rates: []sluice.Rate{{N: 6, Per: time.Minute}}})
	require.NoError(t, err)
	return sluice.Config{Interceptors: []sluice.Interceptor{rate, limit(t, 2)}, Timeout: 200 * time.Millisecond}
}

// events are chunks as servers stream them.
func events(all ...string) string {
	var b strings.Builder
	for _, data := range all {
		fmt.Fprintf(&b, "data: %s\n\n", data)
	}
	return b.String()
}
