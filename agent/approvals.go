package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/sluice-go/sluice"
)

// What Approvals tell of.
const (
	approvalRequested sluice.EventKind = "approval.requested" // in the order of the call's events
	approvalDecided   sluice.EventKind = "approval.decided"   // later, and so none of the call's own events
)

// ApprovalsConfig configures [Approvals]. State and Needs are required.
type ApprovalsConfig struct {
	// State keeps the approvals, under names that begin with "approvals/". Who decides, and who resumes, has the
	// same, or a snapshot of it.
	State *sluice.SharedState

	// Needs says whether a call needs approval, and what to tell whoever decides. It runs for each call, outside
	// locks, and must not wait; a panic ends the call.
	Needs func(c sluice.Call) (message string, needs bool)

	// Lifetime is for how long a request waits for a decision, for how long an approved call may come then, and for
	// how long what has become of it is known. Clocks of processes should differ by much less. Zero means 24 h; from
	// 1 s to 8,760 h.
	Lifetime time.Duration

	// Max is how many approvals are kept, those included that have ended and are known still. A call that needs one
	// more is refused, with the code approval_unasked. Zero means 10,000; at most 1,000,000. Their size counts for the state's MaxBytes.
	Max int

	Sink sluice.EventSink // is told approval.decided; nil means that of the run of the context
	_    struct{}
}

const (
	minApprovalLife = time.Second
	maxApprovalLife = 8760 * time.Hour
	maxApprovals    = 1_000_000
	maxDecider      = 256  // bytes
	maxReason       = 1024 // bytes
	approvalPrefix  = "approvals/"
)

// complete fills in the defaults.
func (c ApprovalsConfig) complete() (ApprovalsConfig, error) {
	c.Lifetime, c.Max = cmp.Or(c.Lifetime, 24*time.Hour), cmp.Or(c.Max, 10_000)
	switch {
	case c.State == nil:
		return c, errors.New("agent: ApprovalsConfig.State is nil: must be a SharedState that outlives the calls")
	case c.Needs == nil:
		return c, errors.New("agent: ApprovalsConfig.Needs is nil: must say which calls need approval")
	case c.Lifetime < minApprovalLife || c.Lifetime > maxApprovalLife:
		return c, fmt.Errorf("agent: ApprovalsConfig.Lifetime is %v: must be zero (24 h) or from %v to %v", c.Lifetime, minApprovalLife, maxApprovalLife)
	case c.Max < 0 || c.Max > maxApprovals:
		return c, fmt.Errorf("agent: ApprovalsConfig.Max is %d: must be zero (10,000) or 1 to %d", c.Max, maxApprovals)
	}
	return c, nil
}

// Approvals has somebody approve calls before they run: payments, deletions, what a model should not do by itself.
// It is an interceptor that stands before the gates, outside all that repeats, answers instead of the tool, or
// stores.
//
// A call that needs approval and has none is refused at once, with an [*ApprovalError] as the cause of a
// [sluice.ErrDenied]: it waits for nobody and holds nothing. Its request is kept, [Approvals.Pending] shows it, and
// [Approvals.Decide] decides, within the lifetime, in any process that has the state. Then the call may come again,
// with [WithApproval], or by [Runner.Resume] as part of its turn. It runs if it is what was approved: the same tool,
// for the same tenant, with the same arguments, as JSON that says the same. Else it is another call, and needs an
// approval of its own. An approval is used once: before the tool runs, so that it does not run twice even if the
// process dies. What the call gave is kept with it, and given to a call that comes again.
//
// So a nested call is refused too, whatever the calls around it hold. [Approvals.Resolver] is for who wants to wait.
//
// Make it with [NewApprovals]; it is safe for concurrent use. It never waits, but for the trips of a State that is a Fleet's,
// has no goroutine, and needs no Close.
type Approvals struct {
	conf ApprovalsConfig
	view *sluice.SharedState
	ctx  context.Context // of the view; it does not end
}

// NewApprovals returns Approvals, or an error that names the wrong field.
func NewApprovals(c ApprovalsConfig) (*Approvals, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	view, err := c.State.View(approvalPrefix, sluice.SharedStateConfig{MaxKeys: c.Max})
	if err != nil {
		return nil, fmt.Errorf("agent: ApprovalsConfig.State: %w", err)
	}
	return &Approvals{c, view, sluice.WithState(context.Background(), view)}, nil
}

// String is the name in snapshots.
func (a *Approvals) String() string { return "approvals" }

// approvalKey asks a context for the approval of a call.
type approvalKey struct{}

