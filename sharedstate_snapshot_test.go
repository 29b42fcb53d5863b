package sluice

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSnapshotRoundTrip(t *testing.T) {
	type offer struct {
		Shop  string `json:"shop"`
		Price int    `json:"price"`
	}
	synctest.Test(t, func(t *testing.T) {
		s, ctx := newState(t, SharedStateConfig{})
		best, hits, text, none := Key[offer]("best"), Key[int64]("hits"), Key[string]("text"), Key[*offer]("none")
		best.Set(ctx, offer{"a", 1})
		version, _ := best.Set(ctx, offer{"b", 2})
		hits.Set(ctx, 1<<62+1, TTL(time.Minute))
		text.Set(ctx, "x")
		text.Delete(ctx)
		none.Set(ctx, nil)
		Key[float64]("f").Set(ctx, 0.1)
		Key[[]byte]("bytes").Set(ctx, []byte{1, 2})
		data, err := json.Marshal(s)
		require.NoError(t, err)

		time.Sleep(20 * time.Second)
		var back SharedState
		require.NoError(t, json.Unmarshal(data, &back))
		defer back.Close()
		ctx = WithState(ctx, &back)
		for range 2 { // a read does not change what another read sees
			wantValue(t, ctx, best, offer{"b", 2})
			wantValue(t, ctx, Key[float64]("f"), 0.1)
			require.ErrorIs(t, third(Key[string]("best").Get(ctx)), ErrWrongType)
			require.ErrorIs(t, third(Key[int]("f").Get(ctx)), ErrWrongType)
			require.ErrorIs(t, third(Key[int8]("hits").Get(ctx)), ErrWrongType)
			require.ErrorIs(t, third(Key[int]("none").Get(ctx)), ErrWrongType)
			require.NoError(t, third(none.Get(ctx)))
		}
		if v, _, err := Key[[]byte]("bytes").Get(ctx); len(v) != 2 || err != nil {
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
		require.ErrorIs(t, second(Increment(ctx, Key[string2]("hits"), 1)), ErrWrongType)
		if n, err := Increment(ctx, hits, 1); n != 1<<62+2 || err != nil {
			t.Errorf("got %d, %v", n, err)
		}
		if n, err := Key[float64]("f").Update(ctx, func(old float64, ok bool) (float64, error) { return old * 2, nil }); n != 0.2 || err != nil {
			t.Errorf("got %v, %v", n, err)
		}
		require.ErrorIs(t, third(Key[int64]("f").Get(ctx)), ErrWrongType) // typed now
		time.Sleep(40*time.Second - 1)
		require.NoError(t, third(hits.Get(ctx)))
		time.Sleep(time.Nanosecond)
		wantAbsent(t, ctx, hits)
	})
}

type string2 int64

func (s *string2) UnmarshalJSON([]byte) error { return fmt.Errorf("not like this") }

func third[A, B any](_ A, _ B, err error) error { return err }

func TestSnapshotRestoreIsAllOrNothing(t *testing.T) {
	s, ctx := newState(t, SharedStateConfig{MaxKeys: 2, MaxBytes: 10_000})
	k := Key[int]("k")
	version, _ := k.Set(ctx, 1)
	for name, c := range map[string]struct {
		json string
		err  string
	}{
		"no JSON":       {`{"keys":`, "sluice: shared state snapshot: unexpected end of JSON input"},
		"array":         {`[]`, "sluice: shared state snapshot: it is no object"},
		"no value":      {`{"keys":{"a":{"version":1}}}`, `sluice: shared state snapshot: key "a" has no value`},
		"version":       {`{"keys":{"a":{"value":1,"version":1152921504606846977}}}`, `sluice: shared state snapshot: key "a" has version 1152921504606846977 of 0: must be at most 1152921504606846976`},
		"too many keys": {`{"keys":{"a":{"value":1},"b":{"value":1},"c":{"value":1}}}`, "sluice: shared state: full: the write would go over a bound of its SharedState"},
		"too big":       {`{"keys":{"a":{"value":"` + string(make10k()) + `"}}}`, "sluice: shared state: full: the write would go over a bound of its SharedState"},
	} {
		if err := s.UnmarshalJSON([]byte(c.json)); err == nil || err.Error() != c.err {
			t.Errorf("%s: got %v, want %s", name, err, c.err)
		}
		v, now, err := k.Get(ctx)
		assert.Equal(t, 1, v, name)
		assert.Equal(t, version, now, name)
		assert.NoError(t, err, name)
	}
	require.NoError(t, s.UnmarshalJSON([]byte(`{"version":9,"keys":{"a":{"value":1,"version":4},"b":{"value":2,"version":0,"expires":"2001-01-01T00:00:00Z"}}}`)))
	wantAbsent(t, ctx, k)
	wantAbsent(t, ctx, Key[int]("b"))
	if v, version, err := Key[int]("a").Get(ctx); v != 1 || version != 4 || err != nil {
		t.Errorf("got %d, version %d, %v", v, version, err)
	}
	keys, _ := s.view.Scope.Usage()
	assert.Equal(t, 1, keys, "keys are counted")
	if v, _ := k.Set(ctx, 1); v <= 9 {
		t.Errorf("a new key has version %d, want above 9", v)
	}
	require.NoError(t, s.UnmarshalJSON([]byte(`{}`)))
	for range s.List("") {
		t.Error("a key is left after restoring nothing")
	}
}

func make10k() []byte {
	b := make([]byte, 10_000)
	for i := range b {
		b[i] = 'x'
	}
	return b
}

func TestSnapshotThatCannotBe(t *testing.T) {
	s, ctx := newState(t, SharedStateConfig{})
	Key[func()]("f").Set(ctx, func() {})
	_, err := s.MarshalJSON()
	assert.EqualError(t, err, `sluice: shared state key "f": json: unsupported type: func()`)
	// No key can be in the way: none that is not UTF-8 was ever written.
	s.Clear()
	for _, key := range []string{"", "\x00\n\u202e", "\ufffd", "é"} {
		require.NoError(t, second(Key[int](key).Set(ctx, 1)))
	}
	data := Must(s.MarshalJSON())
	back, _ := newState(t, SharedStateConfig{})
	require.NoError(t, back.UnmarshalJSON(data))
	again := Must(back.MarshalJSON())
	assert.Equal(t, string(data), string(again),
		"a snapshot of what a snapshot restored is\n%s, want\n%s", again, data)
}

// A document that is not what MarshalJSON writes is refused, and changes nothing: two
// readers could take it for two things.
func TestSnapshotIsReadStrictly(t *testing.T) {
	const p = "sluice: shared state snapshot: "
	for in, want := range map[string]string{
		`null`:                                                 "it is no object",
		`{"version":1,"version":2}`:                            `it has "version" twice`,
		`{"keys":{},"keys":{"a":{"value":1}}}`:                 `it has "keys" twice`,
		`{"keys":{},"\u006beys":{}}`:                           `it has "keys" twice`,
		`{"Version":1}`:                                        `it has an unknown name "Version": must be "version" or "keys"`,
		`{"keys":{},"note":[{"a":{}}]}`:                        `it has an unknown name "note": must be "version" or "keys"`,
		`{"key\u017f":{}}`:                                     `it has an unknown name "keyſ": must be "version" or "keys"`,
		`{"keys":null}`:                                        "keys is no object",
		`{"version":null}`:                                     "the version is null",
		`{"version":1152921504606846977}`:                      "the version is 1152921504606846977: must be at most 1152921504606846976",
		`{"keys":{"a":null}}`:                                  `key "a" is no object`,
		`{"keys":{"a":{"value":1},"a":{"value":2}}}`:           `keys has "a" twice`,
		`{"keys":{"a":{"value":1},"\u0061":{"value":2}}}`:      `keys has "a" twice`,
		`{"keys":{"a":{"value":1,"value":2}}}`:                 `key "a" has "value" twice`,
		`{"keys":{"a":{"value":1,"Value":2}}}`:                 `key "a" has an unknown name "Value": must be "value", "version" or "expires"`,
		`{"keys":{"a":{"value":1,"ttl":2}}}`:                   `key "a" has an unknown name "ttl": must be "value", "version" or "expires"`,
		`{"keys":{"a":{"value":1,"version":null}}}`:            `version of key "a" is null`,
		`{"keys":{"a":{"value":1,"expires":null}}}`:            `expires of key "a" is null`,
		"{\"keys\":{\"\xff\":{\"value\":1}}}":                  `keys has the name "\ufffd", which is not UTF-8`,
		`{"keys":{"\ud800":{"value":1}}}`:                      `keys has the name "\ufffd", which is not UTF-8`,
		`{"keys":{"` + strings.Repeat("k", 1<<20) + `":{}}}`:   `key "` + strings.Repeat("k", 128) + `…" has no value`,
		`{"version":1` + strings.Repeat("0", 1<<20) + `}`:      "",
		`{"keys":{"a":{"value":1,"expires":"soon\u000anow"}}}`: "",
	} {
		s, ctx := newState(t, SharedStateConfig{})
		k := Key[int]("k")
		version, _ := k.Set(ctx, 1)
		err := s.UnmarshalJSON([]byte(in))
		switch {
		case err == nil:
			t.Errorf("%.100s was taken", in)
		case want != "" && err.Error() != p+strings.ReplaceAll(want, `"\ufffd"`, `"�"`):
			t.Errorf("%.100s:\n got %s\nwant %s%s", in, err, p, want)
		case len(err.Error()) > 1000 || strings.Contains(err.Error(), "\n"):
			t.Errorf("%.100s: the error has %d bytes, and begins %.100q: want one short line", in, len(err.Error()), err)
		}
		if v, now, err := k.Get(ctx); v != 1 || now != version || err != nil {
			t.Errorf("%.100s: the key is %d, version %d, %v: want it untouched", in, v, now, err)
		}
		var zero SharedState
		if err := zero.UnmarshalJSON([]byte(in)); err == nil || zero.view.Store != nil {
			t.Errorf("%.100s made a store of the zero value: %v", in, err)
		}
	}
	// What a value holds is its own affair: whatever could be stored comes back.
	s, ctx := newState(t, SharedStateConfig{})
	odd := Key[json.RawMessage]("odd")
	odd.Set(ctx, json.RawMessage(`{"a":1,"a":"\ud800"}`))
	require.NoError(t, s.UnmarshalJSON(Must(s.MarshalJSON())))
	if v, _, err := odd.Get(ctx); string(v) != `{"a":1,"a":"\ud800"}` || err != nil {
		t.Errorf("got %s, %v", v, err)
	}
	// Versions without the snapshot's own go on above the highest.
	require.NoError(t, s.UnmarshalJSON([]byte(`{"keys":{"a":{"value":1,"version":7}}}`)))
	v, _ := Key[int]("new").Set(ctx, 1)
	assert.Equal(t, uint64(8), v, "a new key has version")
	require.ErrorIs(t, (*SharedState)(nil).UnmarshalJSON([]byte(`{}`)), ErrNoState)
}

func TestSnapshotOfAView(t *testing.T) {
	s, ctx := newState(t, SharedStateConfig{})
	a, b := Must(s.View("a/", SharedStateConfig{})), Must(s.View("b/", SharedStateConfig{}))
	Key[int]("x").Set(WithState(ctx, a), 1)
	Key[int]("y").Set(WithState(ctx, b), 2)
	Key[int]("z").Set(ctx, 3)
	data := Must(a.MarshalJSON())
	require.NoError(t, b.UnmarshalJSON(data))
	got := ""
	for e := range s.List("") {
		got += fmt.Sprintf("%s=%s ", e.Key, Must(json.Marshal(e.Value)))
	}
	assert.Equal(t, "a/x=1 b/x=1 z=3 ", got)
}

// A snapshot shows one instant: money that moves is never seen twice or not at all.
func TestSnapshotIsOneInstant(t *testing.T) {
	s, ctx := newState(t, SharedStateConfig{})
	const accounts, total = 8, 800
	k := func(i int) Key[int] { return Key[int](fmt.Sprint(i)) }
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
					if _, err := Increment(ctx, k(i%accounts), -1); err != nil {
						return err
					}
					_, err := Increment(ctx, k((i*3+1)%accounts), 1)
					return err
				}))
			}
		})
	}
	for range 300 {
		var in struct {
			Keys map[string]struct{ Value json.RawMessage }
		}
		require.NoError(t, json.Unmarshal(Must(s.MarshalJSON()), &in))
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
