package promises_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSnapshotRoundTrip(t *testing.T) {
	type offer struct {
		Shop  string `json:"shop"`
		Price int    `json:"price"`
	}
	synctest.Test(t, func(t *testing.T) {
		s, ctx := newState(t, sluice.SharedStateConfig{})
		best, hits, text, none := sluice.Key[offer]("best"), sluice.Key[int64]("hits"), sluice.Key[string]("text"), sluice.Key[*offer]("none")
		best.Set(ctx, offer{"a", 1})
		version, _ := best.Set(ctx, offer{"b", 2})
		hits.Set(ctx, 1<<62+1, sluice.TTL(time.Minute))
		text.Set(ctx, "x")
		text.Delete(ctx)
		none.Set(ctx, nil)
		sluice.Key[float64]("f").Set(ctx, 0.1)
		sluice.Key[[]byte]("bytes").Set(ctx, []byte{1, 2})
		data, err := json.Marshal(s)
		require.NoError(t, err)

		time.Sleep(20 * time.Second)
		var back sluice.SharedState
		require.NoError(t, json.Unmarshal(data, &back))
		defer back.Close()
		ctx = sluice.WithState(ctx, &back)
		for range 2 { // a read does not change what another read sees
			wantValue(t, ctx, best, offer{"b", 2})
			wantValue(t, ctx, sluice.Key[float64]("f"), 0.1)
			require.ErrorIs(t, third(sluice.Key[string]("best").Get(ctx)), sluice.ErrWrongType)
			require.ErrorIs(t, third(sluice.Key[int]("f").Get(ctx)), sluice.ErrWrongType)
			require.ErrorIs(t, third(sluice.Key[int8]("hits").Get(ctx)), sluice.ErrWrongType)
			require.ErrorIs(t, third(sluice.Key[int]("none").Get(ctx)), sluice.ErrWrongType)
			require.NoError(t, third(none.Get(ctx)))
		}
		if v, _, err := sluice.Key[[]byte]("bytes").Get(ctx); len(v) != 2 || err != nil {
			t.Errorf("got %v, %v", v, err)
		}
		for e := range back.List("best") {
			if raw, ok := e.Value.(json.RawMessage); !ok || string(raw) != `{"shop":"b","price":2}` {
				t.Errorf("List shows %v (%T)", e.Value, e.Value)
			}
		}
		// Versions go on: a swap from before the snapshot still fits, and no new key
		// gets a version that an old one had.
		next, err := best.CompareAndSwap(ctx, version, offer{"c", 3})
		if err != nil || next <= version {
			t.Errorf("got version %d, %v; want above %d", next, err, version)
		}
		if v, err := text.Set(ctx, "y"); v < 3 || err != nil {
			t.Errorf("a deleted key came back with version %d, %v; it had 1 and 2", v, err)
		}
		require.ErrorIs(t, second(sluice.Increment(ctx, sluice.Key[string2]("hits"), 1)), sluice.ErrWrongType)
		if n, err := sluice.Increment(ctx, hits, 1); n != 1<<62+2 || err != nil {
			t.Errorf("got %d, %v", n, err)
		}
		if n, err := sluice.Key[float64]("f").Update(ctx, func(old float64, ok bool) (float64, error) { return old * 2, nil }); n != 0.2 || err != nil {
			t.Errorf("got %v, %v", n, err)
		}
		require.ErrorIs(t, third(sluice.Key[int64]("f").Get(ctx)), sluice.ErrWrongType) // typed now
		time.Sleep(40*time.Second - 1)
		require.NoError(t, third(hits.Get(ctx)))
		time.Sleep(time.Nanosecond)
		wantAbsent(t, ctx, hits)
	})
}

type string2 int64

func (s *string2) UnmarshalJSON([]byte) error { return fmt.Errorf("not like this") }

func TestSnapshotThatCannotBeIsAnError(t *testing.T) {
	s, ctx := newState(t, sluice.SharedStateConfig{})
	sluice.Key[func()]("f").Set(ctx, func() {})
	_, err := s.MarshalJSON()
	assert.EqualError(t, err, `sluice: shared state key "f": json: unsupported type: func()`)
	// No key can be in the way: none that is not UTF-8 was ever written.
	s.Clear()
	for _, key := range []string{"", "\x00\n\u202e", "\ufffd", "é"} {
		require.NoError(t, second(sluice.Key[int](key).Set(ctx, 1)))
	}
	data := sluice.Must(s.MarshalJSON())
	back, _ := newState(t, sluice.SharedStateConfig{})
	require.NoError(t, back.UnmarshalJSON(data))
	again := sluice.Must(back.MarshalJSON())
	assert.Equal(t, string(data), string(again),
		"a snapshot of what a snapshot restored is\n%s, want\n%s", again, data)
}

func TestSnapshotOfAViewHasItsKeysAlone(t *testing.T) {
	s, ctx := newState(t, sluice.SharedStateConfig{})
	a, b := sluice.Must(s.View("a/", sluice.SharedStateConfig{})), sluice.Must(s.View("b/", sluice.SharedStateConfig{}))
	sluice.Key[int]("x").Set(sluice.WithState(ctx, a), 1)
	sluice.Key[int]("y").Set(sluice.WithState(ctx, b), 2)
	sluice.Key[int]("z").Set(ctx, 3)
	data := sluice.Must(a.MarshalJSON())
	require.NoError(t, b.UnmarshalJSON(data))
	got := ""
	for e := range s.List("") {
		got += fmt.Sprintf("%s=%s ", e.Key, sluice.Must(json.Marshal(e.Value)))
	}
	assert.Equal(t, "a/x=1 b/x=1 z=3 ", got)
}

// A snapshot shows one instant: money that moves is never seen twice or not at all.
func TestSnapshotIsOneInstant(t *testing.T) {
	s, ctx := newState(t, sluice.SharedStateConfig{})
	const accounts, total = 8, 800
	k := func(i int) sluice.Key[int] { return sluice.Key[int](fmt.Sprint(i)) }
	for i := range accounts {
		k(i).Set(ctx, total/accounts)
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for g := range 2 {
		wg.Go(func() {
			for i := g; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				assert.NoError(t, s.Txn(ctx, func(ctx context.Context) error {
					if _, err := sluice.Increment(ctx, k(i%accounts), -1); err != nil {
						return err
					}
					_, err := sluice.Increment(ctx, k((i*3+1)%accounts), 1)
					return err
				}))
			}
		})
	}
	for range 300 {
		var in struct {
			Keys map[string]struct{ Value json.RawMessage }
		}
		require.NoError(t, json.Unmarshal(sluice.Must(s.MarshalJSON()), &in))
		sum := 0
		for _, e := range in.Keys {
			var n int
			json.Unmarshal(e.Value, &n)
			sum += n
		}
		require.Equal(t, total, sum, "a snapshot shows")
	}
	close(stop)
	wg.Wait()
}