// WithApproval is a context for a call that is approved: id is that of the [Approval]. A call that it is not of
// does not have it.
func WithApproval(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, approvalKey{}, id)
}

// Wrap makes a an interceptor.
func (a *Approvals) Wrap(tool sluice.Spec, next sluice.Handler) sluice.Handler {
	return a.Steps(tool).Wrap(next)
}

// Steps makes a a [sluice.Stepper].
func (a *Approvals) Steps(tool sluice.Spec) sluice.Steps {
	return sluice.Steps{
		Before: func(ctx context.Context, s *sluice.Step) { a.before(ctx, s, tool) },
		After: func(_ context.Context, s *sluice.Step) {
			id, ok := s.State.(usedApproval)
			switch {
			case !ok:
			case refused(s):
				_, _ = a.change(a.ctx, string(id), func(e approvalEntry, now time.Time) (approvalEntry, error) { return e.release(now), nil })
			default:
				a.keep(string(id), s.Result, s.Err)
			}
		},
	}
}

// usedApproval is the ID of the approval that a call has used.
type usedApproval string

// refused reports whether no code of the call has run.
func refused(s *sluice.Step) bool {
	x := s.Attempt()
	return errors.Is(s.Err, sluice.ErrRejected) && !x.Ran && !x.Running
}

// before lets a call through that needs no approval, or has one.
func (a *Approvals) before(ctx context.Context, s *sluice.Step, tool sluice.Spec) {
	c := s.Call()
	message, needs := a.conf.Needs(c)
	if !needs {
		return
	}
	args, err := argumentsOf(c)
	if err != nil {
		s.Answer(sluice.Result{}, fmt.Errorf("agent: arguments that nobody can approve: %w", err))
		return
	}
	id, _ := ctx.Value(approvalKey{}).(string)
	if id != "" && a.approved(ctx, s, c, args, id, tool) {
		return
	}
	s.Answer(sluice.Result{}, a.request(ctx, s, c, args, message))
}

// Why an approval was not used.
var (
	errOtherCall = errors.New("it is of another call")
	errEdited    = errors.New("the call is to have other arguments")
)

// approved has c go on as its approval says, and reports whether that is of c.
func (a *Approvals) approved(ctx context.Context, s *sluice.Step, c sluice.Call, args []byte, id string, tool sluice.Spec) (own bool) {
	e, err := a.change(ctx, id, func(e approvalEntry, now time.Time) (approvalEntry, error) {
		own, edited := e.is(c, args)
		e = e.at(now)
		switch {
		case !own:
			return e, errOtherCall
		case edited && e.State == ApprovalApproved:
			return e, errEdited
		}
		return e.use(now)
	})
	switch {
	case err == nil:
		s.State = usedApproval(id)
	case err == errOtherCall:
		return false
	case err == errEdited: // as a call of its own, whose arguments are checked as others are
		s.Instead(func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			res, err := c.Invoke(WithApproval(ctx, id), sluice.Request{ID: c.ID, Tool: c.Tool, Args: e.Decision.Arguments})
			return res, sluice.Elsewhere(err) // which has run, if this has not
		})
	case errors.Is(err, sluice.ErrAbsent): // it has been forgotten
		s.Answer(sluice.Result{}, &ApprovalError{Approval{ID: id, State: ApprovalExpired, Tool: c.Tool}})
	case e.Outcome != nil:
		s.Answer(e.Outcome.answer(tool))
	default:
		s.Answer(sluice.Result{}, err)
	}
	return true
}

// request asks for the approval of c, and is what c ends with.
func (a *Approvals) request(ctx context.Context, s *sluice.Step, c sluice.Call, args []byte, message string) error {
	now := wall(time.Now())
	e := approvalEntry{V: approvalVersion, Approval: Approval{
		ID: rand.Text(), State: ApprovalPending, Tool: c.Tool, Arguments: args, Tenant: tenantOf(*c.Pipeline), CallID: c.ID, RunID: c.Pipeline.RunID,
		Message: message, Requested: now, Expires: now.Add(a.conf.Lifetime),
	}, Key: c.Key.String()}
	if _, err := a.key(e.ID).CompareAndSwap(a.ctx, 0, e, sluice.TTL(e.life(now, a.conf.Lifetime))); err != nil {
		return &unaskedError{err}
	}
	s.Emit(ctx, approvalRequested, e.attrs()...)
	return &ApprovalError{e.Approval}
}

// unaskedError is why nobody could be asked for approval.
type unaskedError struct{ why error }

