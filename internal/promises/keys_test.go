package promises_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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
	files := sluice.ByKeys("file", func(sluice.Call) []string { return []string{"b", "", "a", "b"} })
	assert.True(t, files == files && files != sluice.ByKeys("file", nil), "==")
	says, counts := files.Key(sluice.Spec{}, sluice.Call{})
	assert.Equal(t, "a, b true per file", fmt.Sprintf("%s %v %s", says, counts, files), "keys")
	_, counts = sluice.ByKeys("file", func(sluice.Call) []string { return nil }).Key(sluice.Spec{}, sluice.Call{})
	assert.False(t, counts, "without a key")
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

// gateKeys is what an operator can do to a key.
func gateKeys(s sluice.Scope, maxKeys int) (gates []sluice.Interceptor, ops map[string]func(string) error) {
	q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: s, MaxKeys: maxKeys, Rates: []sluice.Rate{{N: 100}, {N: 1000, Per: time.Minute}}}))
	b := breakerOf(sluice.CircuitBreakerConfig{Scope: s, MaxKeys: maxKeys})
	return interceptors(q, b), map[string]func(string) error{
		"Pause": func(k string) error { return q.Pause(k, time.Nanosecond) },
		"lift":  func(k string) error { return q.Pause(k, 0) },
		"Trip":  b.Trip,
		"State": func(k string) error { _, err := b.State(k); return err },
		"Reset": b.Reset,
	}
}

// A key that a limit's scope cannot have is refused with words, and leaves nothing behind.
func TestGates_RefuseKeysThatTheirScopesCannotHave(t *testing.T) {
	long := strings.Repeat("k", 1025)
	host := sluice.ByKey("host", func(sluice.Call) string { return "" })
	for name, tt := range map[string]struct {
		scope     sluice.Scope
		good, bad []string
	}{
		"Global":   {sluice.Global, []string{""}, []string{"x", "web", long}},
		"ForTool":  {sluice.ForTool("x"), []string{""}, []string{"x"}},
		"ForType":  {sluice.ForType("web"), []string{""}, []string{"web"}},
		"ByTool":   {sluice.ByTool, []string{"x", "bare"}, []string{"", "web", "y", "gone", long}},
		"ByType":   {sluice.ByType, []string{"web", ""}, []string{"x", "wbe", long}},
		"ByTenant": {sluice.ByTenant, []string{"", "t"}, []string{long}},
		"ByKey":    {host, []string{"h"}, []string{"", long}},
	} {
		t.Run(name, func(t *testing.T) {
			gates, ops := gateKeys(tt.scope, 0)
			r := newRig(t, sluice.Config{Interceptors: gates})
			defer r.end()
			for _, s := range []sluice.Spec{{Name: "x", Type: "web"}, {Name: "bare"}, {Name: "gone", Type: "old"}} {
				r.tool(s, func(context.Context) error { return nil })
			}
			r.reg.Remove("gone")
			before := len(r.Snapshot().Gates)
			for _, op := range []string{"Pause", "lift", "Trip", "State", "Reset"} {
				for _, k := range tt.bad {
					if err := ops[op](k); err == nil || !strings.Contains(err.Error(), "has no key") || len(err.Error()) > 400 {
						t.Errorf("%s(%.20q): %v", op, k, err)
					}
				}
			}
			if n := len(r.Snapshot().Gates); n != before {
				t.Errorf("%d constraints, %d before keys were refused", n, before)
			}
			for _, op := range []string{"Pause", "lift", "Trip", "State", "Reset"} {
				for _, k := range tt.good {
					assert.NoError(t, ops[op](k), "%s(%q)", op, k)
				}
			}
		})
	}
	for name, op := range map[string]func() error{
		"nil RateLimiter":     func() error { return (*sluice.RateLimiter)(nil).Pause("", time.Second) },
		"nil CircuitBreaker":  func() error { return (*sluice.CircuitBreaker)(nil).Trip("") },
		"zero RateLimiter":    func() error { return new(sluice.RateLimiter).Pause("", time.Second) },
		"zero CircuitBreaker": func() error { _, err := new(sluice.CircuitBreaker).State(""); return err },
	} {
		assert.ErrorContains(t, op(), "must be made by its New function", name)
	}
}

