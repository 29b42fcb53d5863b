package docs_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/sluice-go/sluice"
)

// whyWait asks in five places why a call waits.
func whyWait() {
	quota := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{
		Name: "crm", Rates: []sluice.Rate{{N: 6, Per: time.Minute, Burst: 1}},
	}))
	slots := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{
		Limits: []sluice.Limit{{Max: 8}},
	}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{quota, slots},
		Sink: sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
			if e.Kind == sluice.ToolQueued {
				fmt.Println("event:   ", e.Kind, e.Call.ID, "by", e.By)
			}
			return nil
		}),
	}))
	defer exec.Close(context.Background())
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "export"}, func(_ context.Context, table string) (string, error) {
		time.Sleep(time.Second)
		return table + ".csv", nil
	}))
	ctx := sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{Tenant: "acme"})
	request := sluice.Request{ID: "call_1", Tool: "export", Input: "users"}

	plan, _ := exec.Plan("export")
	fmt.Println("plan:    ", plan)
	exec.Invoke(ctx, request)            // takes the one token
	waiting := exec.Submit(ctx, request) // so this one waits

	d := exec.Explain(ctx, request) // what would become of one more
	fmt.Println("explain: ", d.Wait, "on", d.Waits[0].By, "in place", d.Place)

	time.Sleep(2 * time.Second)
	s := exec.Snapshot()
	for _, l := range s.Lanes {
		fmt.Println("lane:    ", l.Waiting, l.Tool, "by", l.By, "for", l.Oldest)
	}
	for _, g := range s.Gates {
		if g.Waiting > 0 {
			fmt.Println("gate:    ", g.Name, g.Used, "of", g.Limit, "used,", g.Waiting, "waiting")
		}
	}

	res, _ := waiting.Wait(ctx)
	for _, w := range res.Decision().Waits {
		fmt.Println("decision:", w.For, "on", w.By)
	}
}

// A handler for whoever asks from outside.
func Example_whyWait() {
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
	defer exec.Close(context.Background())

	admin := http.NewServeMux()
	admin.HandleFunc("GET /snapshot", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(exec.Snapshot())
	})
	admin.HandleFunc("GET /explain/{tool}", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(exec.ExplainTool(r.Context(), r.PathValue("tool")))
	})

	w := httptest.NewRecorder()
	admin.ServeHTTP(w, httptest.NewRequest("GET", "/explain/export", nil))
	fmt.Print(w.Body)
	// Output: {"refusal":{"tool_name":"export","reason":"unknown tool","message":"sluice: tool \"export\": unknown tool: the registry of the executor has no tools: register them in that one"},"wait_ms":0}
}
