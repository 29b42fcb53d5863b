package sluice_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/engine"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/semaphore"
)

// withoutQuota is an engine that has no quota.
type withoutQuota struct{ *engine.Memory }

func (withoutQuota) Quota() engine.Quota { return nil }

// withoutSlots is an engine that has no slots.
type withoutSlots struct{ *engine.Memory }

func (withoutSlots) Slots() engine.Slots { return nil }

// What cannot be is an error that names the field, the value and what is allowed.
func TestFleetConfig(t *testing.T) {
	m := sluice.Must(engine.NewMemory(engine.MemoryConfig{}))
	defer m.Close()
	for want, c := range map[string]sluice.FleetConfig{
		"sluice: FleetConfig.Engine is nil: must be an engine.Engine":                     {},
		"sluice: FleetConfig.Engine has no Quota: must have one":                          {Engine: withoutQuota{m}},
		"sluice: FleetConfig.Budget is -1ns: must be zero or positive, up to":             {Engine: m, Budget: -1},
		"sluice: FleetConfig.Away is 7: must be engine.Deny, LocalShare or Admit":         {Engine: m, Away: 7},
		"sluice: FleetConfig.Share is 0: must be from 1 to 1048576 with LocalShare":       {Engine: m, Away: engine.LocalShare},
		"sluice: FleetConfig.Share is 3: must be zero without LocalShare":                 {Engine: m, Share: 3},
		"sluice: FleetConfig.Name \"a\\n\" has a control character: must be printable":    {Engine: m, Name: "a\n"},
		"sluice: FleetConfig.Origin \"\\x00\" has a control character: must be printable": {Engine: m, Origin: "\x00"},
	} {
		f, err := sluice.NewFleet(c)
		require.ErrorContains(t, err, want)
		require.Nil(t, f)
	}
	f := sluice.Must(sluice.NewFleet(sluice.FleetConfig{Engine: m}))
	defer f.Close(context.Background())
	without := sluice.Must(sluice.NewFleet(sluice.FleetConfig{Engine: withoutSlots{m}}))
	defer without.Close(context.Background())
	closed := sluice.Must(sluice.NewFleet(sluice.FleetConfig{Engine: m}))
	require.NoError(t, closed.Close(context.Background()))
	rates := []sluice.Rate{{N: 100, Burst: 20}, {N: 5, Per: time.Minute}}
	for want, c := range map[string]sluice.RateLimiterConfig{
		"RateLimiterConfig.Stock is 1 and Reserve 0 without Fleet: must be zero":                                       {Rates: rates, Stock: 1},
		"RateLimiterConfig.Stock is 6: must be zero (a twentieth of Burst) or from 1 to Burst, which is 5 in Rates[1]": {Rates: rates, Fleet: f, Stock: 6},
		"RateLimiterConfig.Reserve is 5: must be from 0 to less than Burst, which is 5 in Rates[1]":                    {Rates: rates, Fleet: f, Reserve: 5},
		"RateLimiterConfig.Fleet is a zero value: must be made by NewFleet":                                            {Rates: rates, Fleet: new(sluice.Fleet)},
	} {
		_, err := sluice.NewRateLimiter(c)
		require.ErrorContains(t, err, want)
	}
	for want, c := range map[string]sluice.ConcurrencyLimiterConfig{
		"ConcurrencyLimiterConfig.Lease is 1s without Fleet: must be zero":                          {Lease: time.Second},
		"ConcurrencyLimiterConfig.Lease is -1ns: must be zero (10s) or positive, up to":             {Lease: -1, Fleet: f},
		"ConcurrencyLimiterConfig.Lease is 5ms: must be zero (10s) or at least 20ms":                {Lease: 5 * time.Millisecond, Fleet: f},
		"ConcurrencyLimiterConfig.Fleet is a zero value: must be made by NewFleet":                  {Fleet: new(sluice.Fleet)},
		"Limits[0].Adaptive is set with Fleet: must be nil, each process would find out for itself": {Fleet: f, Limits: []sluice.Limit{{Adaptive: &sluice.Adaptive{Max: 3}}}},
		"Limits[0].Semaphore is set with Fleet: must be nil, it is of one process":                  {Fleet: f, Limits: []sluice.Limit{{Max: 1, Semaphore: semaphore.NewWeighted(1)}}},
		"Limits[0].Ordered is true with Fleet: must be false, processes keep no order among them":   {Fleet: f, Limits: []sluice.Limit{{Max: 1, Ordered: true}}},
		"ConcurrencyLimiterConfig.Fleet has an engine without Slots: must have some":                {Fleet: without},
		"sluice: ConcurrencyLimiterConfig.Fleet is closed: must be open":                            {Fleet: closed},
	} {
		if c.Limits == nil {
			c.Limits = []sluice.Limit{{Max: 1}}
		}
		_, err := sluice.NewConcurrencyLimiter(c)
		require.ErrorContains(t, err, want)
	}
	_, err := sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Fleet: f, Limits: []sluice.Limit{{Max: 1}, {Max: 1<<30 + 1, Scope: sluice.ByTool}}})
	if strconv.IntSize == 64 {
		require.ErrorContains(t, err, "Limits[1].Max is 1073741825 with Fleet: must be at most 1073741824")
	} else {
		require.ErrorContains(t, err, "Limits[1].Max is 1073741825: must be from 1 to 1073741824") // as without one
	}
	slots := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}, Fleet: f}))
	changed := slots.Config()
	require.Equal(t, 10*time.Second, changed.Lease)
	changed.Lease = time.Second
	require.ErrorContains(t, sluice.Reconfigure("test", slots.Change(changed)), "ConcurrencyLimiterConfig.Lease changes: it cannot change")
	changed.Fleet, changed.Lease = nil, 0
	require.ErrorContains(t, sluice.Reconfigure("test", slots.Change(changed)), "ConcurrencyLimiterConfig.Fleet changes: it cannot change")
	l := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: rates, Fleet: f, Stock: 2, Reserve: 1}))
	c := l.Config()
	require.EqualValues(t, []any{f, int64(2), int64(1)}, []any{c.Fleet, c.Stock, c.Reserve})
	c.Fleet = nil
	c.Stock, c.Reserve = 0, 0
	require.ErrorContains(t, sluice.Reconfigure("test", l.Change(c)), "RateLimiterConfig.Fleet changes: it cannot change")
}

