package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sluice-go/sluice"
)

// Resume goes on with a turn some calls of which waited for approval. Those that are approved by now run, and those
// whose approval was denied, has expired or was cancelled are refused, with words for the model; the Turn that it
// returns is Pending as long as others wait still, and has its Messages when none does. t stays as it is.
//
// The turn may have been stored as JSON, and the Runner may be of another process whose [Approvals] have the same
// state. What has run does not run again: its reply is in the turn. A call that is approved does not run twice
// either, if Resume is called twice, or the process dies in it: who comes after it gets its result, or, if that is
// not known, an [*ApprovalError] whose State is used. A state that dies with the process knows nothing of that.
// Calls that need no approval have run before the turn could be stored: a process that dies between the two has
// nothing but what a Once of package resilience keeps.
//
// Config.Repair is not asked again. If ctx ends, the calls that have not begun wait on in the Turn, and the error is
// ctx's cause. Other errors are as those of [Runner.Turn]. Resume waits as Run does, for no approval.
func (r *Runner) Resume(ctx context.Context, c Codec, t *Turn) (*Turn, error) {
	switch {
	case c == nil:
		return nil, errNoCodec
	case ctx == nil:
		return nil, errors.New("agent: Resume: the context is nil")
	case t == nil || t.Message == nil || len(t.Replies) != len(t.Message.Calls):
		return nil, errors.New("agent: Resume: the turn is nil, or has not one reply for each call: must be one that Turn, Answer or Resume has returned")
	}
	next := &Turn{Message: t.Message, Replies: append([]Reply(nil), t.Replies...)}
	var calls []sluice.Request
	var grants []string
	var places []int
	for i := range t.Replies {
		if a, ok := t.waits(i); ok {
			calls, grants, places = append(calls, t.Replies[i].Request), append(grants, a.ID), append(places, i)
		}
	}
	if len(calls) > 0 {
		b := r.begin(ctx, calls, false)
		defer b.end()
		b.grants = grants
		for j, reply := range b.replies(make([]Reply, len(calls))) {
			if ctx.Err() == nil || !hasNotBegun(reply.Err) {
				next.Replies[places[j]] = reply
			}
		}
	}
	err := next.render(c)
	if next.Pending != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return next, err
}

// hasNotBegun reports whether err, as a context may have caused it, says nothing of an approval.
func hasNotBegun(err error) bool {
	_, known := errors.AsType[*ApprovalError](err)
	return !known && errors.Is(err, sluice.ErrRejected)
}

// isPending reports whether err is of a call that waits for approval itself, and not of one nested in it.
func isPending(err error) bool {
	_, ok := pendingIn(err)
	return ok
}

func pendingIn(err error) (a Approval, ok bool) {
	defer func() { // of the methods of an error that may be anybody's
		if recover() != nil {
			ok = false
		}
	}()
	x, found := errors.AsType[*ApprovalError](err)
	if !found || x.Approval.State != ApprovalPending || !errors.Is(err, sluice.ErrRejected) {
		return a, false
	}
	return x.Approval, true
}

// waits is the approval that call i waits for, if it does.
func (t *Turn) waits(i int) (Approval, bool) {
	if t.Message.Calls[i].Err != nil {
		return Approval{}, false
	}
	return pendingIn(t.Replies[i].Err)
}

// turnVersion is that of stored turns. Whoever changes what they mean counts it up.
const turnVersion = 1

// storedTurn is a Turn as JSON. JSON in it is in bytes, so that it stays the same.
type storedTurn struct {
	V        int           `json:"v"`
	Echo     [][]byte      `json:"echo"`
	Texts    [][]byte      `json:"texts,omitempty"`
	Others   [][]byte      `json:"others,omitempty"`
	Stop     string        `json:"stop,omitempty"`
	Paused   bool          `json:"paused,omitempty"`
	Calls    []storedCall  `json:"calls"`
	Replies  []storedReply `json:"replies"`
	Messages [][]byte      `json:"messages,omitempty"`
}

type storedRequest struct {
	ID   string `json:"id,omitempty"`
	Tool string `json:"tool"`
	Args []byte `json:"args,omitempty"`
}

type storedCall struct {
	storedRequest
	Name   string `json:"name,omitempty"`
	Custom bool   `json:"custom,omitempty"`
	Extra  []byte `json:"extra,omitempty"`
	Bad    string `json:"bad,omitempty"`
}

