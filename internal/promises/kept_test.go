package promises_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// goroutine is the name of this one.
func goroutine() string {
	buf := make([]byte, 64)
	name, _, _ := strings.Cut(string(buf[:runtime.Stack(buf, false)]), "[")
	return name
}

// gone waits until none of these goroutines is left.
func gone(names ...string) {
	buf := make([]byte, 4<<20)
	for left := true; left; {
		stacks := string(buf[:runtime.Stack(buf, true)])
		left = slices.ContainsFunc(names, func(name string) bool { return strings.Contains(stacks, name+"[") })
	}
}

// Calls with a timeout, one after the other, run on one goroutine, whatever their code does but Goexit,
// and Close leaves none.
func TestTimed_GoroutineIsKeptUntilClose(t *testing.T) {
	r := newRig(t, sluice.Config{Timeout: time.Hour, Interceptors: interceptors(atMost(3))})
	var on string
	for i, end := range endings {
		r.tool(sluice.Spec{Name: fmt.Sprint("x", i)}, func(context.Context) error { on = goroutine(); end.do(); return end.err })
	}
	for range 10 {
		was := ""
		for i, end := range endings {
			_ = r.call(fmt.Sprint("x", i))
			if was != "" {
				require.Equal(t, was, on, "whose code ends with %s", end.name)
			}
			if was = on; end.name == "Goexit" {
				gone(was)
				was = ""
			}
		}
	}
	require.NoError(t, r.call("x0"))
	r.end()
	gone(on)
}

// Calls with timeouts that end in time, late, by panic and by Goexit, nested and with attempts at once,
// against Close, while others look at contexts that they have kept: each has an answer, each context
// speaks of its own call, nothing stays taken and no goroutine is left. It is on the real clock, since no
// goroutine is kept in a bubble.
func TestStorm_TimedCallsAgainstClose(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for n := range uint64(rounds(60)) {
		rnd := rand.New(rand.NewPCG(seed, n))
		list := interceptors(limitsOf(sluice.Limit{Max: 5}))
		switch rnd.IntN(5) {
		case 0:
			list = interceptors(atOnce, limitsOf(sluice.Limit{Max: 5}))
		case 1:
			list = interceptors(limitsOf(sluice.Limit{Max: 5}), passing)
		}
		conf := sluice.Config{Timeout: 200 * time.Microsecond, Interceptors: list}
		if rnd.IntN(2) == 0 {
			conf.Classify = func(c sluice.Call, _ sluice.Result, _ error) sluice.Outcome {
				assert.NotEmpty(t, c.ID)
				assert.Contains(t, []string{"x", "y"}, c.Tool)
				return sluice.OutcomeAuto
			}
		}
		r := newRig(t, conf)
		var kept atomic.Pointer[context.Context]
		speaks := func(ctx context.Context) {
			c, ok := sluice.CallFrom(ctx)
			assert.True(t, ok)
			assert.Equal(t, ctx.Value(ctxKey{}), c.ID)
		}
		var inside atomic.Int64
		var draws atomic.Uint64
		var on sync.Map
		r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error {
			on.Store(goroutine(), true)
			inside.Add(1)
			defer inside.Add(-1)
			defer speaks(ctx)
			kept.Store(&ctx)
			draw := rand.New(rand.NewPCG(seed^n, draws.Add(1)))
			switch draw.IntN(8) {
			case 0:
				time.Sleep(time.Duration(draw.IntN(500)) * time.Microsecond)
			case 1:
				<-ctx.Done()
				return ctx.Err()
			case 2:
				panic("a panic")
			case 3:
				runtime.Goexit()
			case 4:
				_, err := r.Invoke(ctx, sluice.Request{Tool: "y"})
				return err
			case 5:
				return errTool
			}
			return nil
		})
		r.tool(sluice.Spec{Name: "y"}, func(context.Context) error { return nil })
		var all sync.WaitGroup
		var asked, answered atomic.Int64
		for g := range 8 {
			all.Go(func() {
				for i := range 30 {
					asked.Add(1)
					id := fmt.Sprint(g, "-", i)
					_, _ = r.Invoke(context.WithValue(r.ctx, ctxKey{}, id), sluice.Request{ID: id, Tool: "x"})
					answered.Add(1)
				}
			})
		}
		for g := range uint64(2) {
			all.Go(func() {
				draw := rand.New(rand.NewPCG(seed^n, 1<<32+g))
				for answered.Load() < 8*30 {
					runtime.Gosched()
					p := kept.Load()
					if p == nil {
						continue
					}
					switch ctx := *p; draw.IntN(5) {
					case 0:
						sluice.ReportUsage(ctx, "u", 1)
					case 1:
						_, done, err := sluice.Hold(ctx)
						if err == nil {
							done(nil)
						}
					case 2:
						_ = ctx.Err()
					case 3:
						_ = ctx.Done()
					default:
						speaks(ctx)
					}
				}
			})
		}
		time.Sleep(time.Duration(rnd.IntN(3000)) * time.Microsecond)
		require.NoError(t, r.Close(context.Background()))
		require.Zero(t, inside.Load(), "inside the tool's code after Close")
		all.Wait()
		require.Equal(t, asked.Load(), answered.Load())
		r.end()
		var names []string
		on.Range(func(name, _ any) bool { names = append(names, name.(string)); return true })
		gone(names...)
	}
}
