package frameworks

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// grafanaMCP is Grafana's own MCP server, which mcp-go serves. Its program gets one option more.
var grafanaMCP = copied{
	module: "github.com/grafana/mcp-grafana", version: "v1.6.1", laid: "mcp-grafana", adapters: []string{"mcpgo"},
	edit: edit{
		"cmd/mcp-grafana/main.go",
		"\ts := server.NewMCPServer(serverName, mcpgrafana.Version(), serverOpts...)\n",
		"\tif os.Getenv(\"UNGUARDED\") == \"\" {\n\t\tserverOpts = append(serverOpts, guarded())\n\t}\n\ts := server.NewMCPServer(serverName, mcpgrafana.Version(), serverOpts...)\n",
	},
}

// TestGrafana calls tools of the guarded mcp-grafana over HTTP, by go-sdk's client, with a fake Grafana behind it.
// The limits are in testdata/mcp-grafana.
func TestGrafana(t *testing.T) {
	dir := grafanaMCP.lay(t)
	program := filepath.Join(t.TempDir(), "mcp-grafana")
	run(t, command(t, dir, "go", "build", "-o", program, "./cmd/mcp-grafana"))
	g := newFakeGrafana(t)
	unguarded := g.server(t, program, "UNGUARDED=1")
	guarded := g.server(t, program)

	t.Run("the tools are those of the unguarded server", func(t *testing.T) {
		want, err := unguarded.ListTools(t.Context(), nil)
		require.NoError(t, err)
		got, err := guarded.ListTools(t.Context(), nil)
		require.NoError(t, err)
		require.Equal(t, want, got)
		t.Logf("%d tools", len(got.Tools))
	})
	t.Run("answers are as without a guard", func(t *testing.T) {
		for _, c := range []struct{ tool, args string }{
			{"search_dashboards", `{"query":"cpu"}`},
			{"get_datasource", `{"uid":"prom"}`},
			{"get_datasource", `{"uid":"none"}`}, // a result that is an error
			{"search_dashboards", `{"qeury":"cpu"}`},
			{"no_such_tool", `{}`},
		} {
			want, wantErr := call(t, unguarded, c.tool, c.args)
			got, err := call(t, guarded, c.tool, c.args)
			assert.Equal(t, wantErr, err, c.tool)
			assert.Equal(t, want, got, c.tool)
		}
	})
	t.Run("two at once", func(t *testing.T) {
		without := g.mostAtOnce(t, unguarded)
		t.Logf("%d at once without a guard", without)
		require.Greater(t, without, 2)
		require.Equal(t, 2, g.mostAtOnce(t, guarded))
	})
	t.Run("a rate refuses", func(t *testing.T) { // two of three calls were above
		got, err := call(t, guarded, "get_datasource", `{"uid":"prom"}`)
		require.Empty(t, err)
		require.Contains(t, got, "Prometheus")
		asked := g.datasources.Load()
		res, err2 := guarded.CallTool(t.Context(), &mcp.CallToolParams{Name: "get_datasource", Arguments: map[string]any{"uid": "prom"}})
		require.NoError(t, err2)
		require.True(t, res.IsError)
		text := res.Content[0].(*mcp.TextContent).Text
		require.Contains(t, text, `{"type":"wait_too_long","message":"the call could not start in time; try again in `)
		require.Equal(t, asked, g.datasources.Load(), "Grafana is not asked")
	})
	t.Run("a timeout ends the request to Grafana", func(t *testing.T) {
		res, err := guarded.CallTool(t.Context(), &mcp.CallToolParams{Name: "get_dashboard_by_uid", Arguments: map[string]any{"uid": "slow"}})
		require.NoError(t, err)
		require.True(t, res.IsError)
		require.Equal(t, `{"type":"timeout","message":"the tool did not finish in time","retryable":false}`, res.Content[0].(*mcp.TextContent).Text)
		select {
		case <-g.left:
		case <-time.After(10 * time.Second):
			t.Fatal("the request to Grafana goes on")
		}
	})
}

// fakeGrafana is what mcp-grafana asks, on loopback.
type fakeGrafana struct {
	url         string
	datasources atomic.Int64
	left        chan struct{} // gets one when the slow dashboard's request has been given up
	searches    inFlight
}

func newFakeGrafana(t *testing.T) *fakeGrafana {
	t.Helper()
	g := &fakeGrafana{left: make(chan struct{}, 100)}
	answers := http.NewServeMux()
	answer := func(path string, f func(r *http.Request) string) {
		answers.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, f(r))
		})
	}
	answer("GET /api/search", func(*http.Request) string {
		g.searches.enter(1)
		time.Sleep(50 * time.Millisecond) // as a server would, so that calls meet
		g.searches.enter(-1)
		return `[{"uid":"d1","title":"CPU","url":"/d/d1/cpu","type":"dash-db","tags":["node"]}]`
	})
	answer("GET /api/datasources/uid/prom", func(*http.Request) string {
		g.datasources.Add(1)
		return `{"id":1,"uid":"prom","name":"Prometheus","type":"prometheus","url":"http://localhost:9090","access":"proxy"}`
	})
	answer("GET /api/dashboards/uid/slow", func(r *http.Request) string {
		<-r.Context().Done()
		g.left <- struct{}{}
		return ""
	})
	s := httptest.NewServer(answers)
	t.Cleanup(s.Close)
	g.url = s.URL
	return g
}

// mostAtOnce is how many of 16 parallel calls were at Grafana at once.
func (g *fakeGrafana) mostAtOnce(t *testing.T, s *mcp.ClientSession) int {
	t.Helper()
	g.searches.restart()
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			got, err := call(t, s, "search_dashboards", `{"query":"cpu"}`)
			assert.Empty(t, err)
			assert.Contains(t, got, "CPU")
		})
	}
	all.Wait()
	return g.searches.restart()
}

// server is a client of mcp-grafana, which runs until the test's end.
func (g *fakeGrafana) server(t *testing.T, program string, env ...string) *mcp.ClientSession {
	t.Helper()
	env = append(env, "GRAFANA_URL="+g.url, "GRAFANA_SERVICE_ACCOUNT_TOKEN=made-up", "GRAFANA_USAGE_STATS=disabled")
	address, log := listening(t, env, program, "-transport=streamable-http", "-address="+addressHere)
	s, err := mcp.NewClient(&mcp.Implementation{Name: "frameworks"}, nil).
		Connect(t.Context(), &mcp.StreamableClientTransport{Endpoint: "http://" + address + "/mcp", DisableStandaloneSSE: true}, nil)
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, s.Close())
		if t.Failed() {
			t.Log(log)
		}
	})
	return s
}