// Two that have one name at the engine would take from one bucket, or open together, whatever they count by: the second
// is refused, unless it counts the same.
func TestFleet_NamesAreOfOneScope(t *testing.T) {
	m := sluice.Must(engine.NewMemory(engine.MemoryConfig{}))
	defer func() { require.NoError(t, m.Close()) }()
	f := sluice.Must(sluice.NewFleet(sluice.FleetConfig{Engine: m}))
	defer func() { require.NoError(t, f.Close(context.Background())) }()
	rate := func(f *sluice.Fleet, name string, s sluice.Scope) error {
		_, err := sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: name, Fleet: f, Scope: s, Rates: []sluice.Rate{{N: 1}}})
		return err
	}
	circuit := func(name string, s sluice.Scope) error {
		_, err := sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Name: name, Fleet: f, Scope: s})
		return err
	}
	slots := func(s sluice.Scope) error {
		_, err := sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Fleet: f, Limits: []sluice.Limit{{Max: 1, Scope: s}}})
		return err
	}
	search, mail := sluice.ForTool("search"), sluice.ForTool("mail")
	host := func(sluice.Call) string { return "a" }
	require.NoError(t, rate(f, "", search))
	require.EqualError(t, rate(f, "", mail), `sluice: RateLimiterConfig.Name is "rate": must differ from that of another RateLimiter of the Fleet, which has another Scope`)
	require.NoError(t, rate(f, "", search), "which is for another executor")
	require.NoError(t, rate(f, "mail", mail))
	require.NoError(t, rate(f, "host", sluice.ByKey("host", host)))
	require.NoError(t, rate(f, "host", sluice.ByKey("host", func(sluice.Call) string { return "b" })), "the name stands for the function")
	require.ErrorContains(t, rate(f, "host", sluice.ByKey("path", host)), `RateLimiterConfig.Name is "host"`)
	require.NoError(t, circuit("", search), "of another kind")
	require.EqualError(t, circuit("", sluice.Scope{}), `sluice: CircuitBreakerConfig.Name is "breaker": must differ from that of another CircuitBreaker of the Fleet, which has another Scope`)
	require.NoError(t, circuit("all", sluice.Scope{}))
	require.NoError(t, slots(search))
	require.NoError(t, slots(mail), "limits are told apart by what they count")
	other := sluice.Must(sluice.NewFleet(sluice.FleetConfig{Engine: m, Name: "other"}))
	defer func() { require.NoError(t, other.Close(context.Background())) }()
	require.NoError(t, rate(other, "", mail))
}
