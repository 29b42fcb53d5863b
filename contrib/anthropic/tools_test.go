package sluiceanthropic_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anthropics/anthropic-sdk-go/v2"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	sluiceanthropic "github.com/sluice-go/sluice/contrib/anthropic"
	"github.com/sluice-go/sluice/resilience"
)

func runnerParams() anthropic.BetaToolRunnerParams {
	return anthropic.BetaToolRunnerParams{DisableThread: true, BetaMessageNewParams: anthropic.BetaMessageNewParams{
		Model: "m", MaxTokens: 100, Messages: []anthropic.BetaMessageParam{anthropic.NewBetaUserMessage(anthropic.NewBetaTextBlock("hi"))}}}
}

// guarded are tools run through e.
func guarded(t *testing.T, e *sluice.Executor, c sluiceanthropic.Config, ts ...anthropic.BetaTool) []anthropic.BetaTool {
	t.Helper()
	out, err := sluiceanthropic.Tools(e, c, ts...)
	require.NoError(t, err)
	return out
}

// run has the library's runner carry out a script.
func run(t *testing.T, client anthropic.Client, ts ...anthropic.BetaTool) {
	t.Helper()
	m, err := client.Beta.Messages.NewToolRunner(ts, runnerParams()).RunToCompletion(t.Context())
	require.NoError(t, err)
	require.Equal(t, "done", m.Content[0].Text)
}

// shown is how the runner writes a result.
func shown(id, text string) string {
	if strings.HasPrefix(text, "{") {
		return fmt.Sprintf(`{"tool_use_id":%q,"type":"tool_result","is_error":true,"content":[{"text":%s,"type":"text"}]}`, id, quoted("Error: "+text))
	}
	return fmt.Sprintf(`{"tool_use_id":%q,"type":"tool_result","content":[{"text":%s,"type":"text"}]}`, id, quoted(text))
}

// asShown are results, whatever the order of their members.
func asShown(t *testing.T, all ...string) string {
	t.Helper()
	return `{"content":[` + strings.Join(all, ",") + `],"role":"user"}`
}

// Each call has its result, whatever becomes of it, and the run goes on.
func TestTools(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec, conf := new(sluice.Recorder), strict(t, 6)
		conf.Sink = rec
		exec, g := executor(t, conf), new(gauge)
		var blocks, want []string
		for i, c := range turnOfCalls[:8] { // which of all would be without a token is chance
			blocks = append(blocks, toolUse(fmt.Sprint("toolu_", i), c.name, c.args))
			want = append(want, shown(fmt.Sprint("toolu_", i), answersOfCalls[i]))
		}
		want[2] = shown("toolu_2", `{"type":"invalid_arguments","message":"the arguments do not fit the tool: $ lacks \"query\": required","retryable":false}`)
		want[3] = `{"tool_use_id":"toolu_3","type":"tool_result","is_error":true,"content":[{"text":"Error: Tool 'serach' not found","type":"text"}]}`
		s := &script{bodies: []string{body("tool_use", blocks...), end}}
		run(t, s.client(), guarded(t, exec, sluiceanthropic.Config{}, tool(t, "search", g.search))...)
		require.JSONEq(t, asShown(t, want...), s.last(t, 1))
		require.EqualValues(t, 6, g.ran.Load())
		require.EqualValues(t, 2, g.peak.Load())
		require.NoError(t, rec.Check())
		require.JSONEq(t, `[{"name":"search","description":"search the web","input_schema":`+querySchema+`}]`, string(s.request(t, 0)["tools"]))
		spec, _ := exec.Registry().Lookup("search")
		require.Equal(t, "search the web", spec.Description)
		require.JSONEq(t, querySchema, string(spec.InputSchema))
	})
}

