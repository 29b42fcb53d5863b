package office

import (
	"cmp"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

//go:embed turns/*.json
var turnFiles embed.FS

// turn is one answer of a model that asks for tools, with when it arrived and on whose behalf.
type turn struct {
	Tenant   string
	At       time.Duration // after the start of the replay
	Priority sluice.Priority
	User     string
	Format   agent.Format // the provider's
	Message  *agent.Message
}

var priorities = map[string]sluice.Priority{
	"interactive": sluice.PriorityInteractive,
	"normal":      sluice.PriorityNormal,
	"batch":       sluice.PriorityBatch,
}

var formats = []agent.Format{agent.OpenAIChat, agent.OpenAIResponses, agent.Anthropic, agent.Gemini}

// turnFile is one tenant's file.
type turnFile struct {
	Tenant string `json:"tenant"`
	Format string `json:"format"` // as Format.String gives it
	Turns  []struct {
		AtMS     int             `json:"at_ms"`
		Priority string          `json:"priority"`
		User     string          `json:"user"`
		Body     json.RawMessage `json:"body"` // of the provider's response
	} `json:"turns"`
}

// loadTurns reads every turns/*.json of fsys, in order of arrival. A file that an agent
// could not replay is an error that names the file and the turn.
func loadTurns(fsys fs.FS) ([]turn, error) {
	names, _ := fs.Glob(fsys, "turns/*.json") // an error would be the pattern's
	var turns []turn
	for _, name := range names {
		data, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, err
		}
		var f turnFile
		if err := json.Unmarshal(data, &f); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		format := slices.IndexFunc(formats, func(x agent.Format) bool { return x.String() == f.Format })
		switch {
		case f.Tenant == "":
			return nil, fmt.Errorf("%s: no tenant", name)
		case format < 0:
			return nil, fmt.Errorf("%s: format %q is none of %v", name, f.Format, formats)
		}
		for i, t := range f.Turns {
			p, known := priorities[t.Priority]
			m, err := formats[format].Parse(t.Body)
			switch {
			case !known:
				err = fmt.Errorf("priority %q is none of interactive, normal, batch", t.Priority)
			case t.AtMS < 0:
				err = fmt.Errorf("at_ms is %d: must not be negative", t.AtMS)
			case err == nil:
				err = validate(m.Calls)
			}
			if err != nil {
				return nil, fmt.Errorf("%s: turn %d: %w", name, i+1, err)
			}
			turns = append(turns, turn{f.Tenant, time.Duration(t.AtMS) * time.Millisecond, p, t.User, formats[format], m})
		}
	}
	slices.SortStableFunc(turns, func(a, b turn) int { return cmp.Compare(a.At, b.At) })
	return turns, nil
}

// validate says why calls cannot be made, if they cannot.
func validate(calls []agent.Asked) error {
	if len(calls) == 0 {
		return errors.New("no tool calls")
	}
	for i, c := range calls {
		switch {
		case c.Err != nil:
			return fmt.Errorf("tool call %d: %w", i+1, c.Err)
		case workTime[c.Request.Tool] == 0:
			return fmt.Errorf("tool call %d: no tool named %q", i+1, c.Request.Tool)
		case !isObject(c.Request.Args):
			return fmt.Errorf("tool call %d: arguments must be a JSON object", i+1)
		}
	}
	return nil
}

func countCalls(turns []turn) int {
	n := 0
	for _, t := range turns {
		n += len(t.Message.Calls)
	}
	return n
}

// answersIn are the answers in the messages that follow the model's own. Each is a message of its
// own, but Anthropic and Gemini want all of them in one.
func answersIn(f agent.Format, messages []json.RawMessage) []json.RawMessage {
	if f != agent.Anthropic && f != agent.Gemini {
		return messages
	}
	var all []json.RawMessage
	for _, raw := range messages {
		var m struct{ Content, Parts []json.RawMessage }
		if json.Unmarshal(raw, &m) == nil {
			all = append(append(all, m.Content...), m.Parts...)
		}
	}
	return all
}

// isAnswer reports whether raw answers call c and says something, in whichever format it is.
func isAnswer(raw json.RawMessage, c sluice.Request) bool {
	var a struct {
		ToolCallID string `json:"tool_call_id"` // chat completions
		CallID     string `json:"call_id"`      // responses
		ToolUseID  string `json:"tool_use_id"`  // Anthropic

		Content, Output  json.RawMessage
		FunctionResponse struct { // Gemini, often without ids
			ID, Name string
			Response struct{ Output, Error json.RawMessage }
		}
	}
	if json.Unmarshal(raw, &a) != nil {
		return false
	}
	f := a.FunctionResponse
	to := cmp.Or(a.ToolCallID, a.CallID, a.ToolUseID, f.ID, f.Name)
	says := cmp.Or(string(a.Content), string(a.Output), string(f.Response.Output), string(f.Response.Error))
	return to == cmp.Or(c.ID, c.Tool) && len(says) > len(`""`)
}
