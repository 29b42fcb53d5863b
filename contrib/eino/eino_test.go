package sluiceeino

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudwego/eino/adk"
	"github.com/cloudwego/eino/components/model"
	"github.com/cloudwego/eino/components/tool"
	"github.com/cloudwego/eino/compose"
	"github.com/cloudwego/eino/flow/agent/react"
	"github.com/cloudwego/eino/schema"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
	"github.com/sluice-go/sluice/resilience"
)

type valueKey struct{}

// options are those of a tool in these tests.
type options struct{ Lang string }

// fourKinds are tools of the four kinds that answer what they have been given, two of them in three chunks.
func fourKinds(t testing.TB, got func(ctx context.Context, in query) string) []tool.BaseTool {
	image := "https://example.com/a.png"
	return []tool.BaseTool{
		invokable(t, "invokable", func(ctx context.Context, in query) (string, error) { return got(ctx, in), nil }),
		streamable(t, "streamable", func(ctx context.Context, in query) (*schema.StreamReader[string], error) {
			return schema.StreamReaderFromArray([]string{got(ctx, in)[:4], got(ctx, in)[4:]}), nil
		}),
		enhanced(t, "enhanced", func(ctx context.Context, in query) (*schema.ToolResult, error) {
			r := asResult(got(ctx, in))
			r.Parts = append(r.Parts, schema.ToolOutputPart{Type: schema.ToolPartTypeImage, Image: &schema.ToolOutputImage{MessagePartCommon: schema.MessagePartCommon{URL: &image}}})
			return r, nil
		}),
		enhancedStreamable(t, "enhanced_streamable", func(ctx context.Context, in query) (*schema.StreamReader[*schema.ToolResult], error) {
			return schema.StreamReaderFromArray([]*schema.ToolResult{asResult(got(ctx, in)[:4]), asResult(got(ctx, in)[4:])}), nil
		}),
	}
}

// Tools of the four kinds, invoked and streamed, get what they get without a guard, and so does the model.
func TestFourKinds(t *testing.T) {
	got := func(ctx context.Context, in query) string {
		return fmt.Sprintf("%s for %s as %s", in.Query, ctx.Value(valueKey{}), compose.GetToolCallID(ctx))
	}
	ctx := context.WithValue(t.Context(), valueKey{}, "ann")
	for _, name := range []string{"invokable", "streamable", "enhanced", "enhanced_streamable"} {
		t.Run(name, func(t *testing.T) {
			e, rec := newExecutor(t, sluice.Config{})
			guarded, alone := newNode(t, e, Config{}, fourKinds(t, got)...), newNode(t, nil, Config{}, fourKinds(t, got)...)
			want, err := alone.Invoke(ctx, calls(name, "go", "rust"))
			require.NoError(t, err)
			out, err := guarded.Invoke(ctx, calls(name, "go", "rust"))
			require.NoError(t, err)
			require.Equal(t, want, out)
			require.Equal(t, "rust for ann as call_1", text(out[1]))

			sr := open(t, ctx, guarded, name, "go")
			all, err := rest(sr)
			sr.Close()
			require.NoError(t, err)
			require.Equal(t, "go for ann as call_0", all)
			require.NoError(t, e.Close(t.Context()))
			require.Len(t, rec.Events(name), 9)
			for _, x := range rec.Events(name) {
				require.Contains(t, []string{"call_0", "call_1"}, x.Call.ID)
			}
		})
	}
}

