package sluiceredis_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	sluiceredis "github.com/sluice-go/sluice/contrib/redis"
	"github.com/sluice-go/sluice/engine"
	"github.com/stretchr/testify/require"
)

// bucket is a meter worked out anew for each question from all that happened to it: at every
// instant it is what it would be had each Take been its present amount from its own on. In
// microseconds, and in parts of a token of which per make one.
type bucket struct {
	n, per, burst int64
	charges       []charge
}

type charge struct{ at, tokens int64 }

// level is what is there at now, in parts.
func (b *bucket) level(now int64) int64 {
	full := b.burst * b.per
	level, last := full, int64(0)
	for i, c := range b.charges {
		if i == 0 {
			last = c.at
		}
		if c.at > now {
			break
		}
		level, last = min(full, level+(c.at-last)*b.n), c.at
		level -= c.tokens * b.per
	}
	return min(full, level+(now-last)*b.n)
}

// TestScriptsAreAModel: random Takes, named and not, corrections, late ones too, and bookings
// of small amounts, on both scripts, against a bucket that remembers everything. What the
// scripts grant is never more than it allows; and the same, as long as few of them have names.
func TestScriptsAreAModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for round := range 24 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			t.Parallel()
			replay(t, rand.New(rand.NewPCG(seed, uint64(round))), round%2 == 0)
		})
	}
}