// Keys that an operator touches are bounded for every scope: by MaxKeys, idle ones making room,
// by the registered tools, and, before there is an executor, by a thousand.
func TestGates_KeysAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		gates, ops := gateKeys(sluice.ByTenant, 50)
		r := newRig(t, sluice.Config{Interceptors: gates})
		defer r.end()
		r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { return nil })
		for i := range 5000 {
			require.NoError(t, ops["Pause"](fmt.Sprint(i))) // of a nanosecond: idle a token's time after it
			time.Sleep(2 * time.Minute)
		}
		full := 0
		for i := range 5000 {
			if err := ops["Trip"](fmt.Sprint(i)); err != nil {
				if !strings.Contains(err.Error(), "no room for key") {
					t.Fatal(err)
				}
				full++
			}
		}
		if n := len(r.Snapshot().Gates); n > 3*50+10 || full != 5000-50 {
			t.Errorf("%d constraints, %d trips refused: want at most 150 of keys, and 4950", n, full)
		}

		_, ops = gateKeys(sluice.ByTool, 0)
		full = 0
		for i := range 5000 {
			if ops["Trip"](fmt.Sprint("tool-", i)) != nil {
				full++
			}
		}
		assert.Equal(t, 4000, full, "trips of tools that nobody has registered were refused, want 4000 of 5000")
	})
}

// A breaker's key that has counted failures is not idle: it makes no room for another.
func TestKeys_CountedFailuresMakeNoRoom(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := breakerOf(sluice.CircuitBreakerConfig{Scope: sluice.ByTenant, MaxKeys: 2, Failures: 2, Cooldown: time.Hour})
		r := newRig(t, sluice.Config{Interceptors: interceptors(b)})
		defer r.end()
		fail := true
		r.tool(sluice.Spec{Name: "x"}, func(context.Context) error {
			if fail {
				return errTool
			}
			return nil
		})
		call := func(tenant string) error {
			pc := r.pc
			pc.Tenant = tenant
			return errOf(r.Invoke(sluice.WithPipelineContext(t.Context(), pc), sluice.Request{Tool: "x"}))
		}
		for _, n := range []string{"a", "b"} {
			if err := call(n); err != errTool {
				t.Error(err)
			}
		}
		if err := call("c"); !errors.Is(err, sluice.ErrSaturated) && !errors.Is(err, sluice.ErrRejected) {
			t.Errorf("a third key where both have counted a failure: %v", err)
		}
		assert.Error(t, b.Trip("c"), "a third key was tripped where both have counted a failure")
		for _, n := range []string{"a", "b"} { // the second failure opens: the first was not forgotten
			_ = call(n)
			assert.Equal(t, sluice.BreakerOpen, sluice.Must(b.State(n)), n)
		}
	})
}

// A change of a limiter's MaxKeys bounds the keys from then on.
func TestKeys_ChangedMaxKeysCounts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		conf := func(keys int) sluice.ConcurrencyLimiterConfig {
			return sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1, Scope: sluice.ByTenant, MaxKeys: keys}}}
		}
		l := sluice.Must(sluice.NewConcurrencyLimiter(conf(2)))
		r := newRig(t, sluice.Config{Interceptors: interceptors(l)})
		defer r.end()
		r.tool(sluice.Spec{Name: "x"}, sleeps(time.Hour))
		ok := func(tenants int) (n int) {
			for i := range tenants {
				pc := r.pc
				pc.Tenant = fmt.Sprint("t", i)
				f := r.Submit(sluice.WithPipelineContext(t.Context(), pc), sluice.Request{Tool: "x"})
				synctest.Wait()
				select {
				case <-f.Done():
					_, err := f.Wait(t.Context())
					wantRefusal(t, err, sluice.ErrSaturated, "concurrency per tenant", 0)
				default:
					n++
				}
			}
			return n
		}
		assert.Equal(t, 2, ok(5), "keys of two")
		require.NoError(t, sluice.Reconfigure("me", l.Change(conf(4))))
		time.Sleep(3 * time.Hour)
		assert.Equal(t, 4, ok(5), "keys of four")
		time.Sleep(3 * time.Hour)
		require.NoError(t, sluice.Reconfigure("me", l.Change(conf(1))))
		assert.Equal(t, 1, l.Config().Limits[0].MaxKeys, "MaxKeys")
	})
}

