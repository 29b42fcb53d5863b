//go:build !race

// The race detector allocates for its own sake, which these counts would include.

package admit

import (
	"testing"

	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSteadyStateAllocatesNothing(t *testing.T) {
	w := newWorld(t, standard())
	k, all, r, br := slots("tool a", 0, 4), slots("global", 3, 4), w.rate("rate", 2, 1_000_000_000, sec, 1_000_000), circuit("breaker", breaker.Config{})
	free := NewNeedSet([]Need{{w.cell(br), 1}, {w.cell(k), 1}, {w.cell(r), 1}, {w.cell(all), 1}})
	m, plan := w.m, w.plan()
	now := int64(0)
	call := func(level int8) *Ticket {
		now++
		x := m.Ticket()
		x.Plan = plan
		x.Level, x.Tenant = level, "tenant"
		m.Fixed(x, free)
		m.Arrive(now, x)
		return x
	}
	end := func(x *Ticket) {
		now++
		require.Equal(t, Running, x.State(), "state, want it to run")
		m.Finish(now, x, breaker.Success)
		for d := m.Decided(); d != nil; d = d.Next() {
			require.Equal(t, Running, d.State(), "decided on, with state")
		}
		m.Free(x)
	}
	for _, c := range []struct {
		name string
		do   func()
	}{
		{"arrive and finish", func() { end(call(2)) }},
		{"arrive in the queue and finish", func() {
			var run, wait [4]*Ticket
			for i := range run {
				run[i] = call(2)
			}
			for i := range wait {
				wait[i] = call(int8(i))
			}
			for _, x := range run {
				end(x)
			}
			for _, x := range wait {
				end(x)
			}
		}},
		{"arrive in the queue and leave", func() {
			var run [4]*Ticket
			for i := range run {
				run[i] = call(2)
			}
			a, b := call(3), call(3)
			m.Cancel(now, a)
			m.Free(a)
			m.Cancel(now, b)
			m.Free(b)
			for _, x := range run {
				end(x)
			}
		}},
		{"needs of its own", func() {
			now++
			x := m.Ticket()
			x.Plan = plan
			m.Add(x, w.cell(k), 1)
			m.Add(x, w.cell(all), 1)
			m.Arrive(now, x)
			end(x)
		}},
	} {
		for range 100 {
			c.do()
		}
		assert.Zero(t, testing.AllocsPerRun(500, c.do), "%s: allocations", c.name)
	}
}
