package agent

import (
	"bytes"
	"encoding/json"
	"slices"

	"github.com/sluice-go/sluice/internal/jsonx"
	"github.com/sluice-go/sluice/internal/rawjson"
)

// parseAnthropic reads a message. Of a response the history takes but role and content.
func parseAnthropic(r *reader) {
	var s seen
	var content []byte
	blank := false // some of its text says nothing
	for more := r.Open('{'); more; more = r.More('}') {
		switch key := r.Key(); string(key) {
		case "content":
			r.once(&s, 1, key)
			start := r.Pos()
			if r.found = true; r.Kind() == '[' {
				for more := r.Open('['); more; more = r.More(']') {
					blank = anthropicBlock(r) || blank
				}
			} else {
				r.text(r.Skip())
			}
			content = trim(r.Since(start))
		case "stop_reason":
			r.once(&s, 2, key)
			r.m.Stop = r.word()
		case "error":
			r.failed = !isNull(r.Skip())
		default:
			r.Skip()
		}
	}
	switch r.m.Stop {
	case "max_tokens", "model_context_window_exceeded":
		r.cutLast()
	case "refusal": // the turn is to be taken back: no effect of it should stay
		for i := range r.m.Calls {
			r.m.Calls[i].spoil("the answer was stopped as a refusal, so nothing of it runs")
		}
	case "pause_turn":
		r.m.Paused = true
	}
	if blank && r.Err() == nil {
		content = without(content, anthropicBlock)
	}
	if len(content) > 0 && string(content) != "[]" && string(content) != `""` && r.Err() == nil { // which an API refuses
		const head = `{"role":"assistant","content":`
		b := make([]byte, 0, len(head)+len(content)+1)
		r.m.Echo = []json.RawMessage{append(append(append(b, head...), content...), '}')}
	}
}

// anthropicBlock reads a block, and reports whether it is text that says nothing.
func anthropicBlock(r *reader) (blank bool) {
	if r.last = false; r.Kind() != '{' {
		r.other(r.Skip())
		return false
	}
	var d draft
	var s seen
	var kind, text, toolset []byte
	start := r.Pos()
	for more := r.Open('{'); more; more = r.More('}') {
		switch key := r.Key(); string(key) {
		case "type":
			kind = r.own(&d, &s, 1, key)
		case "id":
			d.id = r.own(&d, &s, 2, key)
		case "name":
			d.name = r.own(&d, &s, 4, key)
		case "input":
			d.args = r.own(&d, &s, 8, key)
		case "text":
			text = r.Skip()
		case "toolset_name":
			toolset = r.own(&d, &s, 16, key)
		default:
			r.Skip()
		}
	}
	raw := r.Since(start)
	switch is, _ := unquote(kind); is {
	case "tool_use":
		d.repeat("toolset_name", toolset)
		if isNull(d.args) {
			d.args = nil
		}
		r.call(&d, raw)
	case "text":
		r.text(text)
		return saysNothing(text)
	case "thinking", "redacted_thinking":
	default:
		r.other(raw)
	}
	return false
}

// saysNothing reports whether text, raw, is a string of white space.
func saysNothing(text []byte) bool {
	if len(text) < 2 || text[0] != '"' {
		return false
	}
	inside := bytes.TrimSpace(text[1 : len(text)-1])
	return len(inside) == 0 || inside[0] == '\\' && len(bytes.TrimSpace(jsonx.Unescape(inside))) == 0
}

// repeat has the answer of the call say a member again.
func (d *draft) repeat(name string, raw []byte) {
	if !isNull(raw) {
		d.extra = append(append(append(d.extra, `,"`...), name...), `":`...)
		d.extra = append(d.extra, raw...)
	}
}

// renderAnthropic answers all calls in one message.
func renderAnthropic(w *writer, m *Message, replies []Reply) {
	w.begin()
	w.raw(`{"role":"user","content":[`)
	for i := range m.Calls {
		w.comma(i)
		w.raw(`{"type":"tool_result","tool_use_id":`)
		w.quote(m.Calls[i].Request.ID)
		w.bytes(m.Calls[i].extra)
		w.raw(`,"content":`)
		a := w.answer(&m.Calls[i], &replies[i])
		failed := a.err != ""
		if failed && a.left == nil {
			w.quote(a.err)
		} else {
			w.content(a, func(p Part) {
				if p.MIME == "" {
					w.text(p.Text)
					return
				}
				w.raw(`{"type":"image","source":{"type":"base64","media_type":`)
				w.quote(p.MIME)
				w.raw(`,"data":`)
				w.base64(p.Data)
				w.raw(`}}`)
			})
		}
		if failed {
			w.raw(`,"is_error":true`)
		}
		w.raw(`}`)
	}
	w.raw(`]}`)
}

