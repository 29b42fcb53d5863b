package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/outbox"
	"github.com/sluice-go/sluice/sluicetest"
)

// publisher is an engine's, as a test has it.
type publisher func(ctx context.Context, list []engine.Event) (int, error)

func (p publisher) Publish(ctx context.Context, list []engine.Event) (int, error) { return p(ctx, list) }

// stored has what a publisher has taken, each id once.
type stored struct {
	mu   sync.Mutex
	seen map[string]bool
	list []engine.Event
}

func (s *stored) take(list ...engine.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil {
		s.seen = map[string]bool{}
	}
	for _, v := range list {
		if !s.seen[v.ID] {
			s.seen[v.ID] = true
			s.list = append(s.list, v)
		}
	}
}

func (s *stored) seqs() (list []uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.list {
		list = append(list, v.Seq)
	}
	return list
}

func event(seq uint32) *sluice.Event {
	return &sluice.Event{Kind: sluice.ToolStarted, CallKey: 7, Seq: seq, Time: time.Now()}
}

func emit(t *testing.T, o *outbox.Outbox, seqs ...uint32) {
	t.Helper()
	for _, n := range seqs {
		require.NoError(t, o.Emit(context.Background(), event(n)))
	}
}

func newBox(t *testing.T, c outbox.Config) *outbox.Outbox {
	t.Helper()
	o, err := outbox.New(c)
	require.NoError(t, err)
	return o
}

// What calls and others have to tell is at the engine, in order, with ids that say what is the same.
func TestOutbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eng, err := engine.NewMemory(engine.MemoryConfig{})
		require.NoError(t, err)
		o := newBox(t, outbox.Config{Publisher: eng.Events()})
		exec, err := sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Sink: o})
		require.NoError(t, err)
		add, err := sluice.Wrap(exec, sluice.Spec{Name: "add"}, func(_ context.Context, n int) (int, error) { return n + 1, nil })
		require.NoError(t, err)
		for range 3 {
			_, err := add(t.Context(), 1)
			require.NoError(t, err)
		}
		require.NoError(t, o.Emit(t.Context(), &sluice.Event{Kind: sluice.BreakerStateChanged, By: "br"}))
		require.NoError(t, o.Emit(t.Context(), &sluice.Event{Kind: sluice.BreakerStateChanged, By: "br"}))
		require.NoError(t, exec.Close(t.Context()))
		require.NoError(t, o.Close(t.Context()))

		list, dropped := eng.Published()
		require.Zero(t, dropped)
		require.Len(t, list, 11)
		ids := map[string]bool{}
		for i, v := range list {
			ids[v.ID] = true
			if i >= 9 {
				require.Contains(t, string(v.Payload), `"type":"breaker.state_changed"`)
				require.Equal(t, "breaker.state_changed", v.Type)
				require.Empty(t, v.CallID)
				continue
			}
			require.Contains(t, string(v.Payload), `"type":"`+v.Type+`","event_id":"`+v.ID+`"`)
			require.Equal(t, []string{"tool.invoked", "tool.started", "tool.completed"}[i%3], v.Type)
			require.EqualValues(t, i%3+1, v.Seq)
			require.Equal(t, list[i/3*3].CallID, v.CallID)
			require.Equal(t, v.CallID+"/"+strconv.Itoa(i%3+1), v.ID)
			require.Equal(t, time.Now(), v.At.Local())
		}
		require.Len(t, ids, 11)
		require.Equal(t, outbox.Stats{Sent: 11}, o.Stats())
		require.ErrorIs(t, o.Emit(t.Context(), event(1)), outbox.ErrClosed)
		require.Equal(t, outbox.Stats{Sent: 11, Lost: 1}, o.Stats())
	})
}

