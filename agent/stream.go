package agent

import (
	"bytes"
	"errors"
	"fmt"
)

// Stream makes a [Message] of a streamed answer. Make one with [Format.Stream] or [NewStream] for each
// answer; it is for one goroutine.
//
//	s := agent.OpenAIChat.Stream()
//	if _, err := io.Copy(s, response.Body); err != nil {
//		return err
//	}
//	m, err := s.Message()
type Stream struct {
	codec *codec
	join  assembler
	line  []byte // that has begun
	data  []byte // of the event that has begun
	some  bool   // it has data
	size  int
	err   error
}

// assembler joins the events of a stream of one format.
type assembler interface {
	// event takes what stands in an event, and keeps no part of it.
	event(data []byte) error

	// body is the message as if it had come whole, in memory of its own, nil if there is none; which of its calls are not
	// whole; and whether the stream has said that this is all.
	body() (b []byte, cut []int, ended bool)
}

// Stream begins a streamed answer.
func (f Format) Stream() *Stream {
	c, err := f.codec()
	if err != nil {
		return &Stream{err: err}
	}
	return c.stream()
}

// NewStream begins a streamed answer in the format of c, which must be a [Format] or made by [Format.With].
func NewStream(c Codec) (*Stream, error) {
	switch c := c.(type) {
	case Format:
		x, err := c.codec()
		if err != nil {
			return nil, err
		}
		return x.stream(), nil
	case *codec:
		return c.stream(), nil
	}
	return nil, fmt.Errorf("agent: NewStream: the codec is a %T: must be a Format, or made by Format.With", c)
}

func (c *codec) stream() *Stream { return &Stream{codec: c, join: providers[c.format].join()} }

var errNoStream = errors.New("agent: the Stream is not made: must come from Format.Stream or NewStream")

var errNothing = errors.New("no message has come")

// fail keeps the first error.
func (s *Stream) fail(err error) error {
	if s.err == nil {
		s.err = fmt.Errorf("agent: the %v stream: %w", s.codec.format, err)
	}
	return s.err
}

// grow counts n bytes that have come.
func (s *Stream) grow(n int) error {
	switch {
	case s.err != nil:
		return s.err
	case s.join == nil:
		return errNoStream
	}
	if s.size += n; s.size > s.codec.conf.MaxBodyBytes {
		return s.fail(fmt.Errorf("more than %d bytes", s.codec.conf.MaxBodyBytes))
	}
	return nil
}

// Write takes the next bytes of a response of server-sent events, however they are cut. After an error it takes no
// more.
func (s *Stream) Write(p []byte) (int, error) {
	if err := s.grow(len(p)); err != nil {
		return 0, err
	}
	for rest := p; len(rest) > 0; {
		n := bytes.IndexByte(rest, '\n')
		if n < 0 {
			s.line = append(s.line, rest...)
			break
		}
		s.line = append(s.line, rest[:n]...)
		rest = rest[n+1:]
		err := s.ends(bytes.TrimSuffix(s.line, []byte("\r")))
		if s.line = s.line[:0]; err != nil {
			return len(p) - len(rest), err
		}
	}
	return len(p), nil
}

// ends takes a whole line.
func (s *Stream) ends(line []byte) error {
	if len(line) == 0 {
		if !s.some {
			return nil
		}
		err := s.take(s.data)
		s.data, s.some = s.data[:0], false
		return err
	}
	if data, ok := bytes.CutPrefix(line, []byte("data:")); ok {
		if s.some {
			s.data = append(s.data, '\n')
		}
		s.data = append(s.data, bytes.TrimPrefix(data, []byte(" "))...)
		s.some = true
	}
	return nil
}

// Event takes what stands in one event, for whoever reads them already: the JSON behind data. It keeps no part of it.
func (s *Stream) Event(data []byte) error {
	if err := s.grow(len(data)); err != nil {
		return err
	}
	return s.take(data)
}

func (s *Stream) take(data []byte) error {
	if data = bytes.TrimSpace(data); len(data) == 0 {
		return nil
	}
	if err := s.join.event(data); err != nil {
		return s.fail(err)
	}
	return nil
}

// Message is what has come. If the stream broke off before it said that it was whole, no call of it runs: each
// has an Err; if it had neither said nor called anything, that is an error, since the model would seem to have had its
// say. Else the error is that of Write or Event if there was one: an event that could not be read may belong to any
// call.
func (s *Stream) Message() (*Message, error) {
	if err := s.grow(0); err != nil {
		return nil, err
	}
	body, cut, ended := s.join.body()
	if body == nil {
		return nil, s.fail(errNothing)
	}
	c := *s.codec
	c.conf.MaxBodyBytes = 2*c.conf.MaxBodyBytes + 1024 // what has been put around it does not count
	m, err := c.Parse(body)
	switch {
	case err != nil:
		return nil, err
	case !ended && len(m.Calls)+len(m.texts)+len(m.Others) == 0:
		return nil, fmt.Errorf("agent: the %v stream: %w", c.format, errNothing)
	}
	for i := range m.Calls {
		if !ended {
			m.Calls[i].spoil(broken)
		}
	}
	for _, i := range cut {
		if i < len(m.Calls) {
			m.Calls[i].spoil(cutOff)
		}
	}
	return m, nil
}
