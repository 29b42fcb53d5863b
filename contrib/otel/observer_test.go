package sluiceotel_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	sluiceotel "github.com/sluice-go/sluice/contrib/otel"
)

// TestSpan_AttributeByAttribute holds every span of a call, in each way that it can end, to the conventions' table.
func TestSpan_AttributeByAttribute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sluiceotel.Config{Agent: "planner"})
		slots := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{
			Limits: []sluice.Limit{{Max: 1, Scope: sluice.ForTool("search")}},
		}))
		e := r.exec(sluice.Config{Interceptors: []sluice.Interceptor{slots}})
		http := r.tp.Tracer("http")
		r.tool(e, sluice.Spec{Name: "search", Description: "Search the web.", Type: "web"}, func(ctx context.Context, in string) (string, error) {
			_, s := http.Start(ctx, "GET /search")
			defer s.End()
			time.Sleep(100 * time.Millisecond)
			return "", nil
		})
		ctx, root := r.tp.Tracer("agent").Start(t.Context(), "invoke_agent")
		ctx = sluice.WithPipelineContext(ctx, sluice.PipelineContext{RunID: "run-1", SessionID: "session-1", OrgID: "acme", Priority: 7})
		go call(ctx, e, "toolu_1", "search", "go")
		synctest.Wait()
		time.Sleep(30 * time.Millisecond)
		require.NoError(t, call(ctx, e, "toolu_2", "search", "go"))
		root.End()
		synctest.Wait()
		require.Equal(t, []string{
			`invoke_agent (internal) in "", 0s to 200ms`,
			`execute_tool search (internal) in "invoke_agent", 0s to 100ms
gen_ai.agent.name=planner
gen_ai.conversation.id=session-1
gen_ai.operation.name=execute_tool
gen_ai.tool.call.id=toolu_1
gen_ai.tool.description=Search the web.
gen_ai.tool.name=search
gen_ai.tool.type=function
sluice.attempts=1
sluice.priority=7
sluice.run.duration=0.1
sluice.run.id=run-1
sluice.tenant=acme
sluice.tool.type=web
@0s sluice.started sluice.attempt=1 sluice.queue.wait=0`,
			`GET /search (internal) in "execute_tool search", 0s to 100ms`,
			`execute_tool search (internal) in "invoke_agent", 30ms to 200ms
gen_ai.agent.name=planner
gen_ai.conversation.id=session-1
gen_ai.operation.name=execute_tool
gen_ai.tool.call.id=toolu_2
gen_ai.tool.description=Search the web.
gen_ai.tool.name=search
gen_ai.tool.type=function
sluice.attempts=1
sluice.priority=7
sluice.queue.wait=0.07
sluice.run.duration=0.1
sluice.run.id=run-1
sluice.tenant=acme
sluice.tool.type=web
@30ms sluice.queued sluice.limiter=concurrency tool search
@100ms sluice.started sluice.attempt=1 sluice.queue.wait=0.07`,
			`GET /search (internal) in "execute_tool search", 100ms to 200ms`,
		}, r.take())
		m := r.collect()
		require.Equal(t, map[string]string{
			"gen_ai.agent.name=planner gen_ai.tool.name=search gen_ai.tool.type=function": "2 in 0.27",
		}, points(t, m["gen_ai.execute_tool.duration"]))
		require.Equal(t, "s", m["gen_ai.execute_tool.duration"].Unit)
		require.Equal(t, map[string]string{
			"gen_ai.tool.name=search sluice.limiter=concurrency tool search sluice.priority=7": "1 in 0.07",
		}, points(t, m["sluice.queue.wait"]))
		require.NotContains(t, m, "sluice.rejections")
	})
}

// coded is a tool's error with a code of its own.
type coded struct{ code string }

func (c coded) Error() string { return "the text of a tool" }
func (c coded) Code() string  { return c.code }

