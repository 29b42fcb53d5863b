package mcpgo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// tasks runs tools of s as tasks, in one session.
type tasks struct {
	s   *server.MCPServer
	ctx context.Context
}

func newTasks(t *testing.T, s *server.MCPServer) *tasks {
	return &tasks{s, s.WithContext(t.Context(), server.NewInProcessSession("tasks", nil))}
}

// ask has the answer to a request, or what the protocol says instead.
func ask[T any](t *testing.T, x *tasks, method, params string, args ...any) (out T, problem string) {
	m := fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":%q,"params":%s}`, method, fmt.Sprintf(params, args...))
	switch r := x.s.HandleMessage(x.ctx, json.RawMessage(m)).(type) {
	case mcp.JSONRPCError:
		return out, r.Error.Message
	case mcp.JSONRPCResponse:
		out, ok := r.Result.(T)
		require.True(t, ok, "%T", r.Result)
		return out, ""
	}
	return out, "no answer"
}

// start begins a task.
func (x *tasks) start(t *testing.T, query string) (id string) {
	began, problem := ask[*mcp.CreateTaskResult](t, x, "tools/call", `{"name":"search","arguments":{"query":%q},"task":{}}`, query)
	require.Empty(t, problem)
	return began.Task.TaskId
}

func (x *tasks) status(t *testing.T, id string) mcp.TaskStatus {
	now, problem := ask[mcp.GetTaskResult](t, x, "tasks/get", `{"taskId":%q}`, id)
	require.Empty(t, problem)
	return now.Status
}

// run runs a task, and says how it ended.
func (x *tasks) run(t *testing.T, query string) (mcp.TaskStatus, mcp.TaskResultResult, string) {
	id := x.start(t, query)
	res, problem := ask[mcp.TaskResultResult](t, x, "tasks/result", `{"taskId":%q}`, id)
	return x.status(t, id), res, problem
}

// Middleware does not see task tools, so TaskTool guards them: they are admitted, refused, timed and reported as
// others are.
func TestTrapTaskToolsBypassMiddleware(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, rec := newExecutor(t, sluice.Config{})
		conf := Config{Policy: func(string) sluice.Policy {
			return sluice.Policy{Timeout: time.Minute, Rates: []sluice.Rate{{N: 5, Per: time.Hour}}, MaxWait: sluice.NoWait}
		}}
		s := newServer(e, conf, server.WithTaskCapabilities(true, true, true), server.WithOutputSchemaValidation())
		tool := searchTool(mcp.WithReadOnlyHintAnnotation(true), mcp.WithTaskSupport(mcp.TaskSupportRequired))
		bare := errors.New("no route")
		s.AddTaskTools(TaskTool(e, conf, tool, func(ctx context.Context, r mcp.CallToolRequest) (*mcp.CreateTaskResult, error) {
			switch r.GetString("query", "") {
			case "panic":
				panic("secret")
			case "fails":
				return nil, bare
			case "mistake":
				return &mcp.CreateTaskResult{Content: []mcp.Content{mcp.NewTextContent("which?")}, IsError: true}, nil
			case "slow":
				<-ctx.Done()
				return nil, ctx.Err()
			}
			require.NotNil(t, server.ServerFromContext(ctx))
			return &mcp.CreateTaskResult{
				Result:  mcp.Result{Meta: mcp.NewMetaFromMap(map[string]any{"cost": 2})},
				Content: []mcp.Content{mcp.NewTextContent("3 hits")}, StructuredContent: map[string]any{"hits": 3},
			}, nil
		}))
		c := newTasks(t, s)
		status, res, problem := c.run(t, "go")
		require.Empty(t, problem)
		require.Equal(t, mcp.TaskStatusCompleted, status)
		require.False(t, res.IsError)
		require.Equal(t, map[string]any{"hits": 3}, res.StructuredContent)
		require.EqualValues(t, 2, res.Meta.AdditionalFields["cost"])

		status, _, problem = c.run(t, "fails")
		require.Equal(t, "no route", problem)
		require.Equal(t, mcp.TaskStatusFailed, status)

		for query, want := range map[string]string{
			"panic":   `{"type":"panic","message":"the tool failed","retryable":false}`,
			"mistake": "which?",
			"slow":    `{"type":"timeout","message":"the tool did not finish in time","retryable":false}`,
		} {
			status, res, problem = c.run(t, query)
			require.Empty(t, problem)
			require.Equal(t, mcp.TaskStatusCompleted, status)
			require.True(t, res.IsError)
			require.Equal(t, want, res.Content[0].(mcp.TextContent).Text)
		}
		_, res, problem = c.run(t, "go") // the sixth of an hour
		require.Empty(t, problem)
		require.True(t, res.IsError)
		require.Contains(t, res.Content[0].(mcp.TextContent).Text, `"type":"wait_too_long"`)

		spec, ok := e.Registry().Lookup("search")
		require.True(t, ok)
		require.Equal(t, "search the web", spec.Description)
		require.Equal(t, sluice.Hints{ReadOnly: true, OpenWorld: true}, spec.Hints)
		kinds := map[sluice.EventKind]int{}
		for _, x := range rec.Events("search") {
			kinds[x.Kind]++
		}
		delete(kinds, sluice.ToolAbandoned) // of the slow one, if its code ends a little later than its time
		require.Equal(t, map[sluice.EventKind]int{sluice.ToolInvoked: 6, sluice.ToolStarted: 5, sluice.ToolCompleted: 1, sluice.ToolFailed: 5}, kinds)
	})
}

