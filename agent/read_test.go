package agent_test

import (
	"encoding/json"
	"errors"
	"io"
	"iter"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// An answer is read whole and as a stream, however it comes, and whatever a server has put before it.
func TestReadMessage(t *testing.T) {
	for _, x := range streams {
		var events strings.Builder
		for _, e := range x.events {
			events.WriteString("event: any\ndata: " + e + "\n\n")
		}
		for _, before := range []string{"", "\r\n \t", ": waiting\n\n", "\uFEFF", "\uFEFF: waiting\n\n", "\uFEFF\n"} {
			for _, slowly := range []func(io.Reader) io.Reader{iotest.OneByteReader, iotest.DataErrReader} {
				m, err := agent.ReadMessage(x.format, slowly(strings.NewReader(before+events.String())))
				require.NoError(t, err, "%s after %q", x.name, before)
				require.Equal(t, x.want, echoed(m))
				require.Equal(t, x.calls, asked(m))
				require.Equal(t, x.text, m.Text())
			}
		}
	}
	for _, before := range []string{"", "\r\n \t", "\uFEFF", "\n\uFEFF\n"} {
		for _, f := range turnFormats {
			body := before + f.body([]string{"work"}, []string{`{"n":9007199254740993}`})
			m, err := agent.ReadMessage(f.codec, iotest.OneByteReader(strings.NewReader(body)))
			require.NoError(t, err, "%v after %q", f.codec, before)
			require.Len(t, m.Calls, 1)
			require.Equal(t, `{"n":9007199254740993}`, string(m.Calls[0].Request.Args))
		}
	}
}

// A reader that fails leaves no message, wherever that is; one that ends too early leaves one whose calls do not run.
func TestReadMessage_BrokenOff(t *testing.T) {
	reset := errors.New("connection reset")
	body := "data: " + strings.Join(streams[0].events, "\n\ndata: ") + "\n\n"
	stop := strings.Index(body, `"finish_reason":"tool_calls"`)
	for n := range len(body) {
		m, err := agent.ReadMessage(agent.OpenAIChat, io.MultiReader(strings.NewReader(body[:n]), iotest.ErrReader(reset)))
		require.ErrorIs(t, err, reset, "after %d bytes", n)
		require.EqualError(t, err, "agent: reading the model's answer: connection reset")
		require.Nil(t, m)

		m, err = agent.ReadMessage(agent.OpenAIChat, strings.NewReader(body[:n]))
		if n > stop || err != nil {
			continue
		}
		for _, c := range m.Calls {
			require.ErrorIs(t, c.Err, sluice.ErrInvalidArguments, "after %d bytes", n)
		}
	}
	_, err := agent.ReadMessage(agent.OpenAIChat, io.MultiReader(strings.NewReader(`{"role":`), iotest.ErrReader(reset)))
	require.EqualError(t, err, "agent: reading the model's answer: connection reset")
}

// A stream that breaks off before there is anything of its message is not the model's last word.
func TestReadMessage_BrokenOffBeforeItSaysAnything(t *testing.T) {
	for _, x := range []struct {
		format       agent.Format
		begins, ends string
	}{
		{agent.OpenAIChat, `{"choices":[{"delta":{"role":"assistant","content":""}}]}`, `{"choices":[{"delta":{},"finish_reason":"stop"}]}`},
		{agent.OpenAIResponses, `{"type":"response.created","response":{"status":"in_progress","output":[]}}`, `{"type":"response.completed","response":{"status":"completed","output":[]}}`},
		{agent.Anthropic, `{"type":"message_start","message":{"role":"assistant","content":[]}}`, `{"type":"message_stop"}`},
		{agent.Gemini, `{"candidates":[{"content":{"role":"model","parts":[{"text":"hm","thought":true}]}}]}`, `{"candidates":[{"finishReason":"STOP"}]}`},
	} {
		m, err := agent.ReadMessage(x.format, strings.NewReader("data: "+x.begins+"\n\n"))
		require.EqualError(t, err, "agent: the "+x.format.String()+" stream: no message has come")
		require.Nil(t, m)

		m, err = agent.ReadMessage(x.format, strings.NewReader("data: "+x.begins+"\n\ndata: "+x.ends+"\n\n"))
		require.NoError(t, err, "%v: that it has nothing to say may be all", x.format)
		require.True(t, m.Done())
	}
}

// What is no message is an error that says what came instead.
func TestReadMessage_Errors(t *testing.T) {
	for _, c := range []struct{ body, want string }{
		{"", "agent: the openai-chat message ends at byte 0: must have { there"},
		{"<html>", "agent: the openai-chat message is not JSON at byte 0: must have { there"},
		{`{"error":{"message":"secret"}}`, "agent: the openai-chat message is an error of the provider, and no message"},
		{"upstream has failed\n", "agent: the openai-chat stream: no message has come"},
		{"data: {\"error\":{}}\n\n", "agent: the openai-chat stream: an error of the provider"},
		{"\uFEFF", "agent: the openai-chat message ends at byte 0: must have { there"},
		{"\xEFxy", "agent: the openai-chat message is not JSON at byte 0: must have { there"},
	} {
		m, err := agent.ReadMessage(agent.OpenAIChat, strings.NewReader(c.body))
		require.EqualError(t, err, c.want, "%q", c.body)
		require.Nil(t, m)
	}
	_, err := agent.ReadMessage(nil, strings.NewReader("{}"))
	require.EqualError(t, err, "agent: the codec is nil: must be a Format, or made by Format.With")
	_, err = agent.ReadMessage(agent.Gemini, nil)
	require.EqualError(t, err, "agent: ReadMessage: the reader is nil")
}

// No more is read than the codec takes, of whichever form.
func TestReadMessage_IsBounded(t *testing.T) {
	codec, err := agent.OpenAIChat.With(agent.CodecConfig{MaxBodyBytes: 100})
	require.NoError(t, err)
	message := `{"role":"assistant","content":"` + strings.Repeat("x", 67) + `"}`
	require.Len(t, message, 100)
	m, err := agent.ReadMessage(codec, strings.NewReader(message))
	require.NoError(t, err)
	require.Len(t, m.Text(), 67)

	_, err = agent.ReadMessage(codec, strings.NewReader(message+" "))
	require.EqualError(t, err, "agent: the model's answer has more than 100 bytes")
	for _, begin := range []string{"{", "data: {"} {
		_, err = agent.ReadMessage(codec, io.MultiReader(strings.NewReader(begin), &endless{}))
		require.ErrorContains(t, err, "more than 100 bytes")
	}
	_, err = agent.ReadMessage(codec, &endless{space: true})
	require.EqualError(t, err, "agent: reading the model's answer: 100 bytes say nothing")
	_, err = agent.ReadMessage(codec, strings.NewReader(strings.Repeat(" ", 99)+message))
	require.NoError(t, err, "what stands before it does not count")
}

// endless is text without an end, of which somebody reads too much.
type endless struct {
	read  int
	space bool // of nothing else
}

func (e *endless) Read(p []byte) (int, error) {
	if e.read += len(p); e.read > 1<<20 {
		return 0, errors.New("a megabyte has been read")
	}
	for i := range p {
		if p[i] = 'x'; e.space {
			p[i] = ' '
		}
	}
	return len(p), nil
}

// A codec of another package reads whole answers, and says that it reads no streams.
func TestReadMessage_ForeignCodec(t *testing.T) {
	m, err := agent.ReadMessage(foreign{}, strings.NewReader(` {"anything":1}`))
	require.NoError(t, err)
	require.Equal(t, `{"anything":1}`, string(m.Echo[0]))
	_, err = agent.ReadMessage(foreign{}, strings.NewReader("data: {}\n\n"))
	require.EqualError(t, err, "agent: NewStream: the codec is a agent_test.foreign: must be a Format, or made by Format.With")
}

type foreign struct{}

func (foreign) Parse(body []byte) (*agent.Message, error) {
	return &agent.Message{Echo: []json.RawMessage{body}}, nil
}
func (foreign) Render(*agent.Message, []agent.Reply) ([]json.RawMessage, error) { return nil, nil }
func (foreign) Tools(...iter.Seq[sluice.Spec]) (json.RawMessage, error)         { return nil, nil }
