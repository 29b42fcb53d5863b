package main

import (
	"cmp"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/sluice-go/sluice"
)

//go:embed turns/*.json
var turnFiles embed.FS

// turn is one answer of a model that asks for tools, as the OpenAI chat-completions API
// returns it, with when it arrived and on whose behalf.
type turn struct {
	Tenant   string
	At       time.Duration // after the start of the replay
	Priority sluice.Priority
	User     string
	Calls    []toolCall
}

// toolCall is an element of an assistant message's tool_calls.
type toolCall struct {
	ID       string `json:"id"`
	Type     string `json:"type"`
	Function struct {
		Name      string `json:"name"`
		Arguments string `json:"arguments"` // JSON inside a string
	} `json:"function"`
}

// toolMessage is what goes back to the model: one for each tool call of its turn.
type toolMessage struct {
	Role       string `json:"role"` // always "tool"
	ToolCallID string `json:"tool_call_id"`
	Content    string `json:"content"`
}

var priorities = map[string]sluice.Priority{
	"interactive": sluice.PriorityInteractive,
	"normal":      sluice.PriorityNormal,
	"batch":       sluice.PriorityBatch,
}

// turnFile is one tenant's file.
type turnFile struct {
	Tenant string `json:"tenant"`
	Turns  []struct {
		AtMS     int    `json:"at_ms"`
		Priority string `json:"priority"`
		User     string `json:"user"`
		Message  struct {
			Role      string     `json:"role"`
			Content   *string    `json:"content"`
			ToolCalls []toolCall `json:"tool_calls"`
		} `json:"message"`
	} `json:"turns"`
}

// loadTurns reads every turns/*.json of fsys, in order of arrival. A file that an agent
// could not replay is an error that names the file and the turn.
func loadTurns(fsys fs.FS) ([]turn, error) {
	names, err := fs.Glob(fsys, "turns/*.json")
	if err != nil {
		return nil, err
	}
	var turns []turn
	seen := make(map[string]string) // tool-call id to file
	for _, name := range names {
		data, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, err
		}
		var f turnFile
		if err := json.Unmarshal(data, &f); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for i, t := range f.Turns {
			where := fmt.Sprintf("%s: turn %d", name, i+1)
			p, ok := priorities[t.Priority]
			switch {
			case f.Tenant == "":
				return nil, fmt.Errorf("%s: no tenant", name)
			case !ok:
				return nil, fmt.Errorf("%s: priority %q is none of interactive, normal, batch", where, t.Priority)
			case t.AtMS < 0:
				return nil, fmt.Errorf("%s: at_ms is %d: must not be negative", where, t.AtMS)
			case t.Message.Role != "assistant":
				return nil, fmt.Errorf("%s: role is %q: must be assistant", where, t.Message.Role)
			case len(t.Message.ToolCalls) == 0:
				return nil, fmt.Errorf("%s: no tool calls", where)
			}
			for _, c := range t.Message.ToolCalls {
				if err := c.validate(); err != nil {
					return nil, fmt.Errorf("%s: %w", where, err)
				}
				if other, taken := seen[c.ID]; taken {
					return nil, fmt.Errorf("%s: tool call id %q is also in %s", where, c.ID, other)
				}
				seen[c.ID] = name
			}
			turns = append(turns, turn{
				Tenant:   f.Tenant,
				At:       time.Duration(t.AtMS) * time.Millisecond,
				Priority: p,
				User:     t.User,
				Calls:    t.Message.ToolCalls,
			})
		}
	}
	slices.SortStableFunc(turns, func(a, b turn) int { return cmp.Compare(a.At, b.At) })
	return turns, nil
}

func (c toolCall) validate() error {
	switch {
	case strings.TrimSpace(c.ID) == "":
		return fmt.Errorf("a tool call of %q has no id", c.Function.Name)
	case c.Type != "function":
		return fmt.Errorf("tool call %s: type is %q: must be function", c.ID, c.Type)
	case workTime[c.Function.Name] == 0:
		return fmt.Errorf("tool call %s: no tool named %q", c.ID, c.Function.Name)
	case !isObject([]byte(c.Function.Arguments)):
		return fmt.Errorf("tool call %s: arguments must be a string that holds a JSON object", c.ID)
	}
	return nil
}

func countCalls(turns []turn) int {
	n := 0
	for _, t := range turns {
		n += len(t.Calls)
	}
	return n
}