// Options of a call reach the tool, and middleware inside may write to what it is given.
func TestOptionsAndMiddlewareInside(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	inside := compose.ToolMiddleware{Invokable: func(next compose.InvokableToolEndpoint) compose.InvokableToolEndpoint {
		return func(ctx context.Context, in *compose.ToolInput) (*compose.ToolOutput, error) {
			in.Arguments += "!"
			return next(ctx, in)
		}
	}}
	n, err := compose.NewToolNode(t.Context(), &compose.ToolsNodeConfig{
		Tools:               []tool.BaseTool{optionTool{}},
		ToolCallMiddlewares: []compose.ToolMiddleware{Middleware(e, Config{}), inside},
	})
	require.NoError(t, err)
	out, err := n.Invoke(t.Context(), calls("option", "go"), compose.WithToolOption(tool.WrapImplSpecificOptFn(func(o *options) { o.Lang = "de" })))
	require.NoError(t, err)
	require.Equal(t, `{"query":"go"}! de`, out[0].Content)
}

// TestAttemptsAtOnce: two attempts at once have an input each, whatever middleware inside writes to it.
func TestAttemptsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hedge, err := resilience.NewHedge(resilience.HedgeConfig{After: 5 * time.Millisecond, Tools: func(sluice.Spec) bool { return true }})
		require.NoError(t, err)
		e, _ := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{hedge}})
		inside := compose.ToolMiddleware{Invokable: func(next compose.InvokableToolEndpoint) compose.InvokableToolEndpoint {
			return func(ctx context.Context, in *compose.ToolInput) (*compose.ToolOutput, error) {
				c, _ := sluice.CallFrom(ctx)
				in.Arguments += fmt.Sprint(c.Attempt)
				time.Sleep(time.Duration(10*c.Attempt) * time.Millisecond) // the first until 10 ms, the second from 5 to 25
				return next(ctx, in)
			}
		}}
		n, err := compose.NewToolNode(t.Context(), &compose.ToolsNodeConfig{
			Tools:               []tool.BaseTool{optionTool{}},
			ToolCallMiddlewares: []compose.ToolMiddleware{Middleware(e, Config{}), inside},
		})
		require.NoError(t, err)
		out, err := n.Invoke(t.Context(), calls("option", "go"))
		require.NoError(t, err)
		require.Equal(t, `{"query":"go"}1 `, out[0].Content)
		time.Sleep(time.Second) // both have ended
	})
}

type optionTool struct{}

func (optionTool) Info(context.Context) (*schema.ToolInfo, error) {
	return &schema.ToolInfo{Name: "option"}, nil
}

func (optionTool) InvokableRun(_ context.Context, args string, opts ...tool.Option) (string, error) {
	return args + " " + tool.GetImplSpecificOptions(&options{}, opts...).Lang, nil
}

// script is a chat model that answers with messages in turn, and keeps what it was asked last.
type script struct {
	mu      sync.Mutex
	answers []*schema.Message
	asked   []*schema.Message
}

func (s *script) WithTools([]*schema.ToolInfo) (model.ToolCallingChatModel, error) { return s, nil }

func (s *script) Generate(_ context.Context, in []*schema.Message, _ ...model.Option) (*schema.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = in
	m := s.answers[0]
	s.answers = s.answers[1:]
	return m, nil
}

func (s *script) Stream(ctx context.Context, in []*schema.Message, o ...model.Option) (*schema.StreamReader[*schema.Message], error) {
	m, err := s.Generate(ctx, in, o...)
	return schema.StreamReaderFromArray([]*schema.Message{m}), err
}

// read is what the model has read of its calls.
func (s *script) read() (texts []string) {
	for _, m := range s.asked {
		if m.Role == schema.Tool {
			texts = append(texts, text(m))
		}
	}
	return texts
}

// busy is an executor that runs one call a minute and refuses the others.
func busy(t testing.TB) *sluice.Executor {
	rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1, Per: time.Minute}}, Refuse: true}))
	e, _ := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{rate}})
	return e
}

const busyText = `{"type":"rate_limited","message":"too many calls for now; try again in 60 s","retryable":true,"retry_after_ms":60000}`

