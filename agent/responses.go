package agent

import (
	"bytes"
	"fmt"

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
			if r.list(func(r *reader) { whole = responsesItem(r) }) {
				r.found = true
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
	switch stop := r.m.Stop; {
	case (stop == "queued" || stop == "in_progress") && len(r.m.Echo) == 0: // else it would seem to have had its say
		r.bad = fmt.Errorf("is not finished: its status is %q", stop)
	case stop != "" && stop != "completed" && !whole:
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
			kind = r.own(&d, &s, 1, key)
		case "call_id":
			d.id = r.own(&d, &s, 2, key)
		case "name":
			d.name = r.own(&d, &s, 4, key)
		case "arguments":
			args = r.own(&d, &s, 8, key)
		case "input":
			input = r.own(&d, &s, 16, key)
		case "status":
			status = r.own(&d, &s, 32, key)
		case "caller":
			caller = r.own(&d, &s, 64, key)
		case "namespace":
			space = r.own(&d, &s, 128, key)
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
	if !d.custom { // whose answer has none
		d.repeat("namespace", space)
	}
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
		w.content(w.answer(&m.Calls[i], &replies[i]), func(p Part) {
			if p.MIME == "" {
				w.raw(`{"type":"input_text","text":`)
				w.quote(p.Text)
			} else {
				w.raw(`{"type":"input_image","image_url":`)
				w.dataURL(p)
			}
			w.raw(`}`)
		})
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
	for key, value := range c.Members() {
		switch string(key) {
		case "type":
			kind = value
		case "output_index":
			index = value
		case "item":
			it = value
		case "delta":
			delta = value
		case "response":
			response = value
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
	for key, value := range members(raw) {
		if string(key) == "output" && value[0] == '[' && trim(value[1:])[0] != ']' {
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
	if x.done || !isObject(x.raw) {
		return append(b, x.raw...)
	}
	var m merged
	for key, value := range members(x.raw) {
		m.add(key, value)
	}
	for _, name := range []string{"arguments", "input"} {
		if len(x.text) > 0 && m.has(name) {
			m.set(name, '"', x.text)
		}
	}
	m.set("status", '"', []byte("incomplete"))
	return m.append(b)
}
