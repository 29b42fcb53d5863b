package agent

import (
	"encoding/json"

	"github.com/sluice-go/sluice/internal/jsonx"
	"github.com/sluice-go/sluice/internal/rawjson"
)

// parseAnthropic reads a message. Of a response the history takes but role and content.
func parseAnthropic(r *reader) {
	var s seen
	var content []byte
	for more := r.Open('{'); more; more = r.More('}') {
		switch key := r.Key(); string(key) {
		case "content":
			r.once(&s, 1, key)
			start := r.Pos()
			if r.found = true; r.Kind() == '[' {
				for more := r.Open('['); more; more = r.More(']') {
					anthropicBlock(r)
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
	case "max_tokens", "model_context_window_exceeded", "refusal":
		r.cutLast()
	case "pause_turn":
		r.m.Paused = true
	}
	if len(content) > 0 && string(content) != "[]" && string(content) != `""` && r.Err() == nil { // which an API refuses
		const head = `{"role":"assistant","content":`
		b := make([]byte, 0, len(head)+len(content)+1)
		r.m.Echo = []json.RawMessage{append(append(append(b, head...), content...), '}')}
	}
}

func anthropicBlock(r *reader) {
	if r.last = false; r.Kind() != '{' {
		r.other(r.Skip())
		return
	}
	var d draft
	var s seen
	var kind, text, toolset []byte
	start := r.Pos()
	for more := r.Open('{'); more; more = r.More('}') {
		switch key := r.Key(); string(key) {
		case "type":
			d.once(&s, 1, key)
			kind = r.Skip()
		case "id":
			d.once(&s, 2, key)
			d.id = r.Skip()
		case "name":
			d.once(&s, 4, key)
			d.name = r.Skip()
		case "input":
			d.once(&s, 8, key)
			d.args = r.Skip()
		case "text":
			text = r.Skip()
		case "toolset_name":
			d.once(&s, 16, key)
			toolset = r.Skip()
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
	case "thinking", "redacted_thinking":
	default:
		r.other(raw)
	}
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
		switch {
		case a.err != "":
			if a.left == nil {
				w.quote(a.err)
			} else {
				w.quote(a.failure())
			}
			w.raw(`,"is_error":true`)
		case len(a.parts) == 1 && a.parts[0].MIME == "":
			w.quote(a.parts[0].Text)
		default:
			w.raw(`[`)
			for j, p := range a.parts {
				if w.comma(j); p.MIME == "" {
					w.raw(`{"type":"text","text":`)
					w.quote(p.Text)
					w.raw(`}`)
					continue
				}
				w.raw(`{"type":"image","source":{"type":"base64","media_type":`)
				w.quote(p.MIME)
				w.raw(`,"data":`)
				w.base64(p.Data)
				w.raw(`}}`)
			}
			w.raw(`]`)
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
	for more := c.Open('{'); more; more = c.More('}') {
		switch string(c.Key()) {
		case "type":
			kind = c.Skip()
		case "index":
			index = c.Skip()
		case "content_block":
			start = c.Skip()
		case "delta":
			delta = c.Skip()
		default:
			c.Skip()
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
	if len(raw) == 0 || raw[0] != '{' {
		return
	}
	c := rawjson.New(raw)
	for more := c.Open('{'); more; more = c.More('}') {
		if key := c.Key(); string(key) != "stop_reason" {
			c.Skip()
		} else if stop := c.Skip(); !isNull(stop) {
			s.stop = append(s.stop[:0], stop...)
		}
	}
}

// take adds a part: the block as it begins, or a delta.
func (x *block) take(raw []byte) {
	if len(raw) == 0 || raw[0] != '{' {
		if x.merged.whole == nil && len(x.merged.members) == 0 && len(raw) > 0 {
			x.merged.whole = append([]byte(nil), raw...)
		}
		return
	}
	c := rawjson.New(raw)
	for more := c.Open('{'); more; more = c.More('}') {
		key := c.Key()
		switch value := c.Skip(); string(key) {
		case "partial_json":
			if len(value) > 1 && value[0] == '"' {
				x.input = append(x.input, value[1:len(value)-1]...)
			}
		case "citation":
			x.merged.add([]byte("citations"), append(append([]byte("["), value...), ']'))
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
