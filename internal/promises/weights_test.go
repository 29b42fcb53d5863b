package promises_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/require"
)

// part is a call that takes so much of each pool, for a time.
type part struct {
	Who  string
	Of   map[string]int64
	For  time.Duration
	Then *part // called from inside
}

func byPool(max int) sluice.Limit {
	return sluice.Limit{Max: max, Ordered: true, Scope: sluice.ByWeights("pool", func(c sluice.Call) map[string]int64 { return c.Input.(part).Of })}
}

// pools is a rig with a tool that takes parts, and a log of who starts when.
type pools struct {
	*rig
	log
}

func newPools(t *testing.T, list ...sluice.Interceptor) *pools {
	d := &pools{rig: newRig(t, sluice.Config{Interceptors: list})}
	_, err := sluice.Register(d.reg, sluice.Spec{Name: "take"}, func(ctx context.Context, x part) (int, error) {
		d.add("%s@%d", x.Who, d.at()/time.Second)
		time.Sleep(x.For)
		if x.Then == nil {
			return 0, nil
		}
		_, err := d.Invoke(ctx, sluice.Request{Tool: "take", Input: *x.Then})
		return 0, err
	})
	require.NoError(t, err)
	return d
}

func (d *pools) take(x part) error {
	_, err := d.Invoke(d.ctx, sluice.Request{Tool: "take", Input: x})
	return err
}

// takeAll makes the calls in their order, and waits until all have ended well.
func (d *pools) takeAll(list ...part) {
	wait := inOrder(len(list), func(i int) { require.NoError(d.t, d.take(list[i]), list[i].Who) })
	wait()
}

func (d *pools) sorted() string {
	got := strings.Fields(d.String())
	slices.Sort(got)
	return strings.Join(got, " ")
}

// A call takes its own weight of each key, of all at one instant, in the order in which calls came.
func TestWeights_EachKeyHasItsOwn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := newPools(t, limitsOf(byPool(4)))
		defer d.end()
		d.takeAll(
			part{"a3", map[string]int64{"a": 3}, 5 * sec, nil},
			part{"b4", map[string]int64{"b": 4}, 2 * sec, nil},
			part{"a1b3", map[string]int64{"a": 1, "b": 3, "c": 0, "": 9}, 4 * sec, nil}, // when b is free
			part{"c4", map[string]int64{"c": 4}, sec, nil},
			part{"a1", map[string]int64{"a": 1}, sec, nil}, // there is room at a, but it came later
			part{"b1", map[string]int64{"b": 1}, sec, nil}, // likewise
			part{"a4", map[string]int64{"a": 4}, sec, nil}, // when both are gone
			part{"none", map[string]int64{}, sec, nil},
			part{"nil", nil, sec, nil},
		)
		require.Equal(t, "a1@5 a1b3@2 a3@0 a4@6 b1@2 b4@0 c4@0 nil@0 none@0", d.sorted())
	})
}

// A nested call runs on what its ancestors hold if that is enough: of whoever holds the most of those that
// lend it. Else it waits for what it needs beside that, or is refused where it would wait for itself.
func TestWeights_ANestedCallNeedsEnough(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := newPools(t, limitsOf(byPool(4)))
		defer d.end()
		of := func(n int64) map[string]int64 { return map[string]int64{"a": n} }
		for _, x := range []struct {
			outer, inner, innermost int64
			refused                 bool
		}{
			{4, 4, 4, false}, {4, 1, 4, false}, {2, 1, 2, false}, {1, 3, 3, false}, {1, 2, 1, false},
			{1, 4, 1, true}, {2, 1, 3, true}, {2, 3, 1, true}, {3, 2, 4, true}, {1, 2, 3, true},
		} {
			who := fmt.Sprint(x.outer, x.inner, x.innermost)
			innermost := part{who + "c", of(x.innermost), sec, nil}
			inner := part{who + "b", of(x.inner), sec, &innermost}
			err := d.take(part{who + "a", of(x.outer), sec, &inner})
			if !x.refused {
				require.NoError(t, err, who)
				continue
			}
			require.ErrorIs(t, err, sluice.ErrNesting, who)
			require.ErrorContains(t, err, "concurrency per pool", who)
		}
		for _, g := range d.Snapshot().Gates {
			require.Zero(t, g.Used)
		}
	})
}

// A nested call that needs more than its ancestor holds waits for others, in line, and is refused at the
// instant at which only its ancestors are left.
func TestWeights_ANestedCallWaitsForOthersAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := newPools(t, limitsOf(byPool(4)))
		defer d.end()
		one := map[string]int64{"a": 1}
		all := part{"writes", map[string]int64{"a": 4}, sec, nil}
		wait := inOrder(4, func(i int) {
			switch i {
			case 0:
				err := d.take(part{"outer", one, sec, &all})
				require.ErrorIs(t, err, sluice.ErrNesting)
				require.NotErrorIs(t, err, sluice.ErrRejected, "its own code ran")
				require.Equal(t, 5*sec, d.at())
			case 1:
				require.NoError(t, d.take(part{"reads", one, 5 * sec, nil}))
			case 2:
				require.NoError(t, d.take(part{"next", map[string]int64{"a": 4}, sec, nil}))
			case 3:
				require.NoError(t, d.take(part{"last", one, sec, nil}))
			}
		})
		wait()
		require.Equal(t, "outer@0 reads@0 next@5 last@6", d.String())
	})
}

