package sluiceredis_test

import (
	"testing"
	"time"

	sluiceredis "github.com/sluice-go/sluice/contrib/redis"
	"github.com/sluice-go/sluice/engine"
	"github.com/stretchr/testify/require"
)

// TestTrips: a draw of one meter is one trip, also of one that nobody has drawn from, cold or
// not, once the engine has had its data for as long as a refill.
func TestTrips(t *testing.T) {
	m, c := mini(t)
	e := open(t, sluiceredis.Config{Client: c, NoEviction: true})
	now := time.UnixMicro(1_800_000_000_000_000)
	m.SetTime(now)
	take := func(meter engine.Meter, named bool) int {
		d := engine.Draw{Meters: []engine.Meter{meter}, Min: 1, Max: 4}
		if named {
			d.Op = engine.NewOpID()
		}
		before := m.CommandCount()
		g, err := e.Quota().Take(t.Context(), d)
		require.NoError(t, err)
		require.LessOrEqual(t, g.Units, int64(4))
		return m.CommandCount() - before
	}
	meter := func(key string, cold bool) engine.Meter {
		return engine.Meter{Key: key, N: 10, Per: time.Second, Burst: 10, Cold: cold}
	}
	take(meter("scripts", true), false) // the server learns the scripts
	one := take(meter("a", false), false)
	more := one + 2 // with what a script says, which is counted: a name to keep, a birth to read
	require.LessOrEqual(t, take(meter("a", false), true), more, "of one that is there")
	require.LessOrEqual(t, take(meter("b", false), true), more, "of a new one")
	young := take(meter("c", true), false)
	require.Greater(t, young, more, "of a new one that is cold, when the engine began just now")
	m.SetTime(now.Add(time.Second + time.Microsecond))
	require.LessOrEqual(t, take(meter("d", true), false), more, "of one that is full by now")
	require.LessOrEqual(t, take(meter("d", true), true), more)
	g, err := e.Quota().Take(t.Context(), engine.Draw{Meters: []engine.Meter{meter("e", true)}, Max: 99})
	require.NoError(t, err)
	require.Equal(t, int64(10), g.Units)
}

// TestCold: a cold meter is as full as it has come to be since the engine's data began, by
// either script.
func TestCold(t *testing.T) {
	m, c := mini(t)
	e := open(t, sluiceredis.Config{Client: c, NoEviction: true})
	now := time.UnixMicro(1_800_000_000_000_000)
	m.SetTime(now)
	_, _, err := e.Epoch(t.Context())
	require.NoError(t, err)
	for i, ms := range []int64{0, 99, 100, 450, 999, 1000, 5000} {
		m.SetTime(now.Add(time.Duration(ms) * time.Millisecond))
		want := min(10, ms/100)
		for j, take := range []func(engine.Draw) (engine.Grant, error){
			func(d engine.Draw) (engine.Grant, error) { return e.Quota().Take(t.Context(), d) },
			func(d engine.Draw) (engine.Grant, error) { return e.TakeGeneral(t.Context(), d) },
		} {
			g, err := take(engine.Draw{Meters: []engine.Meter{{Key: string(rune('a'+i)) + string(rune('0'+j)), N: 10, Per: time.Second, Cold: true}}, Max: 99})
			require.NoError(t, err)
			require.Equal(t, want, g.Units, "after %d ms", ms)
		}
	}
}

// TestClockBack: a server whose clock is set back gives no tokens for that, and does not stop.
func TestClockBack(t *testing.T) {
	m, c := mini(t)
	e := open(t, sluiceredis.Config{Client: c, NoEviction: true})
	now := time.UnixMicro(1_800_000_000_000_000)
	meter := engine.Meter{Key: "m", N: 10, Per: time.Second}
	take := func(after time.Duration) int64 {
		m.SetTime(now.Add(after))
		g, err := e.Quota().Take(t.Context(), engine.Draw{Meters: []engine.Meter{meter}, Max: 99})
		require.NoError(t, err)
		return g.Units
	}
	require.Equal(t, int64(10), take(0))
	require.Equal(t, int64(0), take(-time.Hour))
	require.Equal(t, int64(0), take(-time.Hour+99*time.Millisecond))
	require.Equal(t, int64(1), take(-time.Hour+100*time.Millisecond))
	require.Equal(t, int64(0), take(-time.Hour+10*time.Millisecond), "a little: it stands still")
	require.Equal(t, int64(1), take(-time.Hour+200*time.Millisecond))
}

// TestAnotherRate: processes that come with different rates, in turn, get what has come in,
// and nothing twice.
func TestAnotherRate(t *testing.T) {
	m, c := mini(t)
	e := open(t, sluiceredis.Config{Client: c, NoEviction: true})
	now := time.UnixMicro(1_800_000_000_000_000)
	slow := engine.Meter{Key: "m", N: 3, Per: time.Second, Burst: 5}
	fast := engine.Meter{Key: "m", N: 7, Per: time.Second, Burst: 9}
	got := int64(0)
	const step, steps = 10 * time.Millisecond, 2000
	for i := range steps {
		m.SetTime(now.Add(time.Duration(i) * step))
		meter := slow
		if i%2 == 1 {
			meter = fast
		}
		g, err := e.Quota().Take(t.Context(), engine.Draw{Meters: []engine.Meter{meter}, Max: 99})
		require.NoError(t, err)
		got += g.Units
	}
	// A step at each rate in turn, from the burst of the first: 5 a second.
	most := 5 + int64(5*step.Seconds()*steps)
	require.LessOrEqual(t, got, most)
	require.GreaterOrEqual(t, got, most-2)
}
