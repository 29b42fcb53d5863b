package nameof

import (
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

type named struct{ name func() string }

func (n *named) String() string { return n.name() }

type unnamed struct{}

func TestForeignNamesAreShortAndInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		block := make(chan struct{})
		for _, c := range []struct {
			is   string
			x    any
			want string
			in   time.Duration
		}{
			{"a name", &named{func() string { return "mine" }}, "mine", 0},
			{"a name that takes a while", &named{func() string { time.Sleep(maxWait - 1); return "mine" }}, "mine", maxWait - 1},
			{"no name", unnamed{}, "unnamed", 0},
			{"a String that panics", &named{func() string { panic("name") }}, "named", 0},
			{"a String of a nil pointer", (*named)(nil), "named", 0},
			{"a String that calls Goexit", &named{func() string { runtime.Goexit(); return "" }}, "named", 0},
			{"a String that never returns", &named{func() string { <-block; return "late" }}, "named", maxWait},
			{"a name without end", &named{func() string { return strings.Repeat("n", 1<<20) }},
				strings.Repeat("n", maxName) + "…", 0},
		} {
			from := time.Now()
			if got := Value(c.x); got != c.want || time.Since(from) != c.in {
				t.Errorf("%s: %.50q after %v, want %.50q after %v", c.is, got, time.Since(from), c.want, c.in)
			}
		}
		close(block)
	})
}

func TestFunctionsHaveTheirBareName(t *testing.T) {
	if got := Func(TestFunctionsHaveTheirBareName); got != "TestFunctionsHaveTheirBareName" {
		t.Errorf("%q", got)
	}
}

// A chain names what a call passes, in order, and the gates only if there are any.
func TestChainsAreNamedFromTheOutside(t *testing.T) {
	outer := make([]string, 1, 8) // nobody else's memory is written
	outer[0] = "audit"
	require.Equal(t, "audit → admit[breaker rate] → trim → search", Chain(outer, []string{"breaker", "rate"}, []string{"trim"}, "search"))
	require.Empty(t, outer[:2][1])
	require.Equal(t, "search", Chain(nil, nil, nil, "search"))
}