// TestSpan_EachEnd: status, error.type and what counts it, for each way in which a call can end.
func TestSpan_EachEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sluiceotel.Config{})
		layer := sluice.InterceptorFunc(func(tool sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				switch tool.Name {
				case "denied":
					return sluice.Result{}, errors.New("not on Sundays")
				case "coded":
					return sluice.Result{}, coded{"approval_required"}
				case "bug":
					panic("secret sk-123")
				case "cached":
					return sluice.Result{Value: ""}.By("cache"), nil
				case "retried":
					if res, err := next(ctx, c); err == nil {
						return res, err
					}
				}
				return next(ctx, c)
			}
		})
		e := r.exec(sluice.Config{Interceptors: []sluice.Interceptor{
			layer,
			sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{MaxQueue: 1})),
			sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{
				{Max: 1, Scope: sluice.ForTool("slow")}, {Max: 1, Scope: sluice.ForTool("full"), Refuse: true},
			}})),
			sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{
				Scope: sluice.ForTool("limited"), Rates: []sluice.Rate{{N: 1, Per: time.Minute}}, Refuse: true,
			})),
			sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Scope: sluice.ForTool("broken"), Failures: 1, Cooldown: time.Minute})),
		}, MaxDepth: 1})
		fails := 0
		run := func(ctx context.Context, in string) (string, error) {
			switch in {
			case "fail":
				return "", errors.New("no route")
			case "fail once":
				if fails++; fails == 1 {
					return "", errors.New("no route")
				}
			case "code":
				return "", coded{"quota_used_up"}
			case "panic":
				panic("secret sk-123")
			case "exit":
				runtime.Goexit()
			case "sleep":
				time.Sleep(time.Second)
			case "wait":
				<-ctx.Done()
				return "", ctx.Err()
			case "nest":
				return "", call(ctx, e, "nested", "plain", "nest")
			}
			return "", nil
		}
		for _, name := range []string{"plain", "denied", "coded", "bug", "cached", "retried", "slow", "full", "limited", "broken"} {
			r.tool(e, sluice.Spec{Name: name}, run)
		}
		r.tool(e, sluice.Spec{Name: "timed", Policy: sluice.Policy{Timeout: 900 * time.Millisecond}}, run)
		plain := func(tool, in string) func() { return func() { call(t.Context(), e, "", tool, in) } }
		for _, test := range []struct {
			what   string
			do     func()
			spans  []string // the latest of those that began at one time first
			counts []string // labels of sluice.rejections, of calls whose code has not run
		}{
			{"completes", plain("plain", ""), []string{"execute_tool plain\nsluice.attempts=1 sluice.run.duration=0 [started]"}, nil},
			{"is answered by a layer", plain("cached", ""), []string{"execute_tool cached\nsluice.answered_by=cache []"}, nil},
			{"fails", plain("plain", "fail"), []string{
				"execute_tool plain, Error: no route\nerror.type=tool_error sluice.attempts=1 sluice.run.duration=0 [started]",
			}, nil},
			{"fails, with a code of its own", plain("plain", "code"), []string{
				"execute_tool plain, Error: the text of a tool\nerror.type=quota_used_up sluice.attempts=1 sluice.run.duration=0 [started]",
			}, nil},
			{"panics", plain("plain", "panic"), []string{
				"execute_tool plain, Error: sluice: code of tool \"plain\" panicked\nerror.type=panic sluice.attempts=1 sluice.run.duration=0 [started]",
			}, nil},
			{"exits", plain("timed", "exit"), []string{
				"execute_tool timed, Error: sluice: code of tool \"timed\" called runtime.Goexit\nerror.type=goexit sluice.attempts=1 sluice.run.duration=0 [started]",
			}, nil},
			{"exits, and its caller with it", func() { go call(t.Context(), e, "", "plain", "exit") }, []string{
				"execute_tool plain, Error: sluice: code of tool \"plain\" called runtime.Goexit\nerror.type=goexit sluice.attempts=1 sluice.run.duration=0 [started]",
			}, nil},
			{"is out of time, and goes on", func() { call(t.Context(), e, "", "timed", "sleep"); time.Sleep(2 * time.Second) }, []string{
				"execute_tool timed, Error: sluice: tool \"timed\": tool timed out: context deadline exceeded\nerror.type=timeout sluice.attempts=1 sluice.run.duration=0.9 [started abandoned]",
			}, nil},
			{"is cancelled while it runs", func() {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Second, cancel)
				call(ctx, e, "", "plain", "wait")
			}, []string{
				"execute_tool plain, Error: context canceled\nerror.type=canceled sluice.attempts=1 sluice.run.duration=1 [started]",
			}, nil},
			{"is repeated", plain("retried", "fail once"), []string{
				"execute_tool retried\nsluice.attempts=2 sluice.run.duration=0 [started retrying started]",
			}, nil},
			{"is denied", plain("denied", ""), []string{
				"execute_tool denied, Error: sluice: tool \"denied\": denied: not on Sundays\nerror.type=denied []",
			}, []string{"error.type=denied gen_ai.tool.name=denied"}},
			{"is denied, with a code", plain("coded", ""), []string{
				"execute_tool coded, Error: sluice: tool \"coded\": denied: the text of a tool\nerror.type=approval_required []",
			}, []string{"error.type=approval_required gen_ai.tool.name=coded"}},
			{"meets a layer that panics", plain("bug", ""), []string{
				"execute_tool bug, Error: sluice: tool \"bug\": rejected: sluice: code of tool \"bug\" panicked\nerror.type=panic []",
			}, []string{"error.type=panic gen_ai.tool.name=bug"}},
			{"has wrong arguments", func() { e.Invoke(t.Context(), sluice.Request{Tool: "plain", Args: []byte(`{"x":1}`)}) }, []string{
				"execute_tool plain, Error: sluice: tool \"plain\": invalid arguments: $ is an object: must be a string\nerror.type=invalid_arguments []",
			}, []string{"error.type=invalid_arguments gen_ai.tool.name=plain"}},
			{"has a name that the model made up", plain("serach", ""), []string{
				"execute_tool _OTHER, Error: sluice: tool \"serach\": unknown tool\nerror.type=unknown_tool []",
			}, []string{"error.type=unknown_tool gen_ai.tool.name=_OTHER"}},
			{"has such a name, and no context", func() { call(nil, e, "", "serach", "") }, []string{
				"execute_tool _OTHER, Error: sluice: tool \"serach\": invalid arguments: sluice: the context is nil: must not be, context.Background() is one for any use\nerror.type=invalid_arguments []",
			}, []string{"error.type=invalid_arguments gen_ai.tool.name=_OTHER"}},
			{"is nested too deep", plain("plain", "nest"), []string{
				"execute_tool plain, Error: sluice: tool \"plain\": nesting: sluice: nested 2 deep: Config.MaxDepth allows 1\nerror.type=tool_error sluice.attempts=1 sluice.run.duration=0 [started]",
				"execute_tool plain, Error: sluice: tool \"plain\": nesting: sluice: nested 2 deep: Config.MaxDepth allows 1\nerror.type=tool_error sluice.attempts=1 sluice.run.duration=0 [started]",
				"execute_tool plain, Error: sluice: tool \"plain\": nesting: sluice: nested 2 deep: Config.MaxDepth allows 1\nerror.type=nesting []",
			}, []string{"error.type=nesting gen_ai.tool.name=plain"}},
			{"meets a full limit that refuses", func() {
				go call(t.Context(), e, "", "full", "sleep")
				synctest.Wait()
				call(t.Context(), e, "", "full", "")
				time.Sleep(time.Second)
			}, []string{
				"execute_tool full\nsluice.attempts=1 sluice.run.duration=1 [started]",
				"execute_tool full, Error: sluice: tool \"full\": saturated by concurrency tool full: all of 1 are taken\nerror.type=saturated sluice.attempts=1 sluice.limiter=concurrency tool full []",
			}, []string{"error.type=saturated gen_ai.tool.name=full sluice.limiter=concurrency tool full"}},
			{"meets an empty bucket", func() { call(t.Context(), e, "", "limited", ""); call(t.Context(), e, "", "limited", "") }, []string{
				"execute_tool limited, Error: sluice: tool \"limited\": rate limited by rate calls per minute, retry in 1m0s\nerror.type=rate_limited sluice.attempts=1 sluice.limiter=rate calls per minute sluice.retry_after=60 []",
				"execute_tool limited\nsluice.attempts=1 sluice.run.duration=0 [started]",
			}, []string{"error.type=rate_limited gen_ai.tool.name=limited sluice.limiter=rate calls per minute"}},
			{"meets an open breaker", func() { call(t.Context(), e, "", "broken", "fail"); call(t.Context(), e, "", "broken", "") }, []string{
				"execute_tool broken, Error: sluice: tool \"broken\": breaker open by breaker, retry in 1m0s\nerror.type=breaker_open sluice.attempts=1 sluice.limiter=breaker sluice.retry_after=60 []",
				"execute_tool broken, Error: no route\nerror.type=tool_error sluice.attempts=1 sluice.run.duration=0 [started]",
			}, []string{"error.type=breaker_open gen_ai.tool.name=broken sluice.limiter=breaker"}},
			{"meets a full queue, or leaves it", func() {
				go call(t.Context(), e, "", "slow", "sleep")
				synctest.Wait()
				ctx, cancel := context.WithCancel(t.Context())
				go call(ctx, e, "", "slow", "")
				synctest.Wait()
				time.Sleep(time.Millisecond)
				call(t.Context(), e, "", "slow", "")
				time.Sleep(99 * time.Millisecond)
				cancel()
				synctest.Wait()
				ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				call(ctx, e, "", "slow", "")
				time.Sleep(time.Second)
			}, []string{
				"execute_tool slow\nsluice.attempts=1 sluice.run.duration=1 [started]",
				"execute_tool slow, Error: sluice: tool \"slow\": rejected by concurrency tool slow: context canceled\nerror.type=canceled sluice.attempts=1 sluice.limiter=concurrency tool slow sluice.queue.wait=0.1 [queued]",
				"execute_tool slow, Error: sluice: tool \"slow\": queue full: 1 calls of the executor wait already, and MaxQueue and MaxPerTenant allow no more\nerror.type=queue_full sluice.attempts=1 sluice.limiter=queue []",
				"execute_tool slow, Error: sluice: tool \"slow\": wait too long by concurrency tool slow: it could not start before its caller's deadline\nerror.type=wait_too_long sluice.attempts=1 sluice.limiter=concurrency tool slow sluice.queue.wait=0.099999999 [queued]",
			}, []string{
				"error.type=canceled gen_ai.tool.name=slow sluice.limiter=concurrency tool slow",
				"error.type=queue_full gen_ai.tool.name=slow sluice.limiter=queue",
				"error.type=wait_too_long gen_ai.tool.name=slow sluice.limiter=concurrency tool slow",
			}},
			{"comes when the executor is closed, under a name that the model made up", func() { e.Close(t.Context()); call(t.Context(), e, "", "made up", "") }, []string{
				"execute_tool _OTHER, Error: sluice: tool \"made up\": executor closed\nerror.type=closed []",
			}, []string{"error.type=closed gen_ai.tool.name=_OTHER"}},
		} {
			before := points(t, r.collect()["sluice.rejections"])
			test.do()
			synctest.Wait()
			var spans, counts []string
			for _, s := range r.take() {
				spans = append(spans, short(s))
			}
			require.Equal(t, test.spans, spans, test.what)
			for k, v := range points(t, r.collect()["sluice.rejections"]) {
				if before[k] == "" {
					require.Equal(t, "1", v)
					counts = append(counts, k)
				}
			}
			slices.Sort(counts)
			require.Equal(t, test.counts, counts, test.what)
		}
	})
}

// short is a span's text without what all spans have, and the names of its events.
func short(s string) string {
	head, rest, _ := strings.Cut(s, "\n")
	var attrs, events []string
	for line := range strings.Lines(rest) {
		line = strings.TrimSpace(line)
		k, v, _ := strings.Cut(line, "=")
		switch {
		case strings.HasPrefix(line, "@"):
			events = append(events, strings.TrimPrefix(strings.Fields(line)[1], "sluice."))
		case k == "gen_ai.operation.name" && v == "execute_tool", k == "gen_ai.tool.type" && v == "function",
			k == "gen_ai.tool.name" && strings.HasPrefix(head, "execute_tool "+v), k == "gen_ai.tool.call.id" && v != "",
			k == "sluice.priority" && v == "5":
		default:
			attrs = append(attrs, line)
		}
	}
	name, _, _ := strings.Cut(head, " (internal)")
	if _, status, ok := strings.Cut(head, ", Error: "); ok {
		name += ", Error: " + status
	}
	return fmt.Sprintf("%s\n%s %v", name, strings.Join(attrs, " "), events)
}
