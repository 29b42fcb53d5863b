package agent

import (
	"bytes"

	"github.com/sluice-go/sluice/internal/rawjson"
)

// parseResponses reads a response, whose output is a list of items.
func parseResponses(r *reader) {
	var s seen
	whole := true // the last call says so itself
	for more := r.Open('{'); more; more = r.More('}') {
		switch key := r.Key(); string(key) {
		case "output":
			r.once(&s, 1, key)
			if r.Kind() != '[' {
				if !isNull(r.Skip()) {
					r.bad = errNoList
				}
				continue
			}
			r.found = true
			for more := r.Open('['); more; more = r.More(']') {
				whole = responsesItem(r)
			}
		case "status":
			r.once(&s, 2, key)
			r.m.Stop = r.word()
		case "error":
			r.failed = !isNull(r.Skip())
		default:
			r.Skip()
		}
	}
	if r.m.Stop != "" && r.m.Stop != "completed" && !whole {
		r.cutLast()
	}
}

// responsesItem reads an item, and reports whether it says that it is complete.
func responsesItem(r *reader) (whole bool) {
	r.last = false
	if r.Kind() != '{' {
		raw := r.Skip()
		r.m.Echo = append(r.m.Echo, raw)
		r.other(raw)
		return false
	}
	var d draft
	var s seen
	var kind, status, content, input, args, caller, space []byte
	start := r.Pos()
	for more := r.Open('{'); more; more = r.More('}') {
		switch key := r.Key(); string(key) {
		case "type":
			d.once(&s, 1, key)
			kind = r.Skip()
		case "call_id":
			d.once(&s, 2, key)
			d.id = r.Skip()
		case "name":
			d.once(&s, 4, key)
			d.name = r.Skip()
		case "arguments":
			d.once(&s, 8, key)
			args = r.Skip()
		case "input":
			d.once(&s, 16, key)
			input = r.Skip()
		case "status":
			d.once(&s, 32, key)
			status = r.Skip()
		case "caller":
			d.once(&s, 64, key)
			caller = r.Skip()
		case "namespace":
			d.once(&s, 128, key)
			space = r.Skip()
		case "content":
			content = r.Skip()
		default:
			r.Skip()
		}
	}
	raw := r.Since(start)
	r.m.Echo = append(r.m.Echo, raw)
	is, _ := unquote(kind)
	switch is {
	case "function_call", "custom_tool_call":
	case "message":
		r.textIn(content, "output_text")
		return false
	case "reasoning":
		return false
	default:
		r.other(raw)
		return false
	}
	state, _ := unquote(status)
	if d.custom = is == "custom_tool_call"; d.custom {
		d.args = input
	} else {
		d.args = d.argsIn(args)
	}
	d.repeat("caller", caller)
	d.repeat("namespace", space)
	if state != "" && state != "completed" {
		d.wrong(cutOff)
	}
	r.call(&d, raw)
	return state == "completed"
}

// renderResponses answers each call with an item of its own.
func renderResponses(w *writer, m *Message, replies []Reply) {
	for i := range m.Calls {
		w.begin()
		if m.Calls[i].custom {
			w.raw(`{"type":"custom_tool_call_output","call_id":`)
		} else {
			w.raw(`{"type":"function_call_output","call_id":`)
		}
		w.quote(m.Calls[i].Request.ID)
		w.bytes(m.Calls[i].extra)
		w.raw(`,"output":`)
		a := w.answer(&m.Calls[i], &replies[i])
		switch {
		case a.err != "":
			w.quote(a.failure())
		case len(a.parts) == 1 && a.parts[0].MIME == "":
			w.quote(a.parts[0].Text)
		default:
			w.raw(`[`)
			for j, p := range a.parts {
				if w.comma(j); p.MIME == "" {
					w.raw(`{"type":"input_text","text":`)
					w.quote(p.Text)
				} else {
					w.raw(`{"type":"input_image","image_url":`)
					w.dataURL(p)
				}
				w.raw(`}`)
			}
			w.raw(`]`)
		}
		w.raw(`}`)
	}
}

