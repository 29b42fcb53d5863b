package agent_test

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

type lookupIn struct {
	City string `json:"city"`
}

func newLookup() *sluice.Executor {
	reg := sluice.NewToolRegistry()
	_, err := sluice.Register(reg, sluice.Spec{Name: "weather"}, func(_ context.Context, in lookupIn) (string, error) {
		if in.City == "Rome" {
			time.Sleep(20 * time.Millisecond)
		}
		return "sunny in " + in.City, nil
	})
	if err != nil {
		panic(err)
	}
	return sluice.Must(sluice.NewExecutor(reg, sluice.Config{}))
}

// The calls of a turn run in parallel, and each has its reply, whatever becomes of the others.
func ExampleRunner_Run() {
	exec := newLookup()
	turn := sluice.Must(agent.New(exec, agent.Config{Parallel: 4, Deadline: time.Minute}))
	for _, r := range turn.Run(context.Background(), []sluice.Request{
		{ID: "call_1", Tool: "weather", Args: json.RawMessage(`{"city":"Rome"}`)},
		{ID: "call_2", Tool: "wether", Args: json.RawMessage(`{"city":"Oslo"}`)},
		{ID: "call_3", Tool: "weather", Args: json.RawMessage(`{"city":"Oslo"}`)},
	}) {
		if r.Err != nil {
			fmt.Println(r.Request.ID, sluice.CodeOf(r.Err))
			continue
		}
		fmt.Println(r.Request.ID, r.Result.Value)
	}
	// Output:
	// call_1 sunny in Rome
	// call_2 unknown_tool
	// call_3 sunny in Oslo
}

// Replies can be shown as they come.
func ExampleRunner_Each() {
	exec := newLookup()
	turn := sluice.Must(agent.New(exec, agent.Config{}))
	for i, r := range turn.Each(context.Background(), []sluice.Request{
		{Tool: "weather", Args: json.RawMessage(`{"city":"Rome"}`)},
		{Tool: "weather", Args: json.RawMessage(`{"city":"Oslo"}`)},
	}) {
		fmt.Println(i, r.Result.Value)
	}
	// Output:
	// 1 sunny in Oslo
	// 0 sunny in Rome
}
