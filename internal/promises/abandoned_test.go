package promises_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/require"
)

// answersInTime is an interceptor that calls its next several times at once, and answers after d with what the
// first of them has given that has ended, if one has.
func answersInTime(d time.Duration, attempts int) sluice.InterceptorFunc {
	return func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			ended := make(chan sluice.Result, attempts)
			for range attempts {
				go func() {
					if res, err := next(ctx, c); err == nil {
						ended <- res
					}
				}()
				synctest.Wait() // each gets its number in turn
			}
			time.Sleep(d)
			select {
			case res := <-ended:
				return res, nil
			default:
				return sluice.Result{}, errTool
			}
		}
	}
}

// A call tells of each attempt that nobody waits for any more and that goes on, once and before its end; that
// it is counted until it ends, is what snapshots say.
func TestAbandoned_EachAttemptOnce(t *testing.T) {
	const s = time.Second
	inside := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			go next(ctx, c)
			time.Sleep(s)
			return sluice.Result{}, errTool
		}
	})
	twice := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			_, _ = next(ctx, c)
			return next(ctx, c)
		}
	})
	for _, tt := range []struct {
		name         string
		interceptors []sluice.Interceptor
		policy       sluice.Policy
		want         string
		attempts     []int32         // that are abandoned
		after        []time.Duration // that each has run for so long
	}{
		{"out of time", nil, sluice.Policy{Timeout: s}, "x: invoked started abandoned failed", []int32{1}, []time.Duration{s}},
		{"and cooperative", nil, sluice.Policy{Timeout: s, Cooperative: true}, "x: invoked started completed", nil, nil},
		{"twice", interceptors(twice), sluice.Policy{Timeout: s}, "x: invoked started abandoned retrying started abandoned failed", []int32{1, 2}, []time.Duration{s, s}},
		{"by an interceptor inside", interceptors(atMost(9), inside), sluice.Policy{}, "x: invoked started abandoned failed", []int32{1}, []time.Duration{s}},
		{"and out of time", interceptors(atMost(9), inside), sluice.Policy{Timeout: s / 2}, "x: invoked started abandoned failed", []int32{1}, []time.Duration{s / 2}},
		{"by one outside", interceptors(answersInTime(s, 3)), sluice.Policy{}, "x: invoked started started started abandoned abandoned abandoned failed", []int32{1, 2, 3}, []time.Duration{s, s, s}},
		{"but those that wait", interceptors(answersInTime(s, 3), atMost(2)), sluice.Policy{}, "x: invoked started started queued abandoned abandoned failed", []int32{1, 2}, []time.Duration{s, s}},
		{"and those told before", interceptors(answersInTime(2*s, 2)), sluice.Policy{Timeout: s}, "x: invoked started started abandoned abandoned failed", []int32{1, 2}, []time.Duration{s, s}},
		{"and those out of time later", interceptors(answersInTime(s, 2)), sluice.Policy{Timeout: 3 * s / 2}, "x: invoked started started abandoned abandoned failed", []int32{1, 2}, []time.Duration{s, s}},
		{"more than are remembered", interceptors(answersInTime(s, 10)), sluice.Policy{}, "x: invoked started started started started started started started started started started abandoned abandoned abandoned abandoned abandoned abandoned abandoned abandoned abandoned failed",
			[]int32{1, 3, 4, 5, 6, 7, 8, 9, 10}, []time.Duration{s, s, s, s, s, s, s, s, s}},
	} {
		for _, submit := range []bool{false, true} {
			t.Run(fmt.Sprint(tt.name, " ", submit), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					r := newRig(t, sluice.Config{Interceptors: tt.interceptors})
					r.tool(sluice.Spec{Name: "x", Policy: tt.policy}, sleeps(10*s))
					if submit {
						_, _ = r.Submit(r.ctx, sluice.Request{Tool: "x"}).Wait(t.Context())
					} else {
						_ = r.call("x")
					}
					r.trace(tt.want)
					if len(tt.attempts) < 9 { // else one goes on that is not remembered
						require.Equal(t, len(tt.attempts), r.Snapshot().Abandoned)
					}
					var attempts []int32
					var after []time.Duration
					for _, e := range r.rec.Events() {
						if e.Kind == sluice.ToolAbandoned {
							attempts, after = append(attempts, e.Call.Attempt), append(after, e.Duration)
							require.NoError(t, e.Err)
							require.Equal(t, e.Time.Sub(r.start), e.Elapsed)
						}
					}
					if tt.policy.Timeout > 0 { // of several at one instant
						slices.Sort(attempts)
					}
					require.Equal(t, tt.attempts, attempts)
					require.Equal(t, tt.after, after)
					time.Sleep(30 * s)
					r.trace(tt.want)
					r.end()
				})
			})
		}
	}
}

