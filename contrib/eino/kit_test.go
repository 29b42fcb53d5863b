package sluiceeino

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cloudwego/eino/components/tool"
	"github.com/cloudwego/eino/components/tool/utils"
	"github.com/cloudwego/eino/compose"
	"github.com/cloudwego/eino/schema"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// newExecutor is an executor whose events are checked when the test ends.
func newExecutor(t testing.TB, c sluice.Config) (*sluice.Executor, *sluice.Recorder) {
	rec := new(sluice.Recorder)
	c.Sink = rec
	e, err := sluice.NewExecutor(sluice.NewToolRegistry(), c)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, e.Close(context.Background()))
		require.NoError(t, rec.Check())
	})
	return e, rec
}

// newNode is a tools node, guarded unless e is nil.
func newNode(t testing.TB, e *sluice.Executor, c Config, tools ...tool.BaseTool) *compose.ToolsNode {
	conf := &compose.ToolsNodeConfig{Tools: tools}
	if e != nil {
		conf.ToolCallMiddlewares = []compose.ToolMiddleware{Middleware(e, c)}
	}
	n, err := compose.NewToolNode(t.Context(), conf)
	require.NoError(t, err)
	return n
}

// query is what the tools of tests take.
type query struct {
	Query string `json:"query" jsonschema:"required,description=what to look for"`
}

// invokable, streamable and their enhanced kin are tools of the four kinds.
func invokable(t testing.TB, name string, f func(ctx context.Context, in query) (string, error)) tool.BaseTool {
	x, err := utils.InferTool(name, "search the web", f)
	require.NoError(t, err)
	return x
}

func streamable(t testing.TB, name string, f func(ctx context.Context, in query) (*schema.StreamReader[string], error)) tool.BaseTool {
	x, err := utils.InferStreamTool(name, "search the web", f)
	require.NoError(t, err)
	return x
}

func enhanced(t testing.TB, name string, f func(ctx context.Context, in query) (*schema.ToolResult, error)) tool.BaseTool {
	x, err := utils.InferEnhancedTool(name, "search the web", f)
	require.NoError(t, err)
	return x
}

func enhancedStreamable(t testing.TB, name string, f func(ctx context.Context, in query) (*schema.StreamReader[*schema.ToolResult], error)) tool.BaseTool {
	x, err := utils.InferEnhancedStreamTool(name, "search the web", f)
	require.NoError(t, err)
	return x
}

// calls is a message of a model that calls a tool once for each query.
func calls(name string, queries ...string) *schema.Message {
	var list []schema.ToolCall
	for i, q := range queries {
		list = append(list, callOf(fmt.Sprint("call_", i), name, fmt.Sprintf(`{"query":%q}`, q)))
	}
	return schema.AssistantMessage("", list)
}

func callOf(id, name, args string) schema.ToolCall {
	return schema.ToolCall{ID: id, Function: schema.FunctionCall{Name: name, Arguments: args}}
}

// invoke is what the model reads of one call.
func invoke(t testing.TB, n *compose.ToolsNode, name, q string) string {
	out, err := n.Invoke(t.Context(), calls(name, q))
	require.NoError(t, err)
	require.Len(t, out, 1)
	require.Equal(t, schema.Tool, out[0].Role)
	require.Equal(t, "call_0", out[0].ToolCallID)
	return text(out[0])
}

// text is that of a tool's message.
func text(m *schema.Message) string {
	s := m.Content
	for _, p := range m.UserInputMultiContent {
		s += p.Text
	}
	return s
}

// open begins a stream of one call.
func open(t testing.TB, ctx context.Context, n *compose.ToolsNode, name, q string) *schema.StreamReader[[]*schema.Message] {
	sr, err := n.Stream(ctx, calls(name, q))
	require.NoError(t, err)
	return sr
}

// next is the next chunk of a stream of one call.
func next(t testing.TB, sr *schema.StreamReader[[]*schema.Message]) string {
	m, err := sr.Recv()
	require.NoError(t, err)
	return text(m[0])
}

// rest is what a stream of one call still has, and how it ends: nil after all of it.
func rest(sr *schema.StreamReader[[]*schema.Message]) (all string, err error) {
	for {
		m, err := sr.Recv()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all += text(m[0])
	}
}

// sends is a stream that has n chunks, 10 ms apart, the first at once, and ends with the context.
func sends(ctx context.Context, n int) *schema.StreamReader[string] {
	sr, sw := schema.Pipe[string](0)
	go func() {
		defer sw.Close()
		for i := range n {
			if i > 0 {
				select {
				case <-time.After(10 * time.Millisecond):
				case <-ctx.Done():
					return
				}
			}
			if sw.Send(fmt.Sprint(i, " "), nil) {
				return
			}
		}
	}()
	return sr
}

// requireRefusal checks what a model reads of a refusal.
func requireRefusal(t testing.TB, text, kind string) {
	var said struct{ Type, Message string }
	require.NoError(t, json.Unmarshal([]byte(text), &said), text)
	require.Equal(t, kind, said.Type, text)
	require.NotEmpty(t, said.Message)
	require.NotContains(t, text, "sluice")
	require.NotContains(t, text, "secret")
}

// gauge counts what runs at once.
type gauge struct{ now, peak atomic.Int64 }

func (g *gauge) enter() (leave func()) {
	n := g.now.Add(1)
	for m := g.peak.Load(); n > m && !g.peak.CompareAndSwap(m, n); m = g.peak.Load() {
	}
	return func() { g.now.Add(-1) }
}

// limit is an executor's limit of calls at once.
func limit(n int) []sluice.Interceptor {
	return []sluice.Interceptor{sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: n}}}))}
}

var errDown = errors.New("backend down")