// Nothing is lost while the engine is away, and it is asked less and less often.
func TestOutbox_Away(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at stored
		var asked []time.Duration
		began, away := time.Now(), errors.New("no route")
		o := newBox(t, outbox.Config{Publisher: publisher(func(_ context.Context, list []engine.Event) (int, error) {
			asked = append(asked, time.Since(began))
			if time.Since(began) < time.Minute {
				return 0, away
			}
			at.take(list...)
			return len(list), nil
		})})
		emit(t, o, 1, 2, 3)
		synctest.Wait()
		s := o.Stats()
		require.Equal(t, away, s.Err)
		require.Equal(t, 3, s.Waiting)
		require.Positive(t, s.Bytes)
		time.Sleep(time.Minute)
		emit(t, o, 4)
		require.NoError(t, o.Close(t.Context()))
		require.Equal(t, []uint32{1, 2, 3, 4}, at.seqs())
		require.Equal(t, outbox.Stats{Sent: 4}, o.Stats())
		for i := range asked[1:] {
			gap := asked[i+1] - asked[i]
			normal := min(50*time.Millisecond<<i, 5*time.Second)
			require.InDelta(t, normal, gap, 0.2*float64(normal)+1, "trip %d", i+1)
		}
	})
}

// What a trip leaves behind is sent again: the rest of what was acknowledged in part, all if it is not known, also of
// publishers that panic, exit, or say what cannot be. What the engine will never take is lost alone.
func TestOutbox_Answers(t *testing.T) {
	for _, c := range []struct {
		name  string
		first func(at *stored, list []engine.Event) (int, error)
		want  []uint32
		lost  uint64
	}{
		{"a part", func(at *stored, list []engine.Event) (int, error) {
			at.take(list[:2]...)
			return 2, engine.ErrUnsure
		}, []uint32{1, 2, 3, 4}, 0},
		{"a part without an error", func(at *stored, list []engine.Event) (int, error) {
			at.take(list[:2]...)
			return 2, nil
		}, []uint32{1, 2, 3, 4}, 0},
		{"unsure", func(at *stored, list []engine.Event) (int, error) { at.take(list...); return 0, engine.ErrUnsure }, []uint32{1, 2, 3, 4}, 0},
		{"poison", func(at *stored, list []engine.Event) (int, error) {
			at.take(list[:1]...)
			return 1, fmt.Errorf("%w: too large", engine.ErrPoison)
		}, []uint32{1, 3, 4}, 1},
		{"poison at the end", func(at *stored, list []engine.Event) (int, error) {
			at.take(list...)
			return len(list), engine.ErrPoison
		}, []uint32{1, 2, 3, 4}, 0},
		{"panic", func(*stored, []engine.Event) (int, error) { panic("no") }, []uint32{1, 2, 3, 4}, 0},
		{"Goexit", func(*stored, []engine.Event) (int, error) { runtime.Goexit(); return 0, nil }, []uint32{1, 2, 3, 4}, 0},
		{"too many", func(at *stored, list []engine.Event) (int, error) { at.take(list...); return 1000, nil }, []uint32{1, 2, 3, 4}, 0},
		{"less than none", func(*stored, []engine.Event) (int, error) { return -1, nil }, []uint32{1, 2, 3, 4}, 0},
		{"none", func(*stored, []engine.Event) (int, error) { return 0, nil }, []uint32{1, 2, 3, 4}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var at stored
				trips := 0
				hold := make(chan struct{})
				o := newBox(t, outbox.Config{Publisher: publisher(func(_ context.Context, list []engine.Event) (int, error) {
					<-hold
					if trips++; trips == 1 {
						return c.first(&at, list)
					}
					at.take(list...)
					return len(list), nil
				})})
				emit(t, o, 0)
				synctest.Wait()
				emit(t, o, 1, 2, 3, 4)
				trips = -1 // the first is not of interest
				close(hold)
				require.NoError(t, o.Close(t.Context()))
				require.Equal(t, append([]uint32{0}, c.want...), at.seqs())
				require.Equal(t, outbox.Stats{Sent: uint64(len(c.want)) + 1, Lost: c.lost}, o.Stats())
			})
		})
	}
}

// An outbox has room for so many events and so many bytes. What finds none is lost, and what waits is not.
func TestOutbox_Full(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []outbox.Config{
			{MaxEvents: 3},
			{MaxBytes: 3*10 + 9},
		} {
			var at stored
			hold := make(chan struct{})
			c.Encode = func(e *sluice.Event) ([]byte, error) { return make([]byte, 10), nil }
			c.Publisher = publisher(func(_ context.Context, list []engine.Event) (int, error) {
				<-hold
				at.take(list...)
				return len(list), nil
			})
			o := newBox(t, c)
			emit(t, o, 1, 2, 3)
			for range 2 {
				require.Equal(t, outbox.ErrFull, o.Emit(t.Context(), event(4)))
			}
			require.Equal(t, outbox.Stats{Lost: 2, Waiting: 3, Bytes: 30}, o.Stats())
			close(hold)
			synctest.Wait()
			emit(t, o, 5)
			require.NoError(t, o.Close(t.Context()))
			require.Equal(t, []uint32{1, 2, 3, 5}, at.seqs())
			require.Equal(t, outbox.Stats{Sent: 4, Lost: 2}, o.Stats())
		}
	})
}

