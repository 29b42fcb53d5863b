package upstream

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
)

// An answer that says that one of several windows is used up pauses for that window, and
// leaves the others' quota as it is: an upstream of one call a second gets one each second,
// though it tells of its day too.
func TestTransport_OneWindowIsUsedUp(t *testing.T) {
	day := 24 * time.Hour
	for name, line := range map[string][]string{
		"IETF":             {"RateLimit", `"second";r=0;t=1, "day";r=9990;t=86000`},
		"IETF, two lines":  {"RateLimit", `"day";r=9990;t=86000`, "RateLimit", `"second";r=0;t=1`},
		"with a policy":    {"RateLimit", `"second";r=0;t=1, "day";r=9990;t=86000`, "RateLimit-Policy", `"second";q=1;w=1, "day";q=10000;w=86400`},
		"X-RateLimit pair": {"X-RateLimit-Limit", "1, 10000", "X-RateLimit-Remaining", "0, 9990", "X-RateLimit-Reset", "1, 86000"},
	} {
		for _, at := range []string{"one after the other", "at once"} {
			t.Run(name+", "+at, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Upstream: true,
						Rates: []sluice.Rate{{N: 10}, {N: 10_000, Per: day}}}))
					e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{q}}))
					begin, starts := time.Now(), []time.Duration(nil)
					tr := sluice.Must(NewTransport(TransportConfig{Base: roundTripFunc(func(r *http.Request) (*http.Response, error) {
						h := make(http.Header)
						for i := 0; i < len(line); i += 2 {
							h.Add(line[i], line[i+1])
						}
						return &http.Response{StatusCode: 200, Header: h, Body: http.NoBody, Request: r}, nil
					})}))
					get := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "get"}, func(ctx context.Context, _ struct{}) (json.RawMessage, error) {
						starts = append(starts, time.Since(begin)) // one at a time, as the rate has it
						r, err := http.NewRequestWithContext(ctx, "GET", "http://example.com/", nil)
						if err != nil {
							return nil, err
						}
						_, err = tr.RoundTrip(r)
						return nil, err
					}))
					var wg sync.WaitGroup
					for i := range 6 {
						call := func() {
							_, err := get(t.Context(), struct{}{})
							assert.NoError(t, err)
						}
						if i == 0 || at != "at once" {
							call()
						} else {
							wg.Go(call)
						}
					}
					wg.Wait()
					var want []time.Duration
					for i := range 6 {
						want = append(want, time.Duration(i)*time.Second)
					}
					assert.Equal(t, want, starts, "starts")
					assert.NoError(t, e.Close(t.Context()))
				})
			})
		}
	}
}