func (e *unaskedError) Error() string {
	if errors.Is(e.why, sluice.ErrFull) {
		return "too much waits for approval at present, so it was not asked for, and has not run"
	}
	return "approval could not be asked for, so it has not run"
}
func (e *unaskedError) Code() string  { return "approval_unasked" }
func (e *unaskedError) Unwrap() error { return e.why }

// keep keeps what the call of an approval gave, if that can be.
func (a *Approvals) keep(id string, res sluice.Result, err error) {
	x := &approvalOutcome{}
	if err != nil {
		x.Failed, x.Code, x.Text = true, sluice.CodeOf(err), cut(textOf(err), maxReason, len(textOf(err)))
	} else if x.Result, err = res.JSON(); err != nil {
		return
	}
	_, _ = a.change(a.ctx, id, func(e approvalEntry, _ time.Time) (approvalEntry, error) { return e.finish(x), nil })
}

// answer is what a call of the tool gets that has run before.
func (x *approvalOutcome) answer(tool sluice.Spec) (sluice.Result, error) {
	if x.Failed {
		return sluice.Result{}, sluice.Elsewhere(&endedError{x.Code, x.Text})
	}
	v, err := tool.Decode(x.Result)
	if err != nil {
		return sluice.Result{}, sluice.Elsewhere(fmt.Errorf("it has run, but its result is not what the tool gives now: %w", err))
	}
	return sluice.Result{Value: v}, nil
}

// endedError is the error of a call that has ended before, maybe in another process.
type endedError struct{ code, text string }

func (e *endedError) Error() string { return e.text }
func (e *endedError) Code() string  { return e.code }

// argumentsOf is the arguments of c in the form in which they are compared.
func argumentsOf(c sluice.Call) ([]byte, error) {
	raw, err := c.JSON()
	if err != nil {
		return nil, err
	}
	return canonical(raw)
}

// tenantOf is who calls on behalf of p count for.
func tenantOf(p sluice.PipelineContext) string { return cmp.Or(p.Tenant, p.OrgID) }

// is reports whether e is of the call c, whose arguments are args in canonical form, and whether that is to have others.
func (e *approvalEntry) is(c sluice.Call, args []byte) (own, edited bool) {
	if e.Tool != c.Tool || e.Tenant != tenantOf(*c.Pipeline) {
		return false, false
	}
	if e.Decision.Arguments != nil {
		if same, err := asInput(c.Input, e.Decision.Arguments); err == nil && string(same) == string(args) {
			return true, false
		}
		edited = true
	}
	same, err := canonical(e.Arguments) // which a snapshot may write with other escape sequences
	return err == nil && string(same) == string(args), edited
}

// Decide decides about a pending approval. Of those who decide at the same time one does. The others, and who comes
// when it has expired, was decided or cancelled, get an [*ApprovalError] with what it is; who names none that is
// known, [sluice.ErrAbsent].
func (a *Approvals) Decide(ctx context.Context, id string, d Decision) error {
	switch {
	case len(d.By) > maxDecider || !utf8.ValidString(d.By):
		return fmt.Errorf("agent: Approvals.Decide: Decision.By has %d bytes: must be UTF-8, of at most %d", len(d.By), maxDecider)
	case len(d.Reason) > maxReason || !utf8.ValidString(d.Reason):
		return fmt.Errorf("agent: Approvals.Decide: Decision.Reason has %d bytes: must be UTF-8, of at most %d", len(d.Reason), maxReason)
	case d.Arguments != nil && !d.Approve:
		return errors.New("agent: Approvals.Decide: Decision.Arguments are there: must be nil without Approve")
	case d.Arguments != nil:
		args, err := canonical(d.Arguments)
		if err != nil {
			return fmt.Errorf("agent: Approvals.Decide: Decision.Arguments %w: must be JSON", err)
		}
		d.Arguments = args
	}
	_, err := a.change(ctx, id, func(e approvalEntry, now time.Time) (approvalEntry, error) { return e.decide(now, d, a.conf.Lifetime) })
	return ofApprovals("Decide", err)
}

// Cancel says that nobody needs a pending approval any more, say since its run has ended: the call does not run, and
// is told reason. It fails as Decide does.
func (a *Approvals) Cancel(ctx context.Context, id, by, reason string) error {
	if len(by) > maxDecider || len(reason) > maxReason || !utf8.ValidString(by) || !utf8.ValidString(reason) {
		return fmt.Errorf("agent: Approvals.Cancel: by and reason must be UTF-8, of at most %d and %d bytes", maxDecider, maxReason)
	}
	_, err := a.change(ctx, id, func(e approvalEntry, now time.Time) (approvalEntry, error) { return e.cancel(now, by, reason) })
	return ofApprovals("Cancel", err)
}