// What has no encoding is lost, and said so; also what comes after it is sent.
func TestOutbox_NotEncoded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at stored
		no := errors.New("no form")
		o := newBox(t, outbox.Config{
			Encode: func(e *sluice.Event) ([]byte, error) {
				if e.Seq == 2 {
					return nil, no
				}
				return []byte("x"), nil
			},
			Publisher: publisher(func(_ context.Context, list []engine.Event) (int, error) { at.take(list...); return len(list), nil }),
		})
		emit(t, o, 1)
		require.Equal(t, no, o.Emit(t.Context(), event(2)))
		emit(t, o, 3)
		require.NoError(t, o.Close(t.Context()))
		require.Equal(t, []uint32{1, 3}, at.seqs())
		require.Equal(t, outbox.Stats{Sent: 2, Lost: 1}, o.Stats())
	})
}

// A trip ends in time, and with Close, which says what it has given up.
func TestOutbox_CloseGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		trips := 0
		o := newBox(t, outbox.Config{Timeout: time.Second, Publisher: publisher(func(ctx context.Context, list []engine.Event) (int, error) {
			trips++
			<-ctx.Done()
			return 0, ctx.Err()
		})})
		emit(t, o, 1, 2)
		began, left := time.Now(), errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(3*time.Second, func() { cancel(left) })
		err := o.Close(ctx)
		require.ErrorIs(t, err, left)
		require.EqualError(t, err, "outbox: Close: 2 events are lost: enough")
		require.Equal(t, 3*time.Second, time.Since(began))
		require.Equal(t, 3, trips)
		synctest.Wait()
		s := o.Stats()
		require.Equal(t, uint64(2), s.Lost)
		require.Zero(t, s.Waiting+s.Bytes)
		require.NoError(t, o.Close(t.Context()))
	})
}

// Close gives up while the outbox waits to ask again, or while a trip does not end with its context: what that comes to
// then is of no consequence.
func TestOutbox_CloseGivesUpInBetween(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		over, cancel := context.WithCancel(t.Context())
		cancel()
		o := newBox(t, outbox.Config{Publisher: publisher(func(context.Context, []engine.Event) (int, error) { return 0, engine.ErrUnsure })})
		emit(t, o, 1)
		time.Sleep(20 * time.Second)
		require.Error(t, o.Close(over))
		began := time.Now()
		require.NoError(t, o.Close(t.Context()), "its goroutine ends")
		require.Equal(t, began, time.Now())

		hold := make(chan struct{})
		o = newBox(t, outbox.Config{Publisher: publisher(func(_ context.Context, list []engine.Event) (int, error) {
			<-hold
			return len(list), nil
		})})
		emit(t, o, 1, 2)
		synctest.Wait()
		require.Error(t, o.Close(over))
		close(hold)
		require.NoError(t, o.Close(t.Context()))
		require.Equal(t, outbox.Stats{Lost: 2}, o.Stats())
	})
}

// An engine that is back is asked at once when something comes.
func TestOutbox_Back(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []time.Duration
		began := time.Now()
		o := newBox(t, outbox.Config{Publisher: publisher(func(_ context.Context, list []engine.Event) (int, error) {
			if asked = append(asked, time.Since(began)); len(asked)%3 != 0 {
				return 0, engine.ErrUnsure
			}
			return len(list), nil
		})})
		for i := range 3 {
			emit(t, o, uint32(i))
			time.Sleep(time.Minute)
		}
		require.NoError(t, o.Close(t.Context()))
		require.Len(t, asked, 9)
		for i, at := range asked {
			want := time.Duration(i/3)*time.Minute + []time.Duration{0, 50, 150}[i%3]*time.Millisecond
			require.InDelta(t, want, at, 0.2*float64(150*time.Millisecond)+1, "trip %d", i)
		}
	})
}

