package rules

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Completing fills in each default, and leaves what is set.
func TestDefaultsAreFilledIn(t *testing.T) {
	b := Breaker{}
	require.NoError(t, b.Complete("x"))
	const half, window, cooldown, lease = 0.5, 30 * time.Second, 5 * time.Second, time.Minute
	whole := Breaker{half, 5, window, 20, cooldown, 1, lease}
	assert.Equal(t, whole, b)
	require.NoError(t, b.Complete("x"))
	assert.Equal(t, whole, b, "completed twice")
	b = Breaker{Ratio: .25, Probes: 3}
	require.NoError(t, b.Complete("x"))
	assert.Equal(t, Breaker{.25, 5, window, 0, cooldown, 3, lease}, b, "with a Ratio, failures in a row are off")
	b = Breaker{Failures: 7}
	require.NoError(t, b.Complete("x"))
	assert.Equal(t, Breaker{0, 5, window, 7, cooldown, 1, lease}, b, "with Failures, the ratio is off")
	b = Breaker{Failures: 7, Ratio: .25, MinCalls: 20}
	require.NoError(t, b.Complete("x"))
	assert.Equal(t, Breaker{.25, 20, window, 7, cooldown, 1, lease}, b, "both")

	l := Slots{Adaptive: &admit.Adaptive{Max: 8}}
	require.NoError(t, l.Complete("x", nil))
	assert.Equal(t, Slots{Scope: Of(Global), Adaptive: &admit.Adaptive{Min: 1, Max: 8}, MaxKeys: DefaultKeys}, l)

	p := admit.Policy{MaxQueue: 7}
	require.NoError(t, Order("x", &p))
	assert.Equal(t, admit.Policy{Ageing: Ageing, MaxQueue: 7, MaxPerTenant: 7}, p)

	given := []Rate{{N: 3}}
	rates, buckets, err := CompleteRates("x", given)
	require.NoError(t, err)
	assert.Equal(t, []Rate{{N: 3, Per: time.Second, Burst: 3}}, rates)
	assert.Equal(t, int64(3), buckets[0].Burst())
	assert.Equal(t, []Rate{{N: 3}}, given, "what was given")
}

// A rate goes on as that of its unit and period, else as one of its unit.
func TestRatesGoOnAsThoseOfTheirUnit(t *testing.T) {
	second, minute, tokens := Rate{Per: time.Second}, Rate{Per: time.Minute}, Rate{Per: time.Second, Unit: "tokens"}
	hour := Rate{Per: time.Hour}
	for _, tt := range []struct {
		old, rates []Rate
		want       string
	}{
		{[]Rate{second, minute, tokens}, []Rate{tokens, minute, second}, "[2 1 0]"},
		{[]Rate{second, minute}, []Rate{hour, second}, "[1 0]"},
		{[]Rate{second}, []Rate{tokens, hour, minute}, "[-1 0 -1]"},
		{nil, []Rate{second}, "[-1]"},
	} {
		assert.Equal(t, tt.want, fmt.Sprint(Match(tt.old, tt.rates)), "%v -> %v", tt.old, tt.rates)
	}
}

// A scope that counts nothing, or something twice, is refused in words.
func TestScopesThatCannotBeAreRefused(t *testing.T) {
	for want, s := range map[string]Scope{
		"<nil>": Of(ByTenant),
		"x names nothing: must name at least one":              For(ForTool, nil),
		"x has an empty name at 1: must not be empty":          For(ForType, []string{"a", ""}),
		`x names "a" twice: must name each once`:               For(ForType, []string{"a", "b", "a"}),
		"x is ByKey without a name: must have one":             Keyed(ByKey, "", new(int)),
		`x is ByKey("k") with a nil function: must not be nil`: Keyed(ByKey, "k", nil),
		`x "a\nb" has a control character: must be printable`:  Keyed(ByKey, "a\nb", new(int)),
	} {
		_, err := s.Complete("x", Global)
		assert.Equal(t, want, fmt.Sprint(err))
	}
	s, err := Of(Unset).Complete("x", ByTool)
	require.NoError(t, err)
	assert.Equal(t, Of(ByTool), s)
}

// Of each scope it is known what its keys can be.
func TestKeysThatAScopeCanHave(t *testing.T) {
	most := strings.Repeat("x", MaxKeyBytes)
	for _, tt := range []struct {
		scope  Scope
		wants  string
		can    []string
		cannot []string
	}{
		{Of(Global), "empty", []string{""}, []string{"x"}},
		{For(ForTool, []string{"x"}), "empty", []string{""}, []string{"x"}},
		{Of(ByTool), "the name of a registered tool", []string{"x"}, []string{"", "a b"}},
		{Of(ByType), "the Type of a registered tool", []string{"", "a b"}, []string{"a\n", most}},
		{Of(ByTenant), "at most 1024 bytes", []string{"", "a\n", most}, []string{most + "x"}},
		{Keyed(ByKey, "k", new(int)), "from 1 to 1024 bytes", []string{"a\n", most}, []string{"", most + "x"}},
	} {
		for _, key := range append(tt.can, tt.cannot...) {
			wants, may := tt.scope.Wants(key)
			assert.Equal(t, tt.wants, wants)
			assert.Equal(t, slices.Contains(tt.can, key), may, "%v: %q", tt.scope, key)
		}
	}
}

// semaphore is one of other code.
type semaphore struct{ admit.Semaphore }

// A semaphore of other code has no keys.
func TestASharedSemaphoreHasOneKey(t *testing.T) {
	l := Slots{Scope: Of(ByTool), Max: 1, Shared: semaphore{}}
	require.EqualError(t, l.Complete("x", nil), "x.Scope is per tool with Semaphore: must be Global, ForTool or ForType")
	l.Scope = For(ForTool, []string{"a"})
	require.NoError(t, l.Complete("x", nil))
}
