package sluicegenkit

import (
	"context"
	"fmt"
	"testing"

	"github.com/firebase/genkit/go/ai"
	"github.com/firebase/genkit/go/genkit"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

func benchTool(_ *ai.ToolContext, in searchIn) (searchOut, error) {
	return searchOut{len(in.Query)}, nil
}

// benchmark runs f for a tool alone, and for one that is guarded, each way, by a limit that is never reached.
func benchmark(b *testing.B, f func(b *testing.B, g *genkit.Genkit, t ai.Tool, opts func() []ai.GenerateOption)) {
	guarded := func(b *testing.B) *sluice.Executor {
		limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 8}}}))
		exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{limits}}))
		b.Cleanup(func() { require.NoError(b, exec.Close(context.Background())) })
		return exec
	}
	b.Run("alone", func(b *testing.B) {
		g := newGenkit()
		f(b, g, genkit.DefineTool(g, "search", "search the web", benchTool), func() []ai.GenerateOption { return nil })
	})
	b.Run("DefineTool", func(b *testing.B) {
		g := newGenkit()
		f(b, g, sluice.Must(DefineTool(g, guarded(b), "search", "search the web", Config{}, benchTool)), func() []ai.GenerateOption { return nil })
	})
	b.Run("Middleware", func(b *testing.B) {
		g := newGenkit()
		m := Middleware(guarded(b), Config{})
		f(b, g, genkit.DefineTool(g, "search", "search the web", benchTool), func() []ai.GenerateOption { return []ai.GenerateOption{ai.WithUse(m)} })
	})
	b.Run("Middleware made anew", func(b *testing.B) {
		g, exec := newGenkit(), guarded(b)
		f(b, g, genkit.DefineTool(g, "search", "search the web", benchTool), func() []ai.GenerateOption {
			return []ai.GenerateOption{ai.WithUse(Middleware(exec, Config{}))}
		})
	})
}

// BenchmarkGenerate measures a run with eight calls of one message, and its end, with a model that answers at once.
func BenchmarkGenerate(b *testing.B) {
	const n = 8
	var queries []string
	for i := range n {
		queries = append(queries, fmt.Sprint("go rate limit of an API, 2026, page ", i))
	}
	benchmark(b, func(b *testing.B, g *genkit.Genkit, t ai.Tool, opts func() []ai.GenerateOption) {
		var outputs []string
		m := newModel(g, asks("search", queries...), &outputs)
		b.ReportAllocs()
		for b.Loop() {
			outputs = outputs[:0]
			res, err := genkit.Generate(context.Background(), g, append(opts(), ai.WithModel(m), ai.WithPrompt("hi"), ai.WithTools(t))...)
			if err != nil || res.Text() != "done" || len(outputs) != n {
				b.Fatal(res, outputs, err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/call")
	})
}

// BenchmarkRun measures a call of the tool by itself, as genkit makes it.
func BenchmarkRun(b *testing.B) {
	in := map[string]any{"query": "go rate limit of an API, 2026"}
	for _, name := range []string{"alone", "guarded"} {
		b.Run(name, func(b *testing.B) {
			g := newGenkit()
			var t ai.Tool
			if name == "alone" {
				t = genkit.DefineTool(g, "search", "search the web", benchTool)
			} else {
				exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
				defer exec.Close(context.Background())
				t = sluice.Must(DefineTool(g, exec, "search", "search the web", Config{}, benchTool))
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := t.RunRaw(context.Background(), in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
