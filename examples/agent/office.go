package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// desk is an office: an assistant whose tools change things. All that lasts is files in one directory.
type desk struct {
	*assistant
	dir       string
	log       *transcript
	state     *sluice.SharedState // of approvals, and of what can be undone
	approvals *agent.Approvals
	undo      *agent.Undo
}

// saved is what a process leaves to the next.
type saved struct {
	State   *sluice.SharedState
	History []json.RawMessage
	Turn    *agent.Turn // some of whose calls wait for approval
}

const savedName = "saved.json"

// waitingError is why a conversation stops in the middle: calls of a turn wait for somebody to approve them.
type waitingError struct{ turn *agent.Turn }

func (e *waitingError) Error() string {
	return fmt.Sprintf("%d calls wait for approval", len(e.turn.Pending))
}

// runOffice is one process of a conversation whose files are in dir. It ends when the conversation does, or when a
// call waits for approval: then the next process goes on with it, once somebody has decided.
func runOffice(ctx context.Context, w io.Writer, on network, format agent.Format, stream bool, dir string) (err error) {
	last := saved{State: sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))}
	switch raw, missing := os.ReadFile(filepath.Join(dir, savedName)); {
	case missing == nil:
		last.State = new(sluice.SharedState)
		if err := json.Unmarshal(raw, &last); err != nil {
			return err
		}
	case !errors.Is(missing, os.ErrNotExist):
		return missing
	}
	d, stop, err := newDesk(w, on, format, stream, dir, last.State)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop(context.WithoutCancel(ctx))) }()
	ctx = agent.WithRun(sluice.WithPipelineContext(ctx, sluice.PipelineContext{RunID: "office"}))
	if last.Turn == nil {
		fmt.Fprintf(w, "%v, %s\n  user   %s\n", format, how(stream), office.question)
		last.History, err = d.converse(ctx, []json.RawMessage{text("user", office.question)})
	} else {
		last.History, err = d.goOn(ctx, last.History, last.Turn)
	}
	waits, ok := errors.AsType[*waitingError](err)
	if !ok {
		return errors.Join(err, os.RemoveAll(filepath.Join(dir, savedName)))
	}
	last.Turn = waits.turn
	raw, err := json.Marshal(last)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "  -- the process ends, and another goes on --\n")
	return os.WriteFile(filepath.Join(dir, savedName), raw, 0o600)
}

// holdOffice has processes of this program hold a conversation, one after the other, as long as one has left something
// for the next.
func holdOffice(ctx context.Context, w io.Writer, format agent.Format, stream bool) error {
	dir, err := os.MkdirTemp("", "office")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for {
		c := exec.CommandContext(ctx, self, "-dir", dir, "-provider", providers[format], fmt.Sprint("-stream=", stream))
		c.Stdout, c.Stderr = w, os.Stderr
		if err := c.Run(); err != nil {
			return err
		}
		if _, err := os.Stat(filepath.Join(dir, savedName)); err != nil {
			return nil
		}
	}
}

// goOn has somebody decide what t waits for, and goes on with it.
func (d *desk) goOn(ctx context.Context, history []json.RawMessage, t *agent.Turn) ([]json.RawMessage, error) {
	for _, a := range t.Pending {
		d.log.line("boss", "yes, "+a.Message)
		if err := d.approvals.Decide(ctx, a.ID, agent.Decision{Approve: true, By: "boss"}); err != nil {
			return history, err
		}
	}
	next, err := d.runner.Resume(ctx, d.model.format, t)
	if err != nil {
		return history, err
	}
	for i, r := range t.Replies {
		if waits(r) {
			d.log.reply(next.Replies[i])
		}
	}
	if len(next.Pending) > 0 {
		return history, &waitingError{next}
	}
	return d.converse(ctx, append(history, next.Messages...))
}

// takeBack shows what a turn has come to, and undoes what calls have left that failed.
func (d *desk) takeBack(ctx context.Context, t *agent.Turn) {
	d.log.show(ctx, t)
	failed := map[string]string{}
	for _, r := range t.Replies {
		if r.Err != nil {
			failed[r.Request.ID] = r.Request.Tool
		}
	}
	for _, x := range d.undo.List(ctx, sluice.PipelineContextFrom(ctx).RunID) {
		if tool := failed[x.CallID]; tool == "" || x.State != agent.UndoOpen {
			continue
		}
		said := "has undone what " + x.Tool + " has left"
		if err := d.undo.Call(ctx, x.Key); err != nil {
			said = err.Error()
		}
		d.log.line("office", said)
	}
}

// What the office's tools are asked.
type (
	payIn struct {
		To    string `json:"to"`
		Euros int    `json:"euros"`
	}
	readIn struct {
		File string `json:"file"`
	}
	writeIn struct {
		File string `json:"file"`
		Text string `json:"text"`
	}
	searchIn struct {
		For string `json:"for"`
	}
	mailIn struct{}
)

