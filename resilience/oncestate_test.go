package resilience_test

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
	"github.com/stretchr/testify/require"
)

func TestOnce_Config(t *testing.T) {
	key := byNumber
	for want, c := range map[string]resilience.OnceConfig{
		"resilience: OnceConfig.Key is nil: must say which calls are the same":                 {},
		"resilience: OnceConfig.TTL is -1ns: must be zero (24 h) or positive":                  {Key: key, TTL: -1},
		"resilience: OnceConfig.DoubtTTL is -1ns: must be zero (TTL) or positive":              {Key: key, DoubtTTL: -1},
		"resilience: OnceConfig.Lease is 1ms: must be zero (30 s) or from 10ms to 24h0m0s":     {Key: key, Lease: ms},
		"resilience: OnceConfig.Lease is -1s: must be zero (30 s) or from 10ms to 24h0m0s":     {Key: key, Lease: -time.Second},
		"resilience: OnceConfig.Lease is 24h0m1s: must be zero (30 s) or from 10ms to 24h0m0s": {Key: key, Lease: 24*time.Hour + time.Second},
	} {
		_, err := resilience.NewOnce(c)
		require.EqualError(t, err, want)
	}
	bubble(t, func(t *testing.T) { // the longest times do no harm
		s := newShop(t, resilience.OnceConfig{TTL: 1<<63 - 1, DoubtTTL: 1<<63 - 1, Lease: 24 * time.Hour, Name: "idempotency"}, sluice.Spec{}, works)
		s.gives(order{"a", 1}, 1)
		s.gives(order{"a", 1}, 1)
		require.Equal(t, "idempotency", s.once.String())
		require.Equal(t, "idempotency inner", fmt.Sprint(s.once.Inner()))
		s.end()
	})
}

// The form in which other processes find what is known, and that this one takes none that it does not know.
func TestOnce_StoredForm(t *testing.T) {
	bubble(t, func(t *testing.T) {
		state := newState(t, sluice.SharedStateConfig{})
		conf := resilience.OnceConfig{State: state, Errors: func(err error) bool { return err == errBoom }}
		s := newShop(t, conf, aSecond, func(_ context.Context, n int) error {
			switch n {
			case 2:
				return errBoom
			case 3:
				time.Sleep(time.Minute)
			}
			return nil
		})
		for _, no := range []string{"done", "failed/1", "doubt"} {
			_, _ = s.pay(s.ctx, order{no, 1})
		}
		data, err := json.Marshal(state)
		require.NoError(t, err)
		var snapshot struct {
			Keys map[string]struct {
				Value   map[string]any
				Expires time.Time
			}
		}
		require.NoError(t, json.Unmarshal(data, &snapshot))
		by := snapshot.Keys["once/org-1/pay/doubt/"].Value["by"]
		require.Len(t, by, 26)
		sum := sha256.Sum256([]byte(`{"amount":1,"no":"done"}`))
		require.Equal(t, hex.EncodeToString(sum[:]), snapshot.Keys["once/org-1/pay/done/"].Value["args"])
		got := map[string]map[string]any{}
		for name, k := range snapshot.Keys {
			require.Len(t, k.Value["args"], 64)
			delete(k.Value, "args")
			got[name] = k.Value
		}
		require.Equal(t, map[string]map[string]any{
			"once/org-1/pay/done/":       {"v": 1.0, "state": "done", "since": "2000-01-01T00:00:00Z", "result": map[string]any{"n": 1.0, "lines": []any{"done"}}},
			"once/org-1/pay/failed%2F1/": {"v": 1.0, "state": "failed", "since": "2000-01-01T00:00:00Z", "code": "tool_error", "text": "boom"},
			"once/org-1/pay/doubt/":      {"v": 1.0, "state": "doubt", "since": "2000-01-01T00:00:01Z", "by": by},
		}, got)
		require.Equal(t, 24*time.Hour, snapshot.Keys["once/org-1/pay/done/"].Expires.Sub(s.start))
		time.Sleep(time.Minute)

		later := copied(t, state)
		again := newShop(t, resilience.OnceConfig{State: later}, sluice.Spec{}, works)
		again.gives(order{"done", 1}, 1)
		again.gives(order{"doubt", 1}, 3)
		_, err = again.pay(again.ctx, order{"failed/1", 1})
		require.EqualError(t, err, "boom")
		_, err = again.pay(again.ctx, order{"failed/1", 2})
		require.Equal(t, "once_mismatch", sluice.CodeOf(err))

		for entry, want := range map[string]string{
			`{"v":2,"state":"done","args":"","since":"2000-01-01T00:00:00Z"}`:    "its entry is of version 2: must be 1",
			`{"v":1,"state":"waiting","args":"","since":"2000-01-01T00:00:00Z"}`: `its entry's state is "waiting": must be running, doubt, done or failed`,
			`7`: "wrong type",
		} {
			require.NoError(t, json.Unmarshal(fmt.Appendf(nil, `{"version":1,"keys":{"once/org-1/pay/x/":{"value":%s,"version":1}}}`, entry), later))
			_, err = again.pay(again.ctx, order{"x", 1})
			var x *resilience.OnceStateError
			require.ErrorAs(t, err, &x)
			require.ErrorContains(t, err, want)
			require.ErrorIs(t, err, sluice.ErrRejected)
		}
		require.Zero(t, again.runs.Load())
		s.end()
		again.end()
	})
}

