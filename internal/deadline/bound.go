package deadline

import (
	"cmp"
	"context"
	"math"
	"time"
)

// Endless is longer than any time that is bounded.
const Endless time.Duration = math.MaxInt64 / 2

// Bound is for how long something may go on, as somebody has said: until the instant Due, for Cause. What
// those have said who came before is Up. It does not change once others have it.
type Bound struct {
	Due   int64
	Cause error
	Up    *Bound
	Layer int32 // who has said it, to who counts them
}

// Less is what d leaves from the instant now on, in place of b, which may be nil; ok is false if b leaves no
// more than that.
func (b *Bound) Less(now int64, d time.Duration, cause error) (less Bound, ok bool) {
	due := now + int64(min(max(d, 0), Endless))
	if b != nil && b.Due <= due {
		return less, false
	}
	return Bound{Due: due, Cause: cmp.Or[error](cause, context.DeadlineExceeded), Up: b}, true
}

// Until is the earlier of due and when b ends.
func (b *Bound) Until(due int64) int64 {
	if b != nil {
		due = min(due, b.Due)
	}
	return due
}
