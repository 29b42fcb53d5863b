package sluiceprom_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	sluiceprom "github.com/sluice-go/sluice/contrib/prometheus"
	"github.com/sluice-go/sluice/engine"
)

// link is an engine that can be cut off.
type link struct {
	*engine.Memory
	cut atomic.Bool
}

func (l *link) Quota() engine.Quota { return linkQuota{l.Memory.Quota(), l} }

type linkQuota struct {
	engine.Quota
	link *link
}

func (q linkQuota) Take(ctx context.Context, d engine.Draw) (engine.Grant, error) {
	if q.link.cut.Load() {
		return engine.Grant{}, errors.New("cut off")
	}
	return q.Quota.Take(ctx, d)
}

// TestFleets: whether the engine of each fleet answers, and how many trips there were; two with one name, and no label of
// where a process is, which is another at each start.
func TestFleets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		far, near := &link{Memory: sluice.Must(engine.NewMemory(engine.MemoryConfig{}))}, sluice.Must(engine.NewMemory(engine.MemoryConfig{}))
		defer func() { require.NoError(t, errors.Join(far.Close(), near.Close())) }()
		var gates []sluice.Interceptor
		for name, c := range map[string]sluice.FleetConfig{
			"far": {Engine: far, Name: "agents"}, "near": {Engine: near, Name: "agents"}, "odd": {Engine: near, Name: "odd"},
		} {
			f := sluice.Must(sluice.NewFleet(c))
			defer func() { _ = f.Close(context.Background()) }() // which says what a fleet that is cut off could not give back
			gates = append(gates, sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{
				Name: name, Fleet: f, Rates: []sluice.Rate{{N: 1000, Burst: 1000}}, Stock: 1, Scope: sluice.ForTool(name),
			})))
		}
		r := newRig(t, sluiceprom.Config{})
		e := r.exec(sluice.Config{Interceptors: gates})
		for _, name := range []string{"far", "near"} {
			r.tool(e, name, nothing)
			require.NoError(t, call(t.Context(), e, name, ""))
		}
		synctest.Wait()
		s := r.scrape()
		require.Equal(t, map[string]string{`sluice_fleet_away{fleet="agents"}`: "0", `sluice_fleet_away{fleet="odd"}`: "0"}, only(s, "sluice_fleet_away"))
		require.Equal(t, map[string]string{
			`sluice_fleet_failed_trips_total{fleet="agents"}`: "0", `sluice_fleet_failed_trips_total{fleet="odd"}`: "0",
		}, only(s, "sluice_fleet_failed"))
		require.NotEqual(t, "0", s[`sluice_fleet_trips_total{fleet="agents"}`])
		require.Equal(t, "0", s[`sluice_fleet_trips_total{fleet="odd"}`])

		far.cut.Store(true)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		for range 10 {
			_ = call(ctx, e, "far", "")
		}
		s = r.scrape()
		require.Equal(t, map[string]string{`sluice_fleet_away{fleet="agents"}`: "1", `sluice_fleet_away{fleet="odd"}`: "0"}, only(s, "sluice_fleet_away"))
		require.NotEqual(t, "0", s[`sluice_fleet_failed_trips_total{fleet="agents"}`])
		require.Equal(t, "0", s[`sluice_fleet_failed_trips_total{fleet="odd"}`])

		far.cut.Store(false)
		time.Sleep(10 * time.Second)
		require.NoError(t, call(t.Context(), e, "far", ""))
		require.Equal(t, "0", r.scrape()[`sluice_fleet_away{fleet="agents"}`])
		require.NoError(t, e.Close(t.Context()))
	})
}
