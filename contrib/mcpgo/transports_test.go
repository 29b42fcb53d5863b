package mcpgo

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mark3labs/mcp-go/client"
	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
	gosdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

const asServer = "MCPGO_TEST_SERVER"

// TestMain makes the test binary a server on stdio, if it is run as one.
func TestMain(m *testing.M) {
	if os.Getenv(asServer) == "" {
		os.Exit(m.Run())
	}
	e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
	if err := server.ServeStdio(limitedServer(e, new(gauge))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// gauge counts calls at once.
type gauge struct{ now, peak atomic.Int64 }

func (g *gauge) enter() (leave func()) {
	n := g.now.Add(1)
	for m := g.peak.Load(); n > m && !g.peak.CompareAndSwap(m, n); m = g.peak.Load() {
	}
	return func() { g.now.Add(-1) }
}

// limitedServer is a guarded server of one tool that may run twice at once.
func limitedServer(e *sluice.Executor, g *gauge) *server.MCPServer {
	s := newServer(e, Config{Policy: func(string) sluice.Policy { return sluice.Policy{Concurrency: 2} }})
	s.AddTool(searchTool(), func(ctx context.Context, r mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		defer g.enter()()
		switch r.GetString("query", "") {
		case "panic":
			panic("secret")
		case "exit":
			runtime.Goexit()
		case "peak":
			return mcp.NewToolResultText(fmt.Sprint(g.peak.Load())), nil
		}
		runtime.Gosched()
		return mcp.NewToolResultText("3 hits"), nil
	})
	return s
}

// requireGuarded checks a limitedServer through a client: 20 calls at once, a refusal, a panic, an exit, and calls
// after them.
func requireGuarded(t *testing.T, call func(args any) (text string, isError bool, err error)) {
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			text, isError, err := call(map[string]any{"query": "go"})
			require.NoError(t, err)
			require.False(t, isError)
			require.Equal(t, "3 hits", text)
		})
	}
	wg.Wait()
	for _, c := range []struct {
		args any
		want string
	}{
		{map[string]any{"query": "panic"}, `{"type":"panic","message":"the tool failed","retryable":false}`},
		{map[string]any{"query": "exit"}, `{"type":"goexit","message":"the tool failed","retryable":false}`},
		{map[string]any{}, `{"type":"invalid_arguments","message":"the arguments do not fit the tool: $ lacks \"query\": required","retryable":false}`},
	} {
		for range 6 { // more than a pool has workers
			text, isError, err := call(c.args)
			require.NoError(t, err)
			require.Equal(t, c.want, text)
			require.True(t, isError)
		}
	}
	text, isError, err := call(map[string]any{"query": "peak"})
	require.NoError(t, err)
	require.False(t, isError)
	require.Contains(t, []string{"1", "2"}, text)
}

// ours calls a tool with the client of this library.
func ours(t *testing.T, c *client.Client) func(args any) (string, bool, error) {
	return func(args any) (string, bool, error) {
		r := newRequest("search", "")
		r.Params.Arguments = args
		res, err := c.CallTool(t.Context(), r)
		if err != nil {
			return "", false, err
		}
		text, isError := textOf(t, res)
		return text, isError, nil
	}
}

