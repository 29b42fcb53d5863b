package docs_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sluice-go/sluice"
)

// Chat is what the tool of these pages is asked.
type Chat struct {
	Prompt    string
	MaxTokens int
}

// chatCost estimates a call before it runs: the prompt, and all of the answer that it may get.
func chatCost(c sluice.Call, unit string) int64 {
	if in, ok := c.Input.(Chat); ok && unit == "tokens" {
		return int64(len(in.Prompt)/4 + in.MaxTokens)
	}
	return 1
}

// quotaOfAnAPI has thirty calls meet what an API documents: 60 requests and 30,000 tokens a minute, 8 at once.
func quotaOfAnAPI() {
	quota := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{
		Name:  "llm",
		Scope: sluice.ForType("llm"),
		Rates: []sluice.Rate{
			{N: 54, Per: time.Minute, Burst: 6},
			{N: 27_000, Per: time.Minute, Burst: 3_000, Unit: "tokens"},
		},
		Upstream: true, // a 429 pauses everybody
	}))
	slots := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{
		Name:   "llm slots",
		Limits: []sluice.Limit{{Max: 8, Scope: sluice.ForType("llm")}},
	}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{quota, slots},
		MaxWait:      time.Minute, // who would wait longer is refused
	}))
	defer exec.Close(context.Background())
	start := time.Now()
	chat := sluice.Must(sluice.Wrap(exec, sluice.Spec{
		Name: "chat", Type: "llm", Policy: sluice.Policy{Cost: chatCost},
	}, func(ctx context.Context, in Chat) (time.Duration, error) {
		began := time.Since(start)
		time.Sleep(2 * time.Second)              // the model answers
		sluice.ReportUsage(ctx, "tokens", 1_000) // as its answer says
		return began, nil
	}))

	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			began, err := chat(context.Background(), Chat{Prompt: "hello", MaxTokens: 1_499})
			if refused, ok := errors.AsType[*sluice.Error](err); ok && i == 39 {
				fmt.Printf("call %2d refused by %s, retry after %v\n", i+1, refused.By, refused.RetryAfter.Round(time.Second))
			} else if i < 4 || i == 20 {
				fmt.Printf("call %2d started after %v\n", i+1, began.Round(100*time.Millisecond))
			}
		})
		time.Sleep(time.Nanosecond) // one after the other
	}
	wg.Wait()
}

// bursts shows what a burst is in a fixed minute, of which a provider counts 60.
func bursts() {
	for _, r := range []sluice.Rate{
		{N: 60, Per: time.Minute},
		{N: 60, Per: time.Minute, Burst: 1},
		{N: 54, Per: time.Minute, Burst: 6},
	} {
		quota := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{r}}))
		burst := quota.Config().Rates[0].Burst
		exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{quota}}))
		ping := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "ping"}, func(context.Context, string) (string, error) { return "", nil }))
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		n := 0
		for ; ; n++ {
			if _, err := ping(ctx, ""); errors.Is(err, sluice.ErrRejected) {
				break
			}
		}
		fmt.Printf("N %d, Burst %2d: %d in the first minute\n", r.N, burst, n)
		cancel()
		exec.Close(context.Background())
	}
}

// A key for each tenant, and a key that tenants share.
func Example_tenants() {
	// each tenant brings a key of its own: each has the whole quota
	own := sluice.RateLimiterConfig{
		Name: "crm", Scope: sluice.ByTenant, Upstream: true,
		Rates: []sluice.Rate{{N: 100, Per: time.Minute, Burst: 10}},
	}
	// keys that the calls name: what ByKey is given is looked at before the call waits
	region := sluice.RateLimiterConfig{
		Name: "maps", Scope: sluice.ByKey("region", func(c sluice.Call) string { return c.Input.(string) }), Upstream: true,
		Rates: []sluice.Rate{{N: 10}},
	}
	// all share one: nobody has more than four calls in flight
	part := sluice.ConcurrencyLimiterConfig{
		Name: "crm slots", Limits: []sluice.Limit{{Max: 16}, {Max: 4, Scope: sluice.ByTenant}},
	}
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{
		sluice.Must(sluice.NewRateLimiter(own)),
		sluice.Must(sluice.NewRateLimiter(region)),
		sluice.Must(sluice.NewConcurrencyLimiter(part)),
	}}))
	defer exec.Close(context.Background())
	find := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "find"}, func(_ context.Context, region string) (string, error) { return region, nil }))

	ctx := sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{Tenant: "acme"})
	find(ctx, "eu")
	for _, g := range exec.Snapshot().Gates {
		if g.Kind == "rate" {
			fmt.Println(g.Name, "|", g.Scope, g.Key, "|", g.Used, "of", g.Limit, "used")
		}
	}
	// Output:
	// rate/crm calls per minute | per tenant acme | 1 of 10 used
	// rate/maps calls per second | per region eu | 1 of 10 used
}
