package agent

import (
	"encoding/json"

	"github.com/sluice-go/sluice/internal/jsonx"
	"github.com/sluice-go/sluice/internal/rawjson"
)

// parseChat reads a chat completion, of which the first choice counts, or its message alone.
func parseChat(r *reader) {
	var here, tops seen
	r.Kind()
	start := r.Pos()
	alone := false
	for more := r.Open('{'); more; more = r.More('}') {
		switch key := r.Key(); string(key) {
		case "choices":
			r.once(&tops, 1, key)
			r.first(func() { chatChoice(r) })
		case "error":
			r.failed = !isNull(r.Skip())
		default:
			alone = chatMember(r, &here, key) || alone
		}
	}
	if alone {
		r.alone(start)
	}
	if r.m.Stop == "length" || r.m.Stop == "content_filter" {
		r.last = true
		r.cutLast()
	}
}

func chatChoice(r *reader) {
	var here, own seen
	for more := r.Open('{'); more; more = r.More('}') {
		switch key := r.Key(); string(key) {
		case "finish_reason":
			r.once(&own, 1, key)
			r.m.Stop = r.word()
		case "message":
			r.once(&own, 2, key)
			if r.Kind() != '{' {
				r.Skip()
				continue
			}
			start := r.Pos()
			for more := r.Open('{'); more; more = r.More('}') {
				chatMember(r, &here, r.Key())
			}
			r.found = true
			r.m.Echo = []json.RawMessage{r.Since(start)}
		default:
			r.Skip()
		}
	}
}

// chatMember reads a member of the message, and reports whether only messages have it.
func chatMember(r *reader, s *seen, key []byte) bool {
	switch string(key) {
	case "role":
		r.once(s, 1, key)
		r.Skip()
	case "content":
		r.once(s, 2, key)
		r.textIn(r.Skip(), "text")
	case "tool_calls":
		r.once(s, 4, key)
		r.list(chatCall)
	case "function_call": // of old; its answer has another form
		if raw := r.Skip(); !isNull(raw) {
			r.other(raw)
		}
	default:
		r.Skip()
		return false
	}
	return true
}

func chatCall(r *reader) {
	var d draft
	if r.Kind() != '{' {
		d.wrong("the call is no object")
		r.call(&d, r.Skip())
		return
	}
	var s seen
	var kind []byte
	var function, custom bool
	start := r.Pos()
	for more := r.Open('{'); more; more = r.More('}') {
		switch key := r.Key(); string(key) {
		case "id":
			d.id = r.own(&d, &s, 1, key)
		case "type":
			kind = r.own(&d, &s, 2, key)
		case "function":
			d.once(&s, 4, key)
			function = chatCode(r, &d, "arguments")
		case "custom":
			d.once(&s, 8, key)
			custom = chatCode(r, &d, "input")
		default:
			r.Skip()
		}
	}
	is, _ := unquote(kind)
	d.custom = is == "custom"
	switch {
	case function && custom:
		d.wrong("the call is of two kinds")
	case !isNull(kind) && is != "" && is != "function" && is != "custom":
		d.wrong("the call is of a kind that is not known: must be function or custom")
	case d.custom && !custom || !d.custom && !function:
		d.wrong("the call does not have what its kind demands")
	}
	r.call(&d, r.Since(start))
}

// chatCode reads which tool is called, and how, and reports whether an object says so.
func chatCode(r *reader, d *draft, args string) bool {
	if r.Kind() != '{' {
		r.Skip()
		return false
	}
	var s seen
	for more := r.Open('{'); more; more = r.More('}') {
		switch key := r.Key(); string(key) {
		case "name":
			d.name = r.own(d, &s, 1, key)
		case args:
			if raw := r.own(d, &s, 2, key); args == "input" {
				d.args = raw
			} else {
				d.args = d.argsIn(raw)
			}
		default:
			r.Skip()
		}
	}
	return true
}

// renderChat answers each call with a message of its own. Such a message has no images: those of all
// follow in one message of the user.
func renderChat(w *writer, m *Message, replies []Reply) {
	var images []Part
	for i := range m.Calls {
		w.begin()
		w.raw(`{"role":"tool","tool_call_id":`)
		w.quote(m.Calls[i].Request.ID)
		w.raw(`,"content":`)
		w.content(w.answer(&m.Calls[i], &replies[i]), func(p Part) {
			if p.MIME != "" {
				images = append(images, p)
				p.Text = imageMark(len(images))
			}
			w.text(p.Text)
		})
		w.raw(`}`)
	}
	if len(images) == 0 {
		return
	}
	w.begin()
	w.raw(`{"role":"user","content":[`)
	for i, p := range images {
		w.comma(i)
		w.text(imageMark(i + 1))
		w.raw(`,{"type":"image_url","image_url":{"url":`)
		w.dataURL(p)
		w.raw(`}}`)
	}
	w.raw(`]}`)
}

