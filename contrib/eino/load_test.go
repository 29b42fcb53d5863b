package sluiceeino

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudwego/eino/components/tool"
	"github.com/cloudwego/eino/compose"
	"github.com/cloudwego/eino/schema"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// A thousand calls of one message at a limit of 8: eight run all the time, and each is answered in its place.
func TestLoad(t *testing.T) {
	var queries []string
	for i := range 1000 {
		queries = append(queries, fmt.Sprint(i))
	}
	var g gauge
	tools := []tool.BaseTool{
		invokable(t, "search", func(_ context.Context, in query) (string, error) {
			defer g.enter()()
			time.Sleep(10 * time.Millisecond)
			return "hits of " + in.Query, nil
		}),
		streamable(t, "stream", func(_ context.Context, in query) (*schema.StreamReader[string], error) {
			sr, sw := schema.Pipe[string](0)
			leave := g.enter()
			go func() {
				defer sw.Close()
				sw.Send("hits of ", nil)
				time.Sleep(10 * time.Millisecond)
				leave()
				sw.Send(in.Query, nil)
			}()
			return sr, nil
		}),
	}
	for _, name := range []string{"search", "stream"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g = gauge{}
				e, rec := newExecutor(t, sluice.Config{Interceptors: limit(8)})
				n := newNode(t, e, Config{}, tools...)
				began := time.Now()
				out, err := n.Invoke(t.Context(), calls(name, queries...))
				require.NoError(t, err)
				require.Len(t, out, 1000)
				for i, m := range out {
					require.Equal(t, "hits of "+queries[i], m.Content)
					require.Equal(t, fmt.Sprint("call_", i), m.ToolCallID)
				}
				require.EqualValues(t, 8, g.peak.Load())
				require.Equal(t, 1250*time.Millisecond, time.Since(began))
				require.NoError(t, rec.Check())
			})
		})
	}
}

// Calls of all kinds at once, some cancelled, some streams closed early, while tools leave the registry: each is
// answered with what is its own, and nothing stays.
func TestStorm(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		e, rec := newExecutor(t, sluice.Config{})
		var g gauge
		act := func(ctx context.Context, q string) error {
			kind, _, _ := strings.Cut(q, " ")
			switch kind {
			case "panic":
				panic("secret")
			case "exit":
				runtime.Goexit()
			case "slow":
				<-ctx.Done()
				return ctx.Err()
			case "fail":
				return errors.New(q)
			case "ask":
				return tool.Interrupt(ctx, q)
			}
			time.Sleep(5 * time.Millisecond)
			return nil
		}
		search := invokable(t, "search", func(ctx context.Context, in query) (string, error) {
			defer g.enter()()
			return in.Query, act(ctx, in.Query)
		})
		stream := streamable(t, "stream", func(ctx context.Context, in query) (*schema.StreamReader[string], error) {
			defer g.enter()()
			if strings.HasSuffix(in.Query, "0") {
				if err := act(ctx, in.Query); err != nil {
					return nil, err
				}
			}
			first, second := in.Query[:2], in.Query[2:]
			sr, sw := schema.Pipe[string](0)
			go func() {
				defer sw.Close()
				sw.Send(first, nil)
				sw.Send(second, nil)
			}()
			return schema.StreamReaderWithConvert(sr, func(s string) (string, error) {
				if s == second {
					return s, act(ctx, in.Query)
				}
				return s, nil
			}), nil
		})
		n := newNode(t, e, Config{Policy: func(string) sluice.Policy {
			return sluice.Policy{Concurrency: 3, Timeout: 50 * time.Millisecond, MaxWait: 200 * time.Millisecond}
		}}, search, stream)
		kinds := []string{"go", "panic", "exit", "slow", "fail", "ask"}
		var wg sync.WaitGroup
		for w := range 16 {
			rnd := rand.New(rand.NewPCG(seed, uint64(w)))
			wg.Go(func() {
				for i := range 60 {
					if rnd.IntN(20) == 0 {
						e.Registry().Remove("search")
					}
					ctx, cancel := context.WithCancel(t.Context())
					if rnd.IntN(5) == 0 {
						time.AfterFunc(time.Duration(rnd.IntN(20))*time.Millisecond, cancel)
					}
					q := fmt.Sprint(kinds[rnd.IntN(len(kinds))], " ", w, " ", i)
					name := []string{"search", "stream"}[rnd.IntN(2)]
					switch rnd.IntN(3) {
					case 0:
						out, err := n.Invoke(ctx, calls(name, q))
						if err != nil {
							checkError(t, ctx, err, q)
						} else {
							checkText(t, out[0].Content, q)
						}
					case 1:
						sr, err := n.Stream(ctx, calls(name, q))
						if err == nil {
							var all string
							if all, err = rest(sr); err == nil {
								checkText(t, all, q)
							}
							sr.Close()
						}
						if err != nil {
							checkError(t, ctx, err, q)
						}
					default:
						if sr, err := n.Stream(ctx, calls(name, q)); err == nil {
							if rnd.IntN(2) == 0 {
								_, _ = sr.Recv()
							}
							sr.Close()
						}
					}
					cancel()
				}
			})
		}
		wg.Wait()
		time.Sleep(time.Minute)
		x := e.Snapshot()
		require.Zero(t, x.InFlight+x.Queued)
		require.Zero(t, g.now.Load())
		require.NoError(t, rec.Check())
	})
}

// checkText is what a model may read of a query.
func checkText(t *testing.T, text, q string) {
	if text == q {
		return
	}
	text = strings.TrimPrefix(text, q[:2]+"\n") // of a stream that had begun
	requireRefusal(t, text, []string{"panic", "goexit", "timeout", "wait_too_long", "unknown_tool"}[kindOf(text)])
}

// kindOf is which of the ends that may be text says.
func kindOf(text string) int {
	for i, kind := range []string{`"panic"`, `"goexit"`, `"timeout"`, `"wait_too_long"`} {
		if strings.Contains(text, kind) {
			return i
		}
	}
	return 4
}

// checkError is what may end a run.
func checkError(t *testing.T, ctx context.Context, err error, q string) {
	_, asks := compose.IsInterruptRerunError(err)
	switch {
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
	case strings.HasPrefix(q, "ask "):
		require.True(t, asks, err)
	default:
		require.True(t, strings.HasPrefix(q, "fail "), "%s: %v", q, err)
		require.Contains(t, err.Error(), q)
	}
}
