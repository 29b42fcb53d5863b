package stage

import (
	"context"
	"sync/atomic"
)

// leased is the context of an attempt that runs on leases.
type leased struct {
	cancel context.CancelCauseFunc
	cause  error
	ended  atomic.Bool // a lease has
}

// end ends the context: a lease has ended.
func (x *leased) end() {
	x.ended.Store(true)
	x.cancel(x.cause)
}

// Leased is ctx for the code of p's attempt, which may run on leases: it ends, for that cause, when one of them
// does, and once what the attempt holds has been given back. The caller is in charge of the attempt.
func (p *Permit) Leased(ctx context.Context, cause error) context.Context {
	x := &leased{cause: cause}
	ctx, x.cancel = context.WithCancelCause(ctx)
	p.leased = x
	s := p.lock()
	goesOn := !p.live || s.M.OnEnd(p.ticket, x.end)
	s.Unlock()
	if !goesOn {
		x.end()
	}
	return ctx
}

// LostLease reports whether a lease has ended on which p's attempt ran.
func (p *Permit) LostLease() bool { return p.leased != nil && p.leased.ended.Load() }

// letGo ends the context that Leased has made, which may be anybody's further out. No lock is held.
func (p *Permit) letGo() {
	if x := p.leased; x != nil {
		Harmless(func() { x.cancel(nil) })
	}
}

// Harmless calls f, whose panic ends no more than f.
func Harmless(f func()) {
	defer func() { _ = recover() }()
	f()
}

// Fence is the number of the lease on which p's attempt has slots of that name, see [admit.Machine.Fence].
func (p *Permit) Fence(name string) (fence uint64) {
	if p.tool == nil || p.leased == nil {
		return 0
	}
	s := p.lock()
	if p.live {
		fence = s.M.Fence(p.ticket, name)
	}
	s.Unlock()
	return fence
}