// A refusal is a result that says when to try again; which of the calls it meets is the runner's choice.
func TestTools_Refusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		exec, g := executor(t, strict(t, 1)), new(gauge)
		s := &script{bodies: []string{body("tool_use", toolUse("a", "search", `{"query":"a"}`), toolUse("b", "search", `{"query":"a"}`)), end}}
		run(t, s.client(), guarded(t, exec, sluiceanthropic.Config{}, tool(t, "search", g.search))...)
		const refused = `{"type":"rate_limited","message":"too many calls for now; try again in 60 s","retryable":true,"retry_after_ms":60000}`
		require.Contains(t, []string{
			asShown(t, shown("a", refused), shown("b", "1 hits")),
			asShown(t, shown("a", "1 hits"), shown("b", refused)),
		}, canonical(t, s.last(t, 1)))
		require.EqualValues(t, 1, g.ran.Load())
	})
}

// canonical is a message of results as asShown writes it.
func canonical(t *testing.T, raw string) string {
	t.Helper()
	var m struct {
		Content []struct {
			ID      string `json:"tool_use_id"`
			IsError bool   `json:"is_error"`
			Content []struct{ Text string }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(raw), &m))
	var all []string
	for _, r := range m.Content {
		require.Len(t, r.Content, 1)
		text, ok := strings.CutPrefix(r.Content[0].Text, "Error: ")
		require.Equal(t, ok, r.IsError)
		all = append(all, shown(r.ID, text))
	}
	return asShown(t, all...)
}

// The streaming runner over a real connection, for several runs at once.
func TestTools_Streaming(t *testing.T) {
	exec, g := executor(t, sluice.Config{Interceptors: []sluice.Interceptor{limit(t, 2)}}), new(gauge)
	ts := guarded(t, exec, sluiceanthropic.Config{}, tool(t, "search", g.search))
	first := events(append(append(streamed[:9:9],
		`{"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"b","name":"search","input":{}}}`,
		`{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"query\":\"bb\"}"}}`), stop("tool_use")...)...)
	second := events(streamed[0], `{"type":"content_block_start","index":0,"content_block":{"type":"text","text":"done"}}`, `{"type":"content_block_stop","index":0}`,
		stop("end_turn")[1], stop("")[2])
	var wg sync.WaitGroup
	failed := make([]error, 4)
	scripts := make([]*script, 4)
	for i := range failed {
		scripts[i] = &script{bodies: []string{first, second}}
		client := scripts[i].dialled(t)
		wg.Go(func() {
			for events, err := range client.Beta.Messages.NewToolRunnerStreaming(ts, runnerParams()).AllStreaming(context.Background()) {
				failed[i] = errors.Join(failed[i], err)
				for _, err := range events {
					failed[i] = errors.Join(failed[i], err)
				}
			}
		})
	}
	wg.Wait()
	for i, s := range scripts {
		require.NoError(t, failed[i])
		require.JSONEq(t, asShown(t, shown("a", "3 hits"), shown("b", "2 hits")), s.last(t, 1))
	}
	require.EqualValues(t, 8, g.ran.Load())
	require.LessOrEqual(t, g.peak.Load(), int64(2))
}

// Policy, Behalf, Text and Prefix do what they say.
func TestTools_Config(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		type key struct{}
		exec := executor(t, sluice.Config{})
		var mu sync.Mutex
		seen := map[string]int{}
		who := tool(t, "whoami", func(ctx context.Context, in in) (string, error) {
			c, _ := sluice.CallFrom(ctx)
			pc := sluice.PipelineContextFrom(ctx)
			mu.Lock()
			defer mu.Unlock()
			seen[fmt.Sprint(c.Tool, " ", pc.Tenant, " ", pc.RunID, " ", ctx.Value(key{}))]++
			if time.Sleep(time.Second); in.Query == "fail" {
				return "", errors.New("no")
			}
			return "", nil
		})
		ts := guarded(t, exec, sluiceanthropic.Config{
			Prefix: "crm.",
			Policy: func(tool string) sluice.Policy {
				require.Equal(t, "crm.whoami", tool)
				return sluice.Policy{Concurrency: 1}
			},
			Behalf: func(ctx context.Context, pc sluice.PipelineContext) sluice.PipelineContext {
				pc.Tenant = fmt.Sprint("acme-", ctx.Value(key{}))
				return pc
			},
			Text: func(err error) string { return "{sorry: " + sluice.CodeOf(err) + "}" },
		}, who)
		require.Equal(t, "whoami", ts[0].Name())
		ctx := sluice.WithPipelineContext(context.WithValue(t.Context(), key{}, 7), sluice.PipelineContext{RunID: "run-1"})
		s := &script{bodies: []string{body("tool_use", toolUse("a", "whoami", `{"query":"a"}`), toolUse("b", "whoami", `{"query":"fail"}`)), end}}
		client := s.client()
		_, err := client.Beta.Messages.NewToolRunner(ts, runnerParams()).RunToCompletion(ctx)
		require.NoError(t, err)
		require.Equal(t, map[string]int{"crm.whoami acme-7 run-1 7": 2}, seen)
		require.JSONEq(t, asShown(t, shown("a", ""), shown("b", "{sorry: tool_error}")), s.last(t, 1))
		require.Equal(t, 2*time.Second, time.Since(start))
	})
}

