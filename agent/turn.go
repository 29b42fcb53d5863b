package agent

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/sluice-go/sluice"
)

// Turn is what an answer of a model has come to.
type Turn struct {
	Message  *Message          // the answer
	Replies  []Reply           // one for each of Message.Calls, at its index
	Messages []json.RawMessage // to append to the history: the model's own message, then the answers to its calls

	// Pending is the approvals that calls wait for, in their order; those calls' Replies have an [*ApprovalError].
	// While there are some, there are no Messages: the model has its answers once all is decided, see
	// [Runner.Resume]. The other calls have run.
	Pending []Approval

	// Stop is the error of the call for which the run is to end, see [ExitBehavior]; nil if it is to go on. What
	// was called has its answers in Messages nevertheless.
	Stop error
}

// Done reports whether there was nothing to call, and is nothing to wait for: the model has had its say, or the run
// has come to its Stop. If not, Messages go to it with the history, unless something is Pending.
func (t *Turn) Done() bool { return t.Message.Done() || t.Stop != nil && t.Pending == nil }

// Turn takes body, a model's answer in the format of c, to what is to be sent back: it parses it, makes the calls
// as [Runner.Run] does, and renders their replies.
//
// Every call is answered, also if ctx has ended, unless some wait for approval: the history stays one that the provider takes. A call that is
// malformed or was cut off does not run; where the Runner is FailFast, no other of the turn does either.
//
// The error is one of a body that cannot be read, and there is no Turn then, or of c's Render, or the Turn's Stop if a
// limit has ended it with [ExitError]; what becomes of calls is in Replies. Turn waits as Run does.
func (r *Runner) Turn(ctx context.Context, c Codec, body []byte) (*Turn, error) {
	if c == nil {
		return nil, errNoCodec
	}
	m, err := c.Parse(body)
	if err != nil {
		return nil, err
	}
	return r.Answer(ctx, c, m)
}

// Answer is [Runner.Turn] for a message that is parsed, say one that a [Stream] has made.
func (r *Runner) Answer(ctx context.Context, c Codec, m *Message) (*Turn, error) {
	switch {
	case c == nil:
		return nil, errNoCodec
	case m == nil:
		return nil, errors.New("agent: Answer: the message is nil")
	}
	t := &Turn{Message: m, Replies: r.answer(ctx, m.Calls)}
	return t, t.render(c)
}

// render makes the Messages, unless calls wait for approval.
func (t *Turn) render(c Codec) error {
	exit := t.sum()
	if t.Pending != nil {
		return nil
	}
	answers, err := c.Render(t.Message, t.Replies)
	t.Messages = append(append(make([]json.RawMessage, 0, len(t.Message.Echo)+len(answers)), t.Message.Echo...), answers...)
	if err == nil && exit == ExitError {
		err = t.Stop
	}
	return err
}

// sum says what Replies are to the turn.
func (t *Turn) sum() (exit ExitBehavior) {
	for i := range t.Replies {
		if a, ok := t.waits(i); ok {
			t.Pending = append(t.Pending, a)
		} else if e := exitOf(t.Replies[i].Err); e > exit {
			exit, t.Stop = e, t.Replies[i].Err
		}
	}
	return exit
}

var errNoCodec = errors.New("agent: the codec is nil: must be a Format, or made by Format.With")

// answer makes the calls that can be made, and has a reply for each.
func (r *Runner) answer(ctx context.Context, asked []Asked) []Reply {
	calls := make([]sluice.Request, 0, len(asked))
	for _, a := range asked {
		if a.Err == nil {
			calls = append(calls, a.Request)
		}
	}
	if r.conf.FailFast && len(calls) < len(asked) && ctx != nil {
		failed, cancel := context.WithCancelCause(ctx)
		cancel(ErrSiblingFailed)
		ctx = failed
	}
	made := r.Run(ctx, calls)
	if len(made) == len(asked) {
		return made
	}
	replies := make([]Reply, len(asked))
	for i, a := range asked {
		if a.Err != nil {
			replies[i] = Reply{Request: a.Request, Err: a.Err}
		} else {
			replies[i], made = made[0], made[1:]
		}
	}
	return replies
}
