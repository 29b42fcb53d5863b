package docs_test

import (
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/resilience"
	"github.com/sluice-go/sluice/upstream"
	"github.com/stretchr/testify/require"
)

// defaultOf is what the comment of a field says that zero means.
var defaultOf = regexp.MustCompile(`[Zz]ero\s+means\s+([^;.]+(?:\.\d[^;.]*)*)`)

// documented are the fields of exported structs whose comments say what zero means, and what that is.
func documented(t *testing.T, packages ...string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, dir := range packages {
		files, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
		require.NoError(t, err)
		prefix := ""
		if dir != "." {
			prefix = dir + "."
		}
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
			require.NoError(t, err)
			ast.Inspect(f, func(n ast.Node) bool {
				spec, ok := n.(*ast.TypeSpec)
				if !ok || !spec.Name.IsExported() {
					return true
				}
				x, ok := spec.Type.(*ast.StructType)
				if !ok {
					return false
				}
				for _, field := range x.Fields.List {
					text := strings.Join(strings.Fields(field.Doc.Text()+" "+field.Comment.Text()), " ")
					if m := defaultOf.FindStringSubmatch(text); m != nil && len(field.Names) > 0 && field.Names[0].IsExported() {
						for _, name := range field.Names {
							out[prefix+spec.Name.Name+"."+name.Name] = strings.TrimSpace(m[1])
						}
					}
				}
				return false
			})
		}
	}
	return out
}

// figure is the number that a default begins with, in nanoseconds or bytes if it has a unit.
func figure(text string) (float64, bool) {
	text = strings.ReplaceAll(strings.Replace(text, "one ", "1 ", 1), ",", "")
	m := regexp.MustCompile(`^(?:the constant MaxPause )?([\d.]+) ?(ms|s|seconds?|min|h|hour|KiB|MiB)?\b`).FindStringSubmatch(text)
	if m == nil {
		return 0, false
	}
	n, err := strconv.ParseFloat(m[1], 64)
	unit := map[string]float64{
		"": 1, "ms": 1e6, "s": 1e9, "second": 1e9, "seconds": 1e9, "min": 60e9, "h": 3600e9, "hour": 3600e9, "KiB": 1 << 10, "MiB": 1 << 20,
	}[m[2]]
	return n * unit, err == nil
}

// unbounded says of a default that there is no bound.
var unbounded = regexp.MustCompile(`^(none|no |any |until )`)

// tableOf is the rows of the table on a page below a head, as the first column to the second.
func tableOf(t *testing.T, page, head string) map[string]string {
	t.Helper()
	_, after, ok := strings.Cut(page, head+"\n|---|")
	require.True(t, ok, "no table %q", head)
	out := map[string]string{}
	for n, line := range strings.Split(after, "\n")[1:] {
		if !strings.HasPrefix(line, "|") {
			require.Greater(t, n, 3, "rows of %q", head)
			break
		}
		cells := strings.Split(line, " | ")
		name := strings.Trim(cells[0], "|` ")
		require.NotContains(t, out, name)
		out[name] = strings.TrimSpace(cells[1])
	}
	return out
}

// The page has each default of a figure, as the field's comment has it, and each field that leaves something unbounded.
func TestProduction_Defaults(t *testing.T) {
	text, err := os.ReadFile("production.md")
	require.NoError(t, err)
	figures, none := map[string]string{}, map[string]string{}
	for field, v := range documented(t, ".", "resilience", "agent", "upstream", "outbox", "sluicehttp") {
		if _, ok := figure(v); ok {
			figures[field] = v
		} else if unbounded.MatchString(v) && !strings.HasPrefix(field, "GateState.") {
			none[field] = v
		}
	}
	require.Greater(t, len(figures), 40)
	require.Equal(t, figures, tableOf(t, string(text), "| field | zero means | beyond it |"))
	require.Equal(t, none, tableOf(t, string(text), "| field | zero means | set it when |"))
	for field, v := range tableOf(t, string(text), "| field | zero means | which says |") {
		if v != "as in Limit" && field != "FleetConfig.Away" { // whose comments have no such words
			require.Equal(t, documented(t, ".")[field], v, field)
		}
	}
	require.Zero(t, engine.Deny)
}