// newDesk returns a desk that prints what it does on w, with a model of its own, and what ends both.
func newDesk(w io.Writer, on network, format agent.Format, stream bool, dir string, state *sluice.SharedState) (*desk, func(context.Context) error, error) {
	d := &desk{dir: dir, state: state}
	d.approvals = sluice.Must(agent.NewApprovals(agent.ApprovalsConfig{
		State: state,
		Needs: func(c sluice.Call) (string, bool) {
			in, ok := c.Input.(payIn)
			return fmt.Sprintf("pay %d euros to %s", in.Euros, in.To), ok && in.Euros > 100
		},
	}))
	d.undo = sluice.Must(agent.NewUndo(agent.UndoConfig{
		State: state,
		Undo: map[string]func(context.Context, json.RawMessage) error{
			"archive": func(_ context.Context, data json.RawMessage) error {
				var was writeIn
				if err := json.Unmarshal(data, &was); err != nil {
					return err
				}
				return os.WriteFile(d.path(was.File), []byte(was.Text), 0o600)
			},
		},
	}))
	tools := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{
			sluice.Must(agent.NewLoops(agent.LoopsConfig{})),
			d.approvals,
			sluice.Must(agent.NewResources(filesOf)), // a gate, with which calls wait for each other
			d.undo,
		},
	}))
	d.addTools(tools)
	var stop func(context.Context) error
	var err error
	d.log = &transcript{w: w}
	d.assistant, stop, err = newAssistant(d.log, tools, on, format, stream)
	if err == nil {
		d.show = d.takeBack
	}
	return d, stop, err
}

// filesOf is what a call reads, and what it writes.
func filesOf(c sluice.Call) (reads, writes []string) {
	switch in := c.Input.(type) {
	case readIn:
		if c.Tool == "archive" {
			return nil, []string{in.File}
		}
		return []string{in.File}, nil
	case writeIn:
		return nil, []string{in.File}
	}
	return nil, nil
}

func (d *desk) path(file string) string { return filepath.Join(d.dir, filepath.Base(file)+".txt") }

const work = 100 * time.Millisecond // how long a tool of the office takes

func (d *desk) addTools(exec *sluice.Executor) {
	look := sluice.Hints{ReadOnly: true} // which no loop may take for a change
	file := `{"type":"object","properties":{"file":{"type":"string"}},"required":["file"]}`
	add(exec, "pay", "", "Pay somebody.", sluice.Hints{Destructive: true, OpenWorld: true}, func(ctx context.Context, in payIn) (string, error) {
		return "paid", pause(ctx, work)
	}, `{"type":"object","properties":{"to":{"type":"string"},"euros":{"type":"integer","minimum":1}},"required":["to","euros"]}`)
	add(exec, "write", "", "Write a file.", sluice.Hints{Destructive: true}, func(ctx context.Context, in writeIn) (string, error) {
		if err := pause(ctx, work); err != nil {
			return "", err
		}
		return "written", os.WriteFile(d.path(in.File), []byte(in.Text), 0o600)
	}, `{"type":"object","properties":{"file":{"type":"string"},"text":{"type":"string"}},"required":["file","text"]}`)
	add(exec, "read", "", "Read a file.", look, func(ctx context.Context, in readIn) (string, error) {
		text, err := os.ReadFile(d.path(in.File))
		return string(text), err
	}, file)
	add(exec, "archive", "", "Move a file to the archive.", sluice.Hints{Destructive: true}, d.archive, file)
	add(exec, "mail", "", "Read new mail.", look, func(ctx context.Context, in mailIn) (string, error) {
		return "no new mail", pause(ctx, work)
	}, `{"type":"object","properties":{}}`)
	sluice.Must(agent.RegisterYield(exec.Registry(), sluice.Spec{
		Name: "search", Description: "Search all letters.", Hints: look,
		InputSchema: json.RawMessage(`{"type":"object","properties":{"for":{"type":"string"}},"required":["for"]}`),
		Policy:      sluice.Policy{Timeout: 5 * work},
	}, search))
}

// archive leaves what it takes to undo it before it does anything, and fails in the middle.
func (d *desk) archive(ctx context.Context, in readIn) (string, error) {
	text, err := os.ReadFile(d.path(in.File))
	if err != nil {
		return "", err
	}
	if err := agent.ReportUndo(ctx, writeIn{in.File, string(text)}); err != nil {
		return "", err
	}
	if err := os.Remove(d.path(in.File)); err != nil {
		return "", err
	}
	if err := pause(ctx, work); err != nil {
		return "", err
	}
	return "", errors.New("the archive is full")
}

// search yields letters as it finds them.
func search(ctx context.Context, in searchIn) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for _, letter := range []string{"Ada, 3 May: the offer", "Alan, 7 May: no", "Ada, 9 June: the bill"} {
			if err := pause(ctx, work); err != nil {
				yield("", err)
				return
			}
			if strings.Contains(letter, in.For) && !yield(letter, nil) {
				return
			}
		}
	}
}
