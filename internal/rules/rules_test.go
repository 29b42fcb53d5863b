package rules

import (
	"slices"
	"testing"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/bucket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var scopes = []Scope{ // from narrow to wide
	Of(ByTool), For(ForTool, []string{"b", "a"}), Of(ByTenant), Keyed(ByKey, "host", new(int)),
	Of(ByType), For(ForType, []string{"web"}), Of(Global),
}

// Constraints are asked from narrow to wide, and breakers before all others.
func TestConstraintsAreAskedFromNarrowToWide(t *testing.T) {
	var list []*admit.Class
	for _, s := range slices.Backward(scopes) {
		list = append(list, Slots{Scope: s, Max: 1}.Class(""), Circuit("", s, 1, &breaker.Config{}))
	}
	slices.SortStableFunc(list, func(a, b *admit.Class) int { return int(a.Order()) - int(b.Order()) })
	for i, k := range list[len(scopes):] {
		if want := "concurrency " + scopes[i].String(); k.Name != want {
			t.Errorf("constraint %d is %q, want %q", i, k.Name, want)
		}
	}
	for _, k := range list[:len(scopes)] {
		assert.Equal(t, admit.Breaker, k.Kind, "%q is asked before a breaker", k.Name)
	}
}

// The names of constraints say what they are, whose, and what they count.
func TestConstraintsAreNamedAfterWhatTheyCount(t *testing.T) {
	b, err := bucket.NewRate(60, int64(time.Minute), 60)
	require.NoError(t, err)
	calls, tokens := Rate{N: 60, Per: time.Minute}, Rate{N: 9, Per: 90 * time.Second, Burst: 3, Unit: "tokens"}
	for want, k := range map[string]*admit.Class{
		"concurrency global":             Slots{Scope: Of(Global)}.Class("concurrency"),
		"concurrency/db MB per host":     Slots{Scope: scopes[3], Unit: "MB"}.Class("db"),
		"concurrency tool a+b":           Slots{Scope: scopes[1]}.Class(""),
		"rate/openai calls per minute":   Quota{Name: "openai"}.Class(calls, &b),
		"rate tokens per 1m30s":          Quota{Name: "rate"}.Class(tokens, &b),
		"rate/x shared limiter":          Quota{Name: "x"}.Shared(nil),
		"breaker":                        Circuit("breaker", Of(ByTool), 0, &breaker.Config{}),
		"rate calls per 30s":             Quota{}.Class(Rate{Per: 30 * time.Second}, nil),
		"rate calls per 5m":              Quota{}.Class(Rate{Per: 5 * time.Minute}, nil),
		"rate calls per 2h":              Quota{}.Class(Rate{Per: 2 * time.Hour}, nil),
		"rate calls per 1h0m30s":         Quota{}.Class(Rate{Per: time.Hour + 30*time.Second}, nil),
		"tool/search concurrency":        ToolSlots("search", 0),
		"tool/search tokens per 1m30s":   ToolRate("search", tokens, &b),
		"tool/search breaker":            ToolBreaker("search", &breaker.Config{}),
		Quota{Name: "x"}.RateName(calls): Quota{Name: "x"}.Class(calls, &b),
		ToolRateName("search", calls):    ToolRate("search", calls, &b),
	} {
		assert.Equal(t, want, k.Name, "constraint")
	}
	assert.Equal(t, "9 tokens per 1m30s, burst 3", tokens.String(), "rate")
}

// Only keys that calls bring need a bound, and only cells of tools and types live as long as
// those; an adaptive limit begins at its least.
func TestTablesAreBoundedWhereCallsBringTheKeys(t *testing.T) {
	for _, s := range scopes {
		keyed := s.Kind() == ByTenant || s.Kind() == ByKey
		byPlan := s.Kind() == ByTool || s.Kind() == ByType
		for _, k := range []*admit.Class{
			Slots{Scope: s, Max: 1, MaxKeys: 7}.Class(""),
			Quota{Scope: s, MaxKeys: 7}.Class(Rate{}, nil),
			Circuit("", s, 7, &breaker.Config{}),
		} {
			if (k.MaxKeys == 7) != keyed || k.MaxKeys != s.TableSize(7) || k.ByPlan != byPlan {
				t.Errorf("%q: MaxKeys %d, ByPlan %v", k.Name, k.MaxKeys, k.ByPlan)
			}
		}
	}
	assert.Equal(t, int64(2), (Slots{Adaptive: &admit.Adaptive{Min: 2, Max: 9}}).Class("").Limit,
		"an adaptive limit begins at")
	assert.Equal(t, admit.Unlimited, Concurrency(0), "want no limit for zero, and what is set else")
	assert.Equal(t, int64(3), Concurrency(3), "want no limit for zero, and what is set else")
}

// Scopes that name tools or types apply to those, under one key.
func TestScopesApplyToWhatTheyName(t *testing.T) {
	for _, tt := range []struct {
		s      Scope
		key    string
		counts bool
	}{
		{Of(Unset), "", true},
		{Of(Global), "", true},
		{Of(ByTool), "search", true},
		{Of(ByType), "web", true},
		{For(ForTool, []string{"fetch", "search"}), "", true},
		{For(ForTool, []string{"web"}), "", false},
		{For(ForType, []string{"web"}), "", true},
		{For(ForType, []string{"search"}), "", false},
	} {
		key, counts := tt.s.Fixed("search", "web")
		assert.Equal(t, tt.key, key, "%v", tt.s)
		assert.Equal(t, tt.counts, counts, "%v", tt.s)
	}
	a, b := Keyed(ByKey, "host", new(int)), Keyed(ByKey, "host", new(int))
	if a == b || !a.Same(b) || a.Same(Keyed(ByKey, "port", a.Key())) {
		t.Error("want the name of a function to stand for it")
	}
}
