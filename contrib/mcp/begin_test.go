package sluicemcp

import (
	"context"
	"fmt"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"weak"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// touchy is a text whose own code, by which the library decodes and encodes it, may fail.
type touchy struct{ text string }

func (x *touchy) UnmarshalJSON(data []byte) error {
	fail(string(data), "read")
	x.text = strings.Trim(string(data), `"`)
	return nil
}

func (x touchy) MarshalJSON() ([]byte, error) {
	fail(x.text, "write")
	return fmt.Appendf(nil, "%q", x.text), nil
}

func fail(text, at string) {
	switch {
	case strings.Contains(text, "panic to "+at):
		panic("secret")
	case strings.Contains(text, "exit to "+at):
		runtime.Goexit()
	}
}

// Unguarded, a type of a handler that panics as the library decodes or encodes it ends the process, and one that
// exits has the client wait for ever. Guarded by AddTool, the model learns that it happened, and the server goes on.
func TestAddTool_TypesThatPanic(t *testing.T) {
	e, rec := newExecutor(t, sluice.Config{})
	type in struct {
		Query touchy `json:"query"`
	}
	type out struct {
		Hit touchy `json:"hit"`
	}
	s := mcp.NewServer(demo, nil)
	text := &jsonschema.Schema{Type: "string"}
	tool := search()
	tool.InputSchema = &jsonschema.Schema{Type: "object", Properties: map[string]*jsonschema.Schema{"query": text}}
	tool.OutputSchema = &jsonschema.Schema{Type: "object", Properties: map[string]*jsonschema.Schema{"hit": text}}
	c := Config{Prefix: "web.", Text: func(err error) string { return "it says: " + sluice.ModelText(err) }}
	require.NoError(t, AddTool(s, e, tool, c, func(_ context.Context, _ *mcp.CallToolRequest, x in) (*mcp.CallToolResult, out, error) {
		return nil, out{x.Query}, nil
	}))
	session := connect(t, s, nil)
	for query, want := range map[string]string{
		"panic to read":  `it says: {"type":"panic","message":"the tool failed","retryable":false}`,
		"panic to write": `it says: {"type":"panic","message":"the tool failed","retryable":false}`,
		"exit to read":   `it says: {"type":"goexit","message":"the tool failed","retryable":false}`,
		"exit to write":  `it says: {"type":"goexit","message":"the tool failed","retryable":false}`,
		"go":             `{"hit":"go"}`,
	} {
		got, isError := textOf(t, mustCall(t, session, "search", query))
		require.Equal(t, want, got)
		require.Equal(t, query != "go", isError)
	}
	require.Equal(t, 3, invoked(rec), "arguments that are not decoded are no call")
	require.Zero(t, e.Snapshot().InFlight)
}

// invoked is how many calls there have been.
func invoked(rec *sluice.Recorder) (n int) {
	for _, e := range rec.Events() {
		if e.Kind == sluice.ToolInvoked {
			n++
		}
	}
	return n
}

// onAHand reports whether it is called on a goroutine that is kept.
func onAHand() bool { return strings.Contains(string(debug.Stack()), ".(*hand).work") }

// What AddTool does to a server is done to the calls of its own tools alone.
func TestAddTool_OtherToolsAsBefore(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	s := mcp.NewServer(demo, nil)
	says := func(_ context.Context, _ *mcp.CallToolRequest, _ Query) (*mcp.CallToolResult, any, error) {
		return textResult(fmt.Sprint(onAHand())), nil, nil
	}
	mcp.AddTool(s, &mcp.Tool{Name: "before"}, says)
	require.NoError(t, AddTool(s, e, search(), Config{}, says))
	mcp.AddTool(s, &mcp.Tool{Name: "after"}, says)
	c := connect(t, s, nil)
	for tool, want := range map[string]string{"before": "false", "after": "false", "search": "true"} {
		text, _ := textOf(t, mustCall(t, c, tool, "go"))
		require.Equal(t, want, text, tool)
	}
}

// exits is a handler that ends its goroutine.
func exits(context.Context, *mcp.CallToolRequest, Query) (*mcp.CallToolResult, any, error) {
	runtime.Goexit()
	return nil, nil, nil
}

// aside calls f on a goroutine of its own, and waits for it.
func aside(f func()) {
	done := make(chan struct{})
	go func() {
		f()
		close(done) // never, if f exits
	}()
	<-done
}

// Whatever stands around a handler that exits sees it return, on whichever goroutine it has called it.
func TestAddTool_ExitsAreContainedInside(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (res sluice.Result, err error) {
			aside(func() { res, err = next(ctx, c) })
			return res, err
		}
	})}})
	s := mcp.NewServer(demo, nil)
	returned := 0
	s.AddReceivingMiddleware(func(next mcp.MethodHandler) mcp.MethodHandler {
		return func(ctx context.Context, method string, req mcp.Request) (res mcp.Result, err error) {
			aside(func() { res, err = next(ctx, method, req) })
			if method == callTool {
				returned++
			}
			return res, err
		}
	})
	require.NoError(t, AddTool(s, e, search(), Config{}, exits))
	text, _ := textOf(t, mustCall(t, connect(t, s, nil), "search", "go"))
	require.Equal(t, `{"type":"goexit","message":"the tool failed","retryable":false}`, text)
	require.Equal(t, 1, returned)
}

