// Quota shares one API key among tenants: so many requests and so many tokens a minute,
// both estimated before a call and settled with what it really used. People go before
// batch work, and within a level tenants share by weight.
//
//	go run ./examples/quota
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"

	"github.com/sluice-go/sluice"
)

type ChatIn struct {
	Prompt    string
	MaxTokens int
}

type ChatOut struct{ Text string }

// chatCost estimates a call before it runs: the prompt, and all of the answer it may get.
func chatCost(c sluice.Call, unit string) int64 {
	if in, ok := c.Input.(ChatIn); ok && unit == "tokens" {
		return int64(len(in.Prompt)/4 + in.MaxTokens)
	}
	return 1
}

// chat returns the tool: it asks the model behind url.
func chat(client *http.Client, url string) func(context.Context, ChatIn) (ChatOut, error) {
	return func(ctx context.Context, in ChatIn) (ChatOut, error) {
		data, err := json.Marshal(in)
		if err != nil {
			return ChatOut{}, err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(data))
		if err != nil {
			return ChatOut{}, err
		}
		resp, err := client.Do(req)
		if err != nil {
			return ChatOut{}, err
		}
		defer resp.Body.Close()
		var body struct {
			Text  string
			Usage struct {
				TotalTokens int64 `json:"total_tokens"`
			}
		}
		if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
			return ChatOut{}, err
		}
		sluice.ReportUsage(ctx, "tokens", body.Usage.TotalTokens) // gives back what was estimated too high
		return ChatOut{Text: body.Text}, nil
	}
}

// model answers every prompt with 40 tokens, on the loopback interface.
func model(w http.ResponseWriter, r *http.Request) {
	fmt.Fprint(w, `{"Text": "hello to you", "usage": {"total_tokens": 40}}`)
}

func main() {
	server := httptest.NewServer(http.HandlerFunc(model))
	defer server.Close()

	quota := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{
		Name:  "openai",
		Scope: sluice.ForType("openai"),
		Rates: []sluice.Rate{
			{N: 600, Per: time.Minute, Burst: 3},
			{N: 90_000, Per: time.Minute, Unit: "tokens"},
		},
	}))
	order := sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{
		TenantWeights: map[string]int{"acme": 2},
		MaxPerTenant:  100,
	}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{order, quota},
		MaxWait:      time.Minute,
	}))
	defer exec.Close(context.Background())
	ask := sluice.Must(sluice.Wrap(exec, sluice.Spec{
		Name: "chat", Type: "openai", Policy: sluice.Policy{Cost: chatCost},
	}, chat(server.Client(), server.URL)))

	start := time.Now()
	var wg sync.WaitGroup
	for _, pc := range []sluice.PipelineContext{
		{Tenant: "globex", Priority: sluice.PriorityBatch},
		{Tenant: "acme", Priority: sluice.PriorityInteractive},
	} {
		ctx := sluice.WithPipelineContext(context.Background(), pc)
		for range 4 {
			wg.Go(func() {
				out, err := ask(ctx, ChatIn{Prompt: "hello", MaxTokens: 500})
				if err != nil {
					log.Print(err)
					return
				}
				fmt.Printf("%4d ms  %-6s %q\n", time.Since(start).Milliseconds(), pc.Tenant, out.Text)
			})
		}
	}
	wg.Wait()

	// The untyped door: a call as a model names it, and the record of its admission.
	res, err := exec.Invoke(context.Background(), sluice.Request{
		ID: "call_1", Tool: "chat", Args: json.RawMessage(`{"Prompt":"hi","MaxTokens":200}`),
	})
	if err != nil {
		log.Fatal(err)
	}
	text, err := res.JSON()
	if err != nil {
		log.Fatal(err)
	}
	d := res.Decision()
	fmt.Printf("%s waited %d ms\n", text, d.Wait.Milliseconds())
	for _, c := range d.Costs {
		fmt.Printf("  %q: estimated %d, used %d\n", c.Unit, c.Estimate, c.Actual)
	}
}