// A flood of keys finds a table of bounded size: idle keys make room, busy ones do not,
// and no key that is still limited is forgotten.
func TestPromise21_KeyFloodIsBounded(t *testing.T) {
	const keys = 100
	bubble(t, func(t *testing.T) {
		key := sluice.ByKey("host", func(c sluice.Call) string { return c.ID })
		r := newRig(t, sluice.Config{MaxWait: sluice.NoWait, Interceptors: interceptors(
			limitsOf(sluice.Limit{Max: 1, Scope: key, MaxKeys: keys}),
			sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: key, MaxKeys: keys, Rates: []sluice.Rate{{N: 1, Per: time.Hour, Burst: 1}}})),
			sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Scope: key, MaxKeys: keys})))})
		defer r.end()
		r.ctx = t.Context()
		r.tool(sluice.Spec{Name: "work"}, sleeps(0))
		flood := func(n int, prefix string) (ok, full, late int) {
			for i := range n {
				_, err := r.Invoke(r.ctx, sluice.Request{ID: fmt.Sprint(prefix, i), Tool: "work"})
				switch {
				case err == nil:
					ok++
				case errors.Is(err, sluice.ErrSaturated):
					full++
					wantRefusal(t, err, sluice.ErrSaturated, "rate calls per hour", time.Hour)
				case errors.Is(err, sluice.ErrWaitTooLong):
					late++
				default:
					t.Error(err)
				}
			}
			return
		}
		want := func(what string, ok, full, late, wok, wfull, wlate int) {
			t.Helper()
			if ok != wok || full != wfull || late != wlate {
				t.Errorf("%s: %d ran, %d found no room, %d too late: want %d, %d, %d", what, ok, full, late, wok, wfull, wlate)
			}
		}
		ok, full, late := flood(100_000, "a")
		want("first flood", ok, full, late, keys, 100_000-keys, 0)
		ok, full, late = flood(keys, "a")
		want("the same keys are still limited", ok, full, late, 0, 0, keys)
		if n := len(r.Snapshot().Gates); n > 3*keys+1 {
			t.Errorf("%d cells, want at most %d", n, 3*keys+1)
		}
		time.Sleep(time.Hour) // all buckets are full again
		ok, full, late = flood(1000, "b")
		want("after an hour", ok, full, late, keys, 1000-keys, 0)
		if n := len(r.Snapshot().Gates); n > 3*keys+1 {
			t.Errorf("%d cells, want at most %d", n, 3*keys+1)
		}
	})
}

// A hundred thousand made-up keys against a table of a hundred: memory stays, nobody's
// quota is refreshed by being pushed out, and new keys are refused only while all are busy.
func TestKeys_MadeUpOnesRefreshNobodysQuota(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const keys, hostile = 100, 100_000
		q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "api", Scope: byAPIKey, MaxKeys: keys, Refuse: true, Rates: []sluice.Rate{{N: 2, Per: time.Minute}}}))
		r := newRig(t, sluice.Config{Interceptors: interceptors(q)})
		defer r.end()
		var g gauge
		r.tool(sluice.Spec{Name: "fetch"}, g.counts(0))
		try := func(key string) error {
			pc := sluice.PipelineContext{Attrs: map[string]string{"api_key": key}}
			return errOf(r.Invoke(sluice.WithPipelineContext(t.Context(), pc), sluice.Request{Tool: "fetch"}))
		}
		const by = "rate/api calls per minute"
		require.NoError(t, try("acme"))
		require.NoError(t, try("acme"))
		heap := func() int64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			return int64(m.HeapAlloc)
		}
		ran, before := 0, int64(0)
		for i := range hostile {
			err := try(fmt.Sprint("made-up-", i))
			if err == nil {
				ran++
			} else if i%1000 == 0 {
				e := wantRefusal(t, err, sluice.ErrSaturated, by, 30*time.Second) // when one has its token back
				if e == nil || e.Cause == nil || !strings.Contains(e.Cause.Error(), "keys are busy") {
					t.Errorf("%v, want it to say that all keys are busy", err)
				}
			}
			if i%1000 == 0 {
				wantRefusal(t, try("acme"), sluice.ErrRateLimited, by, 30*time.Second) // never refreshed
			}
			if i == keys {
				before = heap()
			}
		}
		grown := heap() - before
		t.Logf("%d of %d made-up keys ran; the heap has grown by %d bytes", ran, hostile, grown)
		assert.Equal(t, keys-1, ran, "made-up keys ran: as many as there is room for")
		if grown > 256<<10 {
			t.Errorf("the heap has grown by %d bytes", grown)
		}
		if n := len(r.Snapshot().Gates); n > keys+2 {
			t.Errorf("%d gates in the snapshot, want at most %d keys", n, keys)
		}
		time.Sleep(30 * time.Second) // the made-up ones are idle again; acme has one call
		for i := range keys {
			if err := try(fmt.Sprint("later-", i)); i < keys-1 && err != nil {
				t.Fatalf("key %d: %v, want idle ones to make room", i, err)
			} else if i == keys-1 {
				wantRefusal(t, err, sluice.ErrSaturated, by, 30*time.Second)
			}
		}
		require.NoError(t, try("acme"))
		wantRefusal(t, try("acme"), sluice.ErrRateLimited, by, 30*time.Second)
	})
}

