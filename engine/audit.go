package engine

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// Audit counts what passes through to a [Quota]: how many trips, and what came of them.
// Make one with [NewAudit]; the zero value is not usable. It is safe for concurrent use.
type Audit struct {
	quota                                   Quota
	takes, denied, booked, refused, unsures atomic.Uint64
	settles, settlesFailed, holds           atomic.Uint64
	units                                   atomic.Int64
	delta                                   atomic.Int64
}

var _ Quota = (*Audit)(nil)

// AuditCounts says what has passed through an [Audit] so far. Takes is at least the sum of
// the grants, Denied, Refused and Unsure, and more only while calls are under way.
type AuditCounts struct {
	Takes         uint64 // draws that were sent
	Denied        uint64 // of them, answered with no unit
	Booked        uint64 // of them, granted for later
	Refused       uint64 // of them, failed with nothing charged
	Unsure        uint64 // of them, failed or answered with what cannot be true
	Units         int64  // granted
	Settles       uint64 // lists of corrections that were sent
	SettlesFailed uint64 // of them, failed
	Settled       int64  // tokens by which the others corrected, in sum
	Holds         uint64 // that were sent
}

// NewAudit returns an Audit before q.
func NewAudit(q Quota) (*Audit, error) {
	if q == nil {
		return nil, badConfig("NewAudit's q", nil, "a Quota")
	}
	return &Audit{quota: q}, nil
}

// Take passes d on, and the answer back.
func (a *Audit) Take(ctx context.Context, d Draw) (Grant, error) {
	a.takes.Add(1)
	normal := false
	defer func() {
		if !normal { // a panic, or the end of the goroutine
			a.unsures.Add(1)
		}
	}()
	g, err := a.quota.Take(ctx, d)
	normal = true
	switch {
	case errors.Is(err, ErrRefused):
		a.refused.Add(1)
	case err != nil || d.Check(g) != nil:
		a.unsures.Add(1)
	case g.Units == 0:
		a.denied.Add(1)
	default:
		a.units.Add(g.Units)
		if g.After > 0 {
			a.booked.Add(1)
		}
	}
	return g, err
}

// Settle passes the corrections on, and the answer back.
func (a *Audit) Settle(ctx context.Context, op OpID, list []Correction) error {
	a.settles.Add(1)
	normal := false
	defer func() {
		if !normal {
			a.settlesFailed.Add(1)
		}
	}()
	err := a.quota.Settle(ctx, op, list)
	normal = true
	if err != nil {
		a.settlesFailed.Add(1)
		return err
	}
	for _, c := range list {
		a.delta.Add(c.Delta)
	}
	return nil
}

// Hold passes the hold on, and the answer back.
func (a *Audit) Hold(ctx context.Context, m Meter, d time.Duration) error {
	a.holds.Add(1)
	return a.quota.Hold(ctx, m, d)
}

// Counts returns what has passed so far.
func (a *Audit) Counts() AuditCounts {
	return AuditCounts{
		Takes:         a.takes.Load(),
		Denied:        a.denied.Load(),
		Booked:        a.booked.Load(),
		Refused:       a.refused.Load(),
		Unsure:        a.unsures.Load(),
		Units:         a.units.Load(),
		Settles:       a.settles.Load(),
		SettlesFailed: a.settlesFailed.Load(),
		Settled:       a.delta.Load(),
		Holds:         a.holds.Load(),
	}
}
