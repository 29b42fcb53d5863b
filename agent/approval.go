package agent

import (
	"encoding/json"
	"fmt"
	"time"
)

// ApprovalState is how far an [Approval] has come.
type ApprovalState string

// The states of an approval. All but pending and approved are final: nothing leaves them.
const (
	ApprovalPending   ApprovalState = "pending"   // nobody has decided
	ApprovalApproved  ApprovalState = "approved"  // the call may run, once
	ApprovalUsed      ApprovalState = "used"      // it has begun to
	ApprovalDenied    ApprovalState = "denied"    //
	ApprovalExpired   ApprovalState = "expired"   // nobody decided in time, or the call did not come in time
	ApprovalCancelled ApprovalState = "cancelled" // nobody needs it any more
)

// Approval is a call that waits for somebody's approval, or what has become of it.
type Approval struct {
	ID        string          `json:"id"` // random
	State     ApprovalState   `json:"state"`
	Tool      string          `json:"tool"`
	Arguments json.RawMessage `json:"arguments"` // of the call: names in order, numbers in one form
	Tenant    string          `json:"tenant,omitempty"`
	CallID    string          `json:"call_id,omitempty"`
	RunID     string          `json:"run_id,omitempty"`
	Message   string          `json:"message,omitempty"` // what [ApprovalsConfig].Needs says to whoever decides
	Requested time.Time       `json:"requested"`
	Expires   time.Time       `json:"expires"` // if nobody decides until then, or if it is approved and the call does not come
	Decided   time.Time       `json:"decided,omitzero"`
	Decision  Decision        `json:"decision,omitzero"`
}

// Decision is what somebody says about an [Approval].
type Decision struct {
	Approve bool   `json:"approve"`
	By      string `json:"by,omitempty"`     // who decides; at most 256 bytes
	Reason  string `json:"reason,omitempty"` // which the model reads if the call does not run; at most 1,024 bytes

	// Arguments are those that the call is to have instead of its own; nil leaves them. They need Approve.
	Arguments json.RawMessage `json:"arguments,omitempty"`
}

// ApprovalError is why a call did not run that needs an approval; Approval.State says which reason it is. It is what
// [errors.AsType] finds in the error of the call, and in that of an [Approvals.Decide] that comes too late.
type ApprovalError struct{ Approval Approval }

// Error says it so that a model knows what to do. It names nobody.
func (e *ApprovalError) Error() string {
	switch a := &e.Approval; a.State {
	case ApprovalPending:
		return "it waits for approval, and has not run; do not repeat it"
	case ApprovalDenied:
		return withReason("approval was refused, so it has not run; do not repeat it unchanged", a.Decision.Reason)
	case ApprovalCancelled:
		return withReason("the request for approval was cancelled, so it has not run", a.Decision.Reason)
	case ApprovalUsed:
		return "it was approved and has begun before, and it is not known what became of it; find out before it is repeated"
	case ApprovalApproved:
		return "it is approved, and has not run yet"
	}
	return "approval was not given in time, so it has not run; nobody refused it"
}

// Code is that of the error, as approval_pending.
func (e *ApprovalError) Code() string { return "approval_" + string(e.Approval.State) }

func withReason(text, reason string) string {
	if reason == "" {
		return text
	}
	return text + ": " + reason
}

// approvalVersion is that of the entries. Whoever changes what they mean counts it up.
const approvalVersion = 1

// approvalEntry is what the state has of an approval. Other processes read it, see docs/approvals.md.
//
// Its methods are a state machine: each is told the present instant, and answers the entry as it is after a step,
// which may differ also where the step itself is refused, since time has passed.
//
//	pending ── decide ──► approved ── use ──► used ── finish ──► used, with an outcome
//	   │ │ └── decide ──► denied   │ ◄─ release ─┘
//	   │ └──── cancel ──► cancelled└── at ──► expired
//	   └────── at ──────► expired
type approvalEntry struct {
	V int `json:"v"`
	Approval
	Key     string           `json:"key,omitempty"`     // of the call that has asked, as in its events
	Outcome *approvalOutcome `json:"outcome,omitempty"` // of the call that has run, once it has ended
}

// approvalOutcome is a result, or an error.
type approvalOutcome struct {
	Result json.RawMessage `json:"result,omitempty"`
	Failed bool            `json:"failed,omitempty"`
	Code   string          `json:"code,omitempty"`
	Text   string          `json:"text,omitempty"`
}

// check returns an error if e is none that this version understands.
func (e *approvalEntry) check() error {
	if e.V != approvalVersion {
		return fmt.Errorf("its entry is of version %d: must be %d", e.V, approvalVersion)
	}
	switch e.State {
	case ApprovalPending, ApprovalApproved, ApprovalUsed, ApprovalDenied, ApprovalExpired, ApprovalCancelled:
		return nil
	}
	return fmt.Errorf("its entry's state is %.40q: must be pending, approved, used, denied, expired or cancelled", e.State)
}

// at is e at the instant now: what nobody has decided or used in time has expired.
func (e approvalEntry) at(now time.Time) approvalEntry {
	if (e.State == ApprovalPending || e.State == ApprovalApproved) && !now.Before(e.Expires) {
		if e.State == ApprovalPending {
			e.Decided = e.Expires
		}
		e.State = ApprovalExpired
	}
	return e
}

// decide has somebody decide. An approved call may come for so long.
func (e approvalEntry) decide(now time.Time, d Decision, lifetime time.Duration) (approvalEntry, error) {
	if e = e.at(now); e.State != ApprovalPending {
		return e, &ApprovalError{e.Approval}
	}
	e.Decided, e.Decision, e.State = now, d, ApprovalDenied
	if d.Approve {
		e.State, e.Expires = ApprovalApproved, now.Add(lifetime)
	}
	return e, nil
}

// cancel says that nobody needs it any more.
func (e approvalEntry) cancel(now time.Time, by, reason string) (approvalEntry, error) {
	if e = e.at(now); e.State != ApprovalPending {
		return e, &ApprovalError{e.Approval}
	}
	e.Decided, e.Decision, e.State = now, Decision{By: by, Reason: reason}, ApprovalCancelled
	return e, nil
}

// use has the call run that it is of, if it is approved. It is once.
func (e approvalEntry) use(now time.Time) (approvalEntry, error) {
	if e = e.at(now); e.State != ApprovalApproved {
		return e, &ApprovalError{e.Approval}
	}
	e.State = ApprovalUsed
	return e, nil
}

// release says that the call was refused further in, so that its code did not run: it may come again.
func (e approvalEntry) release(now time.Time) approvalEntry {
	if e.State == ApprovalUsed && e.Outcome == nil {
		e.State = ApprovalApproved
	}
	return e.at(now)
}

// finish says how the call has ended.
func (e approvalEntry) finish(x *approvalOutcome) approvalEntry {
	if e.State == ApprovalUsed && e.Outcome == nil {
		e.Outcome = x
	}
	return e
}

// life is how long e is kept from now on: as long as it can change, and for so long after that.
func (e *approvalEntry) life(now time.Time, lifetime time.Duration) time.Duration {
	if e.State == ApprovalPending || e.State == ApprovalApproved {
		return max(e.Expires.Sub(now), 0) + lifetime
	}
	return lifetime
}
