package sluiceprom_test

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	sluiceprom "github.com/sluice-go/sluice/contrib/prometheus"
)

// rig is a collector in a registry that checks all that it is given, which a test scrapes.
type rig struct {
	t   *testing.T
	col *sluiceprom.Collector
	reg *prometheus.Registry
}

func newRig(t *testing.T, c sluiceprom.Config) *rig {
	t.Helper()
	col, err := sluiceprom.NewCollector(c)
	require.NoError(t, err)
	r := &rig{t: t, col: col, reg: prometheus.NewPedanticRegistry()}
	require.NoError(t, r.reg.Register(col))
	return r
}

// exec is an executor that r watches.
func (r *rig) exec(c sluice.Config) *sluice.Executor {
	r.t.Helper()
	e := r.unwatched(c)
	require.NoError(r.t, r.col.Watch(e))
	return e
}

// unwatched is an executor that tells r of its calls alone.
func (r *rig) unwatched(c sluice.Config) *sluice.Executor {
	r.t.Helper()
	if c.Sink == nil {
		c.Sink = r.col
	}
	e, err := sluice.NewExecutor(sluice.NewToolRegistry(), c)
	require.NoError(r.t, err)
	r.t.Cleanup(func() { _ = e.Close(context.Background()) })
	return e
}

// tool registers a tool whose code gets the JSON string that it is called with.
func (r *rig) tool(e *sluice.Executor, name string, run func(ctx context.Context, in string) (string, error)) {
	r.t.Helper()
	_, err := sluice.Register(e.Registry(), sluice.Spec{Name: name}, run)
	require.NoError(r.t, err)
}

// call makes a call as a model does.
func call(ctx context.Context, e *sluice.Executor, tool, in string) error {
	b, _ := json.Marshal(in)
	_, err := e.Invoke(ctx, sluice.Request{Tool: tool, Args: b})
	return err
}

func nothing(context.Context, string) (string, error) { return "", nil }

// scrape is the samples that promhttp writes, by their series, but for buckets.
func (r *rig) scrape() map[string]string { return scrape(r.t, r.reg) }

func scrape(t *testing.T, reg prometheus.Gatherer) map[string]string {
	t.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	require.Equal(t, 200, w.Code, w.Body.String())
	out := make(map[string]string)
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, "#") || strings.Contains(line, "_bucket{") {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		require.Positive(t, i, line)
		require.NotContains(t, out, line[:i])
		out[line[:i]] = strings.TrimSpace(line[i+1:])
	}
	return out
}

// only is the samples of metrics whose names begin so.
func only(samples map[string]string, prefixes ...string) map[string]string {
	out := make(map[string]string)
	for k, v := range samples {
		for _, p := range prefixes {
			if strings.HasPrefix(k, p) {
				out[k] = v
			}
		}
	}
	return out
}
