package agent_test

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"path"
	"strings"
	"sync"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// What a call of a tool for files works on.
type fileArgs struct {
	Path string `json:"path"`
	From string `json:"from,omitempty"`
	Text string `json:"text,omitempty"`
}

// filesOf is what calls read and write, as docs/conflicts.md explains it.
func filesOf(c sluice.Call) (reads, writes []string) {
	in, ok := c.Input.(fileArgs)
	if !ok {
		return nil, nil // no tool for files
	}
	switch c.Tool {
	case "read":
		return []string{path.Clean(in.Path)}, nil
	case "copy":
		return []string{path.Clean(in.From)}, []string{path.Clean(in.Path)}
	}
	return nil, []string{path.Clean(in.Path)}
}

// Calls of one turn that a model made at once: each sees what those before it have written, and those that
// have nothing to do with one another run together.
func ExampleNewResources() {
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{sluice.Must(agent.NewResources(filesOf))},
	}))
	var disk sync.Map
	at := func(name string) string {
		text, _ := disk.LoadOrStore(path.Clean(name), "")
		return text.(string)
	}
	for name, f := range map[string]func(in fileArgs) string{
		"read":   func(in fileArgs) string { return at(in.Path) },
		"append": func(in fileArgs) string { disk.Store(path.Clean(in.Path), at(in.Path)+in.Text); return "ok" },
		"copy":   func(in fileArgs) string { disk.Store(path.Clean(in.Path), at(in.From)); return "ok" },
	} {
		sluice.Must(sluice.Register(exec.Registry(), sluice.Spec{Name: name}, func(_ context.Context, in fileArgs) (string, error) { return f(in), nil }))
	}
	var calls []sluice.Request
	for _, c := range []string{
		`append {"path":"a.txt","text":"1"}`, `append {"path":"./a.txt","text":"2"}`, `read {"path":"a.txt"}`,
		`copy {"from":"a.txt","path":"b.txt"}`, `append {"path":"a.txt","text":"3"}`, `read {"path":"b.txt"}`, `read {"path":"a.txt"}`,
	} {
		tool, args, _ := strings.Cut(c, " ")
		calls = append(calls, sluice.Request{Tool: tool, Args: json.RawMessage(args)})
	}
	run := sluice.Must(agent.New(exec, agent.Config{}))
	for _, r := range run.Run(context.Background(), calls) {
		fmt.Println(r.Request.Tool, r.Result.Value, r.Err)
	}
	_ = exec.Close(context.Background())
	// Output:
	// append ok <nil>
	// append ok <nil>
	// read 12 <nil>
	// copy ok <nil>
	// append ok <nil>
	// read 12 <nil>
	// read 123 <nil>
}

// A search that yields what it finds as it goes: to a loop in Go one by one, to a model as a list.
func ExampleRegisterYield() {
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
	files := []string{"a.go", "b.md", "c.go", "d.go"}
	grep, err := agent.RegisterYield(exec.Registry(), sluice.Spec{Name: "grep"}, func(ctx context.Context, ending string) iter.Seq2[string, error] {
		return func(yield func(string, error) bool) {
			for _, f := range files {
				if err := ctx.Err(); err != nil {
					yield("", err)
					return
				}
				if strings.HasSuffix(f, ending) && !yield(f, nil) {
					return // nobody reads on
				}
			}
		}
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for f, err := range grep.Range(context.Background(), exec, ".go") {
		if err != nil {
			fmt.Println(err)
			return
		}
		if fmt.Println(f); f == "c.go" {
			break // which ends the call
		}
	}
	res, err := exec.Invoke(context.Background(), sluice.Request{Tool: "grep", Args: json.RawMessage(`".md"`)})
	fmt.Println(res.Value, err)
	_ = exec.Close(context.Background())
	// Output:
	// a.go
	// c.go
	// [b.md] <nil>
}
