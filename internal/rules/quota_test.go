package rules

import (
	"fmt"
	"testing"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/stretchr/testify/require"
)

// others is a limiter that other code uses too.
type others struct{ name string }

func (others) Wait() int64 { return 0 }
func (others) Take()       {}
func (others) Give(int64)  {}

// What a limiter may be, and its defaults. Of several wrong fields the first is named.
func TestQuotasAreCompleted(t *testing.T) {
	one := []Rate{{N: 3}}
	for _, tt := range []struct {
		name  string
		q     Quota
		rates []Rate
		want  string
	}{
		{"defaults", Quota{}, one, ""},
		{"shared", Quota{Foreign: others{"a"}}, nil, ""},
		{"name", Quota{Name: "a\n", MaxKeys: -1}, one, `x.Name "a\n" has a control character: must be printable`},
		{"scope", Quota{Scope: Keyed(ByKey, "", nil), MaxKeys: -1}, one, "x.Scope is ByKey without a name: must have one"},
		{"keys", Quota{MaxKeys: -1}, nil, "x.MaxKeys is -1: must be zero (10000) or positive"},
		{"nothing", Quota{}, nil, "x.Rates is empty: must have at least one rate, or Limiter"},
		{"both", Quota{Foreign: others{"a"}}, one, "x.Rates and Limiter are both set: must be one of them"},
		{"shared by many", Quota{Foreign: others{"a"}, Scope: Of(ByTenant)}, nil,
			"x.Scope is per tenant with Limiter: must be Global, ForTool or ForType"},
		{"rate", Quota{}, []Rate{{N: 1}, {}}, "x.Rates[1].N is 0: must be at least 1"},
	} {
		given := fmt.Sprint(tt.rates)
		got, err := CompleteQuota("x", &tt.q, tt.rates)
		require.Equal(t, given, fmt.Sprint(tt.rates), "%s: the caller's", tt.name)
		if tt.want != "" {
			require.EqualError(t, err, tt.want, tt.name)
			continue
		}
		require.NoError(t, err, tt.name)
		require.Equal(t, Quota{Name: "rate", Scope: Of(Global), MaxKeys: DefaultKeys, Foreign: tt.q.Foreign}, tt.q, tt.name)
		limits := QuotaLimits(tt.q, got)
		require.Len(t, limits, 1, tt.name)
		if tt.q.Foreign != nil {
			require.Equal(t, "rate shared limiter", limits[0].Class.Name)
		} else {
			require.Equal(t, "rate calls per second", limits[0].Class.Name)
			require.Equal(t, []Rate{{N: 3, Per: time.Second, Burst: 3}}, got)
		}
	}
}

// Some of a limiter can never change.
func TestWhatOfAQuotaIsFixed(t *testing.T) {
	was := Quota{Name: "a", Scope: Of(Global)}
	old := []Rate{{N: 1, Per: time.Second, Burst: 1}, {N: 9, Per: time.Minute, Burst: 9, Unit: "tokens"}}
	for want, f := range map[string]func(q *Quota, rates *[]Rate){
		"":                                     func(q *Quota, _ *[]Rate) { q.Refuse, q.MaxKeys = true, 7 },
		"x.Name changes: it cannot change":     func(q *Quota, _ *[]Rate) { q.Name, q.Upstream = "b", true },
		"x.Scope changes: it cannot change":    func(q *Quota, _ *[]Rate) { q.Scope = Of(ByTool) },
		"x.Upstream changes: it cannot change": func(q *Quota, _ *[]Rate) { q.Upstream = true },
		"x.Limiter changes: it cannot change":  func(q *Quota, _ *[]Rate) { q.Foreign = others{"a"} },
		"x.Rates has 1 entries, the component was made with 2: their number cannot change": func(q *Quota, r *[]Rate) { q.Name, *r = "b", (*r)[:1] },
		`x.Rates[1].Unit is "bytes": cannot change from "tokens"`:                          func(_ *Quota, r *[]Rate) { (*r)[1].Unit = "bytes" },
	} {
		to, rates := was, append([]Rate(nil), old...)
		f(&to, &rates)
		err := (&QuotaChange[Rate]{was, to, old, rates}).Fits("x")
		if want == "" {
			require.NoError(t, err)
		} else {
			require.EqualError(t, err, want)
		}
	}
	shared := Quota{Foreign: others{"a"}}
	require.NoError(t, (&QuotaChange[Rate]{Was: shared, To: Quota{Foreign: others{"a"}}}).Fits("x"), "the same limiter")
	require.EqualError(t, (&QuotaChange[Rate]{Was: shared, To: Quota{Foreign: others{"b"}}}).Fits("x"), "x.Limiter changes: it cannot change")
}

// Rates go on in what has counted them, in whatever order they come, and each that changes is told.
func TestChangedRatesGoOnWhereTheyWere(t *testing.T) {
	was := Quota{Name: "a", Scope: Of(ByTenant), MaxKeys: 5}
	to := was
	to.Refuse, to.MaxKeys = true, 6
	second, minute := Rate{N: 1, Per: time.Second, Burst: 1}, Rate{N: 9, Per: time.Minute, Burst: 9}
	tokens, more := Rate{N: 9, Per: time.Minute, Burst: 9, Unit: "tokens"}, Rate{N: 10, Per: time.Minute, Burst: 9, Unit: "tokens"}
	old := []Rate{second, minute, tokens}
	limits, at := QuotaLimits(was, old), []int{0, 1, 2}
	m := admit.NewMachine(FirstInFirstOut)
	var told []string
	changed := func(name, from, to string) { told = append(told, name+": "+from+" -> "+to) }

	rates := []Rate{more, minute, second}
	at = (&QuotaChange[Rate]{was, to, old, rates}).Apply(m, 0, limits, at, changed)
	require.Equal(t, []int{2, 1, 0}, at)
	require.Equal(t, []string{"rate/a tokens per minute: 9 tokens per minute, burst 9 -> 10 tokens per minute, burst 9"}, told)
	for _, l := range limits {
		require.True(t, l.Class.Refuse)
		require.Equal(t, 6, l.Class.MaxKeys)
	}

	told = nil // another period, for the rate that has been moved once already
	hour := Rate{N: 1, Per: time.Hour, Burst: 1}
	at = (&QuotaChange[Rate]{to, to, rates, []Rate{minute, hour, more}}).Apply(m, 0, limits, at, changed)
	require.Equal(t, []int{1, 0, 2}, at)
	require.Equal(t, []string{"rate/a calls per second: 1 calls per second, burst 1 -> 1 calls per hour, burst 1"}, told)
	require.Equal(t, "rate/a calls per hour", limits[0].Class.Name)
}
