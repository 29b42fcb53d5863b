package agent

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/internal/jsonx"
)

// Content is a result in several parts, for a tool to return where text or JSON is not all:
//
//	return agent.Content{agent.Text("the plan"), agent.Image("image/png", data)}, nil
//
// It can be stored as JSON and read again.
type Content []Part

// Part is text, or an image if it has a MIME type.
type Part struct {
	Text string `json:"text,omitempty"`
	MIME string `json:"mime,omitempty"` // as "image/png"
	Data []byte `json:"data,omitempty"` // of the image
}

// Text is a part that is text.
func Text(s string) Part { return Part{Text: s} }

// Image is a part that is an image, of a type such as "image/png". Another type than an image's is not shown to
// the model, which is told so.
func Image(mime string, data []byte) Part { return Part{MIME: mime, Data: data} }

// writer renders answers, one message after the other, into one buffer.
type writer struct {
	conf   *CodecConfig
	b      []byte
	starts []int
	room   [1]Part
}

// newWriter has room for answers of the usual size.
func newWriter(conf *CodecConfig, replies []Reply) writer {
	n := 64
	for i := range replies {
		if n += 256; replies[i].Err == nil {
			s, _ := replies[i].Result.Value.(string)
			n += min(len(s), conf.MaxResultBytes) * 9 / 8
		}
	}
	return writer{conf: conf, b: make([]byte, 0, n), starts: make([]int, 0, len(replies)+1)}
}

// begin begins the next message.
func (w *writer) begin() { w.starts = append(w.starts, len(w.b)) }

func (w *writer) messages() []json.RawMessage {
	out := make([]json.RawMessage, len(w.starts))
	for i, from := range w.starts {
		to := len(w.b)
		if i+1 < len(w.starts) {
			to = w.starts[i+1]
		}
		out[i] = w.b[from:to:to]
	}
	return out
}

func (w *writer) raw(s string)   { w.b = append(w.b, s...) }
func (w *writer) bytes(s []byte) { w.b = append(w.b, s...) }
func (w *writer) quote(s string) { w.b = jsonx.AppendString(w.b, s, len(s)) }

func (w *writer) comma(i int) {
	if i > 0 {
		w.b = append(w.b, ',')
	}
}

func (w *writer) base64(data []byte) {
	w.b = append(base64.StdEncoding.AppendEncode(append(w.b, '"'), data), '"')
}

func (w *writer) dataURL(p Part) {
	w.quote("data:" + p.MIME + ";base64,")
	w.b = append(base64.StdEncoding.AppendEncode(w.b[:len(w.b)-1], p.Data), '"')
}

// text writes a part that is text, as chat completions and Anthropic's messages have it.
func (w *writer) text(s string) {
	w.raw(`{"type":"text","text":`)
	w.quote(s)
	w.raw(`}`)
}

// content writes what a model reads of a call: one text by itself, or else a list of parts, of which part writes each.
func (w *writer) content(a answer, part func(Part)) {
	switch {
	case a.err != "":
		w.quote(a.failure())
	case len(a.parts) == 1 && a.parts[0].MIME == "":
		w.quote(a.parts[0].Text)
	default:
		w.raw(`[`)
		for i, p := range a.parts {
			w.comma(i)
			part(p)
		}
		w.raw(`]`)
	}
}

// answer is what a model reads of a call.
type answer struct {
	err   string // the JSON of an error, if it is one
	left  []byte // and that of what there is of the result, if there is some
	parts []Part
	json  []byte // of a result that is no text, and whole; parts has it as text
}

// answer is valid until the next.
func (w *writer) answer(a *Asked, r *Reply) answer {
	err := a.Err
	if err == nil {
		err = r.Err
	}
	if err != nil {
		return answer{err: modelText(err), left: w.left(a, r)}
	}
	switch v := r.Result.Value.(type) {
	case string:
		return answer{parts: w.one(v)}
	case Part:
		return answer{parts: w.bounded(Content{v})}
	case Content:
		return answer{parts: w.bounded(v)}
	case []Part:
		return answer{parts: w.bounded(v)}
	}
	b, err := r.Result.JSON()
	if err != nil {
		return answer{err: sluice.ModelText(err)}
	}
	if len(b) > 0 && b[0] == '"' {
		s, _ := unquote(b)
		return answer{parts: w.one(s)}
	}
	out := answer{parts: w.one(string(b))}
	if len(b) <= w.conf.MaxResultBytes {
		out.json = b
	}
	return out
}

// left is what a failed call has of its result, as JSON.
func (w *writer) left(a *Asked, r *Reply) []byte {
	v := partial(r)
	if v == nil || a.Err != nil {
		return nil
	}
	b, err := sluice.Result{Value: v}.JSON()
	switch {
	case err != nil:
		return nil
	case len(b) > w.conf.MaxResultBytes:
		s := cut(string(b), w.conf.MaxResultBytes, len(b))
		return jsonx.AppendString(nil, s, len(s))
	}
	return b
}

// failure is the object that says that a call has failed, and what there is of its result.
func (a *answer) failure() string {
	if a.left == nil {
		return `{"error":` + a.err + `}`
	}
	return `{"error":` + a.err + `,"partial":` + string(a.left) + `}`
}

// one is a part of text, cut if need be.
func (w *writer) one(s string) []Part {
	w.room[0] = Part{Text: cut(s, w.conf.MaxResultBytes, len(s))}
	return w.room[:]
}

// cut keeps at most n bytes of s, and says so, of so many that there were.
func cut(s string, n, of int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + fmt.Sprintf("… [cut: %d of %d bytes are shown]", n, of)
}

// bounded is c with what a model takes: text up to the bound in all, and images. A text that says nothing is left
// out, since an API refuses it as a part.
func (w *writer) bounded(c Content) []Part {
	out := make([]Part, 0, len(c))
	left := w.conf.MaxResultBytes
	for i, p := range c {
		switch {
		case p.MIME == "" && strings.TrimSpace(p.Text) == "":
		case p.MIME == "" && left == 0:
			out = append(out, Part{Text: fmt.Sprintf("[cut: %d more parts are not shown]", len(c)-i)})
			return out
		case p.MIME == "":
			n := len(p.Text)
			out = append(out, Part{Text: cut(p.Text, left, n)})
			left = max(left-n, 0)
		case !strings.HasPrefix(p.MIME, "image/"):
			out = append(out, Part{Text: fmt.Sprintf("[a part of %d bytes is left out: only text and images can be shown]", len(p.Data))})
		case len(p.Data) > w.conf.MaxImageBytes:
			out = append(out, Part{Text: fmt.Sprintf("[an image of %d bytes is left out: at most %d can be shown]", len(p.Data), w.conf.MaxImageBytes)})
		default:
			out = append(out, p)
		}
	}
	if len(out) == 0 {
		return w.one("")
	}
	return out
}

// imageMark stands where an image does that comes later.
func imageMark(n int) string { return fmt.Sprintf("[image %d]", n) }
