package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/sluice-go/sluice"
)

// Codec speaks with models in a provider's format. Those of this package are safe for concurrent use,
// keep nothing between calls and never block.
type Codec interface {
	// Parse reads a model's answer: the body of the response, or the message in it. The Message
	// refers to body, which must not change after that.
	Parse(body []byte) (*Message, error)

	// Render answers the calls of m: replies[i] is that of m.Calls[i]. What it gives is to be
	// appended to the history, after m.Echo.
	Render(m *Message, replies []Reply) ([]json.RawMessage, error)

	// Tools is the list of tools for a request, a JSON array.
	Tools(lists ...iter.Seq[sluice.Spec]) (json.RawMessage, error)
}

// Message is what a model answered.
type Message struct {
	// Echo is the model's own message, to append to the history: one element, or an item each
	// with OpenAIResponses. What stands in it are the same bytes that came. Empty texts are left
	// out for Anthropic and Gemini, which write them, and do not take them back.
	Echo []json.RawMessage

	// Calls are the calls that wait for an answer, in the order of the message. A call's place is
	// its key: ids may be empty or repeated.
	Calls []Asked

	// Others are parts of the message that are neither text, nor thoughts, nor calls of tools in
	// Calls: what a provider's own tools did, and what this package does not know.
	Others []json.RawMessage

	// Stop is why the model stopped, in the provider's words, as "tool_calls" or "end_turn"; empty
	// if the body does not say it.
	Stop string

	// Paused: the provider stopped in the middle of work of its own. Send it the history with Echo,
	// and it goes on.
	Paused bool

	texts [][]byte // the strings of the message's text, as they stand there
}

// Done reports whether there is nothing to call and nothing to wait for: the message is the end of the turn.
func (m *Message) Done() bool { return len(m.Calls) == 0 && !m.Paused }

// Text is what the model says to its user, without thoughts; empty if it says nothing.
func (m *Message) Text() string {
	var b strings.Builder
	for _, raw := range m.texts {
		s, _ := unquote(raw)
		b.WriteString(s)
	}
	return b.String()
}

// Asked is a call that a model asks for.
type Asked struct {
	// Request has the tool's own name, and the arguments as they came. Those of a custom tool,
	// whose input is free text, are that as a JSON string.
	Request sluice.Request

	// Err is why the call must not run: it is malformed, or was cut off. Render answers with it,
	// whatever the Reply says. It is a [*sluice.Error] with ErrInvalidArguments as Reason. nil means
	// that the call can be read; whether its arguments fit, the executor decides.
	Err error

	name   string // in the message
	custom bool   // its input is free text, and its answer of that kind
	extra  []byte // members that its answer repeats, each with a comma before it
}

// Format is a provider's format. It is a [Codec] with the usual bounds, for tools whose names all models
// take; With makes others. The zero value is OpenAIChat.
type Format uint8

const (
	OpenAIChat      Format = iota // chat completions, of OpenAI and of many other servers
	OpenAIResponses               // OpenAI's responses
	Anthropic                     // Anthropic's messages
	Gemini                        // Gemini's generateContent
)

// Bounds of a [CodecConfig] that is zero, and what it may be at most.
const (
	defaultBodyBytes   = 32 << 20
	defaultResultBytes = 64 << 10
	defaultImageBytes  = 5 << 20
	mostBytes          = 1 << 30
	maxCalls           = 4096 // of a message
	maxParts           = 4096 // of a streamed message, and members of a part: each is looked for among the others
)

// CodecConfig says how a [Codec] differs from its Format. The zero value changes nothing.
type CodecConfig struct {
	// Names are those of the tools where models see others; see [NewNames]. nil means that all
	// tools have their own.
	Names *Names

	// Strict lists tools for OpenAI with schemas that the model cannot but follow: see
	// [StrictSchema]. Tools whose schema has no such form are listed as they are. In other formats
	// it changes nothing.
	Strict bool

	MaxBodyBytes   int // of an answer of a model; zero means 32 MiB
	MaxResultBytes int // of text in a result, more is cut, and the model told; zero means 64 KiB
	MaxImageBytes  int // of an image, larger ones are left out, and the model told; zero means 5 MiB
}

// codec is a Format with a complete configuration.
type codec struct {
	format Format
	conf   CodecConfig
}

// provider is what a Format does.
type provider struct {
	name   string
	parse  func(*reader)
	render func(*writer, *Message, []Reply)
	tool   func(b []byte, t *listed) []byte
	around [2]string // the list of tools
	join   func() assembler
}

