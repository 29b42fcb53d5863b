package resilience_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
	"github.com/stretchr/testify/require"
)

// streams is a tool that answers, after a second, with a stream, and those that it has made.
type streams struct {
	mu   sync.Mutex
	made []*tail
}

func (x *streams) wrap(r *rig) func(context.Context, string) (*tail, error) {
	return sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "x", Hints: readOnly}, func(ctx context.Context, _ string) (*tail, error) {
		time.Sleep(time.Second) // whatever ctx does
		s := &tail{}
		var err error
		s.stream, s.done, err = sluice.Hold(ctx)
		x.mu.Lock()
		defer x.mu.Unlock()
		x.made = append(x.made, s)
		return s, err
	}))
}

// A stream is its own caller's: who would have shared it has one of its own, and its context lives until its caller leaves,
// whoever else does.
func TestJoin_Streams(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{}, join(t, resilience.JoinConfig{}))
		x := new(streams)
		f := x.wrap(r)
		var got [3]*tail
		var at [3]time.Duration
		var leave [3]context.CancelFunc
		var wg sync.WaitGroup
		for i := range got {
			ctx, cancel := context.WithCancel(r.ctx)
			leave[i] = cancel
			wg.Go(func() {
				time.Sleep(time.Duration(i)) // one after the other
				s, err := f(ctx, "a")
				if err == nil {
					got[i], at[i] = s, time.Since(r.start).Truncate(ms)
				}
			})
		}
		wg.Wait()
		require.Equal(t, [3]time.Duration{time.Second, 2 * time.Second, 2 * time.Second}, at)
		require.Len(t, x.made, 3)
		require.NotSame(t, got[0], got[1])
		require.NotSame(t, got[1], got[2])
		time.Sleep(5 * time.Minute)
		require.Equal(t, 3, r.Snapshot().InFlight)
		leave[1]()
		synctest.Wait()
		require.Error(t, got[1].stream.Err())
		for _, i := range []int{0, 2} {
			require.NoError(t, got[i].stream.Err())
			require.False(t, got[i].closed.Load())
			leave[i]()
			synctest.Wait()
			require.ErrorIs(t, got[i].stream.Err(), context.Canceled)
		}
		for _, s := range got {
			require.NoError(t, s.Close())
		}
		r.end()
	})
}

// A stream whose own caller has left before it came is closed: those who would have shared it have one of their own.
func TestJoin_AStreamThatNobodyGets(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{}, join(t, resilience.JoinConfig{}))
		x := new(streams)
		f := x.wrap(r)
		ctx, cancel := context.WithTimeout(r.ctx, 500*ms)
		defer cancel()
		var wg sync.WaitGroup
		var got *tail
		wg.Go(func() {
			_, err := f(ctx, "a")
			if err == nil {
				t.Error("a stream, of one who has left")
			}
		})
		wg.Go(func() {
			time.Sleep(100 * ms)
			got, _ = f(r.ctx, "a")
		})
		wg.Wait()
		synctest.Wait()
		require.Equal(t, 2*time.Second, time.Since(r.start))
		require.Len(t, x.made, 2)
		require.True(t, x.made[0].closed.Load())
		require.Error(t, x.made[0].stream.Err())
		require.Same(t, x.made[1], got)
		require.NoError(t, got.stream.Err())
		require.NoError(t, got.Close())
		r.end()
	})
}

// The context that an execution, or an attempt, was given lasts as long as its stream, and no longer: nothing is left
// of it when Close has returned.
func TestStreams_TheirContextEndsWithThem(t *testing.T) {
	for name, layer := range map[string]func(t *testing.T) sluice.Interceptor{
		"join":  func(t *testing.T) sluice.Interceptor { return join(t, resilience.JoinConfig{}) },
		"hedge": func(t *testing.T) sluice.Interceptor { return hedge(t, resilience.HedgeConfig{}) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var given []context.Context
				sees := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
					return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
						if c.Tool == "x" {
							given = append(given, ctx)
						}
						return next(ctx, c)
					}
				})
				r := newRig(t, sluice.Config{}, layer(t), sees)
				f := sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "x", Hints: readOnly}, func(ctx context.Context, _ string) (*tail, error) {
					s := &tail{}
					var err error
					s.stream, s.done, err = sluice.Hold(ctx)
					return s, err
				}))
				ctx, leave := context.WithCancel(r.ctx)
				defer leave()
				s, err := f(ctx, "a")
				require.NoError(t, err)
				synctest.Wait()
				require.Len(t, given, 1)
				require.NoError(t, given[0].Err())
				time.Sleep(5 * time.Minute)
				require.NoError(t, given[0].Err())
				require.NoError(t, s.Close())
				require.ErrorIs(t, given[0].Err(), context.Canceled)
				r.end()
			})
		})
	}
}

// slowToSay takes its time to say why it has ended.
type slowToSay struct{ context.Context }

func (c slowToSay) Err() error {
	err := c.Context.Err()
	if err != nil {
		time.Sleep(ms)
	}
	return err
}

// Nor does anybody get one that comes while its caller is leaving.
func TestJoin_AStreamThatComesAsItsCallerLeaves(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{}, join(t, resilience.JoinConfig{}))
		x := new(streams)
		f := x.wrap(r)
		ctx, cancel := context.WithCancel(r.ctx)
		time.AfterFunc(time.Second-ms/2, cancel)
		_, err := f(slowToSay{ctx}, "a")
		require.ErrorIs(t, err, context.Canceled)
		time.Sleep(time.Second)
		require.Len(t, x.made, 1)
		require.True(t, x.made[0].closed.Load())
		require.Error(t, x.made[0].stream.Err())
		r.end()
	})
}