// anthropicStream joins the events of a message.
type anthropicStream struct {
	blocks []*block
	stop   []byte
	here   bool
	ended  bool
}

// block is a part of the content.
type block struct {
	index  string
	merged merged
	input  []byte // the JSON of its input, as it is written
	ended  bool
}

func (s *anthropicStream) event(data []byte) error {
	c := rawjson.New(data)
	var kind, index, start, delta []byte
	for key, value := range c.Members() {
		switch string(key) {
		case "type":
			kind = value
		case "index":
			index = value
		case "content_block":
			start = value
		case "delta":
			delta = value
		}
	}
	if err := c.End(); err != nil {
		return err
	}
	switch is, _ := unquote(kind); is {
	case "message_start":
		s.here = true
	case "content_block_start":
		if len(s.blocks) == maxParts {
			return errParts
		}
		x := &block{index: string(index)}
		s.blocks = append(s.blocks, x)
		if x.take(start); x.merged.over {
			return errParts
		}
	case "content_block_delta":
		if x := s.block(index); x != nil {
			if x.take(delta); x.merged.over {
				return errParts
			}
		}
	case "content_block_stop":
		if x := s.block(index); x != nil {
			x.ended = true
		}
	case "message_delta":
		s.delta(delta)
	case "message_stop":
		s.ended = true
	case "error":
		return errFailed
	}
	return nil
}

// block is the last of that index.
func (s *anthropicStream) block(index []byte) *block {
	for i := len(s.blocks) - 1; i >= 0; i-- {
		if s.blocks[i].index == string(index) {
			return s.blocks[i]
		}
	}
	return nil
}

func (s *anthropicStream) delta(raw []byte) {
	for key, value := range members(raw) {
		if string(key) == "stop_reason" && !isNull(value) {
			s.stop = append(s.stop[:0], value...)
		}
	}
}

// take adds a part: the block as it begins, or a delta.
func (x *block) take(raw []byte) {
	if !isObject(raw) {
		if x.merged.whole == nil && len(x.merged.members) == 0 && len(raw) > 0 {
			x.merged.whole = append([]byte(nil), raw...)
		}
		return
	}
	for key, value := range members(raw) {
		switch string(key) {
		case "partial_json":
			if len(value) > 1 && value[0] == '"' {
				x.input = append(x.input, value[1:len(value)-1]...)
			}
		case "citation":
			x.merged.add([]byte("citations"), slices.Concat([]byte("["), value, []byte("]")))
		default:
			x.merged.add(key, value)
		}
	}
}

// finish makes the input of what has been written of it, and reports whether that is whole. What is no
// JSON is kept as text under the name that the API's own libraries use, so that the message can be sent
// again.
func (x *block) finish() (whole bool) {
	if len(x.input) == 0 {
		return x.ended
	}
	input := jsonx.Unescape(x.input)
	c := rawjson.New(input)
	if c.Skip(); c.End() != nil {
		x.merged.set("input", '{', append(append([]byte(`{"INVALID_JSON":"`), x.input...), `"}`...))
		return false
	}
	x.merged.set("input", '{', input)
	return x.ended
}

func (s *anthropicStream) body() (b []byte, cut []int, ended bool) {
	if !s.here && len(s.blocks) == 0 {
		return nil, nil, false
	}
	b = []byte(`{"role":"assistant","content":[`)
	calls := 0
	for i, x := range s.blocks {
		if i > 0 {
			b = append(b, ',')
		}
		whole := x.finish()
		if kind := x.merged.find("type"); kind != nil && kind.kind == '"' && string(jsonx.Unescape(kind.value)) == "tool_use" {
			if calls++; !whole {
				cut = append(cut, calls-1)
			}
		}
		b = x.merged.append(b)
	}
	b = append(b, ']')
	if s.stop != nil {
		b = append(append(b, `,"stop_reason":`...), s.stop...)
	}
	return append(b, '}'), cut, s.ended
}
