package sluiceanthropic_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/anthropics/anthropic-sdk-go/v2"
	"github.com/anthropics/anthropic-sdk-go/v2/option"
	"github.com/anthropics/anthropic-sdk-go/v2/toolrunner"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	sluiceanthropic "github.com/sluice-go/sluice/contrib/anthropic"
)

// turns answers with calls and an end, by turns.
type turns struct {
	bodies [2]string
	n      int
}

func (x *turns) RoundTrip(r *http.Request) (*http.Response, error) {
	x.n++
	return (&script{bodies: []string{x.bodies[(x.n-1)%2]}}).RoundTrip(r)
}

func benchTool(b *testing.B) anthropic.BetaTool {
	x, err := toolrunner.NewBetaToolFromBytes("search", "search the web", []byte(querySchema),
		func(_ context.Context, in in) (anthropic.BetaToolResultBlockParamContentUnion, error) {
			return text(fmt.Sprint(len(in.Query), " hits")), nil
		})
	require.NoError(b, err)
	return x
}

// guard is a tool behind a limit that is never reached.
func guard(b *testing.B, x anthropic.BetaTool) anthropic.BetaTool {
	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 8}}}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{limits}}))
	b.Cleanup(func() { require.NoError(b, exec.Close(context.Background())) })
	return sluice.Must(sluiceanthropic.Tools(exec, sluiceanthropic.Config{}, x))[0]
}

// BenchmarkRun measures a run of the library's runner: eight calls at once, and the end, with a model that answers at
// once, without a network.
func BenchmarkRun(b *testing.B) {
	const n = 8
	var blocks []string
	for i := range n {
		blocks = append(blocks, toolUse(fmt.Sprint("toolu_", i), "search", `{"query":"go rate limit of an API, 2026"}`))
	}
	run := func(b *testing.B, x anthropic.BetaTool) {
		client := anthropic.NewClient(option.WithAPIKey("k"), option.WithMaxRetries(0), option.WithBaseURL("http://model/"),
			option.WithHTTPClient(&http.Client{Transport: &turns{bodies: [2]string{body("tool_use", blocks...), end}}}))
		b.ReportAllocs()
		for b.Loop() {
			m, err := client.Beta.Messages.NewToolRunner([]anthropic.BetaTool{x}, runnerParams()).RunToCompletion(context.Background())
			if err != nil || m.Content[0].Text != "done" {
				b.Fatal(m, err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/call")
	}
	b.Run("alone", func(b *testing.B) { run(b, benchTool(b)) })
	b.Run("guarded", func(b *testing.B) { run(b, guard(b, benchTool(b))) })
}

// BenchmarkExecute measures what one call costs.
func BenchmarkExecute(b *testing.B) {
	run := func(b *testing.B, x anthropic.BetaTool) {
		args := json.RawMessage(`{"query":"go rate limit of an API, 2026"}`)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := x.Execute(context.Background(), args); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("alone", func(b *testing.B) { run(b, benchTool(b)) })
	b.Run("guarded", func(b *testing.B) { run(b, guard(b, benchTool(b))) })
}
