package agent

import (
	"context"
	"errors"

	"github.com/sluice-go/sluice"
)

// Resolver is an interceptor for programs that want to wait for approvals: it has resolve decide about a call that
// needs one, and the call then runs or is refused. It stands outside a, in the same list.
//
// resolve may take long, say ask at a terminal: the call holds nothing meanwhile, no slot and no token, and counts in
// no timeout but the caller's own. Its context ends with the call's, or when the approval expires; the call waits for
// resolve no longer than that, [sluice.Executor.Close] does. Meanwhile the approval is pending as any other: Decide may
// be quicker. An error of resolve, or a panic, leaves it pending, and the call is refused with that. If the call's
// context ends, it is cancelled.
//
// A call nested in another is not resolved but refused as pending, since those around it may hold something while
// it would wait. How it is known: whoever is called with the context of a call is nested in that.
func (a *Approvals) Resolver(resolve func(ctx context.Context, x Approval) (Decision, error)) (sluice.Interceptor, error) {
	if resolve == nil {
		return nil, errors.New("agent: Approvals.Resolver: resolve is nil: must be a function")
	}
	return &resolver{a, resolve}, nil
}

type resolver struct {
	approvals *Approvals
	resolve   func(context.Context, Approval) (Decision, error)
}

// String is the name in snapshots.
func (r *resolver) String() string { return "approvals resolver" }

// Wrap makes r an interceptor.
func (r *resolver) Wrap(_ sluice.Spec, next sluice.Handler) sluice.Handler {
	return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
		res, err := next(ctx, c)
		if err == nil {
			return res, nil
		}
		x, ok := err.(*ApprovalError)
		if _, nested := sluice.CallFrom(ctx); !ok || nested || x.Approval.State != ApprovalPending {
			return res, err
		}
		if err := r.decide(ctx, c, x.Approval); err != nil {
			return sluice.Result{}, err
		}
		return next(WithApproval(ctx, x.Approval.ID), c)
	}
}

// decide waits until it is decided about x, in whatever way; nil means that it is, or has expired.
func (r *resolver) decide(ctx context.Context, c sluice.Call, x Approval) error {
	until := x.Expires
	if at, ok := c.Deadline(context.Background()); ok && at.Before(until) {
		until = at
	}
	bounded, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	told, elsewhere := make(chan error, 1), make(chan struct{})
	if !c.Go(func() {
		err := errors.New("agent: the resolver of approvals has panicked or exited")
		defer func() { told <- err }()
		d, failed := r.resolve(bounded, x)
		if err = failed; err == nil {
			err = r.approvals.Decide(ctx, x.ID, d)
		}
	}) || !c.Go(func() {
		defer close(elsewhere)
		r.approvals.await(bounded, x.ID)
	}) {
		return &ApprovalError{x} // the call is over
	}
	var failed error
	select {
	case failed = <-told:
	case <-elsewhere:
	}
	if ctx.Err() != nil {
		_ = r.approvals.Cancel(ctx, x.ID, "", "the call was cancelled") // unless it is decided
		return context.Cause(ctx)
	}
	if now, err := r.approvals.Get(ctx, x.ID); failed == nil || err != nil || now.State != ApprovalPending {
		return nil
	}
	return errors.Join(&ApprovalError{x}, failed)
}

// await waits until the approval is pending no more, or until ctx ends.
func (a *Approvals) await(ctx context.Context, id string) {
	for range a.view.Watch(ctx, id) {
		if x, err := a.Get(ctx, id); err != nil || x.State != ApprovalPending {
			return
		}
	}
}