// If nothing can be kept of a key the tool does not run; if only its result cannot be kept it does not run again.
func TestOnce_FailsClosed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		full := newState(t, sluice.SharedStateConfig{MaxKeys: 1})
		closed := newState(t, sluice.SharedStateConfig{})
		require.NoError(t, closed.Close())
		for _, tt := range []struct {
			state *sluice.SharedState
			is    error
		}{{full, sluice.ErrFull}, {closed, sluice.ErrNoState}} {
			s := newShop(t, resilience.OnceConfig{State: tt.state}, sluice.Spec{}, works)
			if tt.state == full {
				s.gives(order{"a", 1}, 1)
				s.runs.Store(0)
			}
			_, err := s.pay(s.ctx, order{"b", 1})
			require.ErrorIs(t, err, tt.is)
			require.ErrorIs(t, err, sluice.ErrRejected)
			require.Equal(t, "once_state", sluice.CodeOf(err))
			require.Zero(t, s.runs.Load())
			s.end()
		}
		s := newShop(t, resilience.OnceConfig{}, sluice.Spec{}, works)
		_, err := s.pay(context.Background(), order{"b", 1})
		require.ErrorIs(t, err, sluice.ErrNoState)
		require.ErrorIs(t, err, sluice.ErrRejected)
		s.end()
	})
	for name, result := range map[string]any{"too large": strings.Repeat("x", 10_000), "no JSON": make(chan int)} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				state := newState(t, sluice.SharedStateConfig{MaxBytes: 2000})
				s := openShop(t, resilience.OnceConfig{State: state, TTL: time.Hour}, anyNumber(), nil)
				f := sluice.Must(sluice.Wrap(s.Executor, sluice.Spec{Name: "pay"}, func(context.Context, order) (any, error) {
					s.runs.Add(1)
					return result, nil
				}))
				got, err := f(s.ctx, order{"a", 1})
				require.NoError(t, err)
				require.Equal(t, result, got)
				for range 2 {
					_, err = f(s.ctx, order{"a", 1})
					var x *resilience.OnceFailedError
					require.ErrorAs(t, err, &x)
					require.Equal(t, resilience.OnceFailedError{Reason: "once_not_stored", Text: "the call has ended, but what with could not be kept", At: s.start.UTC()}, *x)
					require.Equal(t, "once_not_stored", sluice.CodeOf(err))
					require.NotErrorIs(t, err, sluice.ErrRejected)
				}
				require.EqualValues(t, 1, s.runs.Load())
				s.end()
			})
		})
	}
	for name, ends := range map[string]error{"a result": nil, "an error": errors.New(strings.Repeat("x", 10_000))} {
		t.Run(name+" has no room at all", func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				for room := 96; ; room++ { // the least in which the tool may run
					state := newState(t, sluice.SharedStateConfig{MaxBytes: room})
					s := newShop(t, resilience.OnceConfig{State: state, Errors: func(error) bool { return true }}, sluice.Spec{}, func(context.Context, int) error { return ends })
					_, err := s.pay(s.ctx, order{"a", 1})
					_, again := s.pay(s.ctx, order{"a", 1})
					s.end()
					if s.runs.Load() == 0 {
						require.ErrorIs(t, err, sluice.ErrFull)
						continue
					}
					require.Equal(t, "once_not_stored", sluice.CodeOf(again), "%d bytes: %v", room, again)
					require.EqualValues(t, 1, s.runs.Load())
					return
				}
			})
		})
	}
	bubble(t, func(t *testing.T) { // the state is gone when the result comes
		state := newState(t, sluice.SharedStateConfig{})
		s := newShop(t, resilience.OnceConfig{State: state}, sluice.Spec{}, lasts(time.Second))
		time.AfterFunc(500*ms, func() { _ = state.Close() })
		for _, p := range s.all(s.ctx, 3, order{"a", 1}) {
			require.NoError(t, p.err, "who has waited for the result has it")
			require.Equal(t, 1, p.receipt.N)
		}
		_, err := s.pay(s.ctx, order{"a", 1})
		require.ErrorIs(t, err, sluice.ErrNoState)
		s.end()
	})
	bubble(t, func(t *testing.T) { // the tool gives something else now
		state := newState(t, sluice.SharedStateConfig{})
		s := newShop(t, resilience.OnceConfig{State: state}, sluice.Spec{}, works)
		s.gives(order{"a", 1}, 1)
		again := openShop(t, resilience.OnceConfig{State: state}, anyNumber(), nil)
		f := sluice.Must(sluice.Wrap(again.Executor, sluice.Spec{Name: "pay"}, func(context.Context, order) (int, error) { return 1, nil }))
		_, err := f(again.ctx, order{"a", 1})
		require.Equal(t, "once_state", sluice.CodeOf(err))
		require.NotErrorIs(t, err, sluice.ErrRejected, "it has run")
		s.end()
		again.end()
	})
	bubble(t, func(t *testing.T) { // arguments that cannot be compared
		once := sluice.Must(resilience.NewOnce(resilience.OnceConfig{Key: func(sluice.Call) (string, bool) { return "k", true }}))
		r := newRig(t, sluice.Config{}, once)
		f := sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "f"}, func(context.Context, any) (int, error) { return 1, nil }))
		_, err := f(r.ctx, func() {})
		require.ErrorIs(t, err, sluice.ErrRejected)
		r.end()
	})
}

