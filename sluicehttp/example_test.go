package sluicehttp_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/sluicehttp"
)

// A page beside what a server serves already. One where something can be changed says who may.
func ExampleConfig() {
	reg, mux, server := sluice.NewToolRegistry(), http.NewServeMux(), new(http.Server)
	gates := []sluice.Interceptor{sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 8}}}))}
	yours := sluice.NewSlogSink(nil)

	recent := new(sluicehttp.Recent) // keeps refusals and changes; a sink
	sink := sluice.MultiSink(recent, yours)
	exec := sluice.Must(sluice.NewExecutor(reg, sluice.Config{Interceptors: gates, Sink: sink}))
	page := sluice.Must(sluicehttp.New(sluicehttp.Config{Executor: exec, Recent: recent}))
	mux.Handle("/debug/sluice/", page)
	server.RegisterOnShutdown(page.Close) // else Shutdown waits for viewers to leave

	defer exec.Close(context.Background())
	userOf := func(*http.Request) string { return "ada" }
	changing := sluice.Must(sluicehttp.New(sluicehttp.Config{
		Executor: exec, Recent: recent, Gates: gates, Sink: sink,
		Actor: func(r *http.Request) string { return userOf(r) },
	}))
	mux.Handle("/operator/sluice/", changing)

	web := httptest.NewServer(mux)
	defer web.Close()
	resp, err := http.Get(web.URL + "/debug/sluice/limits.json")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
	// Output: 200 OK
}

// An operator looks at what waits, and trips a breaker. The page stands beside net/http/pprof, behind what tells who is
// there.
func ExampleNew() {
	recent := new(sluicehttp.Recent)
	breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{}))
	rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "crm", Rates: []sluice.Rate{{N: 10}}}))
	gates := []sluice.Interceptor{breaker, rates}
	sink := sluice.MultiSink(recent, sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
		if e.Actor != "" && e.Kind == sluice.LimitChanged {
			fmt.Printf("%s: %s %s is %s\n", e.Actor, e.By, e.Key, e.NewLimit)
		}
		return nil
	}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: gates, Sink: sink}))
	defer exec.Close(context.Background())
	export := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "export"}, func(context.Context, string) (string, error) { return "done", nil }))

	page := sluice.Must(sluicehttp.New(sluicehttp.Config{
		Executor: exec, Recent: recent, Gates: gates, Sink: sink,
		Actor: func(r *http.Request) string { user, _, _ := r.BasicAuth(); return user }, // as your authentication has checked it
	}))
	mux := http.NewServeMux()
	mux.Handle("/debug/sluice/", page)
	server := httptest.NewServer(mux)
	defer server.Close()
	defer page.Close() // or server.RegisterOnShutdown(page.Close)

	form := url.Values{"action": {"trip"}, "gate": {"breaker"}, "key": {"export"}}
	trip, err := http.NewRequest("POST", server.URL+"/debug/sluice/change", strings.NewReader(form.Encode()))
	if err != nil {
		fmt.Println(err)
		return
	}
	trip.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	trip.SetBasicAuth("ada", "")
	resp, err := http.DefaultTransport.RoundTrip(trip)
	if err != nil {
		fmt.Println(err)
		return
	}
	resp.Body.Close()
	fmt.Println(resp.Status)

	_, err = export(context.Background(), "users")
	fmt.Println(err)

	resp, err = http.Get(server.URL + "/debug/sluice/breakers.json")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	var breakers struct{ Rows []sluice.GateState }
	err = json.NewDecoder(resp.Body).Decode(&breakers)
	fmt.Println(breakers.Rows[0].Name, breakers.Rows[0].Key, breakers.Rows[0].State, err)
	// Output:
	// ada: breaker export is tripped
	// 303 See Other
	// sluice: tool "export": breaker open by breaker
	// breaker export open <nil>
}