// The figures on the page are those that the code goes by.
func TestProduction_Figures(t *testing.T) {
	text, err := os.ReadFile("production.md")
	require.NoError(t, err)
	table := tableOf(t, string(text), "| field | zero means | beyond it |")
	for field, got := range configured(t) {
		want, ok := figure(table[field])
		require.True(t, ok, "%s: %q", field, table[field])
		require.Equal(t, want, got, field)
	}
	synctest.Test(t, func(t *testing.T) {
		for field, got := range observed(t) {
			want, ok := figure(table[field])
			require.True(t, ok, "%s: %q", field, table[field])
			require.Equal(t, want, float64(got), field)
		}
	})
}

// configured are defaults as the components of the zero value say them.
func configured(t *testing.T) map[string]float64 {
	m := engineInMemory(t)
	fleet := sluice.Must(sluice.NewFleet(sluice.FleetConfig{Engine: m}))
	defer fleet.Close(t.Context())
	slots := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Fleet: fleet, Limits: []sluice.Limit{{Max: 1}}})).Config()
	adaptive := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Adaptive: &sluice.Adaptive{Max: 9}}}})).Config()
	rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1}}})).Config()
	order := sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{})).Config()
	breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{})).Config()
	quorum := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Fleet: fleet})).Config()
	require.Equal(t, rates.Rates[0].N, rates.Rates[0].Burst)
	require.Equal(t, order.MaxQueue, order.MaxPerTenant)
	require.Equal(t, slots.Limits[0].MaxKeys, rates.MaxKeys)
	require.Equal(t, slots.Limits[0].MaxKeys, breaker.MaxKeys)
	retry := sluice.Must(resilience.NewRetry(resilience.RetryConfig{})).Config()
	cache := sluice.Must(resilience.NewCache(resilience.CacheConfig{Tools: func(sluice.Spec) bool { return true }})).Config()
	hedge := sluice.Must(resilience.NewHedge(resilience.HedgeConfig{})).Config()
	state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
	once := sluice.Must(resilience.NewOnce(resilience.OnceConfig{State: state, Key: func(sluice.Call) (string, bool) { return "", false }})).Config()
	standard := sluice.Must(resilience.Standard(resilience.StandardConfig{}))
	return map[string]float64{
		"ConcurrencyLimiterConfig.Lease":    float64(slots.Lease),
		"Limit.MaxKeys":                     float64(slots.Limits[0].MaxKeys),
		"Adaptive.Min":                      float64(adaptive.Limits[0].Adaptive.Min),
		"Rate.Per":                          float64(rates.Rates[0].Per),
		"CircuitBreakerConfig.Quorum":       float64(quorum.Quorum),
		"PrioritySchedulerConfig.Ageing":    float64(order.Ageing),
		"PrioritySchedulerConfig.MaxQueue":  float64(order.MaxQueue),
		"CircuitBreakerConfig.Ratio":        breaker.Ratio,
		"CircuitBreakerConfig.MinCalls":     float64(breaker.MinCalls),
		"CircuitBreakerConfig.Window":       float64(breaker.Window),
		"CircuitBreakerConfig.Failures":     float64(breaker.Failures),
		"CircuitBreakerConfig.Cooldown":     float64(breaker.Cooldown),
		"CircuitBreakerConfig.Probes":       float64(breaker.Probes),
		"CircuitBreakerConfig.Lease":        float64(breaker.Lease),
		"resilience.RetryConfig.Attempts":   float64(retry.Attempts),
		"resilience.RetryConfig.Base":       float64(retry.Base),
		"resilience.RetryConfig.Max":        float64(retry.Max),
		"resilience.CacheConfig.TTL":        float64(cache.TTL),
		"resilience.CacheConfig.MaxEntries": float64(cache.MaxEntries),
		"resilience.CacheConfig.MaxBytes":   float64(cache.MaxBytes),
		"resilience.HedgeConfig.After":      float64(hedge.After),
		"resilience.OnceConfig.TTL":         float64(once.TTL),
		"resilience.OnceConfig.Lease":       float64(once.Lease),
		"resilience.StandardConfig.Attempt": float64(standard.Timeout),
		"resilience.StandardConfig.Total":   float64(standard.Interceptors[0].(*resilience.Timeout).Config().Total),
		"upstream.TransportConfig.MaxPause": float64(upstream.MaxPause),
		"resilience.BudgetConfig.Min":       float64(sluice.Must(resilience.NewRetry(resilience.RetryConfig{})).Inspect()[0].Limit) / 10,
	}
}