// Ten thousand duplicates, in two processes, whatever becomes of the first: executions are exactly as many as it takes
// to have one that ends.
func TestOnce_TenThousandDuplicates(t *testing.T) {
	const calls = 10_000
	for _, tt := range []struct {
		name  string
		first func(ctx context.Context, cancel func()) error // what the first execution does after a second
		runs  int
		codes map[string]int
	}{
		{"a result", func(context.Context, func()) error { return nil }, 1, map[string]int{"": calls}},
		{"an error", func(context.Context, func()) error { return errBoom }, 2, map[string]int{"": calls / 2, "tool_error": calls / 2}},
		{"its caller leaves", func(ctx context.Context, cancel func()) error { cancel(); <-ctx.Done(); return ctx.Err() }, 2, map[string]int{"": calls - 1, "canceled": 1}},
		{"a panic", func(context.Context, func()) error { panic(errBoom) }, 2, map[string]int{"": calls - 1, "panic": 1}},
		{"an exit", func(context.Context, func()) error { runtime.Goexit(); return nil }, 2, map[string]int{"": calls - 1, "goexit": 1}},
		{"a timeout that it ignores", func(context.Context, func()) error { time.Sleep(time.Minute); return nil }, 1,
			map[string]int{"once_in_doubt": calls - 1, "timeout": 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				state := newState(t, sluice.SharedStateConfig{})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var runs, inside atomic.Int64
				spec := sluice.Spec{Name: "pay", Policy: sluice.Policy{Timeout: 2 * time.Second}}
				var pays []func(context.Context, order) (receipt, error)
				var execs []*sluice.Executor
				for range 2 {
					once := sluice.Must(resilience.NewOnce(resilience.OnceConfig{Key: byNumber, State: state}))
					exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{once, anyNumber(), once.Inner()}}))
					execs = append(execs, exec)
					pays = append(pays, sluice.Must(sluice.Wrap(exec, spec, func(ctx context.Context, _ order) (receipt, error) {
						n := int(runs.Add(1))
						if inside.Add(1) > 1 {
							t.Error("two at once")
						}
						defer inside.Add(-1)
						time.Sleep(time.Second)
						if n == 1 {
							return receipt{N: n}, tt.first(ctx, cancel)
						}
						return receipt{N: n}, nil
					})))
				}
				var mu sync.Mutex
				codes := map[string]int{}
				var wg sync.WaitGroup
				for i := range calls {
					callCtx := t.Context()
					if i == 0 {
						callCtx = ctx
					}
					wg.Go(func() {
						p, err := pays[i%2](callCtx, order{"a", 1})
						mu.Lock()
						defer mu.Unlock()
						codes[sluice.CodeOf(err)]++
						if err == nil && p.N != tt.runs {
							t.Errorf("the result is of execution %d", p.N)
						}
					})
					if i == 0 {
						synctest.Wait()
					}
				}
				wg.Wait()
				require.Equal(t, tt.codes, codes)
				require.EqualValues(t, tt.runs, runs.Load())
				time.Sleep(time.Hour)
				for _, pay := range pays {
					p, err := pay(t.Context(), order{"a", 1})
					require.NoError(t, err)
					require.Equal(t, tt.runs, p.N)
				}
				for _, exec := range execs {
					require.NoError(t, exec.Close(t.Context()))
				}
			})
		})
	}
}

