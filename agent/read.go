package agent

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// ReadMessage reads a model's answer from r, to its end: the body of a response in the format of c, whole or as a
// stream of server-sent events. Which of them it is, the body says by how it begins, whatever was asked for. What the
// message calls, [Runner.Answer] makes.
//
//	m, err := agent.ReadMessage(agent.Anthropic, response.Body)
//
// If r fails, as when its request is cancelled, that is the error, and what has come of the message is lost. Where
// a stream ends before it has said that it is whole, there is a message, but its calls do not run, and an error if
// nothing of it has come: see [Stream.Message]. A body of more than MaxBodyBytes is an error, and no more of it is read; for a Codec that another
// package has made that is 32 MiB, and streams are an error.
//
// ReadMessage waits for r, and for nothing else.
func ReadMessage(c Codec, r io.Reader) (*Message, error) {
	switch {
	case c == nil:
		return nil, errNoCodec
	case r == nil:
		return nil, errors.New("agent: ReadMessage: the reader is nil")
	}
	most := maxBody(c)
	b := bufio.NewReader(r)
	first, err := begins(b, most)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("agent: reading the model's answer: %w", err)
	}
	if isEvents(first) {
		return readStream(c, b)
	}
	body, err := io.ReadAll(io.LimitReader(b, int64(most)+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("agent: reading the model's answer: %w", err)
	case len(body) > most:
		return nil, fmt.Errorf("agent: the model's answer has more than %d bytes", most)
	}
	return c.Parse(body)
}

func readStream(c Codec, r io.Reader) (*Message, error) {
	s, err := NewStream(c)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(s, r); err != nil {
		if s.err != nil {
			return nil, s.err
		}
		return nil, fmt.Errorf("agent: reading the model's answer: %w", err)
	}
	return s.Message()
}

// begins leaves out what may stand before the body, as spaces that servers write while they work, and looks at its
// first byte. That is at most so many bytes.
func begins(b *bufio.Reader, most int) (byte, error) {
	for range most {
		p, err := b.Peek(1)
		if len(p) == 0 {
			return 0, err
		}
		n := 1
		switch c := p[0]; c {
		case ' ', '\n', '\r', '\t':
		case byteOrder[0]:
			if n = len(byteOrder); !isByteOrder(b) {
				return c, nil
			}
		default:
			return c, nil
		}
		if _, err := b.Discard(n); err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("%d bytes say nothing", most)
}

func isByteOrder(b *bufio.Reader) bool {
	p, _ := b.Peek(len(byteOrder))
	return string(p) == byteOrder
}

// byteOrder is the mark that a text may begin with.
const byteOrder = "\uFEFF"

// isEvents reports whether a body that begins with c is a stream of events: with the name of a field, or a comment.
func isEvents(c byte) bool { return c >= 'a' && c <= 'z' || c == ':' }

// maxBody is how many bytes of an answer c takes.
func maxBody(c Codec) int {
	if c, ok := c.(*codec); ok {
		return c.conf.MaxBodyBytes
	}
	return defaultBodyBytes
}