func ofApprovals(method string, err error) error {
	if err == nil {
		return nil
	}
	if x, ok := errors.AsType[*ApprovalError](err); ok {
		return fmt.Errorf("agent: Approvals.%s: the approval is %s: must be pending: %w", method, x.Approval.State, err)
	}
	return fmt.Errorf("agent: Approvals.%s: %w", method, err)
}

// Get is an approval as it is now, or [sluice.ErrAbsent].
func (a *Approvals) Get(ctx context.Context, id string) (Approval, error) {
	e, err := a.change(ctx, id, func(e approvalEntry, now time.Time) (approvalEntry, error) { return e.at(now), nil })
	return e.Approval, err
}

// Pending is what waits for a decision, the oldest first.
func (a *Approvals) Pending(ctx context.Context) ([]Approval, error) {
	var list []Approval
	for x := range a.view.List("") {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		e, err := a.Get(ctx, x.Key)
		switch {
		case errors.Is(err, sluice.ErrAbsent): // by now
		case err != nil:
			return nil, err
		case e.State == ApprovalPending:
			list = append(list, e)
		}
	}
	slices.SortStableFunc(list, func(x, y Approval) int { return x.Requested.Compare(y.Requested) })
	return list, nil
}

func (a *Approvals) key(id string) sluice.Key[approvalEntry] { return sluice.Key[approvalEntry](id) }

// change has an approval take a step, tells of a decision, and is the entry then. What step answers is kept, also
// beside an error.
func (a *Approvals) change(ctx context.Context, id string, step func(approvalEntry, time.Time) (approvalEntry, error)) (approvalEntry, error) {
	for {
		was, version, err := a.key(id).Get(a.ctx)
		if err == nil {
			err = was.check()
		}
		if err != nil {
			return approvalEntry{}, err
		}
		now := wall(time.Now())
		e, failed := step(was, now)
		if e.State == was.State && e.Outcome == was.Outcome {
			return e, failed
		}
		_, err = a.key(id).CompareAndSwap(a.ctx, version, e, sluice.TTL(e.life(now, a.conf.Lifetime)))
		switch {
		case err == nil:
			if was.State == ApprovalPending {
				a.tell(ctx, &e, now)
			}
			return e, failed
		case !errors.Is(err, sluice.ErrConflict): // else others have taken a step, of the few that there are
			return e, err
		}
	}
}

// attrs is what events say of e, by Stageflow's names. Who asks has none of the call's own.
func (e *approvalEntry) attrs() []slog.Attr {
	return []slog.Attr{slog.String("request_id", e.ID), slog.String("approval_message", e.Message)}
}

// tell tells the sink of a decision. What becomes of that does not matter to who decides.
func (a *Approvals) tell(ctx context.Context, e *approvalEntry, now time.Time) {
	sink := a.conf.Sink
	if sink == nil {
		sink = sluice.PipelineContextFrom(ctx).Sink
	}
	if sink == nil {
		return
	}
	defer func() { _ = recover() }()
	if sink.Enabled(approvalDecided) {
		_ = sink.Emit(ctx, e.decided(now))
	}
}

// decided is the event that tells of a decision. It belongs to no call, since that is over, and says which it was.
func (e *approvalEntry) decided(now time.Time) *sluice.Event {
	return &sluice.Event{Kind: approvalDecided, Time: now, Attrs: append(e.attrs(),
		slog.String("tool_name", e.Tool), slog.String("action_id", e.CallID), slog.String("pipeline_run_id", e.RunID),
		slog.String("call_key", e.Key), slog.String("decision", string(e.State)), slog.String("decided_by", e.Decision.By))}
}

// wall is t as other processes read it.
func wall(t time.Time) time.Time { return t.UTC().Round(0) }

// asInput is args in canonical form as they are once they have been a value like input, and written again: a typed tool
// has defaults where they say nothing.
func asInput(input any, args json.RawMessage) ([]byte, error) {
	if _, ok := input.(json.RawMessage); ok || input == nil {
		return canonical(args)
	}
	v := reflect.New(reflect.TypeOf(input))
	if err := json.Unmarshal(args, v.Interface()); err != nil {
		return nil, err
	}
	return argumentsOf(sluice.Call{Input: v.Elem().Interface()})
}