// A function of Config that panics or exits fails its call, and no more.
func TestTools_ConfigFails(t *testing.T) {
	exec, g := executor(t, sluice.Config{}), new(gauge)
	for _, c := range []struct {
		conf sluiceanthropic.Config
		want string
	}{
		{sluiceanthropic.Config{Behalf: func(context.Context, sluice.PipelineContext) sluice.PipelineContext { panic("secret") }}, "panic"},
		{sluiceanthropic.Config{Text: func(error) string { panic("secret") }}, "panic"},
		{sluiceanthropic.Config{Text: func(error) string { runtime.Goexit(); return "" }}, "goexit"},
	} {
		out, err := guarded(t, exec, c.conf, tool(t, "search", g.search))[0].Execute(t.Context(), json.RawMessage(`{"query":"fail"}`))
		require.Nil(t, out)
		require.EqualError(t, err, `{"type":"`+c.want+`","message":"the tool failed","retryable":false}`)
		var p *sluice.PanicError
		require.ErrorAs(t, err, &p)
		require.NotEmpty(t, p.Stack)
	}
}

func TestTools_Errors(t *testing.T) {
	exec, g := tools(t, sluice.Config{})
	other := tool(t, "other", g.search)
	for _, c := range []struct {
		exec *sluice.Executor
		conf sluiceanthropic.Config
		ts   []anthropic.BetaTool
		want string
	}{
		{nil, sluiceanthropic.Config{}, nil, "sluiceanthropic: the Executor is nil or zero: use sluice.NewExecutor"},
		{new(sluice.Executor), sluiceanthropic.Config{}, nil, "sluiceanthropic: the Executor is nil or zero: use sluice.NewExecutor"},
		{exec, sluiceanthropic.Config{}, []anthropic.BetaTool{other, nil}, "sluiceanthropic: tool 1 is nil: must not be"},
		{exec, sluiceanthropic.Config{}, []anthropic.BetaTool{other, other}, `sluiceanthropic: the tool "other" is listed twice: names must differ`},
		{exec, sluiceanthropic.Config{}, []anthropic.BetaTool{tool(t, "search", g.search)},
			`sluiceanthropic: the tool "search": sluice: tool "search" is registered with a function of its own: must be another name`},
		{exec, sluiceanthropic.Config{Policy: func(string) sluice.Policy { return sluice.Policy{Concurrency: -1} }}, []anthropic.BetaTool{other},
			`sluiceanthropic: the tool "other": sluice: Policy.Concurrency is -1: must be zero or positive, up to 1099511627776`},
		{exec, sluiceanthropic.Config{Prefix: "a/"}, []anthropic.BetaTool{other}, `sluiceanthropic: the tool "other": sluice: Spec.Name "a/other" has '/' at 1: must be of A-Z a-z 0-9 _ . -`},
	} {
		ts, err := sluiceanthropic.Tools(c.exec, c.conf, c.ts...)
		require.EqualError(t, err, c.want)
		require.Nil(t, ts)
	}
}

