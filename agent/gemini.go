package agent

import (
	"encoding/json"
	"slices"

	"github.com/sluice-go/sluice/internal/rawjson"
)

// parseGemini reads a response, of which the first candidate counts, or its content alone.
func parseGemini(r *reader) {
	var tops, here seen
	var parts geminiList
	alone := false
	r.Kind()
	start := r.Pos()
	for more := r.Open('{'); more; more = r.More('}') {
		switch key := r.Key(); string(key) {
		case "candidates":
			r.once(&tops, 1, key)
			r.first(func() { geminiCandidate(r) })
		case "error":
			r.failed = !isNull(r.Skip())
		case "parts":
			alone = true
			parts = geminiParts(r, &here, key)
		default:
			r.Skip()
		}
	}
	if alone {
		r.alone(start)
		r.echoGemini(start, parts)
	}
	switch r.m.Stop {
	case "", "STOP", "FINISH_REASON_UNSPECIFIED":
	default:
		r.cutLast()
	}
}

func geminiCandidate(r *reader) {
	var own, here seen
	r.found = true // also without content, if a filter has taken that away
	for more := r.Open('{'); more; more = r.More('}') {
		switch key := r.Key(); string(key) {
		case "finishReason":
			r.once(&own, 1, key)
			r.m.Stop = r.word()
		case "content":
			r.once(&own, 2, key)
			if r.Kind() != '{' {
				r.Skip()
				continue
			}
			var parts geminiList
			start := r.Pos()
			for more := r.Open('{'); more; more = r.More('}') {
				if key := r.Key(); string(key) == "parts" {
					parts = geminiParts(r, &here, key)
				} else {
					r.Skip()
				}
			}
			r.echoGemini(start, parts)
		default:
			r.Skip()
		}
	}
}

// geminiList is where the parts of a content stand.
type geminiList struct {
	from, to int
	some     bool // there are parts that say something
	empty    bool // and such that do not
}

// echoGemini has the content from start on sent again, without parts that say nothing: the API refuses them, and
// a content without parts.
func (r *reader) echoGemini(start int, parts geminiList) {
	if r.m.Echo = nil; !parts.some || r.Err() != nil {
		return
	}
	content := r.Since(start)
	if parts.empty {
		from, to := parts.from-start, parts.to-start
		content = slices.Concat(content[:from], without(content[from:to], geminiPart), content[to:])
	}
	r.m.Echo = []json.RawMessage{content}
}

func geminiParts(r *reader, s *seen, key []byte) (list geminiList) {
	r.once(s, 1, key)
	r.Kind()
	list.from = r.Pos()
	r.list(func(r *reader) {
		if geminiPart(r) {
			list.empty = true
		} else {
			list.some = true
		}
	})
	list.to = r.Pos()
	return list
}

// geminiPart reads a part, and reports whether it is an empty text and no more: one that has a signature is sent
// again.
func geminiPart(r *reader) (empty bool) {
	if r.last = false; r.Kind() != '{' {
		r.other(r.Skip())
		return false
	}
	var d draft
	var s seen
	var text, thought []byte
	call, more := false, false
	start := r.Pos()
	for next := r.Open('{'); next; next = r.More('}') {
		switch key := r.Key(); string(key) {
		case "functionCall":
			d.once(&s, 1, key)
			if call = true; r.Kind() == '{' {
				geminiCall(r, &d)
			} else {
				r.Skip()
				d.wrong("the call is no object")
			}
		case "text":
			text = r.Skip()
		case "thought":
			thought = r.Skip()
		default:
			more = true
			r.Skip()
		}
	}
	switch raw := r.Since(start); {
	case call:
		r.call(&d, raw)
	case text == nil:
		r.other(raw)
	case string(thought) != "true":
		r.text(text)
	}
	return !call && !more && string(text) == `""`
}

func geminiCall(r *reader, d *draft) {
	var s seen
	for more := r.Open('{'); more; more = r.More('}') {
		switch key := r.Key(); string(key) {
		case "id":
			d.id = r.own(d, &s, 1, key)
		case "name":
			d.name = r.own(d, &s, 2, key)
		case "args":
			if d.args = r.own(d, &s, 4, key); isNull(d.args) {
				d.args = nil
			}
		case "partialArgs", "willContinue":
			if raw := r.Skip(); !isNull(raw) && string(raw) != "false" {
				d.wrong("the arguments came in parts, which is not supported: switch the streaming of arguments off")
			}
		default:
			r.Skip()
		}
	}
}

