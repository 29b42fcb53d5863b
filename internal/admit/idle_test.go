package admit

import (
	"testing"

	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A key that falls idle sooner than was known makes room then, whatever other keys remember.
func TestIdle_SoonerThanWasKnown(t *testing.T) {
	hour := 3600 * sec
	t.Run("a pause is ended", func(t *testing.T) {
		w := newWorld(t, standard())
		k := w.rate("rate", 0, 1, sec, 1)
		k.MaxKeys = 2
		a, b := w.m.Cell(w.now, k, "a"), w.m.Cell(w.now, k, "b")
		w.m.Pause(w.now, a, 2*hour)
		w.m.Pause(w.now, b, hour)
		require.Nil(t, w.m.Cell(w.now, k, "c"), "a paused key made room")
		w.m.Pause(w.now, a, 0)
		w.at(ramp)
		if w.m.Cell(w.now, k, "c") == nil || k.Lookup("a") != nil || k.Lookup("b") != b {
			t.Error("the key whose pause has been ended made no room")
		}
	})
	t.Run("a breaker remembers for less long", func(t *testing.T) {
		w := newWorld(t, standard())
		long, short := breaker.Config{Failures: 1, Cooldown: 9 * hour, Window: 9 * hour}, breaker.Config{Failures: 1, Cooldown: sec, Window: sec}
		k := circuit("breaker", long)
		k.MaxKeys = 1
		call := w.arrive("call", 0, "", part{k, "a", 1})
		w.ended(call, breaker.Failure)
		w.sees("call")
		require.Nil(t, w.m.Cell(w.now, k, "b"), "an open breaker made room")
		w.m.SetBreaker(w.now, k, &short)
		if at := w.m.Cell(w.now, k, "a").idleFrom; at != 10*hour { // what has begun ends as it would have
			t.Errorf("it is idle from %d on, want %d", at, 10*hour)
		}
	})
}

// A table of keys that are all in use is not looked through again for every new one.
func TestIdle_BusyTablesAreNotSearched(t *testing.T) {
	w := newWorld(t, standard())
	k := circuit("breaker", breaker.Config{Failures: 5})
	k.MaxKeys = 50
	for i := range k.MaxKeys {
		call := w.arrive("call", 0, "", part{k, string(rune('A' + i)), 1})
		w.ended(call, breaker.Failure)
		w.sees("call")
	}
	w.m.Trip(w.now, w.m.Cell(w.now, k, "A"), "me")
	require.Nil(t, w.m.Cell(w.now, k, "new"), "a breaker that counts failures made room")
	top, at := k.idle.Top(), k.idle.Min()
	for range 1000 {
		w.at(w.now + 1)
		require.Nil(t, w.m.Cell(w.now, k, "new"), "a breaker that counts failures made room")
		require.Same(t, top, k.idle.Top(), "the table was looked through again")
		require.Equal(t, at, k.idle.Min(), "the table was looked through again")
	}
	w.at(3600 * sec)
	require.NotNil(t, w.m.Cell(w.now, k, "new"),
		"failures were not forgotten after an hour, or a tripped breaker was")
	assert.NotNil(t, k.Lookup("A"), "failures were not forgotten after an hour, or a tripped breaker was")
}