// Tools may be made again: what their limits have counted stays.
func TestTools_Again(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		exec, g := executor(t, sluice.Config{}), new(gauge)
		conf := sluiceanthropic.Config{Policy: func(string) sluice.Policy {
			return sluice.Policy{MaxWait: sluice.NoWait, Rates: []sluice.Rate{{N: 1, Per: time.Minute}}}
		}}
		for i := range 2 {
			_, err := guarded(t, exec, conf, tool(t, "search", g.search))[0].Execute(t.Context(), json.RawMessage(`{"query":"a"}`))
			require.Equal(t, i == 1, err != nil, "%v", err)
		}
		require.EqualValues(t, 1, g.ran.Load())
	})
}

// A runner that is cancelled ends at once: calls that run see their contexts end, and those that wait do not start.
func TestTools_Cancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		rec := new(sluice.Recorder)
		exec, g := executor(t, sluice.Config{Interceptors: []sluice.Interceptor{limit(t, 1)}, Sink: rec}), new(gauge)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		s := &script{bodies: []string{body("tool_use", toolUse("a", "search", `{"query":"hang"}`), toolUse("b", "search", `{"query":"hang"}`)), end}}
		client := s.client()
		_, err := client.Beta.Messages.NewToolRunner(guarded(t, exec, sluiceanthropic.Config{}, tool(t, "search", g.search)), runnerParams()).RunToCompletion(ctx)
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, time.Second, time.Since(start))
		require.EqualValues(t, 1, g.ran.Load())
		require.Len(t, s.asked, 1, "a cancelled run asks no more")
		codes := map[string]int{}
		for _, e := range rec.Events() {
			if e.Kind == sluice.ToolFailed {
				codes[sluice.CodeOf(e.Err)]++
			}
		}
		require.Equal(t, map[string]int{"canceled": 2}, codes)
		require.NoError(t, rec.Check())
	})
}

// A thousand calls of one message at limit 8: eight run at once, and each has its result.
func TestTools_Load(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		exec, g := executor(t, sluice.Config{Interceptors: []sluice.Interceptor{limit(t, 8)}}), new(gauge)
		s, want := thousand()
		run(t, s.client(), guarded(t, exec, sluiceanthropic.Config{}, tool(t, "search", g.search))...)
		for i := range want {
			want[i] = shown(fmt.Sprint("toolu_", i), want[i])
		}
		require.Equal(t, asShown(t, want...), canonical(t, s.last(t, 1)))
		require.EqualValues(t, 1000, g.ran.Load())
		require.EqualValues(t, 8, g.peak.Load())
		require.Equal(t, 125*10*time.Millisecond, time.Since(start))
	})
}

// Results that are stored as JSON come back as they were, with all their kinds.
func TestTools_Stored(t *testing.T) {
	cache, err := resilience.NewCache(resilience.CacheConfig{Tools: func(sluice.Spec) bool { return true }})
	require.NoError(t, err)
	exec := executor(t, sluice.Config{Interceptors: []sluice.Interceptor{cache}})
	ran := 0
	ts := guarded(t, exec, sluiceanthropic.Config{}, pictures{tool(t, "draw", func(context.Context, in) (string, error) { return "", nil }), &ran})
	var got []string
	for range 2 {
		out, err := ts[0].Execute(t.Context(), json.RawMessage(`{"query":"a"}`))
		require.NoError(t, err)
		require.Len(t, out, 2)
		require.NotNil(t, out[0].OfText)
		require.NotNil(t, out[1].OfImage)
		got = append(got, written(t, out))
	}
	require.Equal(t, 1, ran)
	require.JSONEq(t, got[0], got[1])
}

// pictures is a tool that answers with more than a text.
type pictures struct {
	anthropic.BetaTool
	ran *int
}

func (p pictures) Execute(context.Context, json.RawMessage) ([]anthropic.BetaToolResultBlockParamContentUnion, error) {
	*p.ran++
	image := &anthropic.BetaImageBlockParam{Source: anthropic.BetaImageBlockParamSourceUnion{OfBase64: &anthropic.BetaBase64ImageSourceParam{
		Data: "cG5n", MediaType: anthropic.BetaBase64ImageSourceMediaTypeImagePNG}}}
	return []anthropic.BetaToolResultBlockParamContentUnion{text("the plan"), {OfImage: image}}, nil
}

