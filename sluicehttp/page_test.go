package sluicehttp_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/sluicehttp"
)

// office is an executor with one of each kind of limit, and a tool.
type office struct {
	reg     *sluice.ToolRegistry
	exec    *sluice.Executor
	limits  *sluice.ConcurrencyLimiter
	rates   *sluice.RateLimiter
	breaker *sluice.CircuitBreaker
	sched   *sluice.PriorityScheduler
	recent  *sluicehttp.Recent
	release chan struct{} // ends a call of "hold"
}

func newOffice(t testing.TB) *office {
	o := &office{reg: sluice.NewToolRegistry(), recent: new(sluicehttp.Recent), release: make(chan struct{})}
	o.limits = sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 2, Scope: sluice.ByTenant}}}))
	o.rates = sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "crm", Rates: []sluice.Rate{{N: 10, Per: time.Minute}}}))
	o.breaker = sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Failures: 1}))
	o.sched = sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{}))
	o.exec = sluice.Must(sluice.NewExecutor(o.reg, sluice.Config{
		Interceptors: []sluice.Interceptor{o.breaker, o.limits, o.rates, o.sched}, Sink: o.recent,
	}))
	t.Cleanup(func() { _ = o.exec.Close(context.Background()) })
	sluice.Must(sluice.Wrap(o.exec, sluice.Spec{Name: "hold", Type: "web", Description: "Waits until it is let go."},
		func(ctx context.Context, _ struct{}) (string, error) {
			select {
			case <-o.release:
				return "secret result", nil
			case <-ctx.Done():
				return "", ctx.Err()
			}
		}))
	return o
}

// ask is one request to h, without a network.
func ask(t testing.TB, h http.Handler, method, target, body string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, "http://localhost"+target, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		if r.Header.Set(header[i], header[i+1]); header[i] == "Host" {
			r.Host = header[i+1]
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func page(t testing.TB, c sluicehttp.Config) *sluicehttp.Page {
	t.Helper()
	p, err := sluicehttp.New(c)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p
}

// Each view is there, as a page and as JSON, with what keeps it from doing anything.
func TestViews(t *testing.T) {
	o := newOffice(t)
	p := page(t, sluicehttp.Config{Executor: o.exec, Recent: o.recent})
	for _, view := range []string{"", "overview", "queue", "limits", "rates", "breakers", "layers", "fleets", "tools", "recent", "explain",
		"tool?tool=hold", "explain?tool=hold"} {
		w := ask(t, p, "GET", "/debug/sluice/"+view, "")
		require.Equal(t, http.StatusOK, w.Code, view)
		text := w.Body.String()
		require.Contains(t, text, "<h1>")
		require.True(t, strings.HasSuffix(text, "</html>\n"), view)
		require.NotContains(t, text, "<form", "a page that changes nothing has no form")
		require.NotContains(t, text, " style=")
		require.NotContains(t, text, "ZgotmplZ")
		require.Contains(t, w.Header().Get("Content-Security-Policy"), "default-src 'none'")
		if view == "" {
			view = "overview"
		}
		name, query, _ := strings.Cut(view, "?")
		w = ask(t, p, "GET", "/debug/sluice/"+name+".json?"+query, "")
		require.Equal(t, http.StatusOK, w.Code, view)
		require.True(t, json.Valid(w.Body.Bytes()), view)
		require.Equal(t, "application/json", w.Header().Get("Content-Type"))
	}
	for _, view := range []string{"nothing", "change", "live", "stream?view=change", "stream?view=nothing", "nothing.json"} {
		require.Equal(t, http.StatusNotFound, ask(t, p, "GET", "/"+view, "").Code, view)
	}
}