// renderGemini answers all calls in one content. What is no text stands beside the response.
func renderGemini(w *writer, m *Message, replies []Reply) {
	w.begin()
	w.raw(`{"role":"user","parts":[`)
	for i := range m.Calls {
		w.comma(i)
		w.raw(`{"functionResponse":{`)
		if id := m.Calls[i].Request.ID; id != "" {
			w.raw(`"id":`)
			w.quote(id)
			w.raw(`,`)
		}
		w.raw(`"name":`)
		w.quote(m.Calls[i].wireName(w.conf.Names))
		w.raw(`,"response":`)
		a := w.answer(&m.Calls[i], &replies[i])
		if a.err != "" {
			w.raw(a.failure())
			w.raw(`}}`)
			continue
		}
		w.raw(`{"output":`)
		texts := 0
		for _, p := range a.parts {
			if p.MIME == "" {
				texts++
			}
		}
		switch {
		case a.json != nil:
			w.bytes(a.json)
		case texts == 1 && len(a.parts) == 1:
			w.quote(a.parts[0].Text)
		default:
			w.raw(`[`)
			n := 0
			for _, p := range a.parts {
				if p.MIME == "" {
					w.comma(n)
					w.quote(p.Text)
					n++
				}
			}
			w.raw(`]`)
		}
		w.raw(`}`)
		if n := 0; texts < len(a.parts) {
			w.raw(`,"parts":[`)
			for _, p := range a.parts {
				if p.MIME == "" {
					continue
				}
				w.comma(n)
				n++
				w.raw(`{"inlineData":{"mimeType":`)
				w.quote(p.MIME)
				w.raw(`,"data":`)
				w.base64(p.Data)
				w.raw(`}}`)
			}
			w.raw(`]`)
		}
		w.raw(`}}`)
	}
	w.raw(`]}`)
}

// geminiStream joins the responses of a stream, whose parts follow each other.
type geminiStream struct {
	parts []byte
	stop  []byte
	here  bool
}

func (s *geminiStream) event(data []byte) error {
	c := rawjson.New(data)
	var candidate []byte
	failed := false
	for more := c.Open('{'); more; more = c.More('}') {
		switch string(c.Key()) {
		case "candidates":
			for raw := range c.Elements() {
				if candidate == nil && isFirst(raw) {
					candidate = raw
				}
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
	if failed {
		return errFailed
	}
	s.here = s.here || isObject(candidate)
	for key, value := range members(candidate) {
		switch string(key) {
		case "finishReason":
			if !isNull(value) {
				s.stop = append(s.stop[:0], value...)
			}
		case "content":
			s.content(value)
		}
	}
	return nil
}

// isFirst reports whether raw is the first candidate, which need not say so.
func isFirst(raw []byte) bool {
	first := true
	for key, value := range members(raw) {
		if string(key) == "index" {
			first = isNull(value) || string(value) == "0"
		}
	}
	return first
}

func (s *geminiStream) content(raw []byte) {
	if !isObject(raw) {
		return
	}
	c := rawjson.New(raw)
	for more := c.Open('{'); more; more = c.More('}') {
		if string(c.Key()) != "parts" {
			c.Skip()
			continue
		}
		for part := range c.Elements() {
			if len(s.parts) > 0 {
				s.parts = append(s.parts, ',')
			}
			s.parts = append(s.parts, part...)
		}
	}
}

func (s *geminiStream) body() (b []byte, cut []int, ended bool) {
	if !s.here {
		return nil, nil, false
	}
	b = []byte(`{"candidates":[{`)
	if len(s.parts) > 0 {
		b = append(append(append(b, `"content":{"role":"model","parts":[`...), s.parts...), `]}`...)
	}
	if s.stop != nil {
		if len(s.parts) > 0 {
			b = append(b, ',')
		}
		b = append(append(b, `"finishReason":`...), s.stop...)
	}
	return append(b, `}]}`...), nil, s.stop != nil
}