// The keys of a limit on calls in flight are busy while a call runs or waits under them.
func TestKeys_AreBusyWhileACallRunsOrWaits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 1, Scope: byAPIKey, MaxKeys: 3}))})
		defer r.end()
		r.tool(sluice.Spec{Name: "fetch"}, sleeps(time.Second))
		const by = "concurrency per api key"
		var fs []*sluice.Future
		for _, k := range []string{"a", "b", "c", "c"} {
			fs = append(fs, r.Submit(r.withKey(k), sluice.Request{Tool: "fetch"}))
		}
		synctest.Wait()
		e := wantRefusal(t, errOf(r.Invoke(r.withKey("d"), sluice.Request{Tool: "fetch"})), sluice.ErrSaturated, by, 0)
		if e != nil && (e.Cause == nil || !strings.Contains(e.Cause.Error(), "keys are busy")) {
			t.Errorf("%v, want it to say that all keys are busy", e)
		}
		require.NoError(t, errOf(r.Invoke(r.withKey(""), sluice.Request{Tool: "fetch"}))) // counts nowhere
		time.Sleep(time.Nanosecond)
		for i, k := range []string{"d", "e"} { // a and b have ended
			if i == 0 {
				fs = append(fs, r.Submit(r.withKey(k), sluice.Request{Tool: "fetch"}))
				continue
			}
			fs = append(fs, r.Submit(r.withKey(k), sluice.Request{Tool: "fetch"}))
		}
		wantRefusal(t, errOf(r.Invoke(r.withKey("f"), sluice.Request{Tool: "fetch"})), sluice.ErrSaturated, by, 0)
		for _, f := range fs {
			require.NoError(t, errOf(f.Wait(t.Context())))
		}
	})
}

// A lower MaxKeys takes effect as keys fall idle; a key that owes, waits or has failures stays.
func TestKeys_LowerMaxKeysCountsAsKeysFallIdle(t *testing.T) {
	bubble(t, func(t *testing.T) {
		conf := sluice.RateLimiterConfig{Name: "q", Scope: sluice.ByTenant, MaxKeys: 50, Rates: []sluice.Rate{{N: 1, Per: time.Minute}}}
		q := sluice.Must(sluice.NewRateLimiter(conf))
		r := newRig(t, sluice.Config{Interceptors: interceptors(q), MaxWait: sluice.NoWait})
		defer r.end()
		r.tool(sluice.Spec{Name: "x"}, sleeps(0))
		keys := func() (n int) {
			for _, g := range r.Snapshot().Gates {
				if g.Kind == "rate" {
					n++
				}
			}
			return n
		}
		call := func(tenant string) error {
			_, err := r.Invoke(r.as(0, tenant), sluice.Request{Tool: "x"})
			return err
		}
		for i := range 50 {
			require.NoError(t, call(fmt.Sprint("t", i)))
		}
		conf.MaxKeys = 10
		require.NoError(t, sluice.Reconfigure("me", q.Change(conf)))
		assert.Equal(t, 50, keys(), "keys: all of them are busy")
		var e *sluice.Error
		if err := call("new"); !errors.As(err, &e) || e.Reason != sluice.ErrSaturated || e.RetryAfter != time.Minute {
			t.Errorf("%v, want ErrSaturated for a minute", err)
		}
		assert.ErrorIs(t, call("t1"), sluice.ErrWaitTooLong, "want its own token to be spent")
		time.Sleep(time.Minute)
		require.NoError(t, call("new"))
		if n := keys(); n > 10 {
			t.Errorf("%d keys, want at most 10", n)
		}
	})
}