// An attempt whose stream is what the call has come to is waited for; another whose stream goes on is not. What
// is told while the stream goes on is not told again.
func TestAbandoned_NotTheStreamThatIsTheResult(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(answersInTime(time.Second, 3))})
		var n atomic.Int64
		r.tool(sluice.Spec{Name: "x", Policy: sluice.Policy{Timeout: 5 * time.Second, MaxTimeout: time.Minute}}, func(ctx context.Context) error {
			if n.Add(1) == 2 {
				require.True(t, sluice.Extend(ctx, 10*time.Second)) // the others are out of time before
				return streams(t, 8*time.Second, nil)(ctx)
			}
			time.Sleep(20 * time.Second)
			return nil
		})
		require.NoError(t, r.call("x"))
		r.trace("x: invoked started started started abandoned abandoned")
		require.Equal(t, 2, r.Snapshot().Abandoned)
		time.Sleep(time.Minute)
		r.trace("x: invoked started started started abandoned abandoned completed")
		require.Equal(t, 8*time.Second, r.terminal("x").Elapsed)
		for _, e := range r.rec.Events() {
			require.False(t, e.Kind == sluice.ToolAbandoned && e.Call.Attempt == 2)
		}
		r.end()
	})
}

// The event says which attempt it is, and for how long that has run; logs warn.
func TestAbandoned_AsText(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var lines, logged bytes.Buffer
		warn := slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelWarn}))
		r := newRig(t, sluice.Config{Timeout: time.Second, Sink: sluice.MultiSink(sluice.NewJSONSink(&lines), sluice.NewSlogSink(warn))})
		r.tool(sluice.Spec{Name: "x"}, sleeps(2*time.Second))
		require.ErrorIs(t, r.call("x"), sluice.ErrTimeout)
		text := lines.String()
		require.Regexp(t, `\{"type":"tool.abandoned","event_id":"[\w-]+/3","seq":3,.*"tool_name":"x","action_id":"call-1",.*"attempt":1,"priority":5,"duration_ms":1000,"elapsed_ms":1000\}`, text)
		require.Regexp(t, `level=WARN msg="tool event" event=tool.abandoned tool=x call_id=call-1 .*seq=3 attempt=1 .*duration=1s\n`, logged.String())
		time.Sleep(time.Second)
		r.end()
	})
}

// Whatever becomes of a call's attempts, each is abandoned once at most, and as many are told of as go on.
func TestAbandoned_Storm(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for n := range uint64(rounds(100)) {
		bubble(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, n))
			d := func(most int) time.Duration { return time.Duration(1+rnd.IntN(most)) * ms }
			attempts := 1 + rnd.IntN(4)
			list := interceptors(answersInTime(d(20), attempts), atMost(1+rnd.IntN(4)))
			r := newRig(t, sluice.Config{Interceptors: list})
			var ids atomic.Int64
			takes := make([]time.Duration, 8)
			for i := range takes {
				takes[i] = d(30)
			}
			r.tool(sluice.Spec{Name: "x", Policy: sluice.Policy{Timeout: d(30), MaxTimeout: time.Second}}, func(ctx context.Context) error {
				i := ids.Add(1)
				sluice.Extend(ctx, takes[(i+3)%8])
				time.Sleep(takes[i%8])
				return nil
			})
			var all sync.WaitGroup
			for range 3 {
				all.Go(func() { _ = r.call("x") })
			}
			all.Wait()
			time.Sleep(time.Second)
			r.end() // Check holds that none is told twice
			for _, e := range r.rec.Events() {
				require.False(t, e.Kind == sluice.ToolAbandoned && e.Duration > 30*ms+time.Second)
			}
		})
	}
}
