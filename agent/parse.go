package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"unicode/utf8"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/internal/jsonx"
	"github.com/sluice-go/sluice/internal/rawjson"
)

// reader reads one message.
type reader struct {
	rawjson.Cursor
	names *Names
	m     *Message

	found  bool  // there is a message
	failed bool  // there is an error in its place
	last   bool  // the last part of the message is a call
	bad    error // what the whole message is not
}

func newReader(body []byte, names *Names, m *Message) reader {
	return reader{Cursor: rawjson.New(body), names: names, m: m}
}

// seen are the members of an object that have been read, a bit each.
type seen uint32

// twice reports whether bit has been read before.
func (s *seen) twice(bit seen) bool {
	again := *s&bit != 0
	*s |= bit
	return again
}

// once notes a member of the message itself; two of one name leave open which is meant.
func (r *reader) once(s *seen, bit seen, key []byte) {
	if s.twice(bit) {
		r.bad = fmt.Errorf("has the key %q twice", key)
	}
}

// unquote is the string that raw is; false if it is none, or has a surrogate without its partner.
func unquote(raw []byte) (string, bool) {
	if len(raw) < 2 || raw[0] != '"' {
		return "", false
	}
	inside := raw[1 : len(raw)-1]
	if bytes.IndexByte(inside, '\\') < 0 {
		return string(inside), true
	}
	return string(jsonx.Unescape(inside)), jsonx.Paired(inside) < 0
}

// word is what the next value says if it is a string, else it is empty.
func (r *reader) word() string {
	s, _ := unquote(r.Skip())
	return s
}

var (
	errTwo    = errors.New("is two messages: must be a response, or a message alone")
	errNoList = errors.New("has calls that are no list")
	errFailed = errors.New("an error of the provider")
	errParts  = fmt.Errorf("more than %d parts, or members of one", maxParts)
)

// isNull reports whether raw is null, or not there.
func isNull(raw []byte) bool { return len(raw) == 0 || raw[0] == 'n' }

func isObject(raw []byte) bool { return len(raw) > 0 && raw[0] == '{' }

// members goes through raw, a value that has been read: each name and its value. What is no object has none.
func members(raw []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		if c := rawjson.New(raw); isObject(raw) {
			c.Members()(yield)
		}
	}
}

// draft is a call as it stands in the message.
type draft struct {
	id, name []byte // raw; nil if they are not there
	args     []byte // JSON
	custom   bool
	extra    []byte
	err      string // what is wrong with it
}

// wrong keeps the first thing that is wrong with d.
func (d *draft) wrong(format string, args ...any) {
	if d.err == "" {
		d.err = fmt.Sprintf(format, args...)
	}
}

// once notes a member of the call.
func (d *draft) once(s *seen, bit seen, key []byte) {
	if s.twice(bit) {
		d.wrong("the call has the key %q twice", key)
	}
}

// own is the next value, of a member that the call d may have once.
func (r *reader) own(d *draft, s *seen, bit seen, key []byte) []byte {
	d.once(s, bit, key)
	return r.Skip()
}

// argsIn are the arguments in a string, raw, or those that a server wrote without one.
func (d *draft) argsIn(raw []byte) []byte {
	switch {
	case isNull(raw):
		return nil
	case raw[0] != '"':
		return raw
	}
	inside := raw[1 : len(raw)-1]
	if bytes.IndexByte(inside, '\\') < 0 {
		return inside
	}
	if bytes.Contains(inside, []byte(`\u`)) && jsonx.Paired(inside) >= 0 {
		d.wrong("the arguments have a surrogate without its partner")
	}
	return jsonx.Unescape(inside)
}

// call adds the call that d describes, and raw is.
func (r *reader) call(d *draft, raw []byte) {
	a := Asked{custom: d.custom, extra: d.extra}
	id, ok := unquote(d.id)
	if !ok && !isNull(d.id) {
		d.wrong("the id of the call is no text")
	}
	if a.name, ok = unquote(d.name); (!ok || a.name == "") && d.err == "" {
		d.wrong("the call names no tool")
	}
	if !utf8.Valid(raw) {
		d.wrong("the call is not valid UTF-8")
	}
	a.Request.ID, a.Request.Tool = id, r.names.Tool(a.name)
	if d.err != "" {
		a.spoil(d.err)
	} else {
		a.Request.Args = d.args
	}
	if r.last = true; r.m.Calls == nil {
		r.m.Calls = make([]Asked, 0, 8)
	}
	r.m.Calls = append(r.m.Calls, a)
}

// spoil keeps a from running.
func (a *Asked) spoil(why string) {
	if a.Err == nil {
		a.Request.Args = nil
		a.Err = &sluice.Error{Tool: a.Request.Tool, CallID: a.Request.ID, Reason: sluice.ErrInvalidArguments, Cause: errors.New(why)}
	}
}

const (
	cutOff = "they were cut off before their end, as the message was too long or was stopped; call again, with less"
	broken = "they were cut off before their end, because the connection broke; call again"
)

// cutLast keeps the last call from running, if the message ends with it: it may not be whole.
func (r *reader) cutLast() {
	if n := len(r.m.Calls); n > 0 && r.last {
		r.m.Calls[n-1].spoil(cutOff)
	}
}

// other leaves a part of the message alone.
func (r *reader) other(raw []byte) { r.m.Others = append(r.m.Others, raw) }

// without is list without the parts of which empty says so: models write texts that say nothing, and APIs
// refuse to have them back.
func without(list []byte, empty func(*reader) bool) []byte {
	b := append(make([]byte, 0, len(list)), '[')
	c := rawjson.New(list)
	for more := c.Open('['); more; more = c.More(']') {
		raw := c.Skip()
		if empty(&reader{Cursor: rawjson.New(raw), m: &Message{}}) {
			continue
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(b, raw...)
	}
	return append(b, ']')
}

// text adds a string of the message's text.
func (r *reader) text(raw []byte) {
	if len(raw) > 2 && raw[0] == '"' {
		r.m.texts = append(r.m.texts, raw)
	}
}

// textIn adds the text of raw, a string or a list of parts of which those of that kind have text.
func (r *reader) textIn(raw []byte, kind string) {
	if isNull(raw) || raw[0] != '[' {
		r.text(raw)
		return
	}
	c := rawjson.New(raw)
	for part := range c.Elements() {
		var is, text []byte
		for key, value := range members(part) {
			switch string(key) {
			case "type":
				is = value
			case "text":
				text = value
			}
		}
		if s, _ := unquote(is); s == kind {
			r.text(text)
		}
	}
}

// alone takes the whole document, which begins at start, as the message.
func (r *reader) alone(start int) {
	if r.found {
		r.bad = errTwo
		return
	}
	r.found = true
	r.m.Echo = []json.RawMessage{r.Since(start)}
}

// list reads each element of the list in which calls stand, and reports whether there is one: null is none.
func (r *reader) list(element func(*reader)) bool {
	if r.Kind() != '[' {
		if !isNull(r.Skip()) {
			r.bad = errNoList
		}
		return false
	}
	for more := r.Open('['); more; more = r.More(']') {
		element(r)
	}
	return true
}

// first goes into the first element of a list, if that is an object, and passes the others.
func (r *reader) first(object func()) {
	if r.Kind() != '[' {
		r.Skip()
		return
	}
	n := 0
	for more := r.Open('['); more; more = r.More(']') {
		if n++; n == 1 && r.Kind() == '{' {
			object()
		} else {
			r.Skip()
		}
	}
}
