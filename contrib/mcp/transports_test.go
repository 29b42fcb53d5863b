package sluicemcp

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mark3labs/mcp-go/client"
	theirs "github.com/mark3labs/mcp-go/mcp"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

const asServer = "SLUICEMCP_TEST_SERVER"

// TestMain makes the test binary a server on stdio, if it is run as one.
func TestMain(m *testing.M) {
	if os.Getenv(asServer) == "" {
		os.Exit(m.Run())
	}
	fmt.Fprintln(os.Stderr, strings.Repeat("x", 1<<20)) // far more than a pipe holds
	e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
	if err := limitedServer(e, new(gauge)).Run(context.Background(), new(mcp.StdioTransport)); err != nil {
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
func limitedServer(e *sluice.Executor, g *gauge) *mcp.Server {
	s := newServer(e, Config{Policy: func(string) sluice.Policy { return sluice.Policy{Concurrency: 2} }})
	mcp.AddTool(s, search(), func(_ context.Context, _ *mcp.CallToolRequest, q Query) (*mcp.CallToolResult, any, error) {
		defer g.enter()()
		switch q.Query {
		case "panic":
			panic("secret")
		case "exit":
			runtime.Goexit()
		case "peak":
			return textResult(fmt.Sprint(g.peak.Load())), nil, nil
		}
		runtime.Gosched()
		return textResult("3 hits"), nil, nil
	})
	return s
}

// requireGuarded checks a limitedServer through a client: 20 calls at once, a refusal, a panic, an exit, and calls
// after them.
func requireGuarded(t *testing.T, call func(args map[string]any) (text string, isError bool, err error)) {
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
		args map[string]any
		want string
	}{
		{map[string]any{"query": "panic"}, `{"type":"panic","message":"the tool failed","retryable":false}`},
		{map[string]any{"query": "exit"}, `{"type":"goexit","message":"the tool failed","retryable":false}`},
		{map[string]any{}, `{"type":"invalid_arguments","message":"the arguments do not fit the tool: $ lacks \"query\": required","retryable":false}`},
	} {
		for range 3 {
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

// byOurs calls a tool with the client of this library.
func byOurs(t *testing.T, c *mcp.ClientSession) func(args map[string]any) (string, bool, error) {
	return func(args map[string]any) (string, bool, error) {
		res, err := c.CallTool(t.Context(), &mcp.CallToolParams{Name: "search", Arguments: args})
		if err != nil {
			return "", false, err
		}
		text, isError := textOf(t, res)
		return text, isError, nil
	}
}

// byTheirs calls a tool with the client of mcp-go.
func byTheirs(t *testing.T, c *client.Client, err error) func(args map[string]any) (string, bool, error) {
	require.NoError(t, err)
	require.NoError(t, c.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	var r theirs.InitializeRequest
	r.Params.ProtocolVersion = "2025-11-25"
	r.Params.ClientInfo = theirs.Implementation{Name: "test", Version: "1"}
	_, err = c.Initialize(t.Context(), r)
	require.NoError(t, err)
	return func(args map[string]any) (string, bool, error) {
		var r theirs.CallToolRequest
		r.Params.Name, r.Params.Arguments = "search", args
		res, err := c.CallTool(t.Context(), r)
		if err != nil {
			return "", false, err
		}
		require.Len(t, res.Content, 1)
		return res.Content[0].(theirs.TextContent).Text, res.IsError, nil
	}
}

// serveHTTP serves s over streamable HTTP.
func serveHTTP(t testing.TB, s *mcp.Server) (url string) {
	web := httptest.NewServer(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s }, nil))
	t.Cleanup(web.Close)
	return web.URL
}

// connectHTTP is a session of this library's client over HTTP.
func connectHTTP(t testing.TB, url string, middleware ...mcp.Middleware) *mcp.ClientSession {
	c := mcp.NewClient(tester, nil)
	c.AddSendingMiddleware(middleware...)
	session, err := c.Connect(t.Context(), &mcp.StreamableClientTransport{Endpoint: url}, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, session.Close()) })
	return session
}

// Both clients over streamable HTTP, and this library's with its older protocol.
func TestOverHTTP(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	url := serveHTTP(t, limitedServer(e, new(gauge)))
	requireGuarded(t, byOurs(t, connectHTTP(t, url)))
	requireGuarded(t, byOurs(t, connectHTTP(t, url, older)))
	c, err := client.NewStreamableHttpClient(url)
	requireGuarded(t, byTheirs(t, c, err))
}

// Both clients over the stdio of a process that writes a lot to its standard error.
func TestOverStdio(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	t.Run("go-sdk", func(t *testing.T) {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), asServer+"=1")
		session, err := mcp.NewClient(tester, nil).Connect(t.Context(), &mcp.CommandTransport{Command: cmd}, nil)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, session.Close()) })
		requireGuarded(t, byOurs(t, session))
	})
	t.Run("mcp-go", func(t *testing.T) {
		c, err := client.NewStdioMCPClient(self, []string{asServer + "=1"})
		requireGuarded(t, byTheirs(t, c, err))
	})
}

// A guarded client in front of a process that is a server, which is guarded, too.
func TestClientOverStdio(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	e, rec := newExecutor(t, sluice.Config{})
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), asServer+"=1")
	c := mcp.NewClient(tester, nil)
	c.AddSendingMiddleware(Client(e, Config{Prefix: "child."}))
	session, err := c.Connect(t.Context(), &mcp.CommandTransport{Command: cmd}, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, session.Close()) })
	for range 10 {
		require.False(t, mustCall(t, session, "search", "go").IsError)
	}
	requireRefusal(t, mustCall(t, session, "search", "panic"), "panic", 0)
	_, err = session.CallTool(t.Context(), &mcp.CallToolParams{Name: "search"})
	require.ErrorIs(t, err, sluice.ErrInvalidArguments, "it is not sent")
	require.Len(t, rec.Events("child.search"), 35)
}

// TestTrapStdout: nothing but messages is on a server's standard output, whatever becomes of its tools.
func TestTrapStdout(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), asServer+"=1")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = fmt.Fprintln(in, `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","clientInfo":{"name":"x","version":"1"},"capabilities":{}}}
{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	require.NoError(t, err)
	lines := bufio.NewScanner(out)
	ids := map[int]bool{}
	receive := func() {
		require.True(t, lines.Scan(), lines.Err())
		var m struct {
			Version string `json:"jsonrpc"`
			ID      *int
			Result  json.RawMessage
		}
		require.NoError(t, json.Unmarshal(lines.Bytes(), &m), lines.Text())
		require.Equal(t, "2.0", m.Version)
		require.NotEmpty(t, m.Result)
		ids[*m.ID] = true
	}
	receive()
	for i, query := range []string{"go", "panic", "exit", "peak"} {
		_, err = fmt.Fprintf(in, `{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"search","arguments":{"query":%q}}}`+"\n", i+1, query)
		require.NoError(t, err)
	}
	for range 4 {
		receive()
	}
	require.Len(t, ids, 5)
	require.NoError(t, in.Close())
	require.False(t, lines.Scan(), "there is more")
	require.NoError(t, cmd.Wait())
}