// Arguments are the call's own bytes: their size is counted, and bounded.
func TestTrap_ArgumentsInABox(t *testing.T) {
	rec := new(sluice.Recorder)
	exec, g := executor(t, sluice.Config{MaxArgBytes: 100, Sink: rec}), new(gauge)
	x := guarded(t, exec, sluiceanthropic.Config{}, tool(t, "search", g.search))[0]
	long := `{"query":"` + strings.Repeat("x", 1000) + `"}`
	_, err := x.Execute(t.Context(), json.RawMessage(long))
	require.ErrorIs(t, err, sluice.ErrInvalidArguments)
	_, err = x.Execute(t.Context(), json.RawMessage(`{"query":"b"}`))
	require.NoError(t, err)
	require.EqualValues(t, 1, g.ran.Load())
	bytes := map[sluice.CallKey]int{}
	for _, e := range rec.Events() {
		bytes[e.CallKey] += e.InputBytes
	}
	require.ElementsMatch(t, []int{len(long), len(`{"query":"b"}`)}, slices.Collect(maps.Values(bytes)))
}

// Neither the value of a panic nor its stack is in what the runner gets.
func TestTrap_PanicInJSON(t *testing.T) {
	exec, g := executor(t, sluice.Config{}), new(gauge)
	_, err := guarded(t, exec, sluiceanthropic.Config{}, tool(t, "search", g.search))[0].Execute(t.Context(), json.RawMessage(`{"query":"panic"}`))
	require.EqualError(t, err, `{"type":"panic","message":"the tool failed","retryable":false}`)
	for _, verb := range []string{"%v", "%s", "%q"} {
		require.NotContains(t, fmt.Sprintf(verb, err), "sk-123")
	}
}

// A required argument that is absent does not run the tool with a zero value.
func TestTrap_RequiredArgumentAbsent(t *testing.T) {
	exec, g := executor(t, sluice.Config{}), new(gauge)
	for _, args := range []string{`{}`, ``, `null`} {
		_, err := guarded(t, exec, sluiceanthropic.Config{}, tool(t, "search", g.search))[0].Execute(t.Context(), json.RawMessage(args))
		require.ErrorIs(t, err, sluice.ErrInvalidArguments)
	}
	require.EqualValues(t, 0, g.ran.Load())
}

// A name that the model has made up is registered nowhere: the runner refuses it, and Answer does.
func TestTrap_MadeUpName(t *testing.T) {
	exec, g := executor(t, sluice.Config{}), new(gauge)
	s := &script{bodies: []string{body("tool_use", toolUse("a", "rm -rf /", `{}`)), end}}
	run(t, s.client(), guarded(t, exec, sluiceanthropic.Config{}, tool(t, "search", g.search))...)
	var names []string
	for spec := range exec.Registry().Tools() {
		names = append(names, spec.Name)
	}
	require.Equal(t, []string{"search"}, names)
}

// A tool that exits ends neither the runner's goroutine, nor, with it, the answer.
func TestTrap_GoexitOfATool(t *testing.T) {
	exec, g := executor(t, sluice.Config{}), new(gauge) // without a timeout, it runs on its caller's goroutine
	s := &script{bodies: []string{body("tool_use", toolUse("a", "search", `{"query":"exit"}`), toolUse("b", "search", `{"query":"b"}`)), end}}
	run(t, s.client(), guarded(t, exec, sluiceanthropic.Config{}, tool(t, "search", g.search))...)
	require.JSONEq(t, asShown(t, shown("a", `{"type":"goexit","message":"the tool failed","retryable":false}`), shown("b", "1 hits")), s.last(t, 1))
}

// Of numbers above 2^53 the runner loses digits before a tool sees them, as the documentation says; Answer loses none.
func TestTrap_NumbersOfTheRunner(t *testing.T) {
	exec := executor(t, sluice.Config{})
	var got json.RawMessage
	x := tool(t, "count", func(_ context.Context, in json.RawMessage) (string, error) { got = in; return "", nil })
	s := &script{bodies: []string{body("tool_use", toolUse("a", "count", `{"query":9007199254740993}`)), end}}
	run(t, s.client(), guarded(t, exec, sluiceanthropic.Config{}, x)...)
	require.Equal(t, `{"query":9007199254740992}`, string(got))
}
