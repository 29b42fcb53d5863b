package rules

import (
	"fmt"
	"testing"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func completeTool(t *testing.T, concurrency int, b *Breaker, rates ...Rate) *Tool {
	t.Helper()
	x, err := CompleteTool("x", "search", concurrency, &rates, b, 0)
	require.NoError(t, err)
	return &x
}

// The limits of a tool are complete, and its probes have as long as its calls.
func TestLimitsOfAToolAreCompleted(t *testing.T) {
	given := []Rate{{N: 2}}
	rates, b := given, Breaker{}
	x, err := CompleteTool("x", "search", 3, &rates, &b, time.Second)
	require.NoError(t, err)
	assert.Equal(t, []Rate{{N: 2, Per: time.Second, Burst: 2}}, rates)
	assert.Equal(t, []Rate{{N: 2}}, given)
	assert.Equal(t, rates, x.Rates)
	assert.Equal(t, time.Second, b.Lease)
	assert.Equal(t, 0.5, b.Ratio)
	var names []string
	for _, l := range x.Limits() {
		names = append(names, l.Class.Name)
	}
	assert.Equal(t, []string{"tool/search concurrency", "tool/search calls per second", "tool/search breaker"}, names)

	_, err = CompleteTool("x", "search", 3, &[]Rate{{}}, nil, 0)
	require.EqualError(t, err, "x.Rates[0].N is 0: must be at least 1")
	_, err = CompleteTool("x", "search", 3, new([]Rate), &Breaker{Ratio: 2}, 0)
	require.EqualError(t, err, "x.Breaker.Ratio is 2: must be from 0 (0.5, or off with Failures) to 1; 2 % is 0.02")
}

// A change keeps the constraints that stay, and tells of each that changes.
func TestAChangeKeepsWhatStays(t *testing.T) {
	second, minute, tokens := Rate{N: 1}, Rate{N: 5, Per: time.Minute}, Rate{N: 100, Unit: "tokens"}
	for _, tt := range []struct {
		name    string
		was, to *Tool
		from    []int // the constraint that each goes on as; -1 for a new one
		told    []string
	}{
		{"nothing", completeTool(t, 1, &Breaker{}, second), completeTool(t, 1, &Breaker{}, second), []int{0, 1, 2}, nil},
		{"slots", completeTool(t, 0, nil), completeTool(t, 4, nil), []int{0},
			[]string{"tool/search concurrency: unlimited -> 4"}},
		{"another period", completeTool(t, 1, nil, second), completeTool(t, 1, nil, minute), []int{0, 1},
			[]string{"tool/search calls per second: 1 calls per second, burst 1 -> 5 calls per minute, burst 5"}},
		{"order", completeTool(t, 1, nil, second, tokens), completeTool(t, 1, nil, tokens, second), []int{0, 2, 1}, nil},
		{"a rate more, first", completeTool(t, 1, &Breaker{}, second), completeTool(t, 1, &Breaker{}, tokens, second), []int{0, -1, 1, 2},
			[]string{"tool/search:  -> "}},
		{"a breaker", completeTool(t, 1, nil, second), completeTool(t, 1, &Breaker{}, second), []int{0, 1, -1},
			[]string{"tool/search:  -> "}},
		{"another breaker", completeTool(t, 1, &Breaker{}), completeTool(t, 1, &Breaker{Failures: 9}), []int{0, 1},
			[]string{"tool/search breaker:  -> "}},
		{"no rate and no breaker", completeTool(t, 1, &Breaker{}, second), completeTool(t, 1, nil), []int{0},
			[]string{"tool/search:  -> "}},
	} {
		m := admit.NewMachine(FirstInFirstOut)
		limits := tt.was.Limits()
		for _, l := range limits {
			m.Cell(0, l.Class, "")
		}
		var told []string
		x := ToolChange{Machine: m, ID: 1, Cost: func(string) int64 { return 1 }, Changed: func(name, from, to string) {
			told = append(told, fmt.Sprintf("%s: %s -> %s", name, from, to))
		}}
		got := x.Apply(tt.was, tt.to, limits)
		want := tt.to.Limits()
		require.Len(t, got, len(want), tt.name)
		for i, l := range got {
			k, want := l.Class, want[i].Class
			assert.Equal(t, For(ForTool, []string{"search"}), l.Scope, tt.name)
			assert.Equal(t, want.Name, k.Name, tt.name)
			assert.Equal(t, want.Limit, k.Limit, tt.name)
			assert.Equal(t, want.Rate, k.Rate, tt.name)
			assert.Equal(t, want.Breaker, k.Breaker, tt.name)
			from := -1
			for j, o := range limits {
				if o.Class == k {
					from = j
				}
			}
			assert.Equal(t, tt.from[i], from, "%s: constraint %d", tt.name, i)
		}
		assert.Equal(t, tt.told, told, tt.name)
	}
}

// A rate that is new starts no fuller than the fullest of its unit.
func TestANewRateStartsNoFuller(t *testing.T) {
	was, to := completeTool(t, 0, nil, Rate{N: 10}), completeTool(t, 0, nil, Rate{N: 10}, Rate{N: 10, Per: time.Minute})
	m := admit.NewMachine(FirstInFirstOut)
	limits := was.Limits()
	ticket := m.Ticket()
	ticket.Plan = &admit.Plan{Tool: 1, Client: admit.NewClient()}
	m.Add(ticket, m.Cell(0, limits[1].Class, ""), 7)
	require.Equal(t, admit.Running, m.Arrive(0, ticket))
	x := ToolChange{Machine: m, ID: 1, Changed: func(string, string, string) {}}
	got := x.Apply(was, to, limits)
	assert.Equal(t, int64(7), m.Cell(0, got[2].Class, "").Usage(0).Used)
}
