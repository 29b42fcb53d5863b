package engine

import (
	"context"
	"errors"
	"fmt"
	"strconv"
)

// The two that matter: what a change that failed has left behind.
var (
	// ErrRefused says that the change was certainly not applied and never will be.
	ErrRefused = errors.New("engine: refused")

	// ErrUnsure says that the change may have been applied. So does every error that
	// does not match ErrRefused.
	ErrUnsure = errors.New("engine: outcome unknown")
)

// Refusals. Each matches [ErrRefused].
var (
	ErrConflict = fmt.Errorf("%w: the revision is not the current one", ErrRefused)
	ErrAbsent   = fmt.Errorf("%w: there is no such key", ErrRefused)
	ErrBusy     = fmt.Errorf("%w: no slot came free in time", ErrRefused)
	ErrFull     = fmt.Errorf("%w: the engine is full", ErrRefused)
	ErrClosed   = fmt.Errorf("%w: closed", ErrRefused)

	// ErrLost says that a lease has ended before, that another Acquire of the same Holder
	// waits in the place of this one, or that a [Follower] fell so far behind that it has to
	// start anew.
	ErrLost = fmt.Errorf("%w: lost", ErrRefused)

	// ErrPoison says that the event at the index returned will never be accepted (too
	// large, not of the schema), so that the sender sets it aside.
	ErrPoison = fmt.Errorf("%w: the event cannot be accepted", ErrRefused)
)

// ErrAway says that [Fallback] had no engine to ask and denies. It comes with the engine's
// error, or, where none was asked, with ErrRefused.
var ErrAway = errors.New("engine: away")

// invalid complains about an argument or a field.
func invalid(field string, value any, allowed string) error {
	if s, ok := value.(string); ok {
		value = strconv.Quote(s)
	}
	return fmt.Errorf("%w: %s is %v: must be %s", ErrRefused, field, value, allowed)
}

// badConfig is invalid for a constructor, where nothing is refused yet.
func badConfig(field string, value any, allowed string) error {
	return fmt.Errorf("engine: %s is %v: must be %s", field, value, allowed)
}

// ended is the refusal of a call whose context ended before anything was done.
func ended(ctx context.Context) error {
	return fmt.Errorf("%w: %w", ErrRefused, context.Cause(ctx))
}

// unsure makes err say that the outcome is unknown, if it says nothing.
func unsure(err error) error {
	if err == nil || errors.Is(err, ErrRefused) || errors.Is(err, ErrUnsure) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnsure, err)
}