// observed are bounds as a caller meets them.
func observed(t *testing.T) map[string]int {
	out := map[string]int{}
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
	defer exec.Close(t.Context())

	deepest, calls := 0, 0
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "deeper"}, func(ctx context.Context, depth int) (string, error) {
		deepest = depth
		_, err := exec.Invoke(ctx, sluice.Request{Tool: "deeper", Input: depth + 1})
		return "", err
	}))
	_, err := exec.Invoke(t.Context(), sluice.Request{Tool: "deeper", Input: 1})
	require.ErrorIs(t, err, sluice.ErrNesting)
	out["Config.MaxDepth"] = deepest - 1 // nested in the outermost

	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "wider"}, func(ctx context.Context, outer bool) (string, error) {
		for calls++; outer; {
			if _, err := exec.Invoke(ctx, sluice.Request{Tool: "wider", Input: false}); err != nil {
				return "", err
			}
		}
		return "", nil
	}))
	_, err = exec.Invoke(t.Context(), sluice.Request{Tool: "wider", Input: true})
	require.ErrorIs(t, err, sluice.ErrNesting)
	out["Config.MaxCallsPerRoot"] = calls - 1 // those under the outermost

	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "echo"}, func(_ context.Context, in json.RawMessage) (string, error) { return string(in[1 : len(in)-1]), nil }))
	out["Config.MaxArgBytes"] = mostBytes(func(n int) bool {
		_, err := exec.Invoke(t.Context(), sluice.Request{Tool: "echo", Args: fmt.Appendf(nil, "%q", strings.Repeat("x", n-2))})
		return err == nil
	})
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "long"}, func(_ context.Context, n int) (string, error) { return strings.Repeat("x", n-2), nil }))
	out["Config.MaxResultBytes"] = mostBytes(func(n int) bool {
		res, err := exec.Invoke(t.Context(), sluice.Request{Tool: "long", Input: n})
		if err == nil {
			_, err = res.JSON()
		}
		return err == nil
	})

	keys := sluice.WithState(t.Context(), sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{})))
	out["SharedStateConfig.MaxKeys"] = most(200_000, func(n int) bool {
		_, err := sluice.Key[int](strconv.Itoa(n)).Set(keys, n)
		return err == nil
	})
	bytes := sluice.WithState(t.Context(), sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{})))
	mib := make([]byte, 1<<20-1<<10) // and what a key counts
	out["SharedStateConfig.MaxBytes"] = most(512, func(n int) bool {
		_, err := sluice.Key[[]byte](strconv.Itoa(n)).Set(bytes, mib)
		return err == nil
	}) << 20

	blocked := make(chan struct{})
	async := sluice.Must(sluice.NewAsyncSink(sluice.EventSinkFunc(func(context.Context, *sluice.Event) error {
		<-blocked
		return nil
	}), sluice.AsyncSinkConfig{}))
	out["AsyncSinkConfig.MaxQueue"] = most(2_000, func(n int) bool {
		_ = async.Emit(t.Context(), &sluice.Event{Kind: sluice.ToolCompleted})
		synctest.Wait()
		return async.Dropped() == 0
	}) - 1 // which the sink has
	close(blocked)
	require.NoError(t, async.Close(t.Context()))
	return out
}

// most is the largest number from 1 to bound for which ok holds, asked of one after the other.
func most(bound int, ok func(n int) bool) int {
	for n := 1; n <= bound; n++ {
		if !ok(n) {
			return n - 1
		}
	}
	return bound
}

// mostBytes is the power of two up to which ok holds, from 1 MiB on; zero if that is not the bound exactly.
func mostBytes(ok func(n int) bool) int {
	n := 1 << 20
	for ok(2 * n) {
		n *= 2
	}
	if ok(n + 1) {
		return 0
	}
	return n
}

func engineInMemory(t *testing.T) engine.Engine {
	t.Helper()
	m, err := engine.NewMemory(engine.MemoryConfig{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}
