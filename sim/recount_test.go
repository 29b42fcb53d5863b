package sim

import (
	"math/big"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestRecount: what was charged counts from its own instant on, as what it turned out to be.
func TestRecount(t *testing.T) {
	type step struct {
		at     time.Duration
		take   int64 // a charge of so much, or
		charge int64 // the correction of a charge
		to     int64
		want   bool // whether the bucket had so much
	}
	const s, ns = time.Second, time.Nanosecond
	take := func(at time.Duration, n int64, want bool) step { return step{at: at, take: n, want: want} }
	correct := func(charge, to int64) step { return step{charge: charge, to: to} }
	perSecond := func(n, burst int64) sluice.Rate { return sluice.Rate{N: n, Per: s, Burst: burst} }
	for name, x := range map[string]struct {
		rate  sluice.Rate
		steps []step
	}{
		"exactly the burst":               {perSecond(1, 3), []step{take(0, 1, true), take(0, 2, true)}},
		"one above it":                    {perSecond(1, 3), []step{take(0, 1, true), take(0, 3, false)}},
		"exactly when it is due":          {perSecond(1, 1), []step{take(0, 1, true), take(s, 1, true), take(2*s, 1, true)}},
		"a nanosecond before":             {perSecond(1, 1), []step{take(0, 1, true), take(s-ns, 1, false)}},
		"thirds are exact":                {perSecond(3, 1), []step{take(0, 1, true), take(333_333_334, 1, true), take(666_666_667, 1, false)}},
		"a full bucket takes no more":     {perSecond(1, 2), []step{take(time.Hour, 2, true), take(time.Hour, 1, false)}},
		"given back at once":              {perSecond(1, 4), []step{take(0, 4, true), correct(0, 1), take(0, 3, true), take(0, 1, false)}},
		"given back late":                 {perSecond(4, 4), []step{take(0, 4, true), take(60*s-ns, 4, true), correct(0, 0), take(60*s+ns, 4, false)}},
		"given back partly late":          {perSecond(1, 10), []step{take(0, 10, true), take(5*s, 5, true), correct(0, 0), take(6*s, 6, true), take(6*s, 1, false)}},
		"an excess is waited out":         {perSecond(1, 10), []step{take(0, 1, true), correct(0, 15), take(6*s-ns, 1, false)}},
		"and not for longer":              {perSecond(1, 10), []step{take(0, 1, true), correct(0, 15), take(6*s, 1, true)}},
		"an excess that was corrected":    {perSecond(1, 10), []step{take(0, 1, true), correct(0, 1<<40), correct(0, 4), take(0, 6, true), take(0, 1, false)}},
		"a large rate and a long time":    {sluice.Rate{N: 1 << 40, Per: 87600 * time.Hour, Burst: 1 << 50}, []step{take(0, 1<<50, true), take(87600*time.Hour, 1<<40, true), take(87600*time.Hour, 1, false)}},
		"corrected behind a later charge": {perSecond(1, 5), []step{take(0, 5, true), take(s, 1, true), take(2*s, 1, true), correct(1, 0), take(2*s, 1, true), take(2*s, 1, false)}},
	} {
		r := recount{rate: &x.rate}
		for i, c := range x.steps {
			if c.take == 0 {
				r.correct(c.charge, c.to)
				continue
			}
			_, ok := r.take(int64(c.at), c.take, false)
			assert.Equal(t, c.want, ok, "%s: step %d, %d at %v: the bucket had it", name, i, c.take, c.at)
		}
	}
}

// TestRecountIsTheSumOfItsCharges: against tokens counted one by one, from the first charge.
func TestRecountIsTheSumOfItsCharges(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 1))
		rate := sluice.Rate{N: 1 + rng.Int64N(50), Per: time.Duration(1 + rng.Int64N(2e9)), Burst: 1 + rng.Int64N(30)}
		r := recount{rate: &rate}
		type taken struct{ at, amount, id int64 }
		var all []taken
		var open []int
		now := int64(0)
		for range 600 {
			now += rng.Int64N(2 * int64(rate.Per) / rate.N)
			if len(open) > 0 && rng.IntN(2) == 0 {
				i := rng.IntN(len(open))
				c := &all[open[i]]
				c.amount = rng.Int64N(2 * rate.Burst)
				r.correct(c.id, c.amount)
				if rng.IntN(3) > 0 {
					r.close(c.id)
					open[i] = open[len(open)-1]
					open = open[:len(open)-1]
				}
				continue
			}
			amount, final := 1+rng.Int64N(rate.Burst), rng.IntN(3) == 0
			owed, at := new(big.Int), int64(0)
			for _, c := range append(all, taken{now, amount, 0}) {
				came := new(big.Int).Mul(big.NewInt(rate.N), big.NewInt(c.at-at))
				if owed.Sub(owed, came); owed.Sign() < 0 {
					owed.SetInt64(0)
				}
				owed.Add(owed, new(big.Int).Mul(big.NewInt(c.amount), big.NewInt(int64(rate.Per))))
				at = c.at
			}
			want := owed.Cmp(new(big.Int).Mul(big.NewInt(rate.Burst), big.NewInt(int64(rate.Per)))) <= 0
			id, ok := r.take(now, amount, final)
			require.Equal(t, want, ok, "seed %d: %d at %d: the bucket had it", seed, amount, now)
			all = append(all, taken{now, amount, id})
			if !final {
				open = append(open, len(all)-1)
			}
		}
		for _, i := range open {
			r.close(all[i].id)
		}
		if n := len(r.charges); n > 200 {
			t.Errorf("seed %d: %d charges of %d are kept, though all are final", seed, n, len(all))
		}
	}
}
