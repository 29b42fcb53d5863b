package agent_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice/agent"
)

// count is how many calls encoding/json finds in a body: it has read the body whole.
func count(format agent.Format, body []byte) (n int) {
	type object map[string]json.RawMessage
	list := func(raw json.RawMessage) (out []json.RawMessage) {
		_ = json.Unmarshal(raw, &out)
		return out
	}
	in := func(raw json.RawMessage, path ...string) json.RawMessage {
		for _, key := range path {
			if all := list(raw); key == "0" {
				if len(all) == 0 {
					return nil
				}
				raw = all[0]
				continue
			}
			var o object
			_ = json.Unmarshal(raw, &o)
			raw = o[key]
		}
		return raw
	}
	kind := func(raw json.RawMessage) (s string) {
		_ = json.Unmarshal(in(raw, "type"), &s)
		return s
	}
	switch format {
	case agent.OpenAIChat:
		return len(list(in(body, "choices", "0", "message", "tool_calls"))) + len(list(in(body, "tool_calls")))
	case agent.OpenAIResponses:
		for _, x := range list(in(body, "output")) {
			if k := kind(x); k == "function_call" || k == "custom_tool_call" {
				n++
			}
		}
	case agent.Anthropic:
		for _, x := range list(in(body, "content")) {
			if kind(x) == "tool_use" {
				n++
			}
		}
	case agent.Gemini:
		for _, parts := range []json.RawMessage{in(body, "candidates", "0", "content", "parts"), in(body, "parts")} {
			for _, x := range list(parts) {
				if in(x, "functionCall") != nil {
					n++
				}
			}
		}
	}
	return n
}

// blocks are the parts of what is repeated of a message.
func blocks(f agent.Format, raw json.RawMessage) (all []json.RawMessage) {
	if f == agent.Gemini {
		var content struct{ Parts []json.RawMessage }
		if json.Unmarshal(raw, &content) == nil {
			return content.Parts
		}
	}
	if json.Unmarshal(raw, &all) != nil {
		return nil
	}
	return all
}

// hold is what holds of every body: nothing panics, every call is there and is answered, what is
// repeated stands in the body, and what is rendered is JSON.
func hold(t *testing.T, f agent.Format, body []byte) {
	t.Helper()
	was := bytes.Clone(body)
	m, err := f.Parse(body)
	require.Equal(t, was, body)
	if err != nil {
		return
	}
	require.True(t, json.Valid(body) || len(body) > 9000, "%q", body) // encoding/json takes no more depth than 10,000
	require.Len(t, m.Calls, count(f, body), "%q", body)
	for _, raw := range m.Echo {
		if f == agent.Anthropic {
			inner, ok := bytes.CutPrefix(raw, []byte(`{"role":"assistant","content":`))
			require.True(t, ok)
			raw = bytes.TrimSuffix(inner, []byte("}"))
		}
		if all := blocks(f, raw); !bytes.Contains(body, raw) && len(all) > 0 { // texts that say nothing are left out
			for _, block := range all {
				require.True(t, bytes.Contains(body, block))
				require.NotEqual(t, map[agent.Format]string{agent.Anthropic: `{"type":"text","text":""}`, agent.Gemini: `{"text":""}`}[f], string(block))
			}
			continue
		}
		require.True(t, bytes.Contains(body, raw))
	}
	for _, raw := range m.Others {
		require.True(t, bytes.Contains(body, raw))
	}
	m.Text()
	out, err := f.Render(m, make([]agent.Reply, len(m.Calls)))
	require.NoError(t, err)
	answered := 0
	for _, raw := range out {
		require.True(t, json.Valid(raw), "%s", raw)
		answered += strings.Count(string(raw), map[agent.Format]string{
			agent.OpenAIChat: `"role":"tool"`, agent.OpenAIResponses: `_call_output","call_id"`, agent.Anthropic: `{"type":"tool_result","tool_use_id"`, agent.Gemini: `{"functionResponse":{"`,
		}[f])
	}
	require.GreaterOrEqual(t, answered, len(m.Calls))
}

func FuzzParse(f *testing.F) {
	for _, x := range formats {
		for _, args := range []string{`{}`, `[1,{"a":9007199254740993}]`, `"\ud83d\ude00"`, `{"a":1,"a":2}`} {
			f.Add(uint8(x.format), []byte(fmt.Sprintf(x.body, x.call("a", "f", args)+","+x.call("", "", args))))
		}
	}
	f.Add(uint8(0), []byte(`{"role":"assistant","content":[{"type":"text","text":"x"}],"tool_calls":[null,3,{"type":"custom","custom":{"name":"f","input":"x"}}]}`))
	f.Add(uint8(2), []byte(`{"content":[{"type":"text","text":""},{"type":"tool_use","id":"a","name":"f","input":{}}, {"text":"\u0020\n","type":"text"}]}`))
	f.Add(uint8(3), []byte(`{"candidates":[{"content":{"parts":[ {"text":""},{"functionCall":{"name":"f"}},{"text":"","thoughtSignature":"c2ln"}] ,"role":"model"}}]}`))
	f.Add(uint8(2), []byte(`{"content":[{"type":"tool_use","toolset_name":{"a":[]},"name":"\ud800"},"x",{}]}`))
	f.Fuzz(func(t *testing.T, format uint8, body []byte) {
		if len(body) < 1<<16 {
			hold(t, agent.Format(format%4), body)
		}
	})
}

func FuzzStream(f *testing.F) {
	for _, x := range streams {
		f.Add(uint8(x.format), []byte(sse(x.events, "\n")), uint16(100))
	}
	f.Fuzz(func(t *testing.T, format uint8, body []byte, at uint16) {
		if len(body) >= 1<<16 {
			return
		}
		x := agent.Format(format % 4)
		whole, parts := x.Stream(), x.Stream()
		_, werr := whole.Write(body)
		n := min(int(at), len(body))
		_, perr := parts.Write(body[:n])
		if perr == nil {
			_, perr = parts.Write(body[n:])
		}
		require.Equal(t, werr, perr)
		m, err := whole.Message()
		m2, err2 := parts.Message()
		require.Equal(t, err, err2)
		if err != nil {
			return
		}
		require.Equal(t, echoed(m), echoed(m2), "however it is cut")
		require.Equal(t, asked(m), asked(m2))
		for _, raw := range m.Echo {
			require.True(t, json.Valid(raw), "%q", raw)
		}
		out, err := x.Render(m, make([]agent.Reply, len(m.Calls)))
		require.NoError(t, err)
		for _, raw := range out {
			require.True(t, json.Valid(raw), "%q", raw)
		}
	})
}