// storedReply has one of Text, Parts, JSON, Error and Pending.
type storedReply struct {
	storedRequest
	Text    *string      `json:"text,omitempty"`
	Parts   Content      `json:"parts,omitempty"`
	JSON    []byte       `json:"json,omitempty"`
	Error   *storedError `json:"error,omitempty"`
	Pending *Approval    `json:"pending,omitempty"`
}

// storedError is the error of a call whose turn was stored: what a program and a model read of it.
type storedError struct {
	Message  string       `json:"message"`
	Kind     string       `json:"code"`
	Model    string       `json:"model"`
	Rejected bool         `json:"rejected,omitempty"`
	Partial  []byte       `json:"partial,omitempty"`
	Exit     ExitBehavior `json:"exit,omitempty"`

	own error // of the library, with that code; nil if it was the tool's
}

func (e *storedError) Error() string { return e.Message }
func (e *storedError) Code() string  { return e.Kind }
func (e *storedError) Unwrap() error { return e.own }

func (e *storedError) exit() ExitBehavior { return e.Exit }

// reasons is what the library's own codes say.
var reasons = map[string]error{
	"unknown_tool": sluice.ErrUnknownTool, "invalid_arguments": sluice.ErrInvalidArguments, "breaker_open": sluice.ErrBreakerOpen,
	"rate_limited": sluice.ErrRateLimited, "saturated": sluice.ErrSaturated, "queue_full": sluice.ErrQueueFull,
	"wait_too_long": sluice.ErrWaitTooLong, "denied": sluice.ErrDenied, "nesting": sluice.ErrNesting, "closed": sluice.ErrClosed,
	"timeout": sluice.ErrTimeout, "canceled": sluice.ErrRejected,
}

// revive finds the error of the library that e was, of a call of r.
func (e *storedError) revive(r *sluice.Request) {
	own := &sluice.Error{Tool: r.Tool, CallID: r.ID, Reason: reasons[e.Kind]}
	switch {
	case e.Kind == "panic" || e.Kind == "goexit":
		e.own = &sluice.PanicError{Tool: r.Tool, Goexit: e.Kind == "goexit"}
	case e.Rejected && own.Reason == nil: // a rule's, with a code of its own
		own.Reason, own.Cause = sluice.ErrDenied, &endedError{e.Kind, e.Message}
		e.own = own
	case e.Kind == "canceled" && !e.Rejected:
		e.own = context.Canceled
	case own.Reason != nil && (e.Rejected || own.Reason == sluice.ErrTimeout):
		e.own = own
	}
}

// modelText is what a model reads of err.
func modelText(err error) string {
	if x, ok := err.(*storedError); ok {
		return x.Model
	}
	return sluice.ModelText(err)
}

// partial is what a failed call has of its result; nil if it has nothing.
func partial(r *Reply) any {
	if x, ok := r.Err.(*storedError); ok && x.Partial != nil {
		return json.RawMessage(x.Partial)
	}
	return r.Result.Partial()
}

// MarshalJSON stores the turn, so that it can be resumed: all that is in it, arguments and results too. A result is
// as the model reads it, an error its text, its code and what a model reads of it; read again, it matches the reason
// that it had of package sluice.
func (t Turn) MarshalJSON() ([]byte, error) {
	if t.Message == nil || len(t.Replies) != len(t.Message.Calls) {
		return nil, errors.New("agent: the turn has no message, or not one reply for each call: must be one that a Runner has returned")
	}
	m := t.Message
	s := storedTurn{V: turnVersion, Echo: many[[]byte](m.Echo), Texts: m.texts, Others: many[[]byte](m.Others), Stop: m.Stop, Paused: m.Paused,
		Messages: many[[]byte](t.Messages)}
	for i, a := range m.Calls {
		x := storedCall{storedRequest: stored(a.Request), Name: a.name, Custom: a.custom, Extra: a.extra}
		if own, ok := errors.AsType[*sluice.Error](a.Err); ok && own.Cause != nil {
			x.Bad = own.Cause.Error()
		} else if a.Err != nil {
			x.Bad = a.Err.Error()
		}
		s.Calls, s.Replies = append(s.Calls, x), append(s.Replies, t.stored(i))
	}
	return json.Marshal(s)
}

