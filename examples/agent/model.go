package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"
)

// model stands in for a language model. It follows a script, and keeps nothing between requests: what it has
// said and been told, it reads in the history that comes with each. That history must be one that the provider
// whose API it speaks would take: each of the model's own messages byte for byte, each call answered once, in
// its place. Any other is refused with status 400, as that provider does it.
type model struct {
	think time.Duration // before an answer
	pace  time.Duration // between the parts of a streamed one
}

// state is what the model knows at one place of a conversation.
type state struct {
	script  *script
	errands []errand
	results []string // of the errands; empty if not done
	calls   int      // that it has made
	thinks  bool     // aloud
	id      func(n int) string
}

// said is one message of the model.
type said struct {
	thought, text string
	calls         []call
}

type call struct {
	wanted
	id     string
	errand int
}

// told is the answer to a call.
type told struct {
	text  string
	error string // its kind, if it is one
}

// say is what the model says now.
func (m *state) say() (s said) {
	for i, e := range m.errands {
		if m.results[i] == "" && (e.after == 0 || m.results[e.after-1] != "") {
			s.calls = append(s.calls, call{e.tries[0], m.id(m.calls + len(s.calls)), i})
		}
	}
	switch {
	case len(s.calls) == 0:
		s.text = m.script.closing(m.results)
	case m.calls == 0:
		s.text = m.script.opening
	}
	if m.thinks {
		s.thought = fmt.Sprintf("Left to do: %d.", len(s.calls))
	}
	return s
}

// hear takes in what the model is told of its calls.
func (m *state) hear(s said, answers []told) error {
	for i, c := range s.calls {
		m.calls++
		e := &m.errands[c.errand]
		switch a := answers[i]; {
		case c.wrong != "" && a.error == "":
			return refusef("the result of %s is %q: must be an error, of the type %s", c.id, a.text, c.wrong)
		case len(e.tries) > 1 && (c.again || c.wrong != "" && a.error == c.wrong):
			e.tries = e.tries[1:]
		case a.error == c.wrong: // also if that is the last word
			m.results[c.errand] = a.text
		}
	}
	return nil
}

// api is how a provider speaks with its clients.
type api interface {
	// malformed are arguments as this provider's models get them wrong.
	malformed() string
	callID(n int) string

	// read takes a request apart.
	read(header http.Header, body []byte) (*request, error)

	// exchange reads what the model has said, at a place in the history, and the answers to it: so many messages.
	exchange(history []json.RawMessage, at int, s said) (n int, answers []told, err error)

	whole(r *request, s said) []byte
	events(r *request, s said) []string
	problem(e *refusal) any
}

// request is what an API is sent.
type request struct {
	Model   string
	Stream  bool
	usage   bool // is asked for
	thinks  bool
	history []json.RawMessage
	from    int // where the conversation begins in it
	tools   []tool
}

// tool is one that the model is offered.
type tool struct {
	Name   string
	Schema json.RawMessage
}

// refusal is an error with which an API answers.
type refusal struct {
	status  int
	message string
}

func (e *refusal) Error() string { return e.message }

func refusef(format string, args ...any) error {
	return &refusal{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// handler serves the APIs.
func (m *model) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /v1/chat/completions", m.serve(chatAPI{}))
	mux.Handle("POST /v1/messages", m.serve(messagesAPI{}))
	return mux
}

func (m *model) serve(a api) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			refuse(w, a, &refusal{http.StatusRequestEntityTooLarge, "the request is too large"}) // or its client has gone
			return
		}
		req, s, err := answer(a, r.Header, body)
		if err != nil {
			refuse(w, a, err.(*refusal))
			return
		}
		if pause(r.Context(), m.think) != nil {
			return
		}
		if !req.Stream {
			w.Header().Set("Content-Type", "application/json")
			w.Write(a.whole(req, s))
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		m.send(r.Context(), w, a.events(req, s))
	})
}

func refuse(w http.ResponseWriter, a api, e *refusal) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.status)
	w.Write(write(a.problem(e)))
}

// send sends events one by one.
func (m *model) send(ctx context.Context, w http.ResponseWriter, events []string) {
	for _, e := range events {
		io.WriteString(w, e)
		http.NewResponseController(w).Flush()
		if pause(ctx, m.pace) != nil {
			return
		}
	}
}

// answer is what the model says to a request, or a refusal.
func answer(a api, header http.Header, body []byte) (*request, said, error) {
	req, err := a.read(header, body)
	if err != nil {
		return nil, said{}, err
	}
	play := scriptOf(req.history[req.from-1])
	list := play.errands(a.malformed())
	m := state{script: play, errands: list, results: make([]string, len(list)), thinks: req.thinks, id: a.callID}
	if err := m.checkTools(req.tools); err != nil {
		return nil, said{}, err
	}
	for at := req.from; ; {
		s := m.say()
		if at == len(req.history) {
			return req, s, nil
		}
		n, answers, err := a.exchange(req.history, at, s)
		if err != nil {
			return nil, said{}, err
		}
		if at += n; len(s.calls) == 0 {
			return nil, said{}, refusef("messages[%d]: the conversation is over", at-1)
		}
		if err := m.hear(s, answers); err != nil {
			return nil, said{}, err
		}
	}
}

var toolName = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,64}$`)

// checkTools refuses tools that a provider would refuse, and a list without one that the script needs.
func (m *state) checkTools(tools []tool) error {
	there := map[string]bool{}
	for i, t := range tools {
		var schema struct {
			Type       string
			Properties map[string]json.RawMessage
		}
		switch err := json.Unmarshal(t.Schema, &schema); {
		case !toolName.MatchString(t.Name):
			return refusef("tools[%d]: the name %q does not match %v", i, t.Name, toolName)
		case there[t.Name]:
			return refusef("tools[%d]: the name %q is there twice", i, t.Name)
		case err != nil || schema.Type != "object" || schema.Properties == nil:
			return refusef("tools[%d]: the schema of %s must be of type object, with properties", i, t.Name)
		}
		there[t.Name] = true
	}
	for _, e := range m.errands {
		if w := e.tries[len(e.tries)-1]; !there[w.tool] {
			return refusef("tools: the script needs %s", w.tool)
		}
	}
	return nil
}

// decode is json.Unmarshal that knows all fields.
func decode(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return refusef("the body cannot be read: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

// failure is the kind of error that a result tells of, in the form that sluice.ModelText has, or empty.
func failure(text string) string {
	var e struct {
		Type, Message string
		Retryable     *bool
	}
	if json.Unmarshal([]byte(text), &e) != nil || e.Message == "" || e.Retryable == nil {
		return ""
	}
	return e.Type
}

// roleOf is whose a message is.
func roleOf(message json.RawMessage) string {
	var m struct{ Role string }
	json.Unmarshal(message, &m)
	return m.Role
}

// pieces cuts s into parts of a few characters, as models write.
func pieces(s string) (parts []string) {
	const length = 7
	r := []rune(s)
	for len(r) > length {
		parts, r = append(parts, string(r[:length])), r[length:]
	}
	return append(parts, string(r))
}

// write is the JSON of v, with <, > and & as they are.
func write(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // a model can write what it has made up
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// event is one server-sent event; its name may be empty.
func event(name string, data any) string {
	if name != "" {
		name = "event: " + name + "\n"
	}
	return name + "data: " + string(write(data)) + "\n\n"
}