func replay(t *testing.T, rnd *rand.Rand, few bool) {
	m, c := mini(t)
	e := open(t, sluiceredis.Config{Client: c, NoEviction: true})
	now := int64(1_800_000_000_000_000)
	set := func(by int64) {
		now += by
		m.SetTime(time.UnixMicro(now))
	}
	set(0)
	b := &bucket{n: 1 + rnd.Int64N(9), per: 1 + rnd.Int64N(5000), burst: 1 + rnd.Int64N(40)}
	g := gcd(b.n, b.per)
	b.n, b.per = b.n/g, b.per/g
	meter := engine.Meter{Key: "m", N: b.n, Per: time.Duration(b.per) * time.Microsecond, Burst: b.burst}
	token := b.per/b.n + 1
	type named struct {
		op     engine.OpID
		charge int
		said   int64
	}
	var names []named
	pace := int64(3)
	for step := range 250 {
		set(rnd.Int64N(pace * token))
		if rnd.IntN(30) == 0 { // it waits, and goes on quicker or slower
			pace = 1 + rnd.Int64N(4)
			set(rnd.Int64N(2 * b.burst * token))
		}
		there := b.level(now)
		tokens := there / b.per
		if there < 0 {
			tokens = -((-there + b.per - 1) / b.per)
		}
		switch {
		case len(names) > 0 && rnd.IntN(3) == 0:
			recent := min(len(names), 1+rnd.IntN(1+rnd.IntN(40)))
			x := &names[len(names)-recent]
			delta := rnd.Int64N(2*b.burst+1) - b.burst
			if !few && rnd.IntN(2) == 0 {
				delta = -b.charges[x.charge].tokens // all of it
			}
			at := &b.charges[x.charge]
			x.said += delta
			k := max(0, min(x.said, at.tokens+max(0, delta)))
			at.tokens = k
			require.NoError(t, e.Quota().Settle(t.Context(), engine.OpID{}, []engine.Correction{{Of: x.op, Meter: meter, Delta: delta}}))
		default:
			d := engine.Draw{Meters: []engine.Meter{meter}, Min: 1 + rnd.Int64N(1+rnd.Int64N(b.burst))}
			d.Max = d.Min + rnd.Int64N(1+rnd.Int64N(b.burst))
			if rnd.IntN(3) == 0 {
				d.Keep = rnd.Int64N(b.burst - d.Min + 1)
			}
			if !few || len(names) < 4 {
				if rnd.IntN(2) == 0 {
					d.Op = engine.NewOpID()
				}
			}
			take := e.Quota().Take
			if rnd.IntN(2) == 0 {
				take = e.TakeGeneral
			}
			g, err := take(t.Context(), d)
			require.NoError(t, err)
			want := max(0, min(d.Max, tokens-d.Keep))
			if want < d.Min {
				want = 0
			}
			if few {
				require.Equal(t, want, g.Units, "step %d: %d to %d, keep %d, of %d that are there", step, d.Min, d.Max, d.Keep, tokens)
			} else {
				require.LessOrEqual(t, g.Units, max(0, tokens-d.Keep), "step %d: %d to %d, keep %d, of %d that are there", step, d.Min, d.Max, d.Keep, tokens)
			}
			if want > 0 || g.Units > 0 {
				b.charges = append(b.charges, charge{at: now, tokens: g.Units})
				if !d.Op.IsZero() && g.Units > 0 {
					names = append(names, named{d.Op, len(b.charges) - 1, g.Units})
				}
			}
		}
	}
	set(200 * b.burst * token)
	g2, err := e.Quota().Take(t.Context(), engine.Draw{Meters: []engine.Meter{meter}, Min: 1, Max: 2 * b.burst})
	require.NoError(t, err)
	require.Equal(t, b.burst, g2.Units, "after a long rest")
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// TestFractionsAreSlower: what a rate is counted by is the rate, or slower by next to nothing.
func TestFractionsAreSlower(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 20_000 {
		n, p := 1+rnd.Int64N(1<<rnd.IntN(50)), 1+rnd.Int64N(1<<rnd.IntN(46))
		a, b := sluiceredis.Fraction(n, p)
		require.Positive(t, a)
		require.LessOrEqual(t, float64(a)*float64(b), float64(1<<52), "%d/%d", n, p)
		if b > 1 || n%p == 0 {
			exact := float64(n) / float64(p)
			require.LessOrEqual(t, float64(a)/float64(b), exact*(1+1e-15), "%d/%d is %d/%d", n, p, a, b)
			require.InEpsilon(t, exact, float64(a)/float64(b), 1e-9, "%d/%d is %d/%d", n, p, a, b)
		}
	}
}

// TestNeighboursGiveBackNoMore: charges that share an entry of the book give back no more
// than time has left of them: between the fourth and the fifth the bucket would have been
// full, had the others not been.
func TestNeighboursGiveBackNoMore(t *testing.T) {
	for name, general := range map[string]bool{"one meter": false, "general": true} {
		t.Run(name, func(t *testing.T) {
			m, c := mini(t)
			e := open(t, sluiceredis.Config{Client: c, NoEviction: true})
			now := time.UnixMicro(1_800_000_000_000_000)
			m.SetTime(now)
			meter := engine.Meter{Key: "m", N: 1, Per: time.Millisecond, Burst: 1000}
			take := func(k int64) engine.OpID {
				d := engine.Draw{Op: engine.NewOpID(), Meters: []engine.Meter{meter}, Min: k}
				draw := e.Quota().Take
				if general {
					draw = e.TakeGeneral
				}
				g, err := draw(t.Context(), d)
				require.NoError(t, err)
				require.Equal(t, k, g.Units)
				return d.Op
			}
			back := func(op engine.OpID, k int64) {
				require.NoError(t, e.Quota().Settle(t.Context(), engine.OpID{}, []engine.Correction{{Of: op, Meter: meter, Delta: -k}}))
			}
			var ops []engine.OpID
			for range 4 {
				ops = append(ops, take(150))
			}
			m.SetTime(now.Add(100 * time.Millisecond))
			last := take(100)
			for _, op := range ops {
				back(op, 150) // of the last 50 are left: 950 were there, and 1000 is all
			}
			g, err := e.Quota().Take(t.Context(), engine.Draw{Meters: []engine.Meter{meter}, Max: 2000})
			require.NoError(t, err)
			require.Equal(t, int64(900), g.Units)
			back(last, 100) // it shares the entry of the fourth: at least nothing too much
			g, err = e.Quota().Take(t.Context(), engine.Draw{Meters: []engine.Meter{meter}, Max: 2000})
			require.NoError(t, err)
			require.LessOrEqual(t, g.Units, int64(100))
		})
	}
}