var providers = [...]provider{
	OpenAIChat:      {"openai-chat", parseChat, renderChat, chatTool, [2]string{"[", "]"}, func() assembler { return &chatStream{} }},
	OpenAIResponses: {"openai-responses", parseResponses, renderResponses, responsesTool, [2]string{"[", "]"}, func() assembler { return &responsesStream{} }},
	Anthropic:       {"anthropic", parseAnthropic, renderAnthropic, anthropicTool, [2]string{"[", "]"}, func() assembler { return &anthropicStream{} }},
	Gemini:          {"gemini", parseGemini, renderGemini, geminiTool, [2]string{`[{"functionDeclarations":[`, `]}]`}, func() assembler { return &geminiStream{} }},
}

// String is the format's name, as "openai-chat".
func (f Format) String() string {
	if int(f) < len(providers) {
		return providers[f].name
	}
	return fmt.Sprintf("Format(%d)", uint8(f))
}

// With is f with another configuration.
func (f Format) With(c CodecConfig) (Codec, error) {
	if int(f) >= len(providers) {
		return nil, fmt.Errorf("agent: %v: must be OpenAIChat, OpenAIResponses, Anthropic or Gemini", f)
	}
	for _, x := range []struct {
		field string
		value *int
		def   int
	}{
		{"MaxBodyBytes", &c.MaxBodyBytes, defaultBodyBytes},
		{"MaxResultBytes", &c.MaxResultBytes, defaultResultBytes},
		{"MaxImageBytes", &c.MaxImageBytes, defaultImageBytes},
	} {
		if *x.value < 0 || *x.value > mostBytes {
			return nil, fmt.Errorf("agent: CodecConfig.%s is %d: must be zero (%d) or 1 to %d", x.field, *x.value, x.def, mostBytes)
		}
		if *x.value == 0 {
			*x.value = x.def
		}
	}
	return &codec{f, c}, nil
}

// usual are the formats with the usual configuration.
var usual = func() (all [len(providers)]*codec) {
	for f := range all {
		all[f] = &codec{Format(f), CodecConfig{MaxBodyBytes: defaultBodyBytes, MaxResultBytes: defaultResultBytes, MaxImageBytes: defaultImageBytes}}
	}
	return all
}()

func (f Format) codec() (*codec, error) {
	if int(f) >= len(providers) {
		_, err := f.With(CodecConfig{})
		return nil, err
	}
	return usual[f], nil
}

// Parse is that of [Codec]: at most 32 MiB, and 4,096 calls.
func (f Format) Parse(body []byte) (*Message, error) {
	c, err := f.codec()
	if err != nil {
		return nil, err
	}
	return c.Parse(body)
}

// Render is that of [Codec]. It is an error if there is not one reply for each call. An error is rendered as
// [sluice.ModelText]; of a result, a string is its text, [Content] is its parts, and anything else is its
// JSON. Text above 64 KiB is cut, with a mark that says so.
func (f Format) Render(m *Message, replies []Reply) ([]json.RawMessage, error) {
	c, err := f.codec()
	if err != nil {
		return nil, err
	}
	return c.Render(m, replies)
}

// Tools is that of [Codec]: [sluice.ToolRegistry.Tools] is such a list. A name that models do not take is an
// error; see [NewNames].
func (f Format) Tools(lists ...iter.Seq[sluice.Spec]) (json.RawMessage, error) {
	c, err := f.codec()
	if err != nil {
		return nil, err
	}
	return c.Tools(lists...)
}

func (c *codec) Parse(body []byte) (*Message, error) {
	if len(body) > c.conf.MaxBodyBytes {
		return nil, fmt.Errorf("agent: the %v message has %d bytes: at most %d are allowed", c.format, len(body), c.conf.MaxBodyBytes)
	}
	m := &Message{}
	r := newReader(body, c.conf.Names, m)
	providers[c.format].parse(&r)
	err := r.End()
	switch {
	case err != nil:
	case r.bad != nil:
		err = r.bad
	case r.failed && (!r.found || m.Stop == "failed"):
		err = errors.New("is an error of the provider, and no message")
	case !r.found:
		err = errors.New("has no message of that format")
	case len(m.Calls) > maxCalls:
		err = fmt.Errorf("has %d calls: at most %d are allowed", len(m.Calls), maxCalls)
	}
	if err != nil {
		return nil, fmt.Errorf("agent: the %v message %w", c.format, err)
	}
	return m, nil
}

func (c *codec) Render(m *Message, replies []Reply) ([]json.RawMessage, error) {
	if m == nil {
		return nil, errors.New("agent: Render: the message is nil")
	}
	if len(replies) != len(m.Calls) {
		return nil, fmt.Errorf("agent: Render: %d replies for %d calls: must be one for each, in their order", len(replies), len(m.Calls))
	}
	if len(replies) == 0 {
		return nil, nil
	}
	w := newWriter(&c.conf, replies)
	providers[c.format].render(&w, m, replies)
	return w.messages(), nil
}
