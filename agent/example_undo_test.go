package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// disk has the files that the example's tool writes.
type disk map[string]string

type file struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

// newEditor is a process with a tool that can be undone. It has the state of the one before.
func newEditor(state *sluice.SharedState, files disk) (*agent.Undo, *sluice.Executor) {
	undo := sluice.Must(agent.NewUndo(agent.UndoConfig{
		State: state,
		Undo: map[string]func(context.Context, json.RawMessage) error{
			"write": func(_ context.Context, data json.RawMessage) error {
				var before file
				if err := json.Unmarshal(data, &before); err != nil {
					return err
				}
				files[before.Name] = before.Text
				return nil
			},
		},
	}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{undo}, // after the gates
	}))
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "write"}, func(ctx context.Context, f file) (string, error) {
		before := file{f.Name, files[f.Name]}
		if err := agent.ReportUndo(ctx, before); err != nil {
			return "", err // nothing has been written
		}
		files[f.Name] = f.Text
		return "written", nil
	}))
	return undo, exec
}

// What a tool did is undone by a process that did not see it.
func ExampleNewUndo() {
	ctx := sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{RunID: "run-1"})
	files := disk{"a.txt": "old"}
	state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
	_, exec := newEditor(state, files)
	_, err := exec.Invoke(ctx, sluice.Request{ID: "c1", Tool: "write", Input: file{"a.txt", "new"}})
	fmt.Println(files["a.txt"], err)
	snapshot := sluice.Must(json.Marshal(state)) // and the process ends

	state = new(sluice.SharedState)
	if err := json.Unmarshal(snapshot, state); err != nil {
		panic(err)
	}
	undo, _ := newEditor(state, files)
	for _, x := range undo.List(ctx, "run-1") { // for people to see
		fmt.Println(x.Tool, x.CallID, x.State)
		fmt.Println(undo.Call(ctx, x.Key), files["a.txt"])
	}
	err = undo.Call(ctx, undo.List(ctx, "run-1")[0].Key)
	if x, ok := errors.AsType[*agent.UndoError](err); ok {
		fmt.Println(x.Reason, sluice.CodeOf(x))
	}
	// Output:
	// new <nil>
	// write c1 open
	// <nil> old
	// undone undo_undone
}

// A tool reports before its effect, so that what it did is known if it then fails or dies, and again when it knows more.
func ExampleReportUndo() {
	ctx := sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{RunID: "run-1"})
	undo := sluice.Must(agent.NewUndo(agent.UndoConfig{
		State: sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{})),
		Undo: map[string]func(context.Context, json.RawMessage) error{
			"book": func(_ context.Context, data json.RawMessage) error {
				fmt.Println("cancel", string(data))
				return nil
			},
		},
	}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{undo}}))
	book := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "book"}, func(ctx context.Context, city string) (string, error) {
		if err := agent.ReportUndo(ctx, map[string]string{"reference": city + "-1"}); err != nil {
			return "", err
		}
		if city == "Atlantis" { // nothing has been booked
			return "", errors.Join(errors.New("no such city"), agent.ReportUndo(ctx, nil))
		}
		if err := agent.ReportUndo(ctx, map[string]string{"reference": city + "-1", "booking": "77"}); err != nil {
			return "", err
		}
		return "", errors.New("the mail to the guest failed")
	}))
	for _, city := range []string{"Oslo", "Atlantis"} {
		_, err := book(ctx, city)
		fmt.Println(err)
	}
	for _, x := range undo.List(ctx, "run-1") {
		fmt.Println(x.State)
	}
	fmt.Println(undo.Group(ctx, "run-1"))
	// Output:
	// the mail to the guest failed
	// no such city
	// undone
	// open
	// cancel {"booking":"77","reference":"Oslo-1"}
	// 1 <nil>
}

// What a turn did is undone, the latest first.
func ExampleUndo_Group() {
	run := sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{RunID: "run-1"})
	files := disk{"a.txt": "old"}
	undo, exec := newEditor(sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{})), files)
	write := func(ctx context.Context, name, text string) {
		if _, err := exec.Invoke(ctx, sluice.Request{Tool: "write", Input: file{name, text}}); err != nil {
			panic(err)
		}
	}
	turn := agent.WithUndoGroup(run, "turn-7")
	write(turn, "a.txt", "first")
	write(turn, "a.txt", "second")
	write(run, "b.txt", "no part of the turn")

	n, err := undo.Group(run, "turn-7")
	fmt.Println(n, err, files["a.txt"], files["b.txt"])
	n, err = undo.Group(run, "turn-7")
	fmt.Println(n, err)
	// Output:
	// 2 <nil> old no part of the turn
	// 0 <nil>
}
