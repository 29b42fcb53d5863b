package rules

import (
	"math"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/bucket"
)

// Bucket is what a *rate.Limiter of golang.org/x/time, or one like it, has. Its methods do not block and run
// no code but their package's, so they may run under a stage's lock.
type Bucket[L ~float64, R any] interface {
	Limit() L // math.MaxFloat64 for none
	Burst() int
	Tokens() float64
	Reserve() R
	ReserveN(time.Time, int) R
}

// Foreign asks a bucket of the caller's own. It can be compared if Of can.
type Foreign[L ~float64, R any] struct{ Of Bucket[L, R] }

// Wait is how many nanoseconds pass until a token may be there; it takes none.
func (f Foreign[L, R]) Wait() int64 {
	per := f.Of.Limit()
	switch missing := 1 - f.Of.Tokens(); {
	case per == math.MaxFloat64 || missing <= 0:
		return 0
	case f.Of.Burst() < 1 || per <= 0:
		return admit.Never
	default:
		if ns := math.Ceil(missing / float64(per) * 1e9); ns < float64(bucket.MaxSpan) {
			return max(1, int64(ns))
		}
		return admit.Never
	}
}

// Take takes a token. One that other code has just taken leaves it in debt.
func (f Foreign[L, R]) Take() { f.Of.Reserve() }

// Give gives back a token that was taken so many nanoseconds ago, if time has not brought
// back any of it meanwhile; the limiter cannot tell how much that would be worth. (A reservation's own Cancel
// gives nothing back once its instant is over, which is at once.)
func (f Foreign[L, R]) Give(since int64) {
	if per := f.Of.Limit(); per != math.MaxFloat64 && float64(since)*float64(per) < 1e7 { // a hundredth of a token
		f.Of.ReserveN(time.Now(), -1)
	}
}
