package sluiceeino

import (
	"context"
	"errors"
	"io"
	"runtime/debug"
	"sync/atomic"

	"github.com/cloudwego/eino/compose"
	"github.com/cloudwego/eino/schema"

	"github.com/sluice-go/sluice"
)

// stream makes a call of a tool that answers with a stream, as call does. The call stays open until that has ended.
func stream[T any](
	ctx context.Context, g *guard, in *compose.ToolInput, as func(text string) T, next endpoint[*schema.StreamReader[T]],
) (*schema.StreamReader[T], error) {
	refusal := func(text string) *schema.StreamReader[T] { return schema.StreamReaderFromArray([]T{as(text)}) }
	return call(ctx, g, in, refusal, func(run context.Context, in *compose.ToolInput) (*schema.StreamReader[T], error) {
		on, done, err := sluice.Hold(run)
		if err != nil {
			return nil, err
		}
		h := &held[T]{guard: g, tool: in.Name, caller: ctx, as: as, done: done, chunks: make(chan chunk[T]), ended: make(chan struct{})}
		h.on, h.leave = context.WithCancelCause(on)
		h.from, err = next(h.on, in)
		if err != nil || h.from == nil || h.on.Err() != nil {
			return nil, h.unbegun(err)
		}
		go h.pump()
		return h.reader(), nil
	})
}

// held is a stream that holds its call open. A goroutine reads what the tool sends, so that a tool that ignores its
// context does not hold up who reads when the time of the call is over. It is also who ends the call, when the tool
// has sent the last of it: as long as the tool is about to send more, its code runs.
type held[T any] struct {
	guard  *guard
	tool   string
	caller context.Context
	as     func(text string) T
	from   *schema.StreamReader[T]
	chunks chan chunk[T]

	on    context.Context         // what the tool has; it ends with the call, its time, the caller, or the reader
	leave context.CancelCauseFunc // that of the reader
	done  func(error)             // ends the call

	said  atomic.Bool   // somebody says how it has ended
	ended chan struct{} // and has said it
	end   error         // what the reader gets then; it is the reader's from then on
	began bool          // the reader has got something; its own
}

// chunk is what a tool sends, or the end of one of its named streams.
type chunk[T any] struct {
	value T
	err   error
}

var errLeft = errors.New("the reader has left")

// unbegun is why nobody gets to read the stream, of which the tool has answered err. As the call's error it ends the
// hold.
func (h *held[T]) unbegun(err error) error {
	defer h.leave(errLeft)
	if h.from != nil {
		h.from.Close()
	}
	if h.on.Err() != nil && (err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		return h.cause()
	}
	return failed(err)
}

// pump passes on what the tool sends until it ends, and ends the call.
func (h *held[T]) pump() {
	var end error
	normal := false
	defer func() {
		if !normal {
			v := recover()
			end = &sluice.PanicError{Tool: h.tool, Value: v, Goexit: v == nil, Stack: debug.Stack()}
		}
		defer h.leave(errLeft)
		of := end
		if end == io.EOF {
			of = nil
		}
		if h.said.CompareAndSwap(false, true) {
			h.end = end
			defer close(h.ended) // the reader learns of the end when the call has ended
		}
		h.done(of)
	}()
	end = h.pass()
	normal = true
}

// pass passes on chunks, and says how that ended: io.EOF if there is nothing more to say.
func (h *held[T]) pass() error {
	defer h.from.Close()
	for {
		value, err := h.from.Recv()
		if h.on.Err() != nil {
			return h.cause()
		}
		_, named := schema.GetSourceName(err)
		switch {
		case err == nil || named: // of several streams one has ended
		case err == io.EOF:
			return err
		default:
			return failed(err)
		}
		select {
		case h.chunks <- chunk[T]{value, err}:
		case <-h.on.Done():
			return h.cause()
		}
	}
}

// cause is why the stream has ended before the tool has ended it.
func (h *held[T]) cause() error {
	if err := context.Cause(h.on); err != errLeft {
		return err
	}
	return io.EOF
}

// recv is the next of the stream. The last is an error, but where a model can read it: then it is a text, and the
// stream goes on to its end.
func (h *held[T]) recv() (value T, err error, last bool) {
	select {
	case c := <-h.chunks:
		h.began = true
		return c.value, c.err, false
	case <-h.on.Done():
	}
	if h.said.CompareAndSwap(false, true) { // else the tool has ended it
		h.end = h.cause()
		close(h.ended)
	}
	<-h.ended
	end := h.end
	h.end = io.EOF
	if end == io.EOF {
		return value, end, true
	}
	text, err := h.guard.answer(h.caller, end)
	if err != nil {
		return value, err, true
	}
	if h.began {
		text = "\n" + text
	}
	return h.as(text), nil, true
}

// reader is what eino reads. Such a reader tells when it is closed to none but who sends to it. So a goroutine sends
// it turns, for each of which the reader gets a chunk: when it can send no more, the reader has left.
func (h *held[T]) reader() *schema.StreamReader[T] {
	turns, send := schema.Pipe[struct{}](1)
	turns.SetAutomaticClose() // it may be closed twice, and is when nobody has the reader any more
	go func() {
		defer send.Close()
		for !send.Send(struct{}{}, nil) {
		}
		h.leave(errLeft)
	}()
	return schema.StreamReaderWithConvert(turns, func(struct{}) (T, error) {
		value, err, last := h.recv()
		if last {
			turns.Close()
		}
		return value, err
	})
}
