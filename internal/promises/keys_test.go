package promises_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func byHost(fn func(sluice.Call) string) sluice.Scope { return sluice.ByKey("host", fn) }

// Scopes are values: == and a map take two that say the same for one.
func TestScopesCompareByContent(t *testing.T) {
	key := sluice.ByKey("host", func(sluice.Call) string { return "h" })
	equal := [][2]sluice.Scope{
		{sluice.ForType("web"), sluice.ForType("web")},
		{sluice.ForType("a", "b", "c"), sluice.ForType("c", "a", "b")},
		{sluice.ForTool(strings.Split("x,y", ",")...), sluice.ForTool("y", "x")},
		{sluice.Global, sluice.Global},
		{key, key},
		{sluice.Scope{}, sluice.Scope{}},
	}
	m := make(map[sluice.Scope]int)
	for i, p := range equal {
		m[p[0]] = i
		if p[0] != p[1] {
			t.Errorf("%v != %v", p[0], p[1])
		}
		if n, ok := m[p[1]]; !ok || n != i {
			t.Errorf("a map does not find %v under its equal", p[1])
		}
	}
	assert.Equal(t, len(equal), len(m), "scopes in the map")
	for _, p := range [][2]sluice.Scope{
		{sluice.ForType("web"), sluice.ForTool("web")},
		{sluice.ForTool("ab"), sluice.ForTool("a", "b")},
		{sluice.ForTool("a"), sluice.ForTool("a", "a")},
		{sluice.ForTool(), sluice.ForTool("")},
		{sluice.ForTool("a\xffb"), sluice.ForTool("a", "b")},
		{sluice.Global, sluice.Scope{}},
		{sluice.ByKey("tool", nil), sluice.ByTool},
	} {
		if p[0] == p[1] {
			t.Errorf("%v == %v", p[0], p[1])
		}
	}
	names := []string{"b", "a"}
	s := sluice.ForTool(names...)
	names[0] = "z"
	assert.Equal(t, "tool a+b", s.String(), "scope")
}

// A configuration that is read anew, with scopes of the same content, changes what differs;
// and two limits of one scope and unit are one too many.
func TestScopesOfEqualContentAreOneInAComponent(t *testing.T) {
	constant := func(s string) func(sluice.Call) string { return func(sluice.Call) string { return s } }
	for i, scope := range []func() sluice.Scope{
		func() sluice.Scope { return sluice.ForType("web", "db") },
		func() sluice.Scope { return sluice.ForTool("search") },
		func() sluice.Scope { return byHost(constant("a")) },
		func() sluice.Scope { return sluice.ByTenant },
	} {
		limits := func(n int) sluice.ConcurrencyLimiterConfig {
			return sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 9}, {Max: n, Scope: scope()}}}
		}
		rate := func(n int64) sluice.RateLimiterConfig {
			return sluice.RateLimiterConfig{Scope: scope(), Rates: []sluice.Rate{{N: n}}}
		}
		circuit := func(n int) sluice.CircuitBreakerConfig {
			return sluice.CircuitBreakerConfig{Scope: scope(), Failures: n}
		}
		l := sluice.Must(sluice.NewConcurrencyLimiter(limits(4)))
		q := sluice.Must(sluice.NewRateLimiter(rate(4)))
		b := breakerOf(circuit(4))
		assert.NoError(t, sluice.Reconfigure("reload", l.Change(limits(5)), q.Change(rate(5)), b.Change(circuit(5))),
			"scope %d", i)
		require.Equal(t, 5, l.Config().Limits[1].Max, "scope %d: nothing changed", i)
		assert.Equal(t, int64(5), q.Config().Rates[0].N, "scope %d: nothing changed", i)
		assert.Equal(t, 5, b.Config().Failures, "scope %d: nothing changed", i)
		_, err := sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 4, Scope: scope()}, {Max: 5, Scope: scope()}}})
		if want := "sluice: ConcurrencyLimiterConfig.Limits[1] has the Scope and Unit of Limits[0]: must differ in one"; fmt.Sprint(err) != want {
			t.Errorf("scope %d: %v, want %s", i, err, want)
		}
	}

	// The name stands for the function: the one there was goes on counting.
	l := limitsOf(sluice.Limit{Max: 1, Scope: byHost(constant("old"))})
	r := newRig(t, sluice.Config{Interceptors: interceptors(l)})
	rawTool(t, r.reg, sluice.Spec{Name: "x"}, sleeps(0))
	require.NoError(t, sluice.Reconfigure("reload", l.Change(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 2, Scope: byHost(constant("new"))}}})))
	require.NoError(t, r.call("x"))
	key, _ := l.Config().Limits[0].Scope.Key(sluice.Spec{}, sluice.Call{})
	assert.Equal(t, "old", key, "the configuration shows a function that answers")
	r.gateState("concurrency per host", "old")
	q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: byHost(constant("old")), Rates: []sluice.Rate{{N: 1}}}))
	b := breakerOf(sluice.CircuitBreakerConfig{Scope: byHost(constant("old"))})
	require.NoError(t, sluice.Reconfigure("reload", q.Change(sluice.RateLimiterConfig{Scope: byHost(constant("new")), Rates: []sluice.Rate{{N: 2}}}),
		b.Change(sluice.CircuitBreakerConfig{Scope: byHost(constant("new"))})))
	for _, s := range []sluice.Scope{q.Config().Scope, b.Config().Scope} {
		key, _ := s.Key(sluice.Spec{}, sluice.Call{})
		assert.Equal(t, "old", key, "the configuration shows a function that answers")
	}

	for _, c := range []sluice.ConcurrencyLimiterConfig{
		{Limits: []sluice.Limit{{Max: 1, Scope: sluice.ByKey("port", constant("a"))}}},
		{Limits: []sluice.Limit{{Max: 1, Scope: sluice.ForTool("host")}}},
	} {
		if sluice.Reconfigure("reload", l.Change(c)) == nil {
			t.Errorf("the scope changed to %v", c.Limits[0].Scope)
		}
	}
}
