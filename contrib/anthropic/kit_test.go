package sluiceanthropic_test

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

	"github.com/anthropics/anthropic-sdk-go/v2"
	"github.com/anthropics/anthropic-sdk-go/v2/option"
	"github.com/anthropics/anthropic-sdk-go/v2/toolrunner"
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
func (s *script) client() anthropic.Client {
	return anthropic.NewClient(option.WithAPIKey("k"), option.WithMaxRetries(0), option.WithBaseURL("http://model/"),
		option.WithHTTPClient(&http.Client{Transport: s}))
}

// dialled speaks with s over HTTP.
func (s *script) dialled(t *testing.T) anthropic.Client {
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	return anthropic.NewClient(option.WithAPIKey("k"), option.WithMaxRetries(0), option.WithBaseURL(srv.URL))
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

const querySchema = `{"type":"object","properties":{"query":{"type":"string","maxLength":9007199254740993}},"required":["query"]}`

// search takes 10 ms, and does what it is asked for.
func (g *gauge) search(ctx context.Context, in in) (string, error) {
	g.enter()
	defer g.leave()
	switch in.Query {
	case "panic":
		panic("secret sk-123")
	case "exit":
		runtime.Goexit()
	case "fail":
		return "", errors.New("backend says no")
	case "hang":
		<-ctx.Done()
		return "", ctx.Err()
	}
	time.Sleep(10 * time.Millisecond)
	return fmt.Sprint(len(in.Query), " hits"), nil
}

// executor is one to be closed with the test.
func executor(t *testing.T, c sluice.Config) *sluice.Executor {
	t.Helper()
	exec, err := sluice.NewExecutor(sluice.NewToolRegistry(), c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, exec.Close(context.Background())) })
	return exec
}

// tools is an executor with the tool search of its own.
func tools(t *testing.T, c sluice.Config) (*sluice.Executor, *gauge) {
	t.Helper()
	exec, g := executor(t, c), new(gauge)
	_, err := sluice.Wrap(exec, sluice.Spec{Name: "search", Description: "search the web", InputSchema: json.RawMessage(querySchema)}, g.search)
	require.NoError(t, err)
	return exec, g
}

// text is what a tool of the library answers.
func text(s string) anthropic.BetaToolResultBlockParamContentUnion {
	return anthropic.BetaToolResultBlockParamContentUnion{OfText: &anthropic.BetaTextBlockParam{Text: s}}
}

// tool is one of the library's.
func tool[In any](t *testing.T, name string, fn func(context.Context, In) (string, error)) anthropic.BetaTool {
	t.Helper()
	x, err := toolrunner.NewBetaToolFromBytes(name, "search the web", []byte(querySchema),
		func(ctx context.Context, in In) (anthropic.BetaToolResultBlockParamContentUnion, error) {
			s, err := fn(ctx, in)
			return text(s), err
		})
	require.NoError(t, err)
	return x
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

// turnOfCalls are nine calls, of which six run; the last finds no token.
var turnOfCalls = []struct{ name, args string }{
	{"search", `{"query":"a"}`}, {"search", `{"query":"bb"}`}, {"search", `{"quary":"x"}`}, {"serach", `{}`},
	{"search", `{"query":"panic"}`}, {"search", `{"query":"fail"}`}, {"search", `{"query":"hang"}`}, {"search", `{"query":"exit"}`},
	{"search", `{"query":"h"}`},
}

// strict limits for turnOfCalls: two at once, n a minute, and 200 ms each.
func strict(t *testing.T, n int64) sluice.Config {
	t.Helper()
	rate, err := sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "web", Refuse: true, Rates: []sluice.Rate{{N: n, Per: time.Minute}}})
	require.NoError(t, err)
	return sluice.Config{Interceptors: []sluice.Interceptor{rate, limit(t, 2)}, Timeout: 200 * time.Millisecond}
}

// toolUse is a call as a message has it, with a member that the library does not know.
func toolUse(id, name, input string) string {
	return fmt.Sprintf(`{"type":"tool_use","id":%q,"name":%q,"input":%s,"x_new":"a < b"}`, id, name, input)
}

// body is a message.
func body(stop string, blocks ...string) string {
	return fmt.Sprintf(`{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[%s],"stop_reason":%q,"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}`,
		strings.Join(blocks, ","), stop)
}

var end = body("end_turn", `{"type":"text","text":"done"}`)

func quoted(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// written is a param as it goes into a request.
func written(t *testing.T, m any) string {
	t.Helper()
	b, err := json.Marshal(m)
	require.NoError(t, err)
	return string(b)
}

// escaped is raw as the library writes what it gets as JSON: the same bytes, but for the characters of HTML.
func escaped(raw string) string { return strings.ReplaceAll(raw, "<", `\u003c`) }

// last is the last message of what the model was asked the n-th time.
func (s *script) last(t *testing.T, n int) string {
	t.Helper()
	all := s.list(t, n, "messages")
	return all[len(all)-1]
}

// events are those of a stream.
func events(all ...string) string {
	var b strings.Builder
	for _, data := range all {
		kind, _, _ := strings.Cut(strings.TrimPrefix(data, `{"type":"`), `"`)
		fmt.Fprintf(&b, "event: %s\ndata: %s\n\n", kind, data)
	}
	return b.String()
}
