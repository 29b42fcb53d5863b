package bucket

import (
	"math/big"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A unit is what divides both a nanosecond and a token: nothing is rounded.
func TestUnits(t *testing.T) {
	for _, c := range []struct {
		n, per, burst    int64
		scale, one, span int64
		unit             instant // one unit after 0
	}{
		{1, sec, 10, 1, 1e9, 1e10, instant{1, 0}},
		{7, sec, 5, 7, 1e9, 5e9, instant{0, 1}},
		{90_000, minute, 90_000, 3, 2e6, 1.8e11, instant{0, 30_000}},
		{1e12, sec, 2000, 1000, 1, 2000, instant{0, 1e9}},
		{6, 4, 2, 3, 2, 4, instant{0, 2}},
		{1, day, 2, 1, day, 2 * day, instant{1, 0}},
	} {
		r := mustRate(t, c.n, c.per, c.burst)
		one, span := r.Units()
		assert.Equal(t, []int64{c.scale, c.one, c.span}, []int64{r.Scale(), one, span}, "%+v", c)
		assert.Equal(t, c.unit, r.instant(0, 1), "%+v", c)
		assert.Equal(t, r.one, r.instant(0, one), "%+v", c)
		assert.Equal(t, r.span, r.instant(0, span), "%+v", c)
		assert.Equal(t, instant{500, 0}, r.instant(500, 0), "%+v", c)
		assert.Equal(t, instant{507, 0}, r.instant(500, 7*c.scale), "%+v", c)
		for _, base := range []int64{0, 1, 1_800_000_000 * sec} {
			for _, units := range []int64{0, 1, c.scale - 1, c.scale, c.scale + 1, one, span, 1 << 40, 1<<50 - 1} {
				b := Bucket{tat: r.instant(base, units)}
				assert.Equal(t, units, b.FullIn(r, base), "%+v: %d units after %d and back", c, units, base)
			}
		}
	}
}

func TestFullIn(t *testing.T) {
	for _, c := range []struct {
		n, per, burst  int64
		at, take, base int64
		want           int64
	}{
		{1, sec, 10, 0, 3, 0, 3e9},
		{1, sec, 10, 5, 3, 2, 3e9 + 3},
		{1, sec, 10, 0, 3, 3 * sec, 0},
		{1, sec, 10, 0, 3, 3*sec + 1, 0},
		{7, sec, 5, 100, 2, 40, 60*7 + 2e9},
		{7, sec, 5, 100, 7, 100, 7e9},              // in debt
		{7, sec, 5, 0, 1, 142_857_142, 6},          // 142857142 6/7 ns
		{7, sec, 5, 0, 1, 142_857_143, 0},          // before the base
		{90_000, minute, 9, 10, 1, 0, 30 + 2e6},    // 666666 2/3 ns
		{90_000, minute, 9, 0, 1, 666_666, 2},      //
		{1e12, sec, 2000, 3, 1500, 0, 3000 + 1500}, // 1.5 ns
		{1e12, sec, 2000, 3, 1500, 4, 500},
	} {
		r := mustRate(t, c.n, c.per, c.burst)
		var b Bucket
		b.Take(r, c.at, c.take)
		assert.Equal(t, c.want, b.FullIn(r, c.base), "%+v", c)
	}
}

// What a bucket lacks after its rate changed may be no whole number of units. Once it is full it is one.
func TestWhole(t *testing.T) {
	from, to := mustRate(t, 7, sec, 5), mustRate(t, 90_000, minute, 5)
	var b Bucket
	assert.True(t, b.Whole(from, 0), "full")
	b.Take(from, 0, 1)
	assert.True(t, b.Whole(from, 0), "whole tokens")
	b.Reconfigure(from, to, 1)
	require.Equal(t, instant{666_667, 59_580}, b.tat) // 1.986 thirds of a nanosecond
	assert.False(t, b.Whole(to, 1))
	assert.False(t, b.Whole(to, 666_667))
	assert.True(t, b.Whole(to, 666_668), "full")
	b.Take(to, 1, 1)
	assert.False(t, b.Whole(to, 1), "a token more")
	b.Take(to, 2_000_000, 2)
	assert.True(t, b.Whole(to, 2_000_000), "it was full")
	for units := range int64(9) {
		whole := Bucket{tat: to.instant(5, units)}
		assert.True(t, whole.Whole(to, 0), "%d units", units)
	}
}

// Without open charges nothing but the balance changes, and never to more than there was.
func TestTaken(t *testing.T) {
	for _, c := range []struct {
		taken      int64 // at 0, in tokens of a second
		now, units int64 // in seconds
		want       int64 // full at, in seconds
	}{
		{0, 0, 2, 2}, {3, 0, 4, 4}, {3, 1, 5, 5}, {3, 9, 10, 10},
		{3, 0, 3, 3}, {3, 1, 2, 3}, {3, 9, 0, 3}, // no more than is missing anyhow
		{12, 0, 13, 13},
	} {
		for _, base := range []int64{0, -5 * sec} {
			r := mustRate(t, 1, sec, 10)
			var b Bucket
			b.Take(r, 0, c.taken)
			b.Taken(r, c.now*sec, base, c.units*sec-base)
			assert.Equal(t, Bucket{tat: instant{c.want * sec, 0}}, b, "%+v from %d", c, base)
		}
	}
	r := mustRate(t, 7, sec, 5)
	var b Bucket
	b.Taken(r, 11, 10, 7+1e9)
	assert.Equal(t, instant{11 + 142_857_142, 6}, b.tat, "a seventh of a second")
}

// For charges that are open it counts as taken now, or when the bucket had been full in between, as
// taken then.
func TestTaken_WithOpenCharges(t *testing.T) {
	type correction struct{ charge, to, full int64 } // and when the bucket is full then, in seconds
	for name, c := range map[string]struct {
		open       []int64 // tokens, at 0
		now, units int64
		then       []correction // at now
	}{
		"two after one second":      {[]int64{3}, 1, 5, []correction{{0, 0, 3}, {0, 3, 5}, {0, 5, 7}, {0, 1, 3}, {0, 2, 4}}},
		"at once":                   {[]int64{3}, 0, 5, []correction{{0, 0, 2}, {0, 1, 3}, {0, 4, 6}}},
		"full in between":           {[]int64{1}, 5, 7, []correction{{0, 0, 7}, {0, 1, 7}}},
		"full just then":            {[]int64{1}, 1, 3, []correction{{0, 0, 3}, {0, 1, 3}}},
		"no more than is missing":   {[]int64{3}, 1, 3, []correction{{0, 0, 0}, {0, 4, 4}}},
		"less than is missing":      {[]int64{3}, 1, 0, []correction{{0, 2, 2}}},
		"two charges, the first":    {[]int64{2, 1}, 1, 4, []correction{{0, 0, 2}, {1, 0, 2}, {0, 2, 3}}},
		"two charges, the second":   {[]int64{2, 1}, 1, 4, []correction{{1, 0, 3}, {0, 0, 2}}},
		"in debt":                   {[]int64{10, 5}, 2, 17, []correction{{1, 0, 12}, {0, 0, 4}}},
		"one of two is long passed": {[]int64{1, 1}, 4, 5, []correction{{0, 0, 5}, {1, 0, 5}, {1, 1, 5}, {0, 1, 5}}},
	} {
		t.Run(name, func(t *testing.T) {
			r := mustRate(t, 1, sec, 10)
			var b Bucket
			var open []*Charge
			for _, k := range c.open {
				open = append(open, opened(&b, r, 0, k))
			}
			b.Taken(r, c.now*sec, 0, c.units*sec)
			for _, x := range c.then {
				assert.Equal(t, x.to, b.Correct(r, c.now*sec, open[x.charge], x.to, day))
				assert.Equal(t, x.full*sec, b.FullAt(), "%+v: full at", x)
			}
			for _, x := range open {
				b.Close(x)
			}
			assert.False(t, b.book.open())
		})
	}
}

// Also when the bucket had been full in between, more of an open charge is charged as if it had been
// more from its instant on, or dearer.
func TestTaken_MoreOfAnOpenChargeIsCharged(t *testing.T) {
	for _, c := range []struct{ now, units, to, full int64 }{
		{1, 3, 2, 4}, {1, 3, 3, 5}, {5, 7, 6, 8}, {5, 7, 9, 11}, {5, 7, 5, 7}, {5, 6, 10, 11},
	} {
		r := mustRate(t, 1, sec, 10)
		var b Bucket
		x := opened(&b, r, 0, 1)
		b.Taken(r, c.now*sec, 0, c.units*sec)
		b.Correct(r, c.now*sec, x, c.to, day)
		assert.GreaterOrEqual(t, b.FullAt(), c.full*sec, "%+v: full at", c)
	}
}

// pair is a bucket of which others have taken, and its twin of which the same was taken by Open and Take.
type pair struct {
	r       *Rate
	b, twin Bucket
	now     int64
	base    int64
}

func newPair(t *testing.T, rng *rand.Rand) *pair {
	n, per, burst := randomRate(rng)
	p := &pair{r: mustRate(t, n, per, burst), base: rng.Int64N(1000)}
	p.now = p.base
	for range rng.IntN(4) {
		p.take(rng)
		p.pass(rng)
	}
	return p
}

func (p *pair) pass(rng *rand.Rand) {
	if rng.IntN(3) > 0 {
		p.now += rng.Int64N(2 + 2*p.r.one.ns*min(p.r.burst, 20))
	}
}

func (p *pair) take(rng *rand.Rand) {
	k := 1 + rng.Int64N(min(p.r.burst, 20)+1)
	p.twin.Take(p.r, p.now, k)
	if rng.IntN(2) == 0 {
		p.b.Take(p.r, p.now, k)
		return
	}
	for range k {
		p.others()
	}
}

// others has others take a token, and answers when the bucket is full with it.
func (p *pair) others() int64 {
	one, _ := p.r.Units()
	full := max(p.b.FullIn(p.r, p.base), (p.now-p.base)*p.r.Scale()) + one
	p.b.Taken(p.r, p.now, p.base, full)
	return full
}

// late makes a late charge of b and an open one of the twin.
func (p *pair) late() (late, open *Charge) {
	late = new(Charge)
	late.Late(p.r, p.base, p.others())
	return late, opened(&p.twin, p.r, p.now, 1)
}

// few reports whether b's balance can be kept in units.
func (p *pair) few() bool { return p.r.Scale() <= 4096 && p.r.Refill() < 1<<36 }

// A late charge after which nothing is charged is as good as an open one.
func TestLate_AloneIsExact(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng, done := rand.New(rand.NewPCG(seed, 1)), 0
	for range 4000 {
		p := newPair(t, rng)
		if !p.few() {
			continue
		}
		done++
		late, open := p.late()
		for range 1 + rng.IntN(6) {
			p.pass(rng)
			k, debt := rng.Int64N(3), []int64{0, p.r.one.ns, aYear}[rng.IntN(3)]
			if rng.IntN(3) == 0 {
				k = rng.Int64N(2 * min(p.r.burst, 1000))
			}
			got, want := p.b.Correct(p.r, p.now, late, k, debt), p.twin.Correct(p.r, p.now, open, k, debt)
			require.Equal(t, want, got, "%+v: corrected to", p)
			require.Equal(t, want, late.Tokens())
			require.Equal(t, p.twin.tat, p.b.tat, "%+v: full at", p)
			require.Equal(t, p.twin.Tokens(p.r, p.now), p.b.Tokens(p.r, p.now), "%+v: tokens", p)
			require.Equal(t, p.twin.Ready(p.r, p.now, 1), p.b.Ready(p.r, p.now, 1), "%+v: one is ready at", p)
		}
		p.b.Close(late)
		p.twin.Close(open)
		require.Equal(t, p.twin.tat, p.b.tat)
		require.False(t, p.b.book.open())
	}
	require.Greater(t, done, 500)
}

// With later charges it gives back no more than an open one, and what it takes is taken in full.
func TestLate_NeverGivesBackMoreThanAnOpenOne(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng, done, less, same := rand.New(rand.NewPCG(seed, 2)), 0, 0, 0
	for range 6000 {
		p := newPair(t, rng)
		if !p.few() {
			continue
		}
		done++
		late, open := p.late()
		charged := false
		for range 2 + rng.IntN(8) {
			p.pass(rng)
			if rng.IntN(2) == 0 {
				p.take(rng)
				charged = true
			} else {
				k, was := rng.Int64N(3), late.Tokens()
				if rng.IntN(3) == 0 {
					k = rng.Int64N(2 * min(p.r.burst, 20))
				}
				before := p.b.balance(p.r, p.now)
				require.Equal(t, p.twin.Correct(p.r, p.now, open, k, aYear), p.b.Correct(p.r, p.now, late, k, aYear))
				gone := before.Sub(before, p.b.balance(p.r, p.now))
				if charged && k > was {
					require.Zero(t, gone.Cmp(ratOf(k-was)), "%+v: from %d to %d %s were taken", p, was, k, gone)
				}
				if k < was {
					require.LessOrEqual(t, gone.Sign(), 0, "%+v: from %d to %d %s were taken", p, was, k, gone)
				}
			}
			if p.b.tat == p.twin.tat {
				same++
			} else {
				less++
			}
			for _, at := range []int64{p.now, p.now + p.r.one.ns, p.now + p.r.span.ns/2} {
				require.LessOrEqual(t, p.b.Tokens(p.r, at), p.twin.Tokens(p.r, at), "%+v: tokens at %d", p, at)
				require.LessOrEqual(t, p.b.balance(p.r, at).Cmp(p.twin.balance(p.r, at)), 0, "%+v: at %d", p, at)
			}
		}
	}
	require.Greater(t, done, 500)
	require.NotZero(t, less)
	require.NotZero(t, same)
}

func TestLate_ByHand(t *testing.T) {
	for name, c := range map[string]struct {
		take, at int64 // later, in seconds; the late charge is of one at 0, with a burst of 10
		to, now  int64
		full     int64
	}{
		"alone, at once":             {0, 0, 0, 0, 0},
		"alone, half is back":        {0, 0, 0, 1, 0},
		"alone, more":                {0, 0, 4, 0, 4},
		"alone, more, later":         {0, 0, 4, 2, 4}, // from its own instant
		"then two, at once":          {2, 0, 0, 0, 2},
		"then two, later":            {2, 0, 0, 1, 3}, // an open one: 2
		"then two, more":             {2, 0, 4, 0, 6},
		"then two, more, later":      {2, 0, 4, 5, 8}, // taken in full from then on; an open one: 6
		"full in between, less":      {2, 4, 0, 4, 6},
		"full in between, more":      {2, 4, 2, 4, 7}, // an open one: 6
		"then ten, long ago":         {10, 0, 0, 8, 11},
		"then ten, not so long ago ": {10, 0, 0, 1, 11},
	} {
		t.Run(name, func(t *testing.T) {
			r := mustRate(t, 1, sec, 10)
			var b Bucket
			var x Charge
			b.Taken(r, 0, 0, sec)
			x.Late(r, 0, sec)
			if c.take > 0 {
				b.Take(r, c.at*sec, c.take)
			}
			assert.Equal(t, c.to, b.Correct(r, c.now*sec, &x, c.to, day))
			assert.Equal(t, instant{c.full * sec, 0}, b.tat)
			assert.False(t, b.book.open())
		})
	}
}

func TestSettle_GivesNothingBack(t *testing.T) {
	r := mustRate(t, 1, sec, 10)
	var b Bucket
	var x Charge
	b.Taken(r, 0, 0, 3*sec)
	x.Late(r, 0, 3*sec)
	x.Settle(1)
	for _, c := range []struct{ to, got, full int64 }{{0, 1, 3}, {1, 1, 3}, {4, 4, 6}, {2, 4, 6}, {0, 4, 6}, {5, 5, 7}} {
		assert.Equal(t, c.got, b.Correct(r, sec, &x, c.to, day), "%+v", c)
		assert.Equal(t, c.full*sec, b.FullAt(), "%+v: full at", c)
		assert.Equal(t, c.got, x.Tokens())
	}
	b.Close(&x)
	assert.False(t, b.book.open())
}

// What was forgiven is not given back.
func TestForgive_SettlesALateCharge(t *testing.T) {
	r := mustRate(t, 1, sec, 10)
	var b Bucket
	var x, y Charge
	b.Taken(r, 0, 0, sec)
	x.Late(r, 0, sec)
	b.Take(r, 0, 18)
	b.Taken(r, 0, 0, 20*sec)
	y.Late(r, 0, 20*sec)
	b.Forgive(r, sec)
	require.Equal(t, 11*sec, b.FullAt())
	assert.Equal(t, int64(1), b.Correct(r, sec, &y, 0, day))
	assert.Equal(t, 11*sec, b.FullAt(), "of the debt")
	assert.Equal(t, int64(3), b.Correct(r, sec, &y, 3, day))
	assert.Equal(t, 13*sec, b.FullAt(), "two more")
	assert.Equal(t, int64(3), b.Correct(r, sec, &y, 0, day))
	assert.Equal(t, 13*sec, b.FullAt())
}

func ratOf(k int64) *big.Rat { return new(big.Rat).SetInt64(k) }

// A bucket that was full before units began to count, and of which nobody took, has had nothing taken:
// an open charge grows from its own instant.
func TestTaken_NothingOfWhatWasFullBefore(t *testing.T) {
	r, b, c := mustRate(t, 1, sec, 10), new(Bucket), new(Charge)
	b.Open(c, r, 0, 1)
	base := 100 * sec
	b.Taken(r, base+sec, base, b.FullIn(r, base))
	require.Equal(t, int64(3), b.Correct(r, base+sec, c, 3, aYear))
	require.Equal(t, int64(10), b.Tokens(r, base+sec), "three tokens have come in since")
}
