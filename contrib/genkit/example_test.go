package sluicegenkit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/firebase/genkit/go/ai"
	"github.com/firebase/genkit/go/genkit"

	"github.com/sluice-go/sluice"
	sluicegenkit "github.com/sluice-go/sluice/contrib/genkit"
)

type city struct {
	City string `json:"city"`
}

func weather(_ *ai.ToolContext, in city) (string, error) {
	switch in.City {
	case "Atlantis":
		return "", errors.New("no such city")
	case "Vineta":
		panic("under water")
	}
	return "12 degrees in " + in.City, nil
}

// newExecutor lets two calls run at once.
func newExecutor() *sluice.Executor {
	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 2}}}))
	return sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{limits}}))
}

// newModel asks for the weather in three cities, and says what it has read.
func newModel(g *genkit.Genkit) ai.Model {
	supports := &ai.ModelSupports{Tools: true, Multiturn: true}
	return genkit.DefineModelAction(g, "example/model", &ai.ModelOptions{Supports: supports},
		func(_ context.Context, r *ai.ModelRequest, _ any, _ ai.ModelStreamCallback) (*ai.ModelResponse, error) {
			var parts []*ai.Part
			if last := r.Messages[len(r.Messages)-1]; last.Role == ai.RoleTool {
				for _, p := range last.Content {
					output, err := json.Marshal(p.ToolResponse.Output)
					if err != nil {
						return nil, err
					}
					parts = append(parts, ai.NewTextPart(string(output)+"\n"))
				}
			} else {
				for _, name := range []string{"Oslo", "Atlantis", "Vineta"} {
					parts = append(parts, ai.NewToolRequestPart(&ai.ToolRequest{Name: "weather", Input: map[string]any{"city": name}}))
				}
			}
			return &ai.ModelResponse{Request: r, Message: ai.NewModelMessage(parts...)}, nil
		})
}

// A tool that is guarded wherever it is used: a panic, which would have ended the process, and an error, which would
// have ended the run, are outputs.
func ExampleDefineTool() {
	ctx := context.Background()
	exec := newExecutor()
	defer exec.Close(ctx)
	g := genkit.Init(ctx)
	model := newModel(g)

	tool, err := sluicegenkit.DefineTool(g, exec, "weather", "the weather in a city", sluicegenkit.Config{}, weather)
	if err != nil {
		fmt.Println(err)
		return
	}

	answer, err := genkit.Generate(ctx, g, ai.WithModel(model), ai.WithPrompt("How warm is it?"), ai.WithTools(tool))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(answer.Text())
	// Output:
	// "12 degrees in Oslo"
	// {"error":{"message":"no such city","retryable":false,"type":"tool_error"}}
	// {"error":{"message":"the tool failed","retryable":false,"type":"panic"}}
}

// All tools of a Generate, guarded by one option.
func ExampleMiddleware() {
	ctx := context.Background()
	exec := newExecutor()
	defer exec.Close(ctx)
	g := genkit.Init(ctx)
	model := newModel(g)
	tool := genkit.DefineTool(g, "weather", "the weather in a city", weather)

	answer, err := genkit.Generate(ctx, g, ai.WithModel(model), ai.WithPrompt("How warm is it?"), ai.WithTools(tool),
		ai.WithUse(sluicegenkit.Middleware(exec, sluicegenkit.Config{})),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(answer.Text())
	// Output:
	// "12 degrees in Oslo"
	// {"error":{"message":"no such city","retryable":false,"type":"tool_error"}}
	// {"error":{"message":"the tool failed","retryable":false,"type":"panic"}}
}
