package sim

import (
	"fmt"
	"testing"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/require"
)

// shared is readers and writers of four documents, at two priorities, under a limit for all of them.
func shared(ordered bool) Config {
	const most = 8
	c := Config{
		Gates: []sluice.Interceptor{
			limiter(sluice.Limit{Max: 6}, sluice.Limit{Max: most, Unit: "document", Ordered: ordered, Scope: sluice.ByKey("document", func(c sluice.Call) string {
				return c.Pipeline.Tenant
			})}),
			scheduler(sluice.PrioritySchedulerConfig{}),
		},
		Tools: []Tool{
			{Spec: sluice.Spec{Name: "read"}, Service: Exponential(10 * time.Millisecond)},
			{Spec: sluice.Spec{Name: "write", Policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { return most }}}, Service: Exponential(20 * time.Millisecond)},
			{Spec: sluice.Spec{Name: "edit"}, Service: Constant(time.Millisecond), Calls: []string{"read", "write"}},
		},
		Duration: time.Minute,
		Seed:     7,
	}
	for i := range 4 {
		document := fmt.Sprint("d", i)
		c.Traffic = append(c.Traffic,
			Traffic{Tool: "read", Tenant: document, Priority: sluice.PriorityInteractive, Arrivals: Callers(6, Dist{})},
			Traffic{Tool: "write", Tenant: document, Priority: sluice.PriorityBatch, Arrivals: Callers(1, Exponential(50*time.Millisecond))},
			Traffic{Tool: "edit", Tenant: document, Arrivals: Poisson(2)})
	}
	return c
}

// The simulation ends with an error if a call passes another that needs the same key: with order none does,
// and everybody gets on.
func TestAnOrderedLimitIsSimulatedAsItIs(t *testing.T) {
	r := simulate(t, shared(true))
	for _, tool := range []string{"read", "write", "edit"} {
		require.Greater(t, find(t, r.Tools, tool).Started, int64(400), tool)
	}
	require.NotEqual(t, r.Tools, simulate(t, shared(false)).Tools)
}

func TestSeveralKeysAreNotSimulated(t *testing.T) {
	c := shared(true)
	c.Gates = append(c.Gates, sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Name: "files",
		Limits: []sluice.Limit{{Max: 1, Scope: sluice.ByKeys("file", func(sluice.Call) []string { return nil })}}})))
	_, err := Run(c)
	require.EqualError(t, err, "sim: Config.Gates[2] counts per file by several keys of a call: must be by one, as ByKey")
}