func TestNew(t *testing.T) {
	p := publisher(func(context.Context, []engine.Event) (int, error) { return 0, nil })
	for _, c := range []struct {
		conf outbox.Config
		want string
	}{
		{outbox.Config{}, "outbox: Config.Publisher is nil: must be an engine's Events()"},
		{outbox.Config{Publisher: p, MaxEvents: -1}, "outbox: Config.MaxEvents is -1: must be zero (10,000) or up to 1073741824"},
		{outbox.Config{Publisher: p, MaxBytes: 1<<30 + 1}, "outbox: Config.MaxBytes is 1073741825: must be zero (16 MiB) or up to 1073741824"},
		{outbox.Config{Publisher: p, Timeout: -1}, "outbox: Config.Timeout is -1ns: must be zero (5 s) or positive"},
	} {
		_, err := outbox.New(c.conf)
		require.EqualError(t, err, c.want)
	}
}

// Calls of many goroutines, an engine with all faults: what is not lost is stored once, in order, and all is counted.
func TestOutbox_Storm(t *testing.T) {
	seed := rand.Uint64()
	t.Log("seed", seed)
	for round := range uint64(20) {
		synctest.Test(t, func(t *testing.T) { storm(t, rand.New(rand.NewPCG(seed, round))) })
	}
}

func storm(t *testing.T, rnd *rand.Rand) {
	inner, err := engine.NewMemory(engine.MemoryConfig{MaxEvents: 100_000})
	require.NoError(t, err)
	x, err := sluicetest.NewChaos(sluicetest.ChaosConfig{Fault: sluicetest.Restarting, Seed: rnd.Uint64(), Open: func() (engine.Engine, error) { return inner, nil }})
	require.NoError(t, err)
	o := newBox(t, outbox.Config{Publisher: x.Events(), MaxEvents: 1 + rnd.IntN(400), Timeout: time.Second})
	var all sync.WaitGroup
	emitted := make([][]uint32, 20) // of each call, without those that were lost
	for i := range emitted {
		pauses := rand.New(rand.NewPCG(rnd.Uint64(), 0))
		all.Go(func() {
			for seq := range uint32(60) {
				e := &sluice.Event{Kind: sluice.ToolStarted, CallKey: sluice.CallKey(i + 1), Seq: seq + 1}
				if o.Emit(context.Background(), e) == nil {
					emitted[i] = append(emitted[i], seq+1)
				}
				if pauses.IntN(3) == 0 {
					time.Sleep(time.Duration(pauses.IntN(1000)) * time.Millisecond)
				}
			}
		})
	}
	all.Wait()
	s := o.Stats()
	require.Equal(t, 20*60, int(s.Sent+s.Lost)+s.Waiting)
	x.Set(sluicetest.Healthy)
	require.NoError(t, o.Close(context.Background()))
	list, _ := inner.Published()
	got := map[string][]uint32{}
	for _, v := range list {
		got[v.CallID] = append(got[v.CallID], v.Seq)
	}
	kept := 0
	for i, want := range emitted {
		require.Equal(t, want, got[sluice.CallKey(i+1).String()], "call %d", i+1)
		kept += len(want)
	}
	require.Equal(t, outbox.Stats{Sent: uint64(kept), Lost: uint64(20*60 - kept)}, o.Stats())
}

func ExampleNew() {
	eng, err := engine.NewMemory(engine.MemoryConfig{}) // or one that others see, as contrib/redis
	if err != nil {
		panic(err)
	}
	box, err := outbox.New(outbox.Config{Publisher: eng.Events()})
	if err != nil {
		panic(err)
	}
	exec, err := sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Sink: box})
	if err != nil {
		panic(err)
	}
	greet, err := sluice.Wrap(exec, sluice.Spec{Name: "greet"}, func(_ context.Context, name string) (string, error) {
		return "hello " + name, nil
	})
	if err != nil {
		panic(err)
	}
	if _, err := greet(context.Background(), "Ada"); err != nil {
		panic(err)
	}
	if err := box.Close(context.Background()); err != nil { // sends what waits
		panic(err)
	}
	list, _ := eng.Published()
	for _, v := range list {
		fmt.Println(v.Seq, v.Type, strings.Contains(string(v.Payload), `"tool_name":"greet"`))
	}
	fmt.Println(box.Stats().Sent, box.Stats().Lost)
	// Output:
	// 1 tool.invoked true
	// 2 tool.started true
	// 3 tool.completed true
	// 3 0
}
