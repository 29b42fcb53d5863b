package browser

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// With 10,000 keys and 100,000 calls that wait every view opens within a second.
func TestLargeOpensInASecond(t *testing.T) {
	const keys, waiting = 10_000, 100_000
	most := time.Second
	if raceDetector {
		most = 15 * time.Second // which measures nothing
	}
	limit := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Name: "tenants", Limits: []sluice.Limit{{Max: 1, Scope: sluice.ByTenant, MaxKeys: keys}}}))
	w := newWorld(t, true, []string{"search"}, limit,
		sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{MaxQueue: 2 * waiting})))
	for i := range keys {
		w.calls(t, 1+waiting/keys, fmt.Sprintf("tenant-%d", i), "search", held{})
	}
	s := w.exec.Snapshot()
	require.Equal(t, []int{keys, waiting}, []int{s.InFlight, s.Queued})
	home := serve(t, w.page)
	for _, how := range []look{{}, {NoScript: true}} {
		b := newTab(t, how)
		b.views(home.url(""), func(address string) {
			took := time.Duration(0)
			for try := range 3 { // others may have the processor
				if try > 0 {
					b.open(address)
				}
				took = time.Duration(eval[float64](b, `performance.getEntriesByType('navigation')[0].loadEventEnd`) * float64(time.Millisecond))
				size := eval[int](b, `performance.getEntriesByType('navigation')[0].decodedBodySize`)
				t.Logf("script %t, %s: open after %v, %d kB", !how.NoScript, address, took.Round(time.Millisecond), size/1000)
				require.Positive(t, took)
				if took < most {
					break
				}
			}
			require.Less(t, took, most, address)
		})
		b.open(home.url(""))
		require.Equal(t, fmt.Sprint(waiting), b.count("queued"))
	}
}