// The loops of eino go on after refusals: the model reads them beside what other calls have answered.
func TestAgentsGoOn(t *testing.T) {
	hits := func(_ context.Context, in query) (string, error) { return "3 hits", nil }
	check := func(t *testing.T, m *script) {
		require.ElementsMatch(t, []string{"3 hits", busyText}, m.read())
	}
	newScript := func() *script {
		return &script{answers: []*schema.Message{calls("search", "go", "rust"), schema.AssistantMessage("done", nil)}}
	}
	t.Run("react", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := newScript()
			a, err := react.NewAgent(t.Context(), &react.AgentConfig{ToolCallingModel: m, ToolsConfig: compose.ToolsNodeConfig{
				Tools:               []tool.BaseTool{invokable(t, "search", hits)},
				ToolCallMiddlewares: []compose.ToolMiddleware{Middleware(busy(t), Config{})},
			}})
			require.NoError(t, err)
			out, err := a.Generate(t.Context(), []*schema.Message{schema.UserMessage("find")})
			require.NoError(t, err)
			require.Equal(t, "done", out.Content)
			check(t, m)
		})
	})
	t.Run("react streams", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := newScript()
			a, err := react.NewAgent(t.Context(), &react.AgentConfig{ToolCallingModel: m, ToolsConfig: compose.ToolsNodeConfig{
				Tools: []tool.BaseTool{streamable(t, "search", func(context.Context, query) (*schema.StreamReader[string], error) {
					return schema.StreamReaderFromArray([]string{"3 ", "hits"}), nil
				})},
				ToolCallMiddlewares: []compose.ToolMiddleware{Middleware(busy(t), Config{})},
			}})
			require.NoError(t, err)
			sr, err := a.Stream(t.Context(), []*schema.Message{schema.UserMessage("find")})
			require.NoError(t, err)
			defer sr.Close()
			out, err := sr.Recv()
			require.NoError(t, err)
			require.Equal(t, "done", out.Content)
			_, err = sr.Recv()
			require.Equal(t, io.EOF, err)
			check(t, m)
		})
	})
	t.Run("adk", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := newScript()
			a, err := adk.NewChatModelAgent(t.Context(), &adk.ChatModelAgentConfig{Name: "finder", Description: "finds", Model: m,
				ToolsConfig: adk.ToolsConfig{ToolsNodeConfig: compose.ToolsNodeConfig{
					Tools:               []tool.BaseTool{invokable(t, "search", hits)},
					ToolCallMiddlewares: []compose.ToolMiddleware{Middleware(busy(t), Config{})},
				}}})
			require.NoError(t, err)
			events := adk.NewRunner(t.Context(), adk.RunnerConfig{Agent: a}).Query(t.Context(), "find")
			last := ""
			for x, ok := events.Next(); ok; x, ok = events.Next() {
				require.NoError(t, x.Err)
				m, err := x.Output.MessageOutput.GetMessage()
				require.NoError(t, err)
				last = m.Content
			}
			require.Equal(t, "done", last)
			check(t, m)
		})
	})
}

// An agent that is a tool of another, both guarded by one limit of one call, does not wait for itself.
func TestAgentAsTool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, rec := newExecutor(t, sluice.Config{Interceptors: limit(1)})
		newAgent := func(name string, m model.ToolCallingChatModel, x tool.BaseTool) adk.Agent {
			a, err := adk.NewChatModelAgent(t.Context(), &adk.ChatModelAgentConfig{Name: name, Description: name, Model: m,
				ToolsConfig: adk.ToolsConfig{ToolsNodeConfig: compose.ToolsNodeConfig{
					Tools: []tool.BaseTool{x}, ToolCallMiddlewares: []compose.ToolMiddleware{Middleware(e, Config{})},
				}}})
			require.NoError(t, err)
			return a
		}
		search := invokable(t, "search", func(context.Context, query) (string, error) { return "3 hits", nil })
		inner := &script{answers: []*schema.Message{calls("search", "go"), schema.AssistantMessage("found 3", nil)}}
		outer := &script{answers: []*schema.Message{
			schema.AssistantMessage("", []schema.ToolCall{callOf("outer_0", "helper", `{"request":"go"}`)}), schema.AssistantMessage("done", nil),
		}}
		boss := newAgent("boss", outer, adk.NewAgentTool(t.Context(), newAgent("helper", inner, search)))
		events := adk.NewRunner(t.Context(), adk.RunnerConfig{Agent: boss}).Query(t.Context(), "find")
		for x, ok := events.Next(); ok; x, ok = events.Next() {
			require.NoError(t, x.Err)
		}
		require.Equal(t, []string{"3 hits"}, inner.read())
		require.Equal(t, []string{"found 3"}, outer.read())
		require.Len(t, rec.Events("helper"), 3)
		require.Len(t, rec.Events("search"), 3)
	})
}