// Many who come, leave, fail, panic and exit at random, in two processes: no two executions of a key at once, none after
// one that gave a result, and nothing is left.
func TestOnce_Storm(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	state := newState(t, sluice.SharedStateConfig{})
	const keys = 400
	var inside, done [keys]atomic.Int64
	var runs atomic.Int64
	var list []*resilience.Once
	var execs []*sluice.Executor
	var pays []func(context.Context, order) (receipt, error)
	for range 2 {
		once := sluice.Must(resilience.NewOnce(resilience.OnceConfig{Key: byNumber, State: state, Lease: time.Hour}))
		exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{once, anyNumber(), once.Inner()}}))
		list, execs = append(list, once), append(execs, exec)
		pays = append(pays, sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "pay", Policy: sluice.Policy{Timeout: 2 * ms}}, func(ctx context.Context, o order) (receipt, error) {
			k, n := o.Amount, int(runs.Add(1))
			if done[k].Load() > 0 {
				t.Errorf("key %d is executed after a result", k)
			}
			if inside[k].Add(1) > 1 {
				t.Errorf("key %d is executed twice at once", k)
			}
			defer inside[k].Add(-1)
			for range n * 7 % 50 {
				runtime.Gosched()
			}
			switch n % 9 {
			case 0:
				return receipt{}, errBoom
			case 1:
				panic(errBoom)
			case 2:
				runtime.Goexit()
			case 3:
				return receipt{}, cmp.Or(ctx.Err(), errBoom)
			case 4:
				if err := ctx.Err(); err != nil {
					return receipt{}, err
				}
			case 5:
				<-ctx.Done() // its time is over, and it succeeds
			}
			done[k].Add(1)
			return receipt{N: k}, nil
		})))
	}
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(g)))
			for range 300 {
				k := rnd.IntN(keys)
				ctx, cancel := context.WithCancel(context.Background())
				if after := rnd.IntN(150); after < 50 {
					go func() {
						for range after {
							runtime.Gosched()
						}
						cancel()
					}()
				}
				p, err := pays[rnd.IntN(2)](ctx, order{fmt.Sprint(k), k})
				var doubt *resilience.OnceInDoubtError
				var panicked *sluice.PanicError
				switch {
				case err == nil && p.N != k:
					t.Errorf("%d: %+v", k, p)
				case err == nil, ctx.Err() != nil, errors.Is(err, errBoom), errors.As(err, &doubt), errors.As(err, &panicked), errors.Is(err, sluice.ErrTimeout), errors.Is(err, sluice.ErrWaitTooLong):
				default:
					t.Errorf("%d: %v", k, err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	for i, exec := range execs {
		require.NoError(t, exec.Close(context.Background()))
		require.Zero(t, list[i].Inspect()[0].Used)
	}
	for e := range state.List("once/") {
		data, err := json.Marshal(e.Value)
		require.NoError(t, err)
		require.Contains(t, string(data), `"state":"done"`)
	}
	t.Logf("%d executions of %d calls", runs.Load(), 16*300)
}