// TestTrapTasksOutliveTheirRequests: the context of a task ends as soon as the request that began it is answered.
// A guarded one waits and runs on; one that has no such context would be refused as cancelled. That it is cancelled
// later it cannot know.
func TestTrapTasksOutliveTheirRequests(t *testing.T) {
	for _, required := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			e, rec := newExecutor(t, sluice.Config{})
			conf := Config{Policy: func(string) sluice.Policy { return sluice.Policy{Concurrency: 1} }}
			s := newServer(e, conf, server.WithTaskCapabilities(true, true, true))
			sleep := func(ctx context.Context) {
				require.NotNil(t, server.ClientSessionFromContext(ctx))
				time.Sleep(time.Second)
				require.NoError(t, ctx.Err())
			}
			if required {
				s.AddTaskTools(TaskTool(e, conf, searchTool(mcp.WithTaskSupport(mcp.TaskSupportRequired)), func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CreateTaskResult, error) {
					sleep(ctx)
					return new(mcp.CreateTaskResult), nil
				}))
			} else {
				s.AddTool(searchTool(mcp.WithTaskSupport(mcp.TaskSupportOptional)), func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
					sleep(ctx)
					return new(mcp.CallToolResult), nil
				})
			}
			c := newTasks(t, s)
			first := c.start(t, "go")
			synctest.Wait()
			second := c.start(t, "go")
			synctest.Wait()
			require.Equal(t, 1, e.Snapshot().InFlight)
			require.Equal(t, 1, e.Snapshot().Queued)
			_, problem := ask[mcp.CancelTaskResult](t, c, "tasks/cancel", `{"taskId":%q}`, second)
			require.Empty(t, problem)
			time.Sleep(1500 * time.Millisecond)
			require.Equal(t, mcp.TaskStatusCompleted, c.status(t, first))
			require.Equal(t, mcp.TaskStatusCancelled, c.status(t, second))
			require.Equal(t, 1, e.Snapshot().InFlight)
			time.Sleep(time.Second)
			require.Len(t, rec.Events("search"), 3+4)
		})
	}
}

// A tool that may be run as a task, or not, is guarded by Middleware either way.
func TestToolAsTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, rec := newExecutor(t, sluice.Config{})
		s := newServer(e, Config{}, server.WithTaskCapabilities(true, true, true))
		s.AddTool(searchTool(mcp.WithTaskSupport(mcp.TaskSupportOptional)), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) { panic("secret") })
		c := newClient(t, s, "2025-11-25")
		requireRefusal(t, mustCall(t, c, "search", "go"), "panic", 0)
		status, res, problem := newTasks(t, s).run(t, "go")
		require.Empty(t, problem)
		require.Equal(t, mcp.TaskStatusCompleted, status)
		require.True(t, res.IsError)
		require.Len(t, rec.Events("search"), 6)
	})
}