// A keyed breaker that has counted failures keeps its key while they count: a full table
// refuses others with the time, and evicts none of these.
func TestBreakerKeysWithFailuresStay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := breakerOf(sluice.CircuitBreakerConfig{Failures: 3, Scope: sluice.ByTenant, MaxKeys: 4, Cooldown: time.Hour})
		r := newRig(t, sluice.Config{Interceptors: interceptors(b)})
		defer r.end()
		r.tool(sluice.Spec{Name: "bad"}, func(context.Context) error { return errTool })
		r.tool(sluice.Spec{Name: "good"}, sleeps(0))
		call := func(tool, tenant string) error {
			_, err := r.Invoke(r.as(0, tenant), sluice.Request{Tool: tool})
			return err
		}
		for i := range 4 {
			for range 2 {
				_ = call("bad", fmt.Sprint("t", i))
			}
		}
		for i := range 20 {
			var e *sluice.Error
			if err := call("good", fmt.Sprint("new", i)); !errors.As(err, &e) || e.Reason != sluice.ErrSaturated {
				t.Errorf("%v, want ErrSaturated", err)
			}
		}
		for i := range 4 {
			_ = call("bad", fmt.Sprint("t", i)) // the third failure in a row
			if s, err := b.State(fmt.Sprint("t", i)); err != nil || s != sluice.BreakerOpen {
				t.Errorf("t%d is %v, %v: want open after three failures", i, s, err)
			}
			require.NoError(t, b.Reset(fmt.Sprint("t", i)))
		}
		require.NoError(t, call("good", "new"))
	})
}

// They count for as long as the breaker itself goes by them, an hour without a result: until then
// a full table refuses others with what is left of it, and from then on the keys make room.
func TestBreakerKeysWithFailuresStayForAnHour(t *testing.T) {
	const keys = 4
	for _, idle := range []time.Duration{time.Minute, 2 * time.Minute, time.Hour - 1, time.Hour} {
		t.Run(fmt.Sprint("after ", idle), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := breakerOf(sluice.CircuitBreakerConfig{Failures: 3, Scope: sluice.ByTenant, MaxKeys: keys})
				r := newRig(t, sluice.Config{Interceptors: interceptors(b)})
				defer r.end()
				r.tool(sluice.Spec{Name: "bad"}, func(context.Context) error { return errTool })
				r.tool(sluice.Spec{Name: "good"}, sleeps(0))
				call := func(tool, tenant string) error {
					_, err := r.Invoke(r.as(0, tenant), sluice.Request{Tool: tool})
					return err
				}
				tenant := func(i int) string { return fmt.Sprint("t", i) }
				for i := range keys {
					_ = call("bad", tenant(i))
					_ = call("bad", tenant(i))
				}
				time.Sleep(idle)
				refused, state := 2*keys, sluice.BreakerOpen
				if idle == time.Hour {
					refused, state = 0, sluice.BreakerClosed
				}
				n := 0
				for i := range 2 * keys {
					var e *sluice.Error
					switch err := call("good", fmt.Sprint("new", i)); {
					case err == nil:
					case errors.As(err, &e) && e.Reason == sluice.ErrSaturated && e.RetryAfter == time.Hour-idle:
						n++
					default:
						t.Errorf("%v, want ErrSaturated for %v", err, time.Hour-idle)
					}
				}
				assert.Equal(t, refused, n, "new keys were refused")
				for i := range keys {
					_ = call("bad", tenant(i)) // the third failure in a row, or the first of another
					if s, err := b.State(tenant(i)); err != nil || s != state {
						t.Errorf("%s is %v, %v, want %v", tenant(i), s, err, state)
					}
				}
			})
		})
	}
}