// On a server that has Server, too, a call is admitted once, whichever came first; but one that its handler has made
// of another server is one more, also if that has a tool of the same name.
func TestAddTool_WithServer(t *testing.T) {
	for _, first := range []bool{false, true} {
		e, rec := newExecutor(t, sluice.Config{})
		inner, outer := mcp.NewServer(demo, nil), mcp.NewServer(demo, nil)
		require.NoError(t, AddTool(inner, e, search(), Config{}, exits))
		if first {
			outer.AddReceivingMiddleware(Server(e, Config{}))
		}
		require.NoError(t, AddTool(outer, e, search(), Config{}, func(ctx context.Context, req *mcp.CallToolRequest, q Query) (*mcp.CallToolResult, any, error) {
			if q.Query == "here" {
				return textResult("3 hits"), nil, nil
			}
			here, there := mcp.NewInMemoryTransports()
			_, err := inner.Connect(ctx, there, nil) // as its sessions have the values of this call's context
			require.NoError(t, err)
			session, err := mcp.NewClient(tester, nil).Connect(ctx, here, nil)
			require.NoError(t, err)
			defer session.Close()
			res, err := session.CallTool(ctx, newParams("search", "inside"))
			return res, nil, err
		}))
		if !first {
			outer.AddReceivingMiddleware(Server(e, Config{}))
		}
		c := connect(t, outer, nil)
		text, _ := textOf(t, mustCall(t, c, "search", "here"))
		require.Equal(t, "3 hits", text)
		require.Equal(t, 1, invoked(rec))
		text, _ = textOf(t, mustCall(t, c, "search", "there"))
		require.Equal(t, `{"type":"goexit","message":"the tool failed","retryable":false}`, text)
		require.Equal(t, 3, invoked(rec))
	}
}

// collected waits until all of them are.
func collected[T any](t *testing.T, all []weak.Pointer[T]) {
	require.Eventually(t, func() bool {
		runtime.GC()
		return !slices.ContainsFunc(all, func(p weak.Pointer[T]) bool { return p.Value() != nil })
	}, 10*time.Second, time.Millisecond)
}

// A server with tools that AddTool guards is collected when nobody has it any more, also if their Config leads to it;
// and a tool's executor, when the server has the tool no more.
func TestAddTool_KeepsNothing(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	servers := make([]weak.Pointer[mcp.Server], 20)
	for i := range servers {
		s := mcp.NewServer(demo, nil)
		c := Config{Behalf: func(_ context.Context, pc sluice.PipelineContext) sluice.PipelineContext {
			for range s.Sessions() {
			}
			return pc
		}}
		require.NoError(t, AddTool(s, e, search(), c, answers("3 hits")))
		require.NoError(t, AddTool(s, e, &mcp.Tool{Name: "find"}, c, answers("3 hits")))
		servers[i] = weak.Make(s)
	}
	collected(t, servers)
	for _, s := range servers {
		require.Eventually(t, func() bool { _, found := begins.Load(s); return !found }, 10*time.Second, time.Millisecond)
	}

	s := mcp.NewServer(demo, nil)
	executors := make([]weak.Pointer[sluice.Executor], 20)
	for i := range executors {
		e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
		name := fmt.Sprint("tool", i)
		require.NoError(t, AddTool(s, e, &mcp.Tool{Name: name}, Config{}, answers("3 hits")))
		s.RemoveTools(name)
		executors[i] = weak.Make(e)
		require.NoError(t, e.Close(t.Context()))
	}
	collected(t, executors)
	require.Nil(t, beginOf(s).tool("tool0"))
	_, found := beginOf(s).tools.Load("tool0")
	require.False(t, found)
}

// However many add the first tools of a server at once, each of them returns when calls of its tool begin on a hand.
func TestAddTool_FirstAtOnce(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	for range 1000 {
		s := mcp.NewServer(demo, nil)
		var all sync.WaitGroup
		for i := range 2 {
			all.Go(func() {
				own := Config{Prefix: fmt.Sprint("at", i, ".")}
				if !assert.NoError(t, AddTool(s, e, &mcp.Tool{Name: fmt.Sprint("tool", i)}, own, answers("3 hits"))) {
					return
				}
				s.AddReceivingMiddleware(func(next mcp.MethodHandler) mcp.MethodHandler {
					of := runtime.FuncForPC(reflect.ValueOf(next).Pointer()).Name()
					assert.Contains(t, of, "(*begin).middleware")
					return next
				})
			})
		}
		all.Wait()
	}
}