// responsesStream joins the events of a response: the last of them has it whole, and those of items are
// for servers that leave it empty there.
type responsesStream struct {
	items    []*item
	response []byte
	status   []byte
	here     bool
	ended    bool
}

// item is a part of the output.
type item struct {
	index string
	raw   []byte // as it was added, or is done
	text  []byte // its arguments or input, the inside of a string
	done  bool
}

func (s *responsesStream) event(data []byte) error {
	if string(data) == "[DONE]" {
		return nil
	}
	c := rawjson.New(data)
	var kind, index, it, delta, response []byte
	for more := c.Open('{'); more; more = c.More('}') {
		switch string(c.Key()) {
		case "type":
			kind = c.Skip()
		case "output_index":
			index = c.Skip()
		case "item":
			it = c.Skip()
		case "delta":
			delta = c.Skip()
		case "response":
			response = c.Skip()
		default:
			c.Skip()
		}
	}
	if err := c.End(); err != nil {
		return err
	}
	switch is, _ := unquote(kind); is {
	case "response.created":
		s.here = true
	case "response.output_item.added", "response.output_item.done":
		if len(it) == 0 {
			return nil
		}
		x := s.item(index)
		if x == nil && len(s.items) == maxParts {
			return errParts
		}
		if x == nil {
			x = &item{index: string(index)}
			s.items = append(s.items, x)
		}
		x.raw, x.done = append(x.raw[:0], it...), is == "response.output_item.done"
	case "response.function_call_arguments.delta", "response.custom_tool_call_input.delta":
		if x := s.item(index); x != nil && len(delta) > 1 && delta[0] == '"' {
			x.text = append(x.text, delta[1:len(delta)-1]...)
		}
	case "response.completed", "response.incomplete", "response.failed", "response.cancelled":
		s.here, s.ended = true, true
		s.response = append(s.response[:0], response...)
		s.status = append(append(append(s.status[:0], '"'), is[len("response."):]...), '"')
	case "error":
		return errFailed
	}
	return nil
}

func (s *responsesStream) item(index []byte) *item {
	for i := len(s.items) - 1; i >= 0; i-- {
		if s.items[i].index == string(index) {
			return s.items[i]
		}
	}
	return nil
}

// hasOutput reports whether raw, a response, has items.
func hasOutput(raw []byte) (some bool) {
	if len(raw) == 0 || raw[0] != '{' {
		return false
	}
	c := rawjson.New(raw)
	for more := c.Open('{'); more; more = c.More('}') {
		if key := c.Key(); string(key) != "output" || c.Kind() != '[' {
			c.Skip()
			continue
		}
		for more := c.Open('['); more; more = c.More(']') {
			c.Skip()
			some = true
		}
	}
	return some
}

func (s *responsesStream) body() (b []byte, cut []int, ended bool) {
	if !s.here && len(s.items) == 0 {
		return nil, nil, false
	}
	if s.ended && (hasOutput(s.response) || len(s.items) == 0) && len(s.response) > 0 {
		return bytes.Clone(s.response), nil, true
	}
	b = []byte(`{"output":[`)
	for i, x := range s.items {
		if i > 0 {
			b = append(b, ',')
		}
		b = x.append(b)
	}
	b = append(b, ']')
	if s.status != nil {
		b = append(append(b, `,"status":`...), s.status...)
	}
	return append(b, '}'), nil, s.ended
}

// append appends the item: one that is not done has what has come of its arguments, and says so.
func (x *item) append(b []byte) []byte {
	if x.done || x.raw[0] != '{' {
		return append(b, x.raw...)
	}
	var m merged
	c := rawjson.New(x.raw)
	for more := c.Open('{'); more; more = c.More('}') {
		m.add(c.Key(), c.Skip())
	}
	for _, name := range []string{"arguments", "input"} {
		if len(x.text) > 0 && m.has(name) {
			m.set(name, '"', x.text)
		}
	}
	m.set("status", '"', []byte("incomplete"))
	return m.append(b)
}