// chatStream joins the chunks of a chat completion.
type chatStream struct {
	message merged
	calls   []*merged
	stop    []byte
	here    bool
	over    bool // some call had more members than are kept
}

func (s *chatStream) event(data []byte) error {
	if string(data) == "[DONE]" {
		return nil
	}
	c := rawjson.New(data)
	failed := false
	for more := c.Open('{'); more; more = c.More('}') {
		switch string(c.Key()) {
		case "choices":
			for raw := range c.Elements() {
				s.choice(raw)
			}
		case "error":
			failed = !isNull(c.Skip())
		default:
			c.Skip()
		}
	}
	if err := c.End(); err != nil {
		return err
	}
	switch {
	case failed:
		return errFailed
	case s.over || s.message.over || len(s.calls) > maxParts:
		return errParts
	}
	return nil
}

func (s *chatStream) choice(raw []byte) {
	if !isObject(raw) {
		return
	}
	var index, delta, stop []byte
	for key, value := range members(raw) {
		switch string(key) {
		case "index":
			index = value
		case "delta":
			delta = value
		case "finish_reason":
			stop = value
		}
	}
	if len(index) > 0 && string(index) != "0" {
		return
	}
	if s.here = true; !isNull(stop) {
		s.stop = append(s.stop[:0], stop...)
	}
	if !isObject(delta) {
		return
	}
	c := rawjson.New(delta)
	for more := c.Open('{'); more; more = c.More('}') {
		key := c.Key()
		if string(key) != "tool_calls" {
			s.message.add(key, c.Skip())
			continue
		}
		for raw := range c.Elements() {
			s.call(raw)
		}
	}
}

// call takes a part of a call. It belongs to the one with its index; some servers give none, or one
// index to all, and another id, and some neither: then one that is named comes after one of another name, or whose
// arguments are whole.
func (s *chatStream) call(raw []byte) {
	if len(s.calls) > maxParts {
		return // event says so
	}
	if !isObject(raw) {
		s.calls = append(s.calls, &merged{whole: append([]byte(nil), raw...)})
		return
	}
	var index, id, name []byte
	for key, value := range members(raw) {
		switch string(key) {
		case "index":
			index = value
		case "id":
			id = value
		case "function", "custom":
			name = append(name, nameOf(value)...)
		}
	}
	if isNull(id) || len(id) == 2 {
		id = nil
	}
	if isNull(index) {
		index = nil
	}
	var to *merged
	for i := len(s.calls) - 1; i >= 0 && to == nil; i-- {
		if len(index) == 0 || string(s.calls[i].index) == string(index) {
			to = s.calls[i]
		}
	}
	other := id != nil && to != nil && to.id != nil && string(to.id) != string(id)
	if to == nil || len(name) > 0 && (other || id == nil && len(index) == 0 && to.isBefore(name)) {
		to = &merged{index: append([]byte(nil), index...)}
		s.calls = append(s.calls, to)
	}
	if to.id == nil && id != nil {
		to.id = append([]byte(nil), id...)
	}
	for key, value := range members(raw) {
		if string(key) != "index" {
			to.add(key, value)
		}
	}
	s.over = s.over || to.over
}

// isBefore reports whether a call of that name comes after m: it is not m's own, or m's arguments are whole.
func (m *merged) isBefore(name []byte) bool {
	for _, kind := range []string{"function", "custom"} {
		code := m.find(kind)
		if code == nil || code.object == nil {
			continue
		}
		if is := code.object.find("name"); is != nil && len(is.value) > 0 && string(is.value) != string(name) {
			return true
		}
		if args := code.object.find("arguments"); args != nil {
			c := rawjson.New(args.value)
			if args.kind == '"' {
				c = rawjson.New(jsonx.Unescape(args.value))
			}
			c.Skip()
			return c.End() == nil
		}
	}
	return false
}

// nameOf is the name that raw, a function, has, as it stands there; empty if it has none.
func nameOf(raw []byte) (name []byte) {
	for key, value := range members(raw) {
		if string(key) == "name" && len(value) > 2 && value[0] == '"' {
			name = value[1 : len(value)-1]
		}
	}
	return name
}

func (s *chatStream) body() (b []byte, cut []int, ended bool) {
	if !s.here {
		return nil, nil, false
	}
	b = []byte(`{"choices":[{"message":{`)
	if !s.message.has("role") {
		b = append(b, `"role":"assistant",`...)
	}
	n := len(b)
	if b = s.message.appendMembers(b); len(s.calls) > 0 {
		if len(b) > n {
			b = append(b, ',')
		}
		b = append(b, `"tool_calls":[`...)
		for i, call := range s.calls {
			if i > 0 {
				b = append(b, ',')
			}
			b = call.append(b)
		}
		b = append(b, ']')
	} else if len(b) == n && b[n-1] == ',' {
		b = b[:n-1]
	}
	b = append(b, '}')
	if s.stop != nil {
		b = append(append(b, `,"finish_reason":`...), s.stop...)
	}
	return append(b, `}]}`...), nil, s.stop != nil
}