// What cannot be a weight refuses the call, and so does what is wider than the limit.
func TestWeights_WhatIsWrongRefuses(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := newPools(t, limitsOf(byPool(4)))
		defer d.end()
		many := map[string]int64{}
		for i := range 65 {
			many[fmt.Sprint(i)] = 1
		}
		for says, x := range map[string]struct {
			of     map[string]int64
			reason error
		}{
			"the weight of a key is negative: must not be": {map[string]int64{"a": 1, "b": -1}, sluice.ErrInvalidArguments},
			"the call has 65 keys: must have at most 64":   {many, sluice.ErrInvalidArguments},
			"key has 1025 bytes: must have at most 1024":   {map[string]int64{strings.Repeat("x", 1025): 1}, sluice.ErrInvalidArguments},
			"saturated by concurrency per pool":            {map[string]int64{"a": 1, "b": 5}, sluice.ErrSaturated},
		} {
			err := d.take(part{"none", x.of, sec, nil})
			require.ErrorIs(t, err, x.reason, says)
			require.ErrorIs(t, err, sluice.ErrRejected, says)
			require.ErrorContains(t, err, says)
		}
		require.Empty(t, d.String())
		require.NoError(t, d.take(part{"widest", map[string]int64{"a": 4}, 0, nil}))
	})
}

func TestWeights_Config(t *testing.T) {
	weights := func(sluice.Call) map[string]int64 { return map[string]int64{"b": 2, "": 1, "a": 1, "c": 0} }
	for _, x := range []struct {
		conf func() error
		says string
	}{
		{func() error {
			_, err := sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1, Unit: "parts", Scope: sluice.ByWeights("pool", weights)}}})
			return err
		}, `sluice: ConcurrencyLimiterConfig.Limits[0].Unit is "parts" with ByWeights("pool"): must be empty, the keys have their weights`},
		{func() error {
			_, err := sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1, Scope: sluice.ByWeights("pool", nil)}}})
			return err
		}, `sluice: ConcurrencyLimiterConfig.Limits[0].Scope is ByWeights("pool") with a nil function: must not be nil`},
		{func() error {
			_, err := sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1, Scope: sluice.ByWeights("", weights)}}})
			return err
		}, `sluice: ConcurrencyLimiterConfig.Limits[0].Scope is ByWeights without a name: must have one`},
		{func() error {
			_, err := sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ByWeights("pool", weights), Rates: []sluice.Rate{{N: 1}}})
			return err
		}, `sluice: RateLimiterConfig.Scope is ByWeights("pool"): must have one key for each call, only Limit.Scope may be ByWeights`},
		{func() error {
			_, err := sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Scope: sluice.ByKeys("file", filesOf)})
			return err
		}, `sluice: CircuitBreakerConfig.Scope is ByKeys("file"): must have one key for each call, only Limit.Scope may be ByKeys`},
	} {
		require.EqualError(t, x.conf(), x.says)
	}
	s := sluice.ByWeights("pool", weights)
	key, counts := s.Key(sluice.Spec{}, sluice.Call{})
	require.Equal(t, "a, b true per pool", fmt.Sprintf("%s %v %v", key, counts, s))
	require.True(t, s == s && s != sluice.ByWeights("pool", weights), "==")
}

// Calls that name no key go beside the lock as if the limit were not there; those that do keep its order, and
// one that panics in the function is refused.
func TestWeights_CallsWithoutKeys(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := byPool(1)
		of := l.Scope
		l.Scope = sluice.ByWeights("pool", func(c sluice.Call) map[string]int64 {
			if c.Input.(part).Who == "panics" {
				panic("no")
			}
			key, _ := of.Key(sluice.Spec{}, c)
			if key == "" {
				return nil
			}
			return map[string]int64{key: 1}
		})
		d := newPools(t, limitsOf(l, sluice.Limit{Max: 3}))
		defer d.end()
		for range 20 { // known by then
			require.NoError(t, d.take(part{"warm", nil, 0, nil}))
		}
		a := map[string]int64{"a": 1}
		wait := inOrder(6, func(i int) {
			err := d.take([]part{
				{"a1", a, 2 * sec, nil}, {"none", nil, 3 * sec, nil}, {"a2", a, 2 * sec, nil}, {"panics", nil, 0, nil}, {"none", nil, 3 * sec, nil}, {"none", nil, sec, nil},
			}[i])
			if i == 3 {
				var p *sluice.PanicError
				require.True(t, errors.As(err, &p) && errors.Is(err, sluice.ErrRejected), "%v", err)
				return
			}
			require.NoError(t, err)
		})
		wait()
		require.Equal(t, "a1@0 none@0 none@0 a2@2 none@3", strings.TrimSpace(strings.ReplaceAll(d.String(), "warm@0", "")))
	})
}
