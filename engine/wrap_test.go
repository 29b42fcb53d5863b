package engine_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/sluicetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// quotaFunc is a Quota that a test writes down.
type quotaFunc func(ctx context.Context, d engine.Draw) (engine.Grant, error)

func (f quotaFunc) Take(ctx context.Context, d engine.Draw) (engine.Grant, error)  { return f(ctx, d) }
func (f quotaFunc) Settle(context.Context, engine.OpID, []engine.Correction) error { return nil }
func (f quotaFunc) Hold(context.Context, engine.Meter, time.Duration) error        { return nil }

// after is q, each call d later.
func after(d time.Duration, q engine.Quota) quotaFunc {
	return func(ctx context.Context, draw engine.Draw) (engine.Grant, error) {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			return q.Take(ctx, draw)
		case <-ctx.Done():
			return engine.Grant{}, ctx.Err()
		}
	}
}

func memory(t testing.TB) *engine.Memory {
	t.Helper()
	m, err := engine.NewMemory(engine.MemoryConfig{})
	require.NoError(t, err)
	t.Cleanup(func() { m.Close() })
	return m
}

// must is v, of a constructor that has to succeed.
func must[V interface{ Close() error }](t testing.TB, v V, err error) V {
	t.Helper()
	require.NoError(t, err)
	t.Cleanup(func() { v.Close() })
	return v
}

func combine(t testing.TB, q engine.Quota, c engine.CombineConfig) *engine.Combine {
	b, err := engine.NewCombine(q, c)
	return must(t, b, err)
}

func fallback(t testing.TB, q engine.Quota, c engine.FallbackConfig) *engine.Fallback {
	f, err := engine.NewFallback(q, c)
	return must(t, f, err)
}

func audit(t testing.TB, q engine.Quota) *engine.Audit {
	t.Helper()
	a, err := engine.NewAudit(q)
	require.NoError(t, err)
	return a
}

func chaos(t testing.TB, f sluicetest.Fault) *sluicetest.Chaos {
	x, err := sluicetest.NewChaos(sluicetest.ChaosConfig{
		Open: func() (engine.Engine, error) { return engine.NewMemory(engine.MemoryConfig{}) }, Fault: f, Seed: 1,
	})
	return must(t, x, err)
}

// perSecond is a meter of n tokens per second.
func perSecond(n, burst int64) engine.Meter {
	return engine.Meter{Key: "m", N: n, Per: time.Second, Burst: burst}
}

func one(m engine.Meter, wait time.Duration) engine.Draw {
	return engine.Draw{Meters: []engine.Meter{m}, Min: 1, Max: 1, MaxWait: wait}
}

func some(m engine.Meter, least, most int64) engine.Draw {
	return engine.Draw{Meters: []engine.Meter{m}, Min: least, Max: most}
}

func wantGrant(t testing.TB, got engine.Grant, err error, want engine.Grant) {
	t.Helper()
	assert.NoError(t, err)
	assert.Equal(t, want, got)
}

// TestWrappersPassTheKit: what is exact stays exact behind them, to the nanosecond.
func TestWrappersPassTheKit(t *testing.T) {
	for name, wrap := range map[string]func(t *testing.T, q engine.Quota) engine.Quota{
		"combine":  func(t *testing.T, q engine.Quota) engine.Quota { return combine(t, q, engine.CombineConfig{}) },
		"fallback": func(t *testing.T, q engine.Quota) engine.Quota { return fallback(t, q, engine.FallbackConfig{}) },
		"audit":    func(t *testing.T, q engine.Quota) engine.Quota { return audit(t, q) },
		"all of them": func(t *testing.T, q engine.Quota) engine.Quota {
			return combine(t, fallback(t, audit(t, q), engine.FallbackConfig{}), engine.CombineConfig{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := wrap(t, memory(t).Quota())
				sluicetest.Quota(t, func() engine.Quota { return q }, sluicetest.Options{Exact: true})
			})
		})
	}
}

func TestPromise22_WrapperConfigs(t *testing.T) {
	q := quotaFunc(nil)
	for _, c := range []struct {
		make func() error
		want string
	}{
		{func() error { _, err := engine.NewAudit(nil); return err }, "engine: NewAudit's q is <nil>: must be a Quota"},
		{func() error { _, err := engine.NewCombine(nil, engine.CombineConfig{}); return err }, "engine: NewCombine's q is <nil>: must be a Quota"},
		{func() error { _, err := engine.NewCombine(q, engine.CombineConfig{MaxWaiting: -1}); return err }, "engine: CombineConfig.MaxWaiting is -1: must be zero (100,000) or positive"},
		{func() error { _, err := engine.NewFallback(nil, engine.FallbackConfig{}); return err }, "engine: NewFallback's q is <nil>: must be a Quota"},
		{func() error { _, err := engine.NewFallback(q, engine.FallbackConfig{Budget: -1}); return err }, "engine: FallbackConfig.Budget is -1ns: must be"},
		{func() error { _, err := engine.NewFallback(q, engine.FallbackConfig{Mode: 3}); return err }, "engine: FallbackConfig.Mode is 3: must be Deny, LocalShare or Admit"},
		{func() error {
			_, err := engine.NewFallback(q, engine.FallbackConfig{Mode: engine.LocalShare})
			return err
		}, "engine: FallbackConfig.Share is 0: must be from 1 to 1<<20 with LocalShare"},
		{func() error { _, err := engine.NewFallback(q, engine.FallbackConfig{Share: 2}); return err }, "engine: FallbackConfig.Share is 2: must be zero without LocalShare"},
		{func() error { _, err := engine.NewFallback(q, engine.FallbackConfig{Trip: -1}); return err }, "engine: FallbackConfig.Trip is -1: must be"},
		{func() error { _, err := engine.NewFallback(q, engine.FallbackConfig{Cooldown: -1}); return err }, "engine: FallbackConfig.Cooldown is -1ns: must be"},
	} {
		assert.ErrorContains(t, c.make(), c.want)
	}
}

func TestAuditCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := chaos(t, sluicetest.Healthy)
		a := audit(t, x.Quota())
		ctx, m := t.Context(), perSecond(1, 3)
		take := func(d engine.Draw) { _, _ = a.Take(ctx, d) }
		take(some(m, 1, 2))
		take(some(m, 2, 2))
		take(engine.Draw{Meters: []engine.Meter{m}, Min: 2, Max: 2, MaxWait: time.Minute})
		take(some(m, 0, -1))
		for _, f := range []sluicetest.Fault{sluicetest.Refusing, sluicetest.Dropping, sluicetest.LosingAcks, sluicetest.Lying} {
			x.Set(f)
			take(some(m, 1, 1))
			_ = a.Settle(ctx, engine.OpID{}, []engine.Correction{{Meter: m, Delta: 5}})
			_ = a.Hold(ctx, m, 0)
		}
		x.Set(sluicetest.Panicking)
		func() {
			defer func() {
				if recover() == nil {
					t.Error("a panic did not pass through")
				}
			}()
			take(some(m, 1, 1))
		}()
		x.Set(sluicetest.Healthy)
		assert.NoError(t, a.Settle(ctx, engine.OpID{}, []engine.Correction{{Meter: m, Delta: -4}}))
		want := engine.AuditCounts{Takes: 9, Denied: 1, Booked: 1, Refused: 2, Unsure: 4, Units: 4, Settles: 5, SettlesFailed: 3, Settled: 1, Holds: 4}
		assert.Equal(t, want, a.Counts())
	})
}
