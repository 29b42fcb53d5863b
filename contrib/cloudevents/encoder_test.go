package sluicecloudevents_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	sluicecloudevents "github.com/sluice-go/sluice/contrib/cloudevents"
)

func newEncoder(t *testing.T, c sluicecloudevents.Config) *sluicecloudevents.Encoder {
	t.Helper()
	if c.Source == "" {
		c.Source = "/agents/planner"
	}
	enc, err := sluicecloudevents.NewEncoder(c)
	require.NoError(t, err)
	return enc
}

var attribute = regexp.MustCompile(`^[a-z0-9]{1,20}$`)

// check holds an encoded event to the specification's rules for attributes and for structured JSON, and returns it.
func check(t *testing.T, b []byte) map[string]any {
	t.Helper()
	require.True(t, utf8.Valid(b))
	require.NotContains(t, string(b), "\n")
	var e map[string]any
	require.NoError(t, json.Unmarshal(b, &e), "%s", b)
	require.Equal(t, "1.0", e["specversion"])
	for _, name := range []string{"id", "source", "type"} { // required, and not empty
		require.NotEmpty(t, e[name], name)
	}
	for name, v := range e {
		if name == "data" {
			continue
		}
		require.Regexp(t, attribute, name)
		require.IsType(t, "", v, name)
		require.NotEmpty(t, v, name)
		for _, r := range v.(string) {
			require.False(t, r < 0x20 || 0x7f <= r && r < 0xa0 || 0xfdd0 <= r && r <= 0xfdef || r&0xfffe == 0xfffe, "%s is %q", name, v)
		}
	}
	_, err := url.Parse(e["source"].(string))
	require.NoError(t, err)
	if at, ok := e["time"]; ok {
		_, err := time.Parse(time.RFC3339Nano, at.(string))
		require.NoError(t, err)
	}
	require.Equal(t, "application/json", e["datacontenttype"])
	require.IsType(t, map[string]any{}, e["data"])
	require.NotContains(t, e, "data_base64")
	return e
}

// TestEncode_AttributeByAttribute: all of a call's last event.
func TestEncode_AttributeByAttribute(t *testing.T) {
	enc := newEncoder(t, sluicecloudevents.Config{Source: "https://example.com/agents/planner"})
	e := &sluice.Event{
		Kind: sluice.ToolCompleted, Time: time.Date(2026, 11, 30, 13, 0, 0, 250e6, time.FixedZone("", 3600)), CallKey: 1, Seq: 3,
		Call: sluice.Call{ID: "toolu_1", Tool: "search"}, Duration: time.Second,
	}
	b, err := enc.Encode(e)
	require.NoError(t, err)
	got := check(t, b)
	own, err := json.Marshal(e)
	require.NoError(t, err)
	var data any
	require.NoError(t, json.Unmarshal(own, &data))
	require.Equal(t, map[string]any{
		"specversion": "1.0", "id": e.CallKey.String() + "/3", "source": "https://example.com/agents/planner",
		"type": "io.github.sluice-go.tool.completed.v1", "subject": "search", "time": "2026-11-30T12:00:00.25Z",
		"datacontenttype": "application/json", "sequence": "0000000003", "partitionkey": e.CallKey.String(), "data": data,
	}, got)
	require.Equal(t, got["id"], got["data"].(map[string]any)["event_id"])
}