// Limits are for whom Config.Behalf says, and tools have the names that Config.Prefix says.
func TestBehalfPrefixAndText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ByTenant, Rates: []sluice.Rate{{N: 1, Per: time.Minute}}, Refuse: true}))
		e, rec := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{rate}})
		asked := ""
		n := newNode(t, e, Config{
			Prefix: "web.",
			Policy: func(tool string) sluice.Policy { asked += tool; return sluice.Policy{} },
			Behalf: func(ctx context.Context, pc sluice.PipelineContext) sluice.PipelineContext {
				pc.Tenant = ctx.Value(valueKey{}).(string)
				return pc
			},
			Text: func(err error) string { return "sorry: " + sluice.CodeOf(err) },
		}, invokable(t, "search", func(ctx context.Context, in query) (string, error) {
			return sluice.PipelineContextFrom(ctx).Tenant, nil
		}))
		for _, tenant := range []string{"ann", "bob", "ann"} {
			out, err := n.Invoke(context.WithValue(t.Context(), valueKey{}, tenant), calls("search", "go"))
			require.NoError(t, err)
			if len(rec.Events()) < 8 {
				require.Equal(t, tenant, out[0].Content)
			} else {
				require.Equal(t, "sorry: rate_limited", out[0].Content)
			}
		}
		require.Equal(t, "web.search", asked)
		require.Len(t, rec.Events("web.search"), 8)
	})
}

// A run that is cancelled ends, whether its call waits or runs.
func TestCancelledRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := newExecutor(t, sluice.Config{Interceptors: limit(1)})
		n := newNode(t, e, Config{}, invokable(t, "search", func(ctx context.Context, in query) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		_, err := n.Invoke(ctx, calls("search", "one", "two"))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(began))
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err = n.Invoke(ctx, calls("search", "one", "two"))
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, 2*time.Second, time.Since(began))
	})
}

// TestProfileLabels: a tool's code has the labels of its caller, and leaves none to what its goroutine does next.
func TestProfileLabels(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	var seen []string
	look := func() {
		var profile bytes.Buffer
		require.NoError(t, pprof.Lookup("goroutine").WriteTo(&profile, 1))
		for _, goroutine := range strings.Split(profile.String(), "\n\n") {
			if strings.Contains(goroutine, "TestProfileLabels.func1") {
				_, labels, _ := strings.Cut(goroutine, "# labels: ")
				labels, _, _ = strings.Cut(labels, "\n")
				seen = append(seen, labels)
			}
		}
	}
	n := newNode(t, e, Config{}, invokable(t, "search", func(context.Context, query) (string, error) {
		look()
		return "3 hits", nil
	}))
	for _, tenant := range []string{"a", "b"} {
		pprof.Do(t.Context(), pprof.Labels("tenant", tenant), func(ctx context.Context) {
			_, err := n.Invoke(ctx, calls("search", "go"))
			require.NoError(t, err)
		})
	}
	require.NoError(t, agent.Contain("look", look))
	require.Equal(t, []string{`{"tenant":"a"}`, `{"tenant":"b"}`, ""}, seen)
}
