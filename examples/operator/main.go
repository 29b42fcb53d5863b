// Operator shows an executor from outside: a custom interceptor (an audit line for each
// destructive call), a rule of one's own that denies, a custom event sink, and the HTTP
// endpoints of an admin page: a snapshot, a forecast for a call, and limits that change
// while calls run. It serves on the loopback interface, asks itself, and ends.
//
//	go run ./examples/operator
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"sync/atomic"

	"github.com/sluice-go/sluice"
)

// audit writes a line for each destructive call.
func audit(tool sluice.Spec, next sluice.Handler) sluice.Handler {
	if !tool.Hints.Destructive {
		return next // costs the others nothing
	}
	return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
		res, err := next(ctx, c)
		slog.InfoContext(ctx, "audit", "tool", c.Tool, "user", c.Pipeline.UserID, "err", err)
		return res, err
	}
}

// freeze is a rule of one's own: while it is on, destructive tools are denied.
type freeze struct{ on atomic.Bool }

func (f *freeze) String() string { return "freeze" } // its name in a plan

func (f *freeze) Wrap(tool sluice.Spec, next sluice.Handler) sluice.Handler {
	if !tool.Hints.Destructive {
		return next
	}
	return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
		if f.on.Load() {
			return sluice.Result{}, &sluice.Error{Tool: c.Tool, CallID: c.ID, Reason: sluice.ErrDenied, By: "freeze"}
		}
		return next(ctx, c)
	}
}

// failures is a sink that counts failed calls.
type failures struct{ n atomic.Int64 }

func (f *failures) Enabled(k sluice.EventKind) bool { return k == sluice.ToolFailed }
func (f *failures) Emit(ctx context.Context, e *sluice.Event) error {
	f.n.Add(1)
	return nil
}

func main() {
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: withoutTime})))

	reg := sluice.NewToolRegistry()
	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 32}}}))
	rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "crm", Rates: []sluice.Rate{{N: 10}}}))
	breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Failures: 3}))
	frozen, failed := new(freeze), new(failures)
	exec := sluice.Must(sluice.NewExecutor(reg, sluice.Config{
		Interceptors: []sluice.Interceptor{sluice.InterceptorFunc(audit), frozen, breaker, limits, rates},
		Sink:         sluice.MultiSink(failed, sluice.NewSlogSink(slog.Default())),
	}))
	defer exec.Close(context.Background())
	export := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "export", Hints: sluice.Hints{Destructive: true}},
		func(ctx context.Context, table string) (string, error) { return "exported " + table, nil }))

	admin := http.NewServeMux()
	admin.HandleFunc("GET /snapshot", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(exec.Snapshot())
	})
	admin.HandleFunc("GET /explain/{tool}", func(w http.ResponseWriter, r *http.Request) {
		d := exec.Explain(r.Context(), sluice.Request{Tool: r.PathValue("tool"), Input: "users"})
		json.NewEncoder(w).Encode(d)
	})
	admin.HandleFunc("POST /slow", func(w http.ResponseWriter, r *http.Request) {
		l, q := limits.Config(), rates.Config()
		l.Limits[0].Max = 8
		q.Rates[0].N, q.Rates[0].Burst = 2, 2
		err := sluice.Reconfigure("admin", // all of it at one instant, or nothing
			limits.Change(l),
			rates.Change(q),
			reg.WithPolicy("export", sluice.Policy{Priority: sluice.PriorityBatch, Concurrency: 1}))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})
	admin.HandleFunc("POST /freeze", func(w http.ResponseWriter, r *http.Request) { frozen.on.Store(true) })
	admin.HandleFunc("POST /trip", func(w http.ResponseWriter, r *http.Request) {
		if err := breaker.Trip("export"); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})
	server := httptest.NewServer(admin)
	defer server.Close()

	plan, _ := exec.Plan("export")
	fmt.Println("plan:", plan)
	call := func() {
		ctx := sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{UserID: "ada"})
		out, err := export(ctx, "users")
		fmt.Printf("export: %q, %v\n", out, err)
	}
	call()
	ask(server, "POST", "/slow")
	ask(server, "GET", "/snapshot")
	call()
	ask(server, "POST", "/trip") // by hand, until Reset
	ask(server, "GET", "/explain/export")
	call()
	ask(server, "POST", "/freeze") // stands outside the breaker, so it answers first
	call()
	fmt.Println("failed:", failed.n.Load(), "(a denied call is not a failed one)")
}

// ask is the operator's browser.
func ask(server *httptest.Server, method, path string) {
	req, err := http.NewRequest(method, server.URL+path, nil)
	if err != nil {
		log.Fatal(err)
	}
	resp, err := server.Client().Do(req)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s %s: %s %s\n", method, path, resp.Status, body)
}

// withoutTime keeps the output the same each time.
func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}
