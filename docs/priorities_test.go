package docs_test

import (
	"context"
	"fmt"
	"time"

	"github.com/sluice-go/sluice"
)

// oneSlot is an executor whose tool "work" takes a second, one call at a time, and says whose call it is.
func oneSlot(c sluice.PrioritySchedulerConfig, say func(name string)) *sluice.Executor {
	order := sluice.Must(sluice.NewPriorityScheduler(c))
	slot := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{order, slot},
	}))
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "work"}, func(_ context.Context, name string) (string, error) {
		say(name)
		time.Sleep(time.Second)
		return name, nil
	}))
	return exec
}

// peopleFirst has a batch job and people ask for the same slot.
func peopleFirst() {
	exec := oneSlot(sluice.PrioritySchedulerConfig{}, func(name string) { fmt.Print(name, " ") })
	submit := func(p sluice.Priority, name string) {
		ctx := sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{Priority: p})
		exec.Submit(ctx, sluice.Request{Tool: "work", Input: name})
	}
	for range 5 {
		submit(sluice.PriorityBatch, "batch")
	}
	for range 3 {
		submit(sluice.PriorityInteractive, "people")
	}
	time.Sleep(time.Minute)
	exec.Close(context.Background())
	fmt.Println()
}

// starvation has so many people ask that the slot is never free, and one batch job that wants it too.
func starvation() {
	for _, ageing := range []int{1, 8, 32} {
		var people, between int
		exec := oneSlot(sluice.PrioritySchedulerConfig{Ageing: ageing}, func(name string) {
			if name == "people" {
				people++
			} else {
				between, people = max(between, people), 0
			}
		})
		ctx := sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{Priority: sluice.PriorityInteractive})
		batch := sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{Priority: sluice.PriorityBatch})
		for range 500 {
			exec.Submit(ctx, sluice.Request{Tool: "work", Input: "people"})
			exec.Submit(batch, sluice.Request{Tool: "work", Input: "batch"})
		}
		time.Sleep(500 * time.Second)
		exec.Close(context.Background()) // those that wait are refused
		fmt.Printf("Ageing %2d: at most %d calls of people between two of the batch job\n", ageing, between)
	}
}

// shares has two tenants with different weights, one of which asks ten times as often.
func shares() {
	started := map[string]int{}
	exec := oneSlot(sluice.PrioritySchedulerConfig{
		TenantWeights: map[string]int{"acme": 2}, // all others have 1
		MaxPerTenant:  400,
	}, func(tenant string) { started[tenant]++ })
	submit := func(tenant string, calls int) {
		ctx := sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{Tenant: tenant})
		for range calls {
			exec.Submit(ctx, sluice.Request{Tool: "work", Input: tenant})
		}
	}
	submit("acme", 100)
	submit("globex", 1_000)
	time.Sleep(89*time.Second + 500*time.Millisecond)
	refused := exec.Snapshot().Failed
	exec.Close(context.Background()) // those that wait are refused too
	fmt.Printf("acme %d, globex %d, refused %d\n", started["acme"], started["globex"], refused)
}