// TestEncode_EveryKind: whatever a call and the limits around it tell is a valid CloudEvent, with an id of its own, in
// the order of its sequence.
func TestEncode_EveryKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		enc := newEncoder(t, sluicecloudevents.Config{TypePrefix: "com.example"})
		var mu sync.Mutex
		kinds, ids, last := make(map[string]int), make(map[any]bool), make(map[any]string)
		sink := sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
			b, err := enc.Encode(e)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			got := check(t, b)
			kinds[strings.TrimSuffix(strings.TrimPrefix(got["type"].(string), "com.example."), ".v1")]++
			require.False(t, ids[got["id"]], "twice: %s", b)
			ids[got["id"]] = true
			if key, ok := got["partitionkey"]; ok {
				require.Less(t, last[key], got["sequence"])
				last[key] = got["sequence"].(string)
			} else {
				require.NotContains(t, got, "sequence")
				require.NotEmpty(t, got["subject"])
			}
			return nil
		})
		breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Second}))
		rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 100, Per: time.Second}}}))
		slots := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}}))
		layer := sluice.InterceptorFunc(func(tool sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				if tool.Name == "denied" {
					return sluice.Result{}, errors.New("not on Sundays")
				}
				return next(ctx, c)
			}
		})
		e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
			Sink: sink, Interceptors: []sluice.Interceptor{layer, breaker, rates, slots}, Timeout: 10 * time.Minute, MaxWait: time.Hour,
		}))
		defer e.Close(context.Background())
		for name, run := range map[string]func(context.Context, string) (string, error){
			"search": func(context.Context, string) (string, error) {
				time.Sleep(2 * time.Minute)
				return "", nil
			},
			"broken": func(context.Context, string) (string, error) { return "", errors.New("a \x00 \u202e text") },
			"denied": func(context.Context, string) (string, error) { return "", nil },
		} {
			sluice.Must(sluice.Register(e.Registry(), sluice.Spec{Name: name}, run))
		}
		call := func(ctx context.Context, tool string) {
			_, _ = e.Invoke(ctx, sluice.Request{ID: "call_0", Tool: tool, Args: []byte(`""`)})
		}
		go call(t.Context(), "search")
		synctest.Wait()
		go call(t.Context(), "search")
		time.Sleep(5 * time.Minute)
		call(t.Context(), "broken")
		call(t.Context(), "denied")
		call(t.Context(), "a\x00\x9f\ufdd0\u202e\xff \"<b>\""+strings.Repeat("é", 500))
		require.NoError(t, rates.Pause("", time.Second))
		require.NoError(t, sluice.Reconfigure("ops", slots.Change(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 2}}})))
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		for _, kind := range []sluice.EventKind{
			sluice.ToolInvoked, sluice.ToolQueued, sluice.ToolStarted, sluice.ToolCompleted, sluice.ToolFailed, sluice.ToolDenied,
			sluice.BreakerStateChanged, sluice.LimitChanged, sluice.LimitStalled, sluice.RateLimitPaused,
		} {
			require.Positive(t, kinds[string(kind)], kind)
		}
	})
}

// TestEncode_SameEventSameID: so that a broker which is sent an event again can tell.
func TestEncode_SameEventSameID(t *testing.T) {
	enc, other := newEncoder(t, sluicecloudevents.Config{}), newEncoder(t, sluicecloudevents.Config{})
	id := func(x *sluicecloudevents.Encoder, e *sluice.Event) any {
		b, err := x.Encode(e)
		require.NoError(t, err)
		return check(t, b)["id"]
	}
	ofCall := &sluice.Event{Kind: sluice.ToolStarted, CallKey: 7, Seq: 2, Call: sluice.Call{Tool: "search"}}
	require.Equal(t, id(enc, ofCall), id(other, ofCall))
	outside := &sluice.Event{Kind: sluice.BreakerStateChanged, By: "breaker"}
	require.NotEqual(t, id(enc, outside), id(other, outside), "of another process")
	require.NotEqual(t, id(enc, outside), id(enc, outside))
}