// theirs calls a tool with the client of the go-sdk.
func theirs(t *testing.T, transport gosdk.Transport) func(args any) (string, bool, error) {
	c, err := gosdk.NewClient(&gosdk.Implementation{Name: "test", Version: "1"}, nil).Connect(t.Context(), transport, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return func(args any) (string, bool, error) {
		res, err := c.CallTool(t.Context(), &gosdk.CallToolParams{Name: "search", Arguments: args})
		if err != nil {
			return "", false, err
		}
		require.Len(t, res.Content, 1)
		return res.Content[0].(*gosdk.TextContent).Text, res.IsError, nil
	}
}

// Both clients over streamable HTTP; the server tells their sessions apart, and who they are.
func TestOverHTTP(t *testing.T) {
	e, rec := newExecutor(t, sluice.Config{})
	s := limitedServer(e, new(gauge))
	users := make(chan string, 1000)
	h := server.NewStreamableHTTPServer(s, server.WithHTTPContextFunc(func(ctx context.Context, r *http.Request) context.Context {
		users <- r.UserAgent()
		return sluice.WithPipelineContext(ctx, sluice.PipelineContext{UserID: "ada"})
	}))
	web := httptest.NewServer(h)
	t.Cleanup(web.Close)

	c, err := client.NewStreamableHttpClient(web.URL + "/mcp")
	require.NoError(t, err)
	start(t, c)
	requireGuarded(t, ours(t, c))
	requireGuarded(t, theirs(t, &gosdk.StreamableClientTransport{Endpoint: web.URL + "/mcp"}))
	require.NotEmpty(t, users)
	for _, x := range rec.Events() {
		require.Equal(t, "ada", x.Call.Pipeline.UserID)
	}
}

// Both clients over the stdio of a process. Nothing but messages is on its standard output: the go-sdk's client
// takes nothing else.
func TestOverStdio(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	t.Run("ours", func(t *testing.T) {
		c, err := client.NewStdioMCPClient(self, []string{asServer + "=1"})
		require.NoError(t, err)
		start(t, c)
		requireGuarded(t, ours(t, c))
	})
	t.Run("go-sdk", func(t *testing.T) {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), asServer+"=1")
		requireGuarded(t, theirs(t, &gosdk.CommandTransport{Command: cmd}))
	})
}

// TestTrapStdioWorkers: a stdio server runs tool calls on five goroutines, or as many as WithWorkerPoolSize says,
// at most 100. Calls that wait for a limit hold them, and calls of a tool without any limit wait behind those.
func TestTrapStdioWorkers(t *testing.T) {
	for _, c := range []struct {
		options []server.StdioOption
		stuck   bool
	}{
		{nil, true},
		{[]server.StdioOption{server.WithWorkerPoolSize(100)}, false},
	} {
		e, _ := newExecutor(t, sluice.Config{})
		s := newServer(e, Config{Policy: func(tool string) (p sluice.Policy) {
			if tool == "slow" {
				p.Concurrency = 1
			}
			return p
		}})
		over := make(chan struct{})
		s.AddTool(mcp.NewTool("slow"), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			<-over
			return mcp.NewToolResultText("slow"), nil
		})
		var fast atomic.Int64
		s.AddTool(mcp.NewTool("fast"), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			fast.Add(1)
			return mcp.NewToolResultText("fast"), nil
		})
		std := server.NewStdioServer(s)
		for _, o := range c.options {
			o(std)
		}
		in, toServer := io.Pipe()
		fromServer, out := io.Pipe()
		ended := make(chan error, 1)
		go func() { ended <- std.Listen(t.Context(), in, out) }()
		answers := bufio.NewScanner(fromServer)
		send := func(id int, method, params string) {
			_, err := fmt.Fprintf(toServer, `{"jsonrpc":"2.0","id":%d,"method":%q,"params":%s}`+"\n", id, method, params)
			require.NoError(t, err)
		}
		receive := func() (id int) {
			require.True(t, answers.Scan(), answers.Err())
			var m struct{ ID int }
			require.NoError(t, json.Unmarshal(answers.Bytes(), &m))
			return m.ID
		}

		for id := range 5 {
			send(id, "tools/call", `{"name":"slow","arguments":{}}`)
		}
		for { // until one runs, and four wait for it
			if x := e.Snapshot(); x.InFlight == 1 && x.Queued == 4 {
				break
			}
			runtime.Gosched()
		}
		send(5, "tools/call", `{"name":"fast","arguments":{}}`)
		send(6, "ping", `{}`) // is read after the call, and answered beside the workers
		if c.stuck {
			require.Equal(t, 6, receive())
			require.Zero(t, fast.Load(), "all workers wait in the guard")
			require.Equal(t, 4, e.Snapshot().Queued, "where the call is not seen")
		} else {
			require.ElementsMatch(t, []int{5, 6}, []int{receive(), receive()})
			require.EqualValues(t, 1, fast.Load())
		}
		close(over)
		left := 6
		if !c.stuck {
			left = 5
		}
		for range left {
			receive()
		}
		require.NoError(t, toServer.Close())
		select {
		case err := <-ended:
			require.NoError(t, err)
		case <-time.After(time.Minute):
			t.Fatal("the server goes on")
		}
	}
}