// many is a list of byte slices as one of another type of them.
func many[To, From ~[]byte](list []From) []To {
	if list == nil {
		return nil
	}
	out := make([]To, len(list))
	for i := range list {
		out[i] = To(list[i])
	}
	return out
}

func stored(r sluice.Request) storedRequest {
	return storedRequest{ID: r.ID, Tool: r.Tool, Args: r.Args}
}

func (s *storedRequest) request() sluice.Request {
	return sluice.Request{ID: s.ID, Tool: s.Tool, Args: s.Args}
}

// stored is the reply to call i as it is stored.
func (t *Turn) stored(i int) storedReply {
	r := &t.Replies[i]
	x := storedReply{storedRequest: stored(r.Request)}
	if a, ok := t.waits(i); ok {
		x.Pending = &a
		return x
	}
	err := r.Err
	if err == nil {
		var raw []byte
		switch v := r.Result.Value.(type) {
		case string:
			x.Text = &v
			return x
		case Part:
			x.Parts = Content{v}
			return x
		case Content:
			x.Parts = append(Content{}, v...)
			return x
		case []Part:
			x.Parts = append(Content{}, v...)
			return x
		}
		if raw, err = r.Result.JSON(); err == nil {
			if _, tooLarge := (sluice.Result{Value: json.RawMessage(raw)}).JSON(); tooLarge != nil {
				text := string(raw)
				x.Text = &text
			} else {
				x.JSON = raw
			}
			return x
		}
	}
	x.Error = storedOf(err)
	if v := partial(r); v != nil {
		x.Error.Partial, _ = sluice.Result{Value: v}.JSON()
	}
	return x
}

func storedOf(err error) *storedError {
	if x, ok := err.(*storedError); ok { // it was stored before
		same := *x
		return &same
	}
	return &storedError{Message: textOf(err), Kind: sluice.CodeOf(err), Model: modelText(err), Rejected: errors.Is(err, sluice.ErrRejected), Exit: exitOf(err)}
}

// textOf is the text of an error that may be anybody's.
func textOf(err error) (text string) {
	defer func() {
		if recover() != nil {
			text = "an error whose text could not be read"
		}
	}()
	return err.Error()
}

// UnmarshalJSON reads what MarshalJSON has written.
func (t *Turn) UnmarshalJSON(data []byte) error {
	var s storedTurn
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("agent: the stored turn: %w", err)
	}
	switch {
	case s.V != turnVersion:
		return fmt.Errorf("agent: the stored turn is of version %d: must be %d", s.V, turnVersion)
	case len(s.Replies) != len(s.Calls):
		return fmt.Errorf("agent: the stored turn has %d replies for %d calls: must be one for each", len(s.Replies), len(s.Calls))
	}
	m := &Message{Echo: many[json.RawMessage](s.Echo), Others: many[json.RawMessage](s.Others), Stop: s.Stop, Paused: s.Paused, texts: s.Texts}
	next := Turn{Message: m, Messages: many[json.RawMessage](s.Messages)}
	for i := range s.Calls {
		x := &s.Calls[i]
		a := Asked{Request: x.request(), name: x.Name, custom: x.Custom, extra: x.Extra}
		if x.Bad != "" {
			a.spoil(x.Bad)
		}
		m.Calls, next.Replies = append(m.Calls, a), append(next.Replies, s.Replies[i].reply(a.Err))
	}
	next.sum()
	*t = next
	return nil
}

// reply is the reply that s stores, to a call that could not be read if bad is not nil.
func (s *storedReply) reply(bad error) Reply {
	r := Reply{Request: s.request()}
	switch {
	case bad != nil:
		r.Err = bad
	case s.Pending != nil:
		r.Err = &sluice.Error{Tool: s.Tool, CallID: s.ID, Reason: sluice.ErrDenied, Cause: &ApprovalError{*s.Pending}}
	case s.Error != nil:
		s.Error.revive(&r.Request)
		r.Err = s.Error
	case s.Text != nil:
		r.Result.Value = *s.Text
	case s.JSON != nil:
		r.Result.Value = json.RawMessage(s.JSON)
	default:
		r.Result.Value = append(Content{}, s.Parts...)
	}
	return r
}