// TestEncode_Subject: what a model made up is cut, and has nothing in it that is not seen.
func TestEncode_Subject(t *testing.T) {
	enc := newEncoder(t, sluicecloudevents.Config{})
	for tool, want := range map[string]any{
		"search":                        "search",
		"":                              nil,
		"a\x00b\x9f\ufdd0\U0001ffff":    "a\uFFFDb\uFFFD\uFFFD\uFFFD",
		"a\u202eb\u200b\xff":            "a\uFFFDb\uFFFD\uFFFD",
		"x" + strings.Repeat("é", 500):  "x" + strings.Repeat("é", 127),
		strings.Repeat("\xf0\x9f", 200): strings.Repeat("\uFFFD", 253),
	} {
		b, err := enc.Encode(&sluice.Event{Kind: sluice.ToolFailed, CallKey: 1, Call: sluice.Call{Tool: tool}})
		require.NoError(t, err)
		require.Equal(t, want, check(t, b)["subject"], "%q", tool)
	}
}

// TestPayloads: values are there for who asked for them, and no others; the text of errors is not, for who asked for that.
func TestPayloads(t *testing.T) {
	enc := newEncoder(t, sluicecloudevents.Config{})
	run := func(wrap func(sluice.EventSink) sluice.EventSink) string {
		var out strings.Builder
		sink := wrap(sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
			b, err := enc.Encode(e)
			require.NoError(t, err)
			check(t, b)
			out.Write(b)
			return nil
		}))
		e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Sink: sink}))
		defer e.Close(context.Background())
		sluice.Must(sluice.Register(e.Registry(), sluice.Spec{Name: "search"}, func(_ context.Context, in string) (string, error) {
			if in == "" {
				return "", errors.New("the-error-text")
			}
			return "the-result", nil
		}))
		for _, in := range []string{"the-arguments", ""} {
			_, _ = e.Invoke(t.Context(), sluice.Request{Tool: "search", Args: []byte(fmt.Sprintf("%q", in))})
		}
		return out.String()
	}
	plain := run(func(s sluice.EventSink) sluice.EventSink { return s })
	require.NotContains(t, plain, "the-arguments")
	require.NotContains(t, plain, "the-result")
	require.Contains(t, plain, "the-error-text")
	with := run(func(s sluice.EventSink) sluice.EventSink {
		return sluice.Must(sluice.WithPayloads(s, sluice.PayloadConfig{}))
	})
	require.Contains(t, with, "the-arguments")
	require.Contains(t, with, "the-result")
	require.NotContains(t, run(sluice.WithoutErrorText), "the-error-text")
}

// TestConfig names the wrong field.
func TestConfig(t *testing.T) {
	for _, source := range []string{"", "a b", "/é", "http://[::1", "/a\n", "<x>", "%zz"} {
		_, err := sluicecloudevents.NewEncoder(sluicecloudevents.Config{Source: source})
		require.EqualError(t, err, fmt.Sprintf("sluicecloudevents: Config.Source is %q: must be a URI or a reference to one, as \"/agents/planner\"", source))
	}
	for _, prefix := range []string{".", "com.", "com..example", "com example", "é"} {
		_, err := sluicecloudevents.NewEncoder(sluicecloudevents.Config{Source: "/", TypePrefix: prefix})
		require.EqualError(t, err, fmt.Sprintf("sluicecloudevents: Config.TypePrefix is %q: must be names of letters, digits and hyphens with dots between, as \"com.example\"", prefix))
	}
	for _, source := range []string{"/agents/planner", "https://example.com/a?b=c#d", "urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66", "mailto:ops@example.com", "planner"} {
		newEncoder(t, sluicecloudevents.Config{Source: source})
	}
}

// BenchmarkEncode measures an event beside its own JSON.
func BenchmarkEncode(b *testing.B) {
	enc := sluice.Must(sluicecloudevents.NewEncoder(sluicecloudevents.Config{Source: "/agents/planner"}))
	e := &sluice.Event{Kind: sluice.ToolCompleted, Time: time.Now(), CallKey: 1, Seq: 3, Call: sluice.Call{ID: "toolu_1", Tool: "search"}, Duration: time.Second}
	b.Run("own", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = e.MarshalJSON()
		}
	})
	b.Run("CloudEvent", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = enc.Encode(e)
		}
	})
}
