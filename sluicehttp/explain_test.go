package sluicehttp_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/sluicehttp"
)

// What a call would wait for is told, however long it is: nothing of how long the page itself may take, or the server
// gives a request, counts as the call's deadline.
func TestExplainedCallsHaveAllTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1, Per: time.Hour}}}))
		e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{rate}}))
		work := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "work"}, func(context.Context, struct{}) (int, error) { return 0, nil }))
		_, err := work(t.Context(), struct{}{})
		require.NoError(t, err)
		p := page(t, sluicehttp.Config{Executor: e})
		within := func(method, target, body string) string {
			r := httptest.NewRequest(method, "http://localhost"+target, strings.NewReader(body))
			r.Header.Set("Content-Type", "application/json")
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			w := httptest.NewRecorder()
			p.ServeHTTP(w, r.WithContext(ctx))
			require.Equal(t, http.StatusOK, w.Code)
			return w.Body.String()
		}
		of := func(text string) map[string]any {
			var x map[string]any
			require.NoError(t, json.Unmarshal([]byte(text), &x))
			return x
		}
		typed := of(within("POST", "/explain.json", `{"tool":"work"}`))
		require.NotContains(t, typed, "refusal")
		require.Equal(t, of(within("GET", "/explain.json?tool=work", "")), typed)
		require.Equal(t, of(within("GET", "/tool.json?tool=work", ""))["next_call"], any(typed))
		require.NoError(t, e.Close(t.Context()))
	})
}

// The next call of a tool is nobody's, whoever asks: a server may have made the viewer a tenant, and others see the same.
func TestTheNextCallIsNotTheViewers(t *testing.T) {
	o := newOffice(t)
	p := page(t, sluicehttp.Config{Executor: o.exec})
	for _, target := range []string{"/tool.json?tool=hold", "/explain.json?tool=hold"} {
		r := httptest.NewRequest("GET", "http://localhost"+target, nil)
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r.WithContext(sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{Tenant: "ada", Priority: 12}))) // there is no 12
		require.Contains(t, w.Body.String(), `"verdict": "starts"`, target)
	}
}

// Where a tool's own function takes too long, nobody is told what would become of the call.
func TestExplainingMayTakeTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		weighed := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1, Unit: "pages"}}}))
		e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{weighed}}))
		sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "work", Policy: sluice.Policy{Cost: func(sluice.Call, string) int64 {
			time.Sleep(11 * time.Second)
			return 1
		}}}, func(context.Context, struct{}) (int, error) { return 0, nil }))
		p := page(t, sluicehttp.Config{Executor: e})
		w := ask(t, p, "POST", "/explain.json", `{"tool":"work"}`, "Content-Type", "application/json")
		require.Equal(t, http.StatusServiceUnavailable, w.Code)
		require.Equal(t, "The tool's own functions have not explained the call within 10s.\n", w.Body.String())
		require.NoError(t, e.Close(t.Context()))
	})
}
