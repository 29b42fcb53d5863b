package sluicemcp

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/modelcontextprotocol/go-sdk/mcp"
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

// One hand does all of a call, and it is admitted once, also on a server that has Server, whichever came first.
func TestAddTool_OneHand(t *testing.T) {
	for _, server := range []string{"none", "before", "after"} {
		e, rec := newExecutor(t, sluice.Config{})
		s := mcp.NewServer(demo, nil)
		if server == "before" {
			s.AddReceivingMiddleware(Server(e, Config{}))
		}
		hands := 0
		require.NoError(t, AddTool(s, e, search(), Config{}, func(context.Context, *mcp.CallToolRequest, Query) (*mcp.CallToolResult, any, error) {
			all := make([]byte, 1<<20)
			all = all[:runtime.Stack(all, true)]
			hands = strings.Count(string(all), ".(*hand).do(") // where those that are idle are not
			return textResult("3 hits"), nil, nil
		}))
		if server == "after" {
			s.AddReceivingMiddleware(Server(e, Config{}))
		}
		text, isError := textOf(t, mustCall(t, connect(t, s, nil), "search", "go"))
		require.Equal(t, "3 hits", text)
		require.False(t, isError)
		require.Equal(t, 1, invoked(rec))
		require.Equal(t, 1, hands, server)
	}
}

// A server with tools that AddTool guards is collected when nobody has it any more, with what AddTool keeps for it.
func TestAddTool_KeepsNoServer(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	kept := func() (n int) {
		begins.Range(func(any, any) bool { n++; return true })
		return n
	}
	collect := func() int {
		for range 3 {
			runtime.GC()
			time.Sleep(time.Millisecond) // cleanups run on a goroutine of their own
		}
		return kept()
	}
	before := collect()
	all := make([]*mcp.Server, 20)
	for i := range all {
		all[i] = mcp.NewServer(demo, nil)
		require.NoError(t, AddTool(all[i], e, search(), Config{}, answers("3 hits")))
		require.NoError(t, AddTool(all[i], e, &mcp.Tool{Name: "find"}, Config{}, answers("3 hits")))
	}
	require.GreaterOrEqual(t, kept(), 20)
	require.LessOrEqual(t, kept(), before+20)
	runtime.KeepAlive(all)
	require.Eventually(t, func() bool { return collect() <= before }, 10*time.Second, time.Millisecond)
}
